"""One system's answers, rated by a model, one by one.

    python -m lima.evaluate.rate --kind grade --answers runs/7b --prompts test \\
        --judge gpt-4o --repeats 5 --price 2.5,10
    python -m lima.evaluate.rate --kind level --answers runs/7b \\
        --judge MODEL --base_url http://127.0.0.1:8000/v1
    python -m lima.evaluate.rate --kind safety --answers runs/7b --judge MODEL \\
        --prompts test

grade    how helpful, 1 to 6 (the ablations, section 5)
level    excellent, pass or fail (section 4.3)
safety   whether the answer is safe, and whether it refuses (section 4.3): of
         the prompts tagged sensitive (20 of test), unless --tag names others,
         or of the set safety (30 prompts: --prompts safety)

Writes judgments/<system>.<kind>.jsonl. Run again, it asks only for what is not
there yet; an answer or an instruction that has changed is rated anew. The judge
reads lima/evaluate/instructions/<kind>.txt, or your --instruction.
OPENAI_API_KEY is the key; a server of your own wants none.
"""

import sys
from collections import Counter

from lima import conversations, exit_codes
from lima.evaluate import answers, asking, intervals, judgments, verdicts

HOLDERS = ("prompt", "answer")
VALUES = {"grade": ("grade",), "level": ("level",), "safety": ("safe", "refused")}
SENSITIVE = "sensitive"  # the tag of the prompts that safety is about
LEVELS = ("excellent", "pass", "fail")


def main(argv):
    args = asking.checked(parser().parse_args(argv))
    if args.temperature is None and args.repeats > 1:
        args.temperature = 1  # at 0, repeated ratings would all be one
    about = sensitive(args) if args.kind == "safety" and not args.tag else []
    instruction = asking.read_instruction(args.instruction or asking.INSTRUCTIONS / f"{args.kind}.txt", HOLDERS)
    system = answers.load(args.answers, args.prompts)
    every = [(row["prompt_id"], row["sample"], row["prompt"], row["response"]) for row in system.rows]
    known = asking.prompt_set(args, [item[2] for item in every], args.tag)
    given = [item for item in every if asking.plain(item[2]) in known] if args.tag else every
    asked = asking.first(given, args.limit)
    of = f"{args.prompts}, tag {args.tag}" if args.tag else args.prompts
    print(f"answers  {system.name}: {system.path}\nprompts  {of}, {asking.extent(known, given, asked)}")
    print(
        f"ratings  {args.kind}, {len(asked):,} answers × {args.repeats}, temperature {args.temperature or 0:g}",
        *about,
        sep="\n",
    )

    path = judgments.FOLDER / f"{system.name}.{args.kind}.jsonl"
    rows, replies = rate(asked, every, instruction, system.name, path, args)
    if rows is None:
        return 0
    gone = {(row["prompt_id"], row["sample"]) for row in rows if row["raw"] is None}
    extent = asking.extent(known, given, [item for item in asked if item[:2] not in gone])
    print(f"\n{system.name}, rated by {args.judge} on {of}, {extent}")
    read = any(row[VALUES[args.kind][0]] is not None for row in rows)
    notes = [*asking.failures(replies, read), *asking.addressed(system, asked)]
    print(*summary(args.kind, rows), *notes, f"→ {path}", sep="\n")
    return 0 if read and not any(reply.lost for reply in replies) else 1


def sensitive(args):
    """Has safety rated on the sensitive prompts of the set, where it has any; lines for the plan."""
    if args.prompts == "safety":
        return []
    if args.file.is_file() and any(
        SENSITIVE in asking.tags_of(row) for row in conversations.load_prompts(str(args.file))
    ):
        args.tag = SENSITIVE
        return [f"safety   only of prompts tagged {SENSITIVE}, as the paper; --tag NAME: others"]
    return [f"warning  {args.prompts} has no prompts tagged {SENSITIVE}; --prompts safety is of such"]


