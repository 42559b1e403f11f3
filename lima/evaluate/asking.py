"""What judge.py and rate.py share: their flags, the instruction that a judge gets, the plan, and the asking."""

import argparse
import hashlib
import json
import re
from datetime import datetime, timezone
from pathlib import Path

from lima import UserError, conversations
from lima.evaluate import client, judgments, verdicts
from lima.evaluate.replies import CACHE, endpoint, shown

PROMPTS = Path("data/prompts")
INSTRUCTIONS = Path(__file__).with_name("instructions")
NO_ANSWER = "(no answer)"

# ---- the command line --------------------------------------------------------------------------------------------------


def arguments(doc, judge_needed=True):
    """The flags that judging, rating and selecting have in common."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", required=judge_needed, metavar="MODEL", help="the judge's name at its endpoint")
    parser.add_argument(
        "--base_url", help="endpoint, such as http://127.0.0.1:8000/v1 [OPENAI_BASE_URL, else OpenAI's]"
    )
    parser.add_argument("--prompts", default="dev", help="prompt set: dev, test, or your file of prompts [%(default)s]")
    parser.add_argument("--instruction", help="a text file in place of ours (lima/evaluate/instructions/)")
    parser.add_argument("--temperature", type=_heat, metavar="T", help="[0; some models take only 1]")
    parser.add_argument("--max_tokens", type=positive, default=1024, help="longest reply [%(default)s]")
    parser.add_argument("--concurrency", type=positive, default=16, help="requests under way at once [%(default)s]")
    parser.add_argument("--rate", type=_pace, metavar="N", help="at most so many requests a minute")
    parser.add_argument("--price", metavar="IN,OUT", help="$ per million tokens, such as 2.5,10")
    parser.add_argument("--limit", type=positive, metavar="N", help="the first so many prompts only")
    parser.add_argument("--dry_run", action="store_true", help="the plan only; asks nobody")
    return parser


def positive(text):
    """A whole number from 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, found {text!r}")
    return int(text)


def _pace(text):
    if not re.fullmatch(r"\d*\.?\d+", text) or not float(text):
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return float(text)


def _heat(text):
    if not re.fullmatch(r"\d*\.?\d+", text) or float(text) > 2:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 2, found {text!r}")
    return float(text)


# ---- the instruction and the request -----------------------------------------------------------------------------------


