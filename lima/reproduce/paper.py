"""The whole paper from one command, on a base of any size.

    python -m lima.reproduce.paper --size 65b --judge gpt-4o --price 2.5,10 \\
        --against answers/gpt-4 answers/claude
    python -m lima.reproduce.paper --size 135m          no judge: what code measures

base, plan, train         section 3
answers on dev, select    epochs 5-10; a judge picks, never the loss
answers on test, judge    section 4.1, against every system of --against
levels, safety            section 4.3
structure, dialogue       appendix E, section 6
ablations                 sections 5 and 6, and what the paper leaves open
report                    report/index.html: the paper's figures beside ours

What is done is skipped, so it goes on after any death; report/status.html and
`make status` show how far it is. Without data for an ablation (it is curated
from raw dumps) that one is left out, and said. Other flags are lines of the
recipe, for all runs.
"""

import argparse
import html
import sys
import time
from pathlib import Path

from lima import UserError, exit_codes, recipe, runs
from lima.evaluate import answers, judgments
from lima.reproduce import arms, progress
from lima.reproduce.stages import Failed, Runner, Stage, judge_flags, place_flags, prepare, report, told, took

STATUS = Path("report/status.html")


def main(argv):
    args, given = parser().parse_known_args(argv)
    given = given[given[:1] == ["--"] :]
    path = f"recipes/{args.size}.yaml"
    resolved = recipe.load(["--config", path, *given])
    run = Path(resolved.output_dir)
    todo = [*of_model(args, resolved, run, given), *of_ablations(args, given), report()]
    print(f"\nreproduce {args.size} · {run} · judge {args.judge or 'none: what code measures'}")
    for stage in todo:
        print(f"  {stage.label:<28} {stage.name:<18} {'done' if stage.done and stage.done() else '–'}")
    for line in left_out(args, given):
        print(f"  left out: {line}")
    if args.dry_run:
        return 0
    print(flush=True)
    runner, times = Runner(), {}
    try:
        for stage in todo:
            began = time.monotonic()
            write_status(args, todo, stage, times)
            runner.all([[stage]])
            times[id(stage)] = time.monotonic() - began
    except Failed as failure:
        return told(failure)
    finally:
        write_status(args, todo, None, times)
    print("\n  report/index.html: the paper's figures beside ours")
    return 0


def parser():
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    found.add_argument("--size", default="65b", help="a recipe: 65b, 7b, 135m … [%(default)s]")
    found.add_argument("--seeds", type=int, default=1, metavar="N", help="of each arm [%(default)s]")
    found.add_argument("--judge", metavar="MODEL", help="who judges; without one code alone measures")
    found.add_argument("--base_url", help="the judge's endpoint")
    found.add_argument("--price", metavar="IN,OUT", help="the judge's, $ per million tokens")
    found.add_argument(
        "--against", nargs="+", default=[], metavar="SPEC", help="systems whose answers to test are there"
    )
    found.add_argument("--ablations", nargs="*", default=list(arms.ABLATIONS), metavar="NAME", help="[all]")
    found.add_argument("--samples", type=int, default=5, metavar="N", help="of the arms' answers [%(default)s]")
    found.add_argument("--jobs", type=int, default=1, metavar="N", help="arms at a time [%(default)s]")
    found.add_argument("--gpus", type=int, metavar="N", help="GPUs of a node that a training takes [all]")
    found.add_argument("--hostfile", metavar="FILE", help="train on its nodes, as `make sft-65b HOSTFILE=…` does")
    found.add_argument("--max_new_tokens", type=int, default=2048, metavar="N", help="[%(default)s, the paper's]")
    found.add_argument("--dry_run", action="store_true", help="the plan only")
    return found


def of_model(args, resolved, run, given):
    """The stages of the model itself; those of a judge only where there is one."""
    words, length = ["--config", f"recipes/{args.size}.yaml", *given], ["--max_new_tokens", args.max_new_tokens]
    several = ["--epochs", resolved.keep_epochs] if resolved.keep_epochs not in ("none", "all") else []
    last = {"epochs": resolved.num_train_epochs, "max_steps": resolved.max_steps}

    def stage(name, command, done):
        return Stage(run.name, name, command, done, run / "logs" / f"{name.replace(' ', '-')}.log", run)

    def answer(prompts, *more):
        command = ["lima.evaluate.generate", "--run", run, "--prompts", prompts, *more, *length]
        return stage(f"{prompts} answers", command, lambda: answered(run, prompts, more))

    def ask(name, command, done):
        return [stage(name, [*command, *judge_flags(args)], done)] if args.judge else []

    def rate(kind, prompts):
        command = ["lima.evaluate.rate", "--kind", kind, "--answers", run, "--prompts", prompts]
        return ask(f"rate {prompts}", command, lambda: has_rows(run, kind, prompts, args.judge))

    def compare(spec):
        command = ["lima.evaluate.judge", "--a", run, "--b", spec, "--prompts", "test"]
        return ask(f"against {Path(spec).name}", command, lambda: compared(run, spec, args.judge))

    def measure(name, prompts):
        command = [f"lima.evaluate.{name}", "--run", run, "--prompts", prompts]
        return stage(name, command, lambda: measured(run, name, prompts))

    talk = ["lima.evaluate.dialogue", "--run", run, *length]
    return [
        prepare(resolved.model_name_or_path, words),
        stage(
            "train",
            ["lima.train.launch", "--resume", "auto", *place_flags(args), *words],
            lambda: progress.trained(run, last),
        ),
        answer("dev", *several),
        *(
            ask("select", ["lima.evaluate.select", "--run", run, *several], (run / "selected.json").exists)
            if several
            else ()
        ),
        answer("test"),
        *(stage for spec in args.against for stage in compare(spec)),
        *rate("level", "test"),
        answer("safety"),
        *rate("safety", "safety"),
        answer("structure"),
        *(
            measure(name, prompts)
            for name, prompts in (("signals", "test"), ("copied", "test"), ("constraints", "structure"))
        ),
        stage("dialogue", talk, lambda: answered(run, "dialogue")),
        *rate("level", "dialogue"),
    ]


