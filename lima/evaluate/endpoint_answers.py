"""Another model's answers to the same prompts, from an OpenAI-compatible endpoint,
in the form of our own.

    python -m lima.evaluate.endpoint_answers --model gpt-4o --prompts test \\
        --price 2.5,10 --dry_run
    python -m lima.evaluate.endpoint_answers --model NAME --prompts dev \\
        --base_url http://127.0.0.1:8000/v1

Answers lie in answers/MODEL/PROMPTS.jsonl (or --out), and `answers/MODEL`
stands beside runs/NAME wherever answers are judged. --dry_run prints calls,
tokens and cost, and asks nothing. Every reply is kept in judgments/cache as it
comes: after Ctrl-C or a death the same command goes on, and what was paid is
never paid again. OPENAI_API_KEY holds the key; a local server needs none.

Temperature and nucleus are the paper's (section 4.1); its repetition penalty is
left out, as the models it compared with were asked through their interfaces,
and most endpoints have none that counts generated tokens only.
"""

import argparse
import sys
from pathlib import Path

from lima import UserError, exit_codes
from lima.evaluate import answer_file, client
from lima.evaluate.answers import file_name
from lima.evaluate.before_after import plain
from lima.evaluate.generate import SAMPLING, load_prompts
from lima.evaluate.replies import CACHE, endpoint, shown

REASONS = {"stop": "eos", "length": "length"}


def request(prompt, sample, args):
    """What is asked for an answer; further samples differ by their tag, and by their seed where there is one."""
    seed = None if args.seed is None else args.seed + sample
    sampling = {"temperature": args.temperature, "top_p": args.top_p, "max_tokens": args.max_tokens, "seed": seed}
    return {"messages": prompt["messages"], **sampling, "tag": sample or None}


def settings(args):
    """What an answer depends on beside its prompt and sample; the `sampling` of its row."""
    keys = ("temperature", "top_p", "seed", "model")
    where = {"max_new_tokens": args.max_tokens, "endpoint": shown(endpoint(args.base_url))}
    return {"engine": "endpoint", **{key: getattr(args, key) for key in keys}, **where}


def as_row(prompt, sample, reply, sampling):
    """A reply as a row of a file of answers."""
    reason = REASONS.get(reply.finish_reason)
    return answer_file.as_row(prompt, sample, reply.text, reason, reply.completion_tokens, sampling)


def plan(requests, args, out, count, have):
    """Lines: what will be asked, and what it takes."""
    found = client.estimate(requests, args.model, args.base_url, CACHE, args.price)
    each = "one answer each" if args.samples == 1 else f"{args.samples} answers each"
    cost = "unknown; --price IN,OUT in dollars a million tokens tells"
    if found["cost"] is not None:
        least = min(found["calls"], 0.01)  # a cent, unless nobody is asked
        cost = f"at most ${max(found['cost'], least):,.2f} ({args.price} a million)"
    return [
        f"model    {plain(args.model)} at {shown(endpoint(args.base_url))}",
        f"prompts  {count} of {args.prompts}, {each}; {have} are in {out}",
        f"calls    {found['calls']:,}; {found['stored']:,} replies are in {CACHE}",
        f"tokens   about {found['prompt_tokens']:,} to read (4 bytes each), at most {found['completion_tokens']:,} to write",
        f"cost     {cost}",
    ]


def collect(out, prompts, args):
    """Asks for what `out` lacks, and writes it, prompt by prompt; returns the rows asked for, or None after --dry_run.

    What came is written also where not all did; then `UserError` says how many are missing.
    """
    sampling, chosen = settings(args), prompts[: args.limit]
    have = answer_file.stored(out, prompts, sampling, args.overwrite)
    asked = [(prompt, sample) for prompt in chosen for sample in range(args.samples)]
    missing = [(prompt, sample) for prompt, sample in asked if (prompt["id"], sample) not in have]
    requests = [request(*pair, args) for pair in missing]
    print("\n".join(plan(requests, args, out, len(chosen), len(asked) - len(missing))), flush=True)
    if args.dry_run:
        return None
    replies = ask(requests, args)
    for line in client.used(replies, args.price):
        print(line)
    for (prompt, sample), reply in zip(missing, replies, strict=True):
        if not reply.error:
            have[prompt["id"], sample] = as_row(prompt, sample, reply, sampling)
    if have:
        answer_file.write(out, prompts, have)
    errors = [reply.error for reply in replies if reply.error]
    if errors:
        raise UserError(f"{out}: {len(errors)} of {len(asked)} answers did not come ({errors[0]}); run this again")
    return [have[prompt["id"], sample] for prompt, sample in asked]


