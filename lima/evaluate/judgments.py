"""The files of verdicts, `judgments/*.jsonl`: read, added to, never lost.

A file holds verdicts on the answers as they are now, by the instruction as it is now. A row whose answer or instruction has
changed since goes to `former/` beside it, where it stays, and is copied back when they change back: nothing that was paid for is
lost, and nothing old is counted.
"""

import json
from pathlib import Path

from lima import UserError, runs

FOLDER = Path("judgments")


def read(path, **owner):
    """The rows of a file of judgments, none if there is no file. Raises `UserError` for a line that is no such row, or for one
    on other systems than `owner` (`a=…, b=…` or `system=…`)."""
    try:
        rows, lines = [], Path(path).read_text(encoding="utf-8").split("\n") if Path(path).exists() else []
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            rows.append(parse(line, f"{path}: line {number}", **owner))
    return rows


def parse(line, where, **owner):
    """A line of a file of judgments as its row; raises as `read` does, with `where` in front."""
    try:
        row = json.loads(line)
        hash(place(row))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{where} is not a row of judgments; mend it or take it out") from None
    if any(row.get(key) != name for key, name in owner.items()):
        found = " and ".join(str(row.get(key)) for key in owner)
        raise UserError(f"{where} is on {found}; move the file, or rename a system")
    return row


def subject(row):
    """What a row is about: judge, prompt set, prompt and sample."""
    return row["judge"], row["prompts"], row["prompt_id"], row["sample"]


def place(row):
    """What makes a row one of its kind: its subject, and its order (of two) or number (of repeated gradings)."""
    return *subject(row), row["order"] if "order" in row else row["n"]


def former(path):
    """Where rows on earlier answers, or by earlier instructions, are kept."""
    return path.parent / "former" / path.name


def standing(path, digests, args, **owner):
    """`{(prompt_id, sample, order or n): row}`: the judge's rows on this prompt set that answer `digests`
    (`{(prompt_id, sample): digest}`), from the file and from the former ones."""
    kept, _ = sorted_out([*read(former(path), **owner), *read(path, **owner)], digests, args)
    return {place(row)[2:]: row for row in kept if subject(row)[:2] == (args.judge, args.prompts)}


def sorted_out(rows, digests, args):
    """`(kept, old)`. Old: the judge's rows on this prompt set that do not answer `digests`. Of those at one place the last
    counts. Rows of other judges and on other prompt sets are kept."""
    kept, old = {}, {}
    for row in rows:
        if subject(row)[:2] == (args.judge, args.prompts) and digests.get(subject(row)[2:]) != row.get("digest"):
            old[(*place(row), row.get("digest"))] = row
        else:
            kept[place(row)] = row
    return list(kept.values()), list(old.values())


def write(path, new, digests, args, **owner):
    """Adds rows to the file, whole or not at all, and moves old ones to `former/`; returns how many it moved.

    The file is read again first, under a lock: another judge may have written to it meanwhile.
    """
    with runs.locked(path.parent):
        away, here = read(former(path), **owner), read(path, **owner)
        mine = [row for row in away if subject(row)[:2] == (args.judge, args.prompts)]
        kept, _ = sorted_out([*mine, *here, *new], digests, args)
        _, old = sorted_out(here, digests, args)
        if old:  # first of all: a kill between the two must not lose them
            every = {(*place(row), row.get("digest")): row for row in [*away, *old]}
            runs.write_jsonl(former(path), every.values())
        runs.write_jsonl(path, kept)
    return len(old)
