"""Which of two systems' answers is better, asked of a model (section 4.1): A
significantly better, B significantly better, or neither. Each pair is asked in
both orders; a disagreement between the orders is a tie.

    python -m lima.evaluate.judge --a runs/7b --b runs/mine --prompts test \\
        --judge gpt-4o --price 2.5,10 --dry_run
    python -m lima.evaluate.judge --a runs/7b --b alpaca.json \\
        --judge MODEL --base_url http://127.0.0.1:8000/v1

Writes judgments/<a>-vs-<b>.jsonl. Run again, it asks only for what is not there
yet; an answer or an instruction that has changed is judged anew. The judge
reads lima/evaluate/instructions/pair.txt, or your --instruction.
OPENAI_API_KEY is the key; a server of your own wants none.
"""

import sys

from lima import exit_codes
from lima.evaluate import answers, asking, intervals, judgments, verdicts

HOLDERS = ("prompt", "answer_a", "answer_b")
ORDERS = ("ab", "ba")
OUTCOMES = {"a": "win", "tie": "tie", "b": "lose"}


def main(argv):
    args = asking.checked(parser().parse_args(argv))
    instruction = asking.read_instruction(args.instruction or asking.INSTRUCTIONS / "pair.txt", HOLDERS)
    a, b = answers.load(args.a, args.prompts), answers.load(args.b, args.prompts)
    answers.apart(a, b)
    found = answers.pair(a, b, args.partial)
    pairs = asking.first(found, args.limit)
    given = [(row["prompt_id"], row["sample"], row["prompt"]) for row in [*a.rows, *b.rows]]
    known = asking.prompt_set(args, [item[2] for item in given])
    print(f"a        {a.name}: {a.path}\nb        {b.name}: {b.path}")
    print(f"prompts  {args.prompts}, {asking.extent(known, given, pairs)}")
    print(f"pairs    {len(pairs):,}, each in both orders; {sum(map(same, pairs)):,} of the same text, which are ties")

    path = judgments.FOLDER / f"{a.name}-vs-{b.name}.jsonl"
    rows, replies = judge(pairs, found, instruction, {"a": a.name, "b": b.name}, path, args)
    if rows is None:
        return 0
    gone = {(row["prompt_id"], row["sample"]) for row in rows if row["raw"] is None}
    extent = asking.extent(known, given, [pair for pair in pairs if pair[:2] not in gone])
    print(f"\n{a.name} against {b.name}, judged by {args.judge} on {args.prompts}, {extent}")
    read = bool(verdicts.outcomes(rows))
    notes = [*asking.failures(replies, read), *asking.addressed(a, pairs), *asking.addressed(b, pairs)]
    print(*summary(rows), *notes, f"→ {path}", sep="\n")
    return 0 if read and not any(reply.lost for reply in replies) else 1


def parser():
    found = asking.arguments(__doc__)
    spec = "a run, a checkpoint, our .jsonl of answers, or AlpacaEval's .json"
    found.add_argument("--a", required=True, metavar="SPEC", help=spec)
    found.add_argument("--b", required=True, metavar="SPEC", help="the other system")
    found.add_argument("--partial", action="store_true", help="judge the prompts that both have answered")
    return found


def judge(pairs, found, instruction, names, path, args):
    """The rows of `pairs`, two each, which stand in `path` then, and the replies that were asked for now; `(None, [])` after a
    --dry_run.

    found: all pairs of these systems, of which `pairs` may be a part. names: `{"a": …, "b": …}`.
    """
    digests = {pair[:2]: verdicts.digest(*pair[3:], instruction) for pair in found}
    requests = {
        (*pair[:2], order): None if same(pair) else asking.request(question(instruction, pair, order), args)
        for pair in pairs
        for order in ORDERS
    }

    def row(key, reply):
        prompt_id, sample, order = key
        raw, text = asking.said(reply) if reply else (verdicts.IDENTICAL, "Verdict: neither")
        return {
            "prompt_id": prompt_id,
            "prompts": args.prompts,
            "sample": sample,
            **names,
            "judge": args.judge,
            "order": order,
            "verdict": verdicts.by_system(verdicts.parse_pair(text), order),
            "raw": raw,
            "date": asking.now(),
            "digest": digests[prompt_id, sample],
        }

    def done(row):
        return row["verdict"] is not None

    return asking.settle(requests, row, done, digests, path, args, **names)


def same(pair):
    """Whether both answers are the same text."""
    return pair[3].strip() == pair[4].strip()


def question(instruction, pair, order):
    """The instruction with a pair's prompt and answers in it, in that order."""
    _, _, prompt, a, b = pair
    first, second = (a, b) if order == "ab" else (b, a)
    return asking.fill(instruction, prompt=prompt, answer_a=first, answer_b=second)


def summary(rows):
    """Lines: win / tie / lose of a against b with 95 % intervals, and how the asking went."""
    groups = {}
    for (prompt_id, _), outcome in verdicts.outcomes(rows).items():
        groups.setdefault(prompt_id, []).append(OUTCOMES[outcome])
    if groups:
        shares = intervals.shares(list(groups.values()))
        parts = "   ".join(f"{name} {asking.percent(share)}" for name, share in shares.items())
        lines = [f"{parts}   n = {len(groups):,}"]
    else:
        lines = ["no prompt has a verdict in both orders"]
    n = verdicts.counts(rows)
    lines.append(f"asked {n['asked']:,}, answered {n['answered']:,}, parsed {n['parsed']:,}")
    if n["pairs"]:
        share = asking.percent(n["flipped"] / n["pairs"])
        lines.append(f"flipped by order {n['flipped']:,} of {n['pairs']:,} ({share})")
    if n["decided"]:
        lines.append(f"first slot {asking.percent(n['first_slot'])} of {n['decided']:,} that chose")
    open_ = [f"{r['prompt_id']} {r['order']}" for r in rows if r["raw"] is not None and r["verdict"] is None]
    return lines + ([f"could not be read as a verdict (their text is kept): {asking.few(open_)}"] if open_ else [])


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