def ask(requests, args):
    """The replies, behind a progress bar that also counts those that failed."""
    from tqdm import tqdm

    failed = 0
    with tqdm(total=len(requests), desc=plain(args.model), unit="answer", leave=False, disable=not requests) as bar:

        def tick(reply):
            nonlocal failed
            failed += bool(reply.error)
            bar.set_postfix_str(f"{failed} failed" if failed else "", refresh=False)
            bar.update()

        return client.ask(requests, args.model, args.base_url, CACHE, args.concurrency, args.rate, tick)


def summary(rows):
    """Answers by how they ended, and how many are empty."""
    counts = {
        "cut at the limit": sum(row["finish_reason"] == "length" for row in rows),
        "ended otherwise (a filter)": sum(row["finish_reason"] is None for row in rows),
        "empty": sum(not row["response"].strip() for row in rows),
    }
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"{len(rows)} answers" + (f" ({said})" if said else "")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="its name at the endpoint")
    parser.add_argument("--base_url", help="such as http://127.0.0.1:8000/v1 [OPENAI_BASE_URL, else OpenAI's]")
    parser.add_argument("--prompts", default="dev", help="dev, test or a prompt file [%(default)s]")
    parser.add_argument("--out", type=Path, help="[answers/MODEL/PROMPTS.jsonl]")
    parser.add_argument("--temperature", type=float, default=SAMPLING["temperature"], help="[%(default)s, the paper's]")
    parser.add_argument("--top_p", type=float, default=SAMPLING["top_p"], help="[%(default)s, the paper's]")
    parser.add_argument("--max_tokens", type=int, default=2048, help="[%(default)s, the paper's]")
    parser.add_argument("--samples", type=int, default=1, help="answers to each prompt [%(default)s]")
    parser.add_argument("--seed", type=int, help="sent with each request (plus the sample's number), if given")
    parser.add_argument("--limit", type=int, help="the first so many prompts only")
    parser.add_argument("--concurrency", type=int, default=16, help="calls at a time [%(default)s]")
    parser.add_argument("--rate", type=float, help="at most so many calls a minute")
    parser.add_argument("--price", metavar="IN,OUT", help="dollars a million tokens, such as 2.5,10")
    parser.add_argument("--overwrite", action="store_true", help="replace answers that were made with other settings")
    parser.add_argument("--dry_run", action="store_true", help="print calls, tokens and cost; ask nothing")
    return parser


def checked(args):
    """The arguments, where they make sense."""
    for name in ("max_tokens", "samples", "limit", "concurrency"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name}: expected 1 or more, found {getattr(args, name)}")
    if args.rate is not None and not args.rate > 0:
        raise UserError(f"--rate: expected a number above 0, found {args.rate:g}")
    if not args.model.strip():
        raise UserError(
            "MODEL is missing: make answers MODEL=gpt-4o-mini, or --model; a local server lists its own at BASE_URL/models"
        )
    if args.out and args.out.suffix != ".jsonl":
        raise UserError(f"--out: expected a name that ends in .jsonl, found {args.out}")
    return args


def main(argv):
    args = checked(arguments().parse_args(argv))
    name, prompts = load_prompts(args.prompts)
    out = args.out or Path("answers") / file_name(args.model) / f"{name}.jsonl"
    rows = collect(out, prompts, args)
    if rows is not None:
        print(f"{summary(rows)} → {out}")


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
