"""Held-out perplexity beside the judge's grades, epoch by epoch (appendix B: the
first rises while answers get better).

    python -m lima.evaluate.by_epoch --run runs/7b
    python -m lima.evaluate.by_epoch --run runs/7b --prompts test \\
        --judge gpt-4o-2024-11-20

Perplexity is of the run's held-out file (metrics.jsonl). Grades, 1 to 6, are
those that `python -m lima.evaluate.rate` wrote to
judgments/RUN-checkpoint-STEP.grade.jsonl: their mean with its 95 % interval by
prompt. EOT and length are of the answers in runs/NAME/generations/. What is not
there yet is shown as –. Perplexity is shown and never used to choose.
"""

import argparse
import glob
import math
import sys
from pathlib import Path

from lima import UserError, exit_codes
from lima.evaluate import answers, intervals, judgments, signals
from lima.evaluate.run_sources import as_numbers, json_rows

# ---- the series --------------------------------------------------------------------------------------------------------


def series(run, prompts="dev", judge=None, folder=judgments.FOLDER):
    """A row a step that has a held-out loss, answers to `prompts`, or grades of such answers, by step:

    `{epoch, step, perplexity, grade, grade_low, grade_high, graded, asked, eot_share, median_tokens}`. Of `asked` gradings
    `graded` could be read; what is missing is None. Raises `UserError` for no run, for nothing to show, and where several
    judges graded and `judge` is none of them.
    """
    run = Path(run)
    said = {one.step: answers.load(one.path).rows for one in signals.answered(run, prompts)}
    held, graded = perplexities(run), grades(run, prompts, judge, folder)
    steps = sorted(held.keys() | graded.keys() | said.keys())
    if not steps:
        raise UserError(f"{run}: no held-out loss in metrics.jsonl, no answers to {prompts!r} and no grades of them")
    epochs, nothing = signals.epochs_by_step(run), {"grade": None, "grade_low": None, "grade_high": None}
    return [
        {
            "epoch": epochs.get(step),
            "step": step,
            "perplexity": held.get(step),
            **graded.get(step, {**nothing, "graded": 0, "asked": 0}),
            "eot_share": signals.eot_share(said.get(step, [])),
            "median_tokens": (signals.spread(signals.token_counts(said.get(step, []))) or {}).get("median"),
        }
        for step in steps
    ]


def perplexities(run):
    """`{step: perplexity}` of the run's held-out file; a step that was evaluated twice counts as it was last."""
    rows = map(as_numbers, json_rows(Path(run) / "metrics.jsonl", {"step", "epoch", "eval_loss"}, []))
    return {row["step"]: math.exp(min(row["eval_loss"], 700)) for row in rows if "eval_loss" in row}


def grades(run, prompts, judge=None, folder=judgments.FOLDER):
    """`{step: {grade, grade_low, grade_high, graded, asked}}` of the run's checkpoints, by one judge."""
    name = answers.file_name(f"{Path(run).resolve().name}-checkpoint-")
    found = {}
    for path in Path(folder).glob(f"{glob.escape(name)}-*.grade.jsonl"):
        step = path.name.removesuffix(".grade.jsonl").rsplit("-", 1)[1]
        rows = [row for row in judgments.read(path) if row["prompts"] == prompts]
        if step.isdecimal() and rows:
            found[int(step)] = rows
    judges = sorted({str(row["judge"]) for rows in found.values() for row in rows})
    if judge not in judges and (judge or len(judges) > 1):
        raise UserError(f"--judge: these graded {Path(run).name} on {prompts!r}: {', '.join(judges) or 'nobody yet'}")
    mine = {step: [row for row in rows if judge in (None, row["judge"])] for step, rows in found.items()}
    return {step: _graded(rows) for step, rows in mine.items() if rows}


def _graded(rows):
    by_prompt = {}
    for row in rows:
        by_prompt.setdefault(row["prompt_id"], []).append(row.get("grade"))
    count = sum(row.get("grade") is not None for row in rows)
    mean, low, high = intervals.mean(list(by_prompt.values())) if count else (None, None, None)
    return {"grade": mean, "grade_low": low, "grade_high": high, "graded": count, "asked": len(rows)}


# ---- the command line --------------------------------------------------------------------------------------------------


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a run (runs/NAME)")
    parser.add_argument("--prompts", default="dev", help="prompt set: dev, test or the stem of your file [%(default)s]")
    parser.add_argument("--judge", help="whose grades, where several graded")
    args = parser.parse_args(argv)
    found = series(args.run, Path(args.prompts).stem, args.judge)
    signals.show(
        ["epoch", "step", "perplexity", "grade (95 %)", "read", "EOT", "tokens"], [_line(row) for row in found]
    )
    if all(row["grade"] is None for row in found):
        print("no grades yet: python -m lima.evaluate.rate --kind grade --judge MODEL \\")
        print(f"  --answers {args.run}/checkpoint-STEP")
    print("tokens: median · perplexity is shown and never used to choose (appendix B)")


def _line(row):
    def shown(form, key):
        return signals.NONE if row[key] is None else form.format(row[key])

    grade = f"{row['grade']:.2f} ({row['grade_low']:.2f}–{row['grade_high']:.2f})" if row["grade"] is not None else "–"
    read = f"{row['graded']}/{row['asked']}" if row["asked"] else signals.NONE
    return (
        shown("{:.4g}", "epoch"), row["step"], shown("{:.2f}", "perplexity"), grade, read,
        signals.percent(row["eot_share"]), shown("{:.0f}", "median_tokens"),
    )  # fmt: skip


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