def read_instruction(path, holders):
    """The text of an instruction file without its notes (lines that begin with `#:`), placeholders and all.

    Raises `UserError` unless each of `holders` stands in it exactly once.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: no instruction there ({error.strerror}); see lima/evaluate/instructions/") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    text = "\n".join(line for line in text.split("\n") if not line.startswith("#:")).strip()
    for name in holders:
        if (times := text.count(f"{{{name}}}")) != 1:
            found = f"{times} times" if times else "not"
            raise UserError(f"{path}: {{{name}}} is {found} in it; expected once, where the judge shall read it")
    return text


def for_people(instruction):
    """The part of an instruction that people get too: what stands above its first line of dashes."""
    return re.split(r"(?m)^---+[ \t]*$", instruction)[0].strip()


def fill(instruction, **texts):
    """The instruction with each text in its place, between lines with a mark made of the texts' own hash: no text can hold
    the hash of itself, so none can close its block."""
    texts = {name: text if text.strip() else NO_ANSWER for name, text in texts.items()}
    mark = hashlib.sha256(json.dumps(list(texts.values())).encode()).hexdigest()[:16]

    def block(name):
        title = name.replace("_", " ").upper()
        return f"<<<{title} {mark}>>>\n{texts[name]}\n<<<END OF {title} {mark}>>>"

    values = {"mark": mark, **{name: block(name) for name in texts}}
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), instruction)  # once: texts may hold {…}


def request(text, args, tag=None):
    """What `client.ask` takes; `tag` tells repeated askings apart."""
    messages = [{"role": "user", "content": text}]
    return {"messages": messages, "temperature": args.temperature or 0, "max_tokens": args.max_tokens, "tag": tag}


# ---- the plan and the asking -------------------------------------------------------------------------------------------


def checked(args):
    """The parsed flags, as `placed` gives them.

    Raises `UserError` for a flag that is empty (as `make` passes a variable that was not set), or a judge's name that would pass
    for a person's.
    """
    for name, example in {"a": "runs/7b", "b": "answers/gpt-4o-mini", "judge": "gpt-4o"}.items():
        if not getattr(args, name, example).strip():
            raise UserError(f"{name.upper()} is missing: make judge … {name.upper()}={example}, or --{name} {example}")
    if args.judge.startswith(verdicts.HUMAN):
        raise UserError(f"--judge {args.judge!r}: expected a model's name ({verdicts.HUMAN}NAME is kept for people)")
    return placed(args)


def placed(args):
    """The parsed flags, with the prompt set's name as `prompts` and its file, if it has one, as `file`. Raises `UserError` for a
    file of prompts that is not there."""
    args.file, named = Path(args.prompts), args.prompts.endswith(conversations.SUFFIXES)
    if named and not args.file.is_file():
        raise UserError(f"{args.prompts}: no such file of prompts; name a set (dev, test) or a file that is there")
    args.file = args.file if named else PROMPTS / f"{args.prompts}.jsonl"
    args.prompts = args.file.stem
    return args


def prompt_set(args, texts, tag=None):
    """The prompts (their texts) of the set that was answered, those with `tag` if one is given; empty where no file of the set is
    known.

    Raises `UserError` if none of `texts`, the prompts answered, is among them: then they belong to another set.
    """
    if not args.file.is_file():
        if tag:
            raise UserError(f"--tag {tag}: there is no {args.file} to say which prompts have it; give --prompts FILE")
        return set()
    rows = conversations.load_prompts(str(args.file))
    tags = [tags_of(row) for row in rows]
    known = {
        plain(row["messages"][-1]["content"]) for row, has in zip(rows, tags, strict=True) if tag is None or tag in has
    }
    if not known:
        every = sorted({str(name) for has in tags for name in has})
        raise UserError(f"--tag {tag}: no prompt of {args.file} has it; tags there: {', '.join(every) or 'none'}")
    if known.isdisjoint(map(plain, texts)):
        with_tag = f" with tag {tag}" if tag else ""
        raise UserError(f"no prompt of {args.file}{with_tag} is answered here; name the answers' set with --prompts")
    return known


def tags_of(prompt):
    """The tags of a prompt's row."""
    return prompt["tags"] if isinstance(prompt.get("tags"), list) else []


def extent(known, given, judged):
    """ "all 300 prompts", or "partial: 240 of 300 prompts". given, judged: `(prompt_id, sample, prompt's text)` of all answers and
    of those judged; known: the texts of the whole prompt set, where that is known."""
    prompts = len({item[0] for item in judged})
    given, judged = ({(plain(item[2]), item[1]) for item in items} for items in (given, judged))
    lost = (known | {text for text, _ in given}) - {text for text, _ in judged}
    if lost:
        return f"partial: {prompts:,} of {prompts + len(lost):,} prompts"
    if lacking := len(given - judged):
        return f"partial: all {prompts:,} prompts, but {len(judged):,} of {len(judged) + lacking:,} answers"
    return f"all {prompts:,} prompts" if prompts != 1 else "the only prompt"


def plain(text):
    """The text with white space as single spaces."""
    return " ".join(text.split())


def first(items, limit):
    """The items (tuples that begin with the prompt's id) of the first `limit` prompts; all without a limit."""
    kept = set(list(dict.fromkeys(item[0] for item in items))[:limit])
    return [item for item in items if item[0] in kept]


def settle(requests, row, done, digests, path, args, **owner):
    """Prints the plan, asks for what is open, writes the rows; returns `(rows, replies)`, or `(None, [])` after a --dry_run.

    requests: `{(prompt_id, sample, order or n): request}`; a request of None needs no judge. row(key, reply) makes a row, with
    a reply of None for those; done(row) says whether a row that stands is good enough. rows: one for each request.
    """
    stand = judgments.standing(path, digests, args, **owner)
    ready = {key: stand[key] for key in requests if key in stand and done(stand[key])}
    asked = [key for key, request in requests.items() if request and key not in ready]
    print("\n".join(plan([requests[key] for key in asked], len(ready), args, path)), flush=True)
    if args.dry_run:
        return None, []
    replies = dict(zip(asked, ask([requests[key] for key in asked], args, bool(ready)), strict=True))
    for line in client.used(replies.values(), args.price):
        print(line)
    rows = {key: ready.get(key) or row(key, replies.get(key)) for key in requests}
    for key in replies.keys() & stand.keys():  # nothing new: no reply, or the one that stands, from the cache
        if replies[key].error or rows[key] == {**stand[key], "date": rows[key]["date"]}:
            rows[key] = stand[key]
    if moved := keep(path, rows.values(), digests, args, **owner):
        why = "on other answers, by another instruction or at another temperature" if "system" in owner else (
            "on other answers or by another instruction")  # fmt: skip
        print(f"moved    {moved:,} rows {why} to {judgments.former(path)}")
    return list(rows.values()), list(replies.values())


