"""Answers in the forms that AlpacaEval and FastChat's MT-Bench read.

    python -m lima.evaluate.export --answers runs/7b --prompts test \\
        --format alpaca_eval --out 7b.json
    python -m lima.evaluate.export --answers runs/7b --prompts mt_bench \\
        --format mt_bench --out model_answer/7b.jsonl

alpaca_eval: a JSON list of {dataset, instruction, output, generator}, for
`alpaca_eval --model_outputs`. One answer to a prompt: where there are several,
that of --sample.

mt_bench: a JSON line a question, {question_id, answer_id, model_id, choices:
[{index, turns}], tstamp}; our samples are its choices. Prompts must have
MT-Bench's question ids (81 … 160, or those of your own question.jsonl).
MT-Bench's questions have two turns and our answers one: they are exported as
the first turn, and FastChat can judge only that. Give it a question.jsonl whose
`turns` hold the first turn alone, or it stops at the second.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

from lima import UserError, exit_codes, runs
from lima.evaluate import answers


def alpaca_eval(found, dataset, sample=0):
    """AlpacaEval's model_outputs: one row a prompt, in the answers' order."""
    rows = [row for row in found.rows if row["sample"] == sample]
    if not rows:
        raise UserError(f"{found.path}: no answers of sample {sample}; it has {_samples(found.rows)}")
    return [
        {"dataset": dataset, "instruction": row["prompt"], "output": row["response"], "generator": found.name}
        for row in rows
    ]


def mt_bench(found, date):
    """FastChat's model_answer: one row a question, its choices our samples. `date`: seconds, the same for all."""
    if [row["prompt_id"] for row in found.rows] == answers.text_ids(found.rows):
        raise UserError(f"{found.path}: answers without prompt_id; MT-Bench knows a question by its id")
    questions = {}
    for row in sorted(found.rows, key=lambda row: row["sample"]):
        questions.setdefault(row["prompt_id"], []).append({"index": row["sample"], "turns": [row["response"]]})
    for name, choices in questions.items():
        if [choice["index"] for choice in choices] != list(range(len(choices))):
            raise UserError(f"{found.path}: prompt {name} has {_samples(found.rows)}; FastChat reads choice 0 of each")
    return [
        {
            "question_id": int(name) if name.isdecimal() else name,
            "answer_id": hashlib.sha256(json.dumps([found.name, name, choices]).encode()).hexdigest()[:22],
            "model_id": found.name,
            "choices": choices,
            "tstamp": date,
        }
        for name, choices in questions.items()
    ]


def _samples(rows):
    return "samples " + ", ".join(map(str, sorted({row["sample"] for row in rows})))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", required=True, help="a run, a checkpoint, answers/MODEL, or a file of answers")
    parser.add_argument("--prompts", default="dev", help="the prompt set that was answered [%(default)s]")
    parser.add_argument("--format", required=True, choices=("alpaca_eval", "mt_bench"))
    parser.add_argument("--sample", type=int, default=0, help="for alpaca_eval [%(default)s]")
    parser.add_argument("--out", required=True, type=Path, help="a .json (alpaca_eval) or .jsonl (mt_bench) file")
    return parser


def main(argv):
    args = arguments().parse_args(argv)
    found = answers.load(args.answers, args.prompts)
    ending = {"alpaca_eval": ".json", "mt_bench": ".jsonl"}[args.format]
    if args.out.suffix != ending:
        raise UserError(f"--out: expected a name that ends in {ending} for {args.format}, found {args.out}")
    if args.out.exists() and args.out.resolve() == found.path.resolve():
        raise UserError(f"--out: {args.out} holds the answers themselves; name another file")
    if args.format == "alpaca_eval":
        rows = alpaca_eval(found, answers.set_name(args.prompts), args.sample)
        runs.write_text(args.out, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
        left = len(found.rows) - len(rows)
        note = f"; {left} answers of other samples are left out" if left else ""
    else:
        rows = mt_bench(found, found.path.stat().st_mtime)
        runs.write_jsonl(args.out, rows)
        note = "; one turn each: FastChat can judge the first turn only (--help says how)"
        if args.out.stem != found.name:
            note += f"\nFastChat calls a model by its file's name: {args.out.stem}, not {found.name}"
    print(
        f"{len(rows)} {'answers' if args.format == 'alpaca_eval' else 'questions'} of {found.name} → {args.out}{note}"
    )


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