def parser():
    found = asking.arguments(__doc__)
    found.add_argument("--kind", required=True, choices=VALUES, help="what to rate")
    spec = "a run, a checkpoint, our .jsonl of answers, or AlpacaEval's .json"
    found.add_argument("--answers", required=True, metavar="SPEC", help=spec)
    repeats = "ratings an answer, at temperature 1 unless told [%(default)s]"
    found.add_argument("--repeats", type=asking.positive, default=1, metavar="N", help=repeats)
    found.add_argument("--tag", help="only prompts with this tag in their file [safety: sensitive]")
    return found


def rate(items, every, instruction, name, path, args):
    """The rows of `items`, `--repeats` each, which stand in `path` then, and the replies that were asked for now; `(None, [])`
    after a --dry_run.

    items: `(prompt_id, sample, prompt, answer)`, which may be a part of `every`. name: the system's.
    """
    heat = [f"temperature {args.temperature:g}"] if args.temperature else []
    digests = {item[:2]: verdicts.digest(item[3], instruction, *heat) for item in every}
    requests = {
        (*item[:2], n): asking.request(asking.fill(instruction, prompt=item[2], answer=item[3]), args, n)
        for item in items
        for n in range(args.repeats)
    }

    def row(key, reply):
        prompt_id, sample, n = key
        raw, text = asking.said(reply)
        return {
            "prompt_id": prompt_id,
            "prompts": args.prompts,
            "sample": sample,
            "system": name,
            "judge": args.judge,
            "n": n,
            **values(args.kind, text),
            "raw": raw,
            "date": asking.now(),
            "digest": digests[prompt_id, sample],
        }

    def done(row):
        return row[VALUES[args.kind][0]] is not None

    return asking.settle(requests, row, done, digests, path, args, system=name)


def values(kind, text):
    """What a reply of that kind says: `{"grade": 1 … 6}`, `{"level": …}`, `{"safe": …, "refused": …}`; None is unreadable."""
    if kind == "safety":
        return dict(zip(VALUES[kind], verdicts.parse_safety(text), strict=True))
    return {kind: verdicts.parse_grade(text) if kind == "grade" else verdicts.parse_level(text)}


def summary(kind, rows):
    """Lines: the mean grade or the shares, with 95 % intervals by prompt, and how the asking went."""
    key = VALUES[kind][0]
    read = [row for row in rows if row[key] is not None]
    groups = {}
    for row in read:
        groups.setdefault(row["prompt_id"], []).append(row)
    sets = {row["prompts"] for row in read}
    lines = (
        figures(kind, list(verdicts.clusters(groups, *sets).values()), *sets) if read else ["no reply could be read"]
    )
    answered = sum(row["raw"] is not None for row in rows)
    lines.append(f"asked {len(rows):,}, answered {answered:,}, parsed {len(read):,}")
    open_ = [row["prompt_id"] for row in rows if row["raw"] is not None and row[key] is None]
    return lines + ([f"could not be read (their text is kept): {asking.few(open_)}"] if open_ else [])


def figures(kind, groups, prompts=""):
    """Lines on rows grouped by prompt, those of the set `prompts` by dialogue if it is of dialogues."""
    if kind == "grade":
        mean, low, high = intervals.mean([[row["grade"] for row in group] for group in groups])
        how_often = Counter(row["grade"] for group in groups for row in group)
        spread = ", ".join(f"{grade}: {how_often[grade]:,}" for grade in range(1, 7))
        return [f"mean grade {mean:.2f} ({low:.2f}–{high:.2f}), n = {len(groups):,}; {spread}"]
    if kind == "level":
        found = intervals.shares(
            [[row["level"] for row in group] for group in groups], names=LEVELS, pooled="dialogue" in prompts
        )
    else:
        found = {key: intervals.share([[bool(row[key]) for row in group] for group in groups]) for key in VALUES[kind]}
    return ["   ".join(f"{name} {asking.percent(share)}" for name, share in found.items()) + f"   n = {len(groups):,}"]


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
