"""A system's answers to a prompt set, from wherever they lie: a run, a checkpoint, a file of ours, AlpacaEval's JSON."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from lima import UserError, conversations, runs
from lima.evaluate.replies import whole

SHOWN = 5  # prompts named in an error
SUFFIXES = (".jsonl", ".json")
EXPECTED = "give a run such as runs/7b, a checkpoint's folder, or a .jsonl or .json file of answers"


class Answers(NamedTuple):
    """`name`: the system's, fit for a file's name. `path`: the file read. `rows`: `{prompt_id, prompt, response,
    finish_reason, tokens, sampling, sample}`; where a file has no ids, `prompt_id` is `text_id` of the prompt."""

    name: str
    path: Path
    rows: list


def load(spec, prompts="dev"):
    """The answers at `spec` to the prompt set `prompts` (its name, or its file).

    spec: a run's folder (the checkpoint that its selected.json names, else the newest with answers), a checkpoint's folder,
    answers/MODEL, a .jsonl file of ours, or AlpacaEval's .json. An empty response is an answer. Raises `UserError` for what is
    not there, a row without prompt or response, and two rows of one (prompt_id, sample).
    """
    if not str(spec).strip():
        raise UserError(f"the name of the answers is empty; {EXPECTED}")
    path, name = Path(spec), None
    if path.suffix not in SUFFIXES or path.is_dir():
        path, name = find(path, set_name(prompts))
    elif not path.is_file():
        raise UserError(f"{path}: no such file; {EXPECTED}")
    else:
        name = path_name(path, set_name(prompts))
    found = conversations.read_file(path)
    if not found:
        raise UserError(f"{path}: no answer in it")
    rows = [checked(path, number, row) for number, row in enumerate(found)]
    give_ids(path, rows, theirs="output" in found[0])
    generators = sorted({str(row["generator"]) for row in found if row.get("generator") is not None})
    if len(generators) > 1:
        raise UserError(f"{path}: answers of {', '.join(generators[:SHOWN])}; give each system a file of its own")
    return Answers(file_name(name or (generators or [path.stem])[0]), path, rows)


def path_name(path, prompts):
    """The system's name that a file's place gives: runs/NAME/generations/CHECKPOINT/… or answers/NAME/PROMPTS.jsonl; or None."""
    folder = path.resolve().parent
    if folder.parent.name == "generations":
        return f"{folder.parent.parent.name}-{folder.name}"
    return folder.name if folder.parent.name == "answers" and path.stem == prompts else None


def set_name(prompts):
    """A prompt set's name: the stem of its file."""
    return re.sub(r"\.(jsonl|json|parquet)$", "", Path(prompts).name)


def find(folder, prompts):
    """`(file, system's name)` of the answers in a run's folder, a checkpoint's, or one under a run's generations/."""
    run, chosen = folder, None
    if folder.parent.name == "generations":
        run, chosen = folder.parent.parent, folder.name
    elif re.fullmatch(r"checkpoint-\d+", folder.name):
        run, chosen = folder.parent, folder.name
    if not run.is_dir():
        raise UserError(f"{folder}: no such file or folder; {EXPECTED}")
    name = run.resolve().name
    if not chosen and (run / f"{prompts}.jsonl").is_file():
        return run / f"{prompts}.jsonl", name
    beside = (
        run.parent / "generations" / run.name / f"{prompts}.jsonl"
    )  # a base's, or those of a run that is a model itself
    if not chosen and beside.is_file():
        return beside, name
    made = (
        chosen or selected(run) or newest(run, prompts) or next((one.name for one in runs.checkpoints(run)[::-1]), name)
    )
    path = run / "generations" / made / f"{prompts}.jsonl"
    if not path.is_file():
        where = run / made if (run / made).is_dir() else run
        command = (
            f"endpoint_answers --model {name}" if run.resolve().parent.name == "answers" else f"generate --run {where}"
        )
        raise UserError(
            f"{folder}: no answers to {prompts} (no {path}); make them: python -m lima.evaluate.{command} --prompts {prompts}"
        )
    return path, f"{name}-{chosen}" if chosen else name


