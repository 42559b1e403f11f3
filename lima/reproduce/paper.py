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
from functools import partial
from pathlib import Path

from lima import exit_codes, recipe, runs
from lima.reproduce import arms, files, progress
from lima.reproduce.stages import Failed, Runner, Stage, finished, judge_flags, place_flags, prepare, report, told, took

STATUS = Path("report/status.html")


def main(argv):
    args, given = parser().parse_known_args(argv)
    given = given[given[:1] == ["--"] :]
    path = f"recipes/{args.size}.yaml"
    resolved = recipe.load(["--config", path, *given])
    run = Path(resolved.output_dir)
    progress.same(run, resolved)
    todo = [*of_model(args, resolved, run, given), *of_ablations(args, given), report()]
    print(f"\nreproduce {args.size} · {run} · judge {args.judge or 'none: what code measures'}")
    for stage in todo:
        print(f"  {stage.label:<28} {stage.name:<18} {'done' if finished(stage) else '–'}")
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
    found.add_argument("--another_judge", action="store_true", help="this judge grades all arms, beside a former one")
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
    epochs = resolved.keep_epochs if resolved.keep_epochs not in ("none", "all") else None
    last = {"epochs": resolved.num_train_epochs, "max_steps": resolved.max_steps}

    def stage(name, command, **how):
        return Stage(run.name, name, command, run / "logs" / f"{name.replace(' ', '-')}.log", run, **how)

    def answer(prompts, epochs=None):
        command = ["lima.evaluate.generate", "--run", run, "--prompts", prompts, *length]
        command += ["--epochs", epochs] if epochs else []
        return stage(f"{prompts} answers", command, files=partial(files.answering, run, prompts, epochs))

    def ask(name, command, reads):
        return [stage(name, [*command, *judge_flags(args)], files=reads)] if args.judge else []

    def rate(kind, prompts):
        command = ["lima.evaluate.rate", "--kind", kind, "--answers", run, "--prompts", prompts]
        return ask(f"rate {prompts}", command, partial(files.rating, run, prompts, kind))

    def compare(spec):
        command = ["lima.evaluate.judge", "--a", run, "--b", spec, "--prompts", "test"]
        return ask(f"against {Path(spec).name}", command, partial(files.comparing, run, spec, "test"))

    def measure(name, prompts):
        command = [f"lima.evaluate.{name}", "--run", run, "--prompts", prompts]
        return stage(name, command, files=partial(files.measuring, run, prompts, name))

    train = ["lima.train.launch", "--resume", "auto", *place_flags(args), *words]
    select = ["lima.evaluate.select", "--run", run, "--epochs", epochs]
    talk = ["lima.evaluate.dialogue", "--run", run, *length]
    return [
        prepare(resolved, words),
        stage("train", train, done=partial(progress.trained, run, last)),
        answer("dev", epochs),
        *(ask("select", select, partial(files.selecting, run, "dev", epochs)) if epochs else []),
        answer("test"),
        *(stage for spec in args.against for stage in compare(spec)),
        *rate("level", "test"),
        answer("safety"),
        *rate("safety", "safety"),
        answer("structure"),
        measure("signals", "test"),
        measure("copied", "test"),
        measure("constraints", "structure"),
        stage("dialogue", talk, files=partial(files.answering, run, "dialogue")),
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
            how += [*judge_flags(args), *["--another_judge"] * args.another_judge] if args.judge else []
            words = ["lima.reproduce.ablation", name, *how, *given]
            out.append(Stage(name, "ablation", words, Path(f"runs/logs/ablation-{name}.log")))
    return out


def left_out(args, given):
    """A line for each dataset that is missing, with the ablations that wait for it."""
    waiting = {}
    for name in args.ablations:
        for line in arms.missing(name, args.size, given):
            waiting.setdefault(line, []).append(name)
    return [f"{', '.join(names)}: {line}" for line, names in waiting.items()]


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