def of_ablations(args, given):
    """A stage for each ablation whose data is there; it skips what is done by itself."""
    out = []
    for name in args.ablations:
        arms.check(name)
        if not arms.missing(name, args.size, given):
            how = ["--size", args.size, "--seeds", args.seeds, "--samples", args.samples, "--jobs", args.jobs]
            how += ["--max_new_tokens", args.max_new_tokens, *place_flags(args)]
            how += judge_flags(args) if args.judge else []
            words = ["lima.reproduce.ablation", name, *how, *given]
            out.append(Stage(name, "ablation", words, None, Path(f"runs/logs/ablation-{name}.log")))
    return out


def left_out(args, given):
    """A line for each dataset that is missing, with the ablations that wait for it."""
    waiting = {}
    for name in args.ablations:
        for line in arms.missing(name, args.size, given):
            waiting.setdefault(line, []).append(name)
    return [f"{', '.join(names)}: {line}" for line, names in waiting.items()]


# ---- what is there -----------------------------------------------------------------------------------------------------


def answered(run, prompts, more=()):
    """Whether the run's answers to a prompt set are there: of all checkpoints that are asked for, or of the one that reports."""
    try:
        path = answers.load(run, prompts).path
    except UserError:
        return False
    if not more:
        return path.is_file()
    wanted = runs.parse_epochs(more[1])
    every = [one for one in runs.checkpoints(run) if wanted(round(runs.marker(one)["epoch"]))]
    return all((run / "generations" / one.name / f"{prompts}.jsonl").is_file() for one in every)


def measured(run, name, prompts):
    """Whether the program `name` has looked at the run's answers to `prompts` since they were made."""
    path = run / "generations" / f"{name}.json"
    try:
        return path.stat().st_mtime >= answers.load(run, prompts).path.stat().st_mtime and prompts in path.read_text()
    except (OSError, UserError):
        return False


def has_rows(run, kind, prompts, judge):
    """Whether the judge has rated all answers of the checkpoint that reports."""
    try:
        found = answers.load(run, prompts)
    except UserError:
        return False
    rows = judgments.read(judgments.FOLDER / f"{found.name}.{kind}.jsonl")
    have = {(row["prompt_id"], row["sample"]) for row in rows if (row["judge"], row["prompts"]) == (judge, prompts)}
    return len(have) >= len(found.rows)


def compared(run, spec, judge):
    try:
        a, b = answers.load(run, "test"), answers.load(spec, "test")
    except UserError:
        return False
    rows = judgments.read(judgments.FOLDER / f"{a.name}-vs-{b.name}.jsonl")
    return len({row["prompt_id"] for row in rows if row["judge"] == judge}) >= len({row["prompt_id"] for row in a.rows})


# ---- the status page ---------------------------------------------------------------------------------------------------

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="refresh" content="10">
<title>{title}</title>
<style>
body {{ font: 15px/1.6 system-ui, sans-serif; max-width: 640px; margin: 32px auto; padding: 0 16px; }}
table {{ border-collapse: collapse; width: 100%; }}
td {{ padding: 3px 16px 3px 0; border-bottom: 1px solid color-mix(in srgb, currentColor 15%, transparent); }}
.now {{ font-weight: 650; }}
.open {{ opacity: 0.6; }}
</style>
<h1>{title}</h1>
<p>{said}</p>
<table>{rows}</table>
</html>
"""


def write_status(args, todo, now, times):
    """report/status.html: every stage, done, running or open."""
    cells, done = [], 0
    for stage in todo:
        finished = id(stage) in times
        done += finished
        state = "running" if stage is now else f"done, {took(times[id(stage)])}" if finished else "–"
        kind = "now" if stage is now else "" if finished else "open"
        words = "".join(f"<td>{html.escape(text)}</td>" for text in (stage.label, stage.name, state))
        cells.append(f'<tr class="{kind}">{words}</tr>')
    said = f"{done} of {len(todo)} stages, {time.strftime('%Y-%m-%d %H:%M')}"
    page = PAGE.format(title=html.escape(f"reproduce {args.size}"), said=said, rows="".join(cells))
    runs.write_text(STATUS, page)


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