def selected(run):
    """The checkpoint that the run's selected.json names, or None."""
    path = run / "selected.json"
    if not path.exists():
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["checkpoint"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: expected an object with `checkpoint`; select again, or remove it") from None


def newest(run, prompts):
    """The last of the run's checkpoints that answered `prompts`, or None."""
    found = [file.parent.name for file in run.glob(f"generations/checkpoint-*/{prompts}.jsonl")]
    return max(
        (name for name in found if re.fullmatch(r"checkpoint-\d+", name)), key=lambda n: int(n[11:]), default=None
    )


def checked(path, number, row):
    """A row in our form. Raises `UserError` that names it."""
    where = f"{path}, row {number} (from 0)"
    if not isinstance(row, dict):
        raise UserError(
            f"{where}: {row if isinstance(row, str) else 'expected an object, found ' + type(row).__name__}"
        )
    keys = ("instruction", "output") if "instruction" in row else ("prompt", "response")
    for key in keys:
        if not isinstance(row.get(key), str):
            found = f"is {type(row[key]).__name__}, expected text" if key in row else "is missing"
            raise UserError(
                f"{where}: `{key}` {found}; a row has prompt and response, or AlpacaEval's instruction and output"
            )
    sample = row.get("sample", 0)
    if type(sample) is not int or sample < 0:
        raise UserError(f"{where}: `sample` is {sample!r}, expected 0, 1, …")
    return {
        "prompt_id": None if row.get("prompt_id") is None else str(row["prompt_id"]),
        "prompt": whole(row[keys[0]]),
        "response": whole(row[keys[1]]),
        **{key: row.get(key) for key in ("finish_reason", "tokens", "sampling")},
        "sample": sample,
    }


def give_ids(path, rows, theirs):
    """Gives the rows of a file without ids those of their texts; refuses two answers for one place.

    theirs: AlpacaEval's, where an instruction that comes again is an item of its own.
    """
    without = [number for number, row in enumerate(rows) if row["prompt_id"] is None]
    if 0 < len(without) < len(rows):
        raise UserError(f"{path}, row {without[0]} (from 0): no `prompt_id`, which other rows have")
    if without:
        for row, identity in zip(rows, text_ids(rows) if theirs else map(text_id, rows), strict=True):
            row["prompt_id"] = identity
    first = {}
    for number, row in enumerate(rows):
        place = f"prompt {row['prompt_id']}, sample {row['sample']}"
        if place in first:
            raise UserError(f"{path}, row {number} (from 0): {place} stands in row {first[place]} too; leave one out")
        first[place] = number


def text_id(row):
    """An id from a prompt's text, white space aside."""
    return "text-" + hashlib.sha256(" ".join(row["prompt"].split()).encode()).hexdigest()[:12]


def text_ids(rows):
    """Their text ids; a text that comes again for the same sample gets -2, -3, …"""
    seen, out = Counter(), []
    for row in rows:
        identity = text_id(row)
        seen[identity, row["sample"]] += 1
        count = seen[identity, row["sample"]]
        out.append(identity if count == 1 else f"{identity}-{count}")
    return out


def apart(a, b):
    """Raises `UserError` where both answers are of one system's name."""
    if a.name == b.name:
        raise UserError(f"a and b are both named {a.name} ({a.path}, {b.path}); give two systems")


def pair(a, b, partial=False):
    """`[(prompt_id, sample, prompt, response of a, response of b), …]` in a's order, matched by prompt_id, or by the prompts'
    texts where one side has no ids.

    Raises `UserError` where one id has two prompts, or where one side lacks answers of the other; with `partial` the latter
    are left out.
    """
    ids = [[row["prompt_id"] for row in side.rows] for side in (a, b)]
    texts = [text_ids(side.rows) for side in (a, b)]
    bare = [ids[0] == texts[0], ids[1] == texts[1]]
    left, right = (
        {(key, row["sample"]): row for key, row in zip(keys, side.rows, strict=True)}
        for keys, side in zip(texts if bare[0] != bare[1] else ids, (a, b), strict=True)
    )
    both = [key for key in left if key in right]
    for key in both:
        if left[key]["prompt"].split() != right[key]["prompt"].split():
            raise UserError(
                f"{a.path} and {b.path}: {key[0]} is another prompt in each; they answer different prompt sets"
            )
    if not both or (not partial and len(both) < max(len(left), len(right))):
        raise UserError(missing(a, b, left, right))
    named = right if bare[0] else left
    return [
        (named[key]["prompt_id"], key[1], left[key]["prompt"], left[key]["response"], right[key]["response"])
        for key in both
    ]


def missing(a, b, left, right):
    """Says which answers only one side has."""
    parts = []
    for side, have, other in ((a, left, right), (b, right, left)):
        lacking = [
            row["prompt_id"] + (f" (sample {row['sample']})" if row["sample"] else "")
            for key, row in other.items()
            if key not in have
        ]
        if lacking:
            more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
            parts.append(f"{side.path} has no answer to {', '.join(lacking[:SHOWN])}{more}")
    return "; ".join(parts) + "; answer them, or compare only what both have answered (--partial)"


def file_name(text):
    """A system's name as part of a file's: letters, digits, `.`, `_`, `+`, `-`."""
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.") or "answers"