def keep(path, new, digests, args, **owner):
    """`judgments.write`, unless all of it stands. Raises `UserError` that names the file where it cannot be written."""
    here = judgments.read(path, **owner)
    if judgments.sorted_out([*here, *new], digests, args) == (here, []):
        return 0
    try:
        return judgments.write(path, new, digests, args, **owner)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); the replies are in {CACHE}, and the same command goes on"
        ) from None


def plan(requests, ready, args, path):
    """Lines on what will be asked, of whom, and what it may cost."""
    found = client.estimate(requests, args.judge, args.base_url, CACHE, args.price)
    cost = "unknown; --price IN,OUT tells" if found["cost"] is None else f"at most ${found['cost']:,.2f}"
    return [
        f"judge    {args.judge} at {shown(endpoint(args.base_url))}",
        f"calls    {found['calls']:,}",
        f"have     {found['stored']:,} replies in {CACHE}, {ready:,} verdicts in {path}",
        f"tokens   about {found['prompt_tokens']:,} to read, at most {found['completion_tokens']:,} to write",
        f"cost     {cost}",
    ]


def ask(requests, args, ready=False):
    """The replies to `requests`, in order, behind a progress bar. Raises `UserError` where not one of them came; where others are
    `ready`, some may be left that the server refuses."""
    from tqdm import tqdm

    with tqdm(total=len(requests), desc=args.judge, unit="reply", disable=None, leave=False) as bar:
        replies = client.ask(
            requests, args.judge, args.base_url, CACHE, args.concurrency, args.rate, lambda reply: bar.update()
        )
    if replies and all(reply.error for reply in replies) and not (ready and all(reply.refused for reply in replies)):
        raise UserError(f"{args.judge}: no reply came: {replies[0].error}")
    return replies


def said(reply):
    """`(raw, text)` of a reply: what to keep, None if nothing came, and what to read a verdict from, None if it was cut off
    (then its last line is not its last)."""
    if reply.error:
        return None, None
    return reply.text, None if reply.finish_reason == "length" else reply.text


def now():
    """The time as rows keep it: UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def failures(replies, read=True):
    """Lines on replies that never came or were cut off, and on what to do where none was `read`: the cache holds them."""
    gone, refused = [one.error for one in replies if one.lost], [one.error for one in replies if one.refused]
    cut = sum(reply.finish_reason == "length" and not reply.error for reply in replies)
    lines = (
        [f"no reply to {len(gone)} of {len(replies)} ({gone[0]}); the same command asks for these only"] if gone else []
    )
    lines += [f"{len(refused)} of {len(replies)} are refused by the server ({refused[0]})"] if refused else []
    lines += [f"cut off by --max_tokens, so not read: {cut}"] if cut else []
    again = "these replies stay; another --temperature, --instruction or --max_tokens asks anew"
    return lines + ([] if read or gone else [again])


def addressed(system, items):
    """A line if answers of `system` to the prompts of `items` seem to address the judge; in a list."""
    texts = {plain(item[2]) for item in items}
    found = verdicts.suspicious([row for row in system.rows if plain(row["prompt"]) in texts])
    names = few(f"{prompt_id} ({what})" for prompt_id, _, what in found)
    count = "1 answer seems" if len(found) == 1 else f"{len(found)} answers seem"
    return [f"{count} to address the judge in {system.name}, judged as any other: {names}"] if found else []


def percent(share):
    """0.543 → "54 %"; an interval `(share, low, high)` → "54 % (48–60)"."""
    if isinstance(share, tuple):
        return f"{percent(share[0])} ({100 * share[1]:.0f}–{100 * share[2]:.0f})"
    return f"{100 * share:.0f} %"


def few(names):
    """The first five names, and how many more."""
    names = ["".join(c if c.isprintable() else " " for c in str(name)) for name in names]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
