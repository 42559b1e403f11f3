"""An ablation of the paper, or of what it leaves open, from one command.

    python -m lima.reproduce.ablation quality --size 7b --seeds 3 \\
        --judge gpt-4o --price 2.5,10
    python -m lima.reproduce.ablation open-questions --size 135m --seeds 3

quality, diversity, quantity   section 5: five answers a test prompt, graded 1-6
dialogue                       section 6: each reply of ten dialogues labelled
structure                      appendix E: structures that code can check
open-questions                 loss on prompts, ramp, EOT, packing, epochs

Every arm is trained once a seed, its last checkpoint answers, a judge (if one
is named) grades; then the report draws the arms beside the paper's. Done work
is skipped, so the same command goes on after any death. Equal epochs, not equal
tokens, as in the paper. Any other flag is a line of the recipe, for all arms.

--jobs N runs N at a time, on --gpus each; --slurm "OPTIONS" submits each as a
job (`make status` shows them). --dry_run prints the plan alone.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from lima import UserError, conversations, exit_codes, recipe, runs
from lima.evaluate import client
from lima.reproduce import arms, progress
from lima.reproduce.files import answering, rating
from lima.reproduce.stages import Failed, Runner, Stage, finished, judge_flags, place_flags, prepare, report, told, took
from lima.train import gpus

ANSWER = 500  # tokens, assumed of an answer that a judge will read
VERDICT = 300  # and of what it will write
INSTRUCTION = 400


def main(argv):
    began = time.monotonic()
    args, given = parser().parse_known_args(argv)
    given = given[given[:1] == ["--"] :]
    found = arms.ablation(args.name)
    arms.check(args.name)
    if args.gpu not in (None, gpus.CPU):
        gpus.named(args.gpu)
    if lacking := arms.missing(args.name, args.size, given):
        raise UserError("\n  ".join([f"{args.name}: data is missing; make it first:", *lacking]))
    todo = planned(args, found, given)
    check_judge(args, todo)
    print(*plan(args, found, todo), sep="\n", flush=True)
    if args.dry_run:
        return 0
    for run, arm, _ in todo:
        note(run, arm)
    if args.slurm is not None:
        return submit(args, argv, todo)
    bases = {made[0].model_name_or_path: made for _, _, made in todo}
    if args.hostfile and args.jobs > 1:
        raise UserError(f"--hostfile: its nodes train one run at a time; leave --jobs {args.jobs} out")
    runner = Runner(args.jobs, args.gpus or 1)
    try:
        runner.all([[prepare(*made) for made in bases.values()]])
        runner.all([stages(args, *one) for one in todo])
        if args.only is None:
            runner.all([[report()]])
    except Failed as failure:
        return told(failure)
    each, whole = took(sum(runner.seconds)), took(time.monotonic() - began)
    print(f"\n  {len(runner.seconds)} stages took {each}, {args.jobs} at a time; the whole {whole}")
    return 0


def parser():
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    found.add_argument("name", help=", ".join(arms.ABLATIONS))
    found.add_argument("--size", default="7b", help="a recipe whose base the arms train [%(default)s, the paper's]")
    found.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each arm, seeds 1 to N [%(default)s]")
    found.add_argument("--judge", metavar="MODEL", help="who grades; without one code alone measures")
    found.add_argument("--base_url", help="the judge's endpoint, such as http://127.0.0.1:8000/v1")
    found.add_argument("--price", metavar="IN,OUT", help="the judge's, $ per million tokens, such as 2.5,10")
    found.add_argument("--another_judge", action="store_true", help="this judge grades all arms, beside a former one")
    found.add_argument("--samples", type=int, metavar="N", help="answers a prompt [5, as in the paper]")
    found.add_argument("--limit", type=int, metavar="N", help="the first N prompts only")
    found.add_argument("--max_new_tokens", type=int, default=2048, metavar="N", help="[%(default)s]")
    found.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time [%(default)s]")
    found.add_argument("--gpus", type=int, metavar="N", help="GPUs of each run [with one job all, else 1]")
    found.add_argument("--hostfile", metavar="FILE", help="train on its nodes, as `make sft-65b HOSTFILE=…` does")
    found.add_argument("--gpu", metavar="KIND", help="for the plan's hours: h100-80gb, a100-80gb … [those here]")
    found.add_argument(
        "--slurm", metavar="OPTIONS", help="submit each run by sbatch with these, such as --slurm='--gres=gpu:2'"
    )
    found.add_argument("--only", metavar="RUN", help="this run alone, by its folder's name (what --slurm submits)")
    found.add_argument("--dry_run", action="store_true", help="the plan only")
    return found


# ---- what there is to do -----------------------------------------------------------------------------------------------


def planned(args, found, given):
    """`[(run's folder, arm.json, (resolved recipe, its words)), …]`, arm by arm, seed by seed. Raises `UserError` for a run that
    stands and was trained otherwise."""
    numbers = args.seeds, args.jobs, args.gpus, args.limit, args.samples
    if any(number is not None and number < 1 for number in numbers):
        raise UserError("--seeds, --jobs, --gpus, --limit and --samples: expected 1 or more")
    todo, asked = [], prompts(found)
    if args.limit and found.prompts != "dialogue":  # dialogues are held whole, all ten
        asked = min(args.limit, asked)
    samples = 1 if found.samples == 1 else args.samples or found.samples
    for arm in found.arms:
        name = arms.trained_as(arm)
        for seed in range(1, args.seeds + 1):
            run = Path("runs") / arms.run_name(name, args.size, seed)
            if args.only not in (None, run.name):
                continue
            words = arms.words(name, args.size, seed, given)
            resolved = recipe.load(words)
            progress.same(run, resolved)
            about = {"ablation": args.name, "arm": arm, "size": args.size, "seed": seed, "label": arm,
                     "epochs": resolved.num_train_epochs, "max_steps": resolved.max_steps, "prompts": found.prompts,
                     "asked": asked, "samples": samples, "kind": found.kind, "judge": args.judge}  # fmt: skip
            todo.append((run, about, (resolved, words)))
    if not todo:
        raise UserError(f"--only {args.only}: no run of {args.name} has that name")
    return todo


def prompts(found):
    """How many prompts an ablation's arms answer; of dialogues, how many replies they give."""
    rows = conversations.load_prompts(f"data/prompts/{found.prompts}.jsonl")
    return sum(1 + len(row.get("follow_ups", ())) for row in rows)


def check_judge(args, todo):
    """Raises `UserError` where some arms are graded by one judge and the others would be by another."""
    for run, arm, _ in todo if arms.ABLATIONS[args.name].kind and args.judge else ():
        others = progress.judges(run, arm) - {args.judge}
        if others and not args.another_judge:
            raise UserError(
                f"{run}: graded by {', '.join(sorted(others))}; arms are compared by one judge: go on with "
                f"JUDGE={sorted(others)[0]}, or have all arms graded anew: --another_judge"
            )


def note(run, arm):
    """Writes arm.json, unless it says so already. A run of two ablations is noted for the first."""
    there = progress.read(run) if (run / progress.ARM).exists() else {}
    if there.get("prompts", arm["prompts"]) == arm["prompts"]:
        arm = {**arm, **{key: there[key] for key in ("ablation", "arm", "label") if key in there}}
        arm["judge"] = arm["judge"] or there.get("judge")
    if arm != there:
        runs.write_text(run / progress.ARM, json.dumps(arm, indent=1) + "\n")


# ---- stages ------------------------------------------------------------------------------------------------------------


def stages(args, run, arm, made):
    """What becomes of one arm and seed, in order."""

    def stage(name, command, **how):
        return Stage(run.name, name, command, run / "logs" / f"{name}.log", run, **how)

    train = ["lima.train.launch", "--resume", "auto", *place_flags(args), *made[1]]
    out = [stage("train", train, done=partial(progress.trained, run, arm))]
    length = ["--max_new_tokens", args.max_new_tokens]
    if arm["prompts"] == "dialogue":
        answer = ["lima.evaluate.dialogue", "--run", run, *length]
    else:
        some = ["--limit", args.limit] if args.limit else []
        asked = ["--prompts", arm["prompts"], "--samples", arm["samples"]]
        answer = ["lima.evaluate.generate", "--run", run, *asked, *some, *length]
    out.append(stage("answer", answer, files=partial(answering, run, arm["prompts"])))
    if arm["kind"] and args.judge:
        ask = ["lima.evaluate.rate", "--kind", arm["kind"], "--answers", run, "--prompts", arm["prompts"]]
        out.append(stage("judge", [*ask, *judge_flags(args)], files=partial(rating, run, arm["prompts"], arm["kind"])))
    return out


def submit(args, argv, todo):
    """A Slurm job for each run that is not done."""
    waiting = queued()
    rest = [word for place, word in enumerate(argv) if not word.startswith("--slurm") and argv[place - 1] != "--slurm"]
    for run, arm, made in todo:
        if all(map(finished, stages(args, run, arm, made))):
            continue
        if run.name in waiting:
            print(f"  {run.name:<28} is queued or running already", flush=True)
            continue
        command = shlex.join([sys.executable, "-m", "lima.reproduce.ablation", "--only", run.name, *rest])
        words = [
            "sbatch",
            f"--job-name={run.name}",
            f"--output={run}/logs/slurm-%j.log",
            *shlex.split(args.slurm),
            "--wrap",
            command,
        ]
        (run / "logs").mkdir(parents=True, exist_ok=True)
        try:
            said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        except FileNotFoundError:
            raise UserError(
                "--slurm: there is no sbatch here; submit from a login node, or leave --slurm out"
            ) from None
        except subprocess.CalledProcessError as error:
            raise UserError(f"--slurm: sbatch refused {run.name}: {error.stderr.strip()}") from None
        print(f"  {run.name:<28} {said.strip()}", flush=True)
    print("`make status` shows how far they are; `make report` draws what is done")
    return 0


def queued():
    """The names of the user's jobs at Slurm."""
    try:
        words = ["squeue", "--me", "--noheader", "--format=%j"]
        return set(subprocess.run(words, capture_output=True, text=True).stdout.split())
    except FileNotFoundError:
        return set()


# ---- the plan ----------------------------------------------------------------------------------------------------------


def plan(args, found, todo):
    """Lines: what will be done, and what it may take and cost."""
    done = sum(progress.trained(run, arm) for run, arm, _ in todo)
    width, seeds = max(len(run.name) for run, _, _ in todo), "seeds" if args.seeds > 1 else "seed"
    lines = [
        f"\nablation {args.name} · {found.asks} ({found.where})",
        f"  runs     {len(found.arms)} arms × {args.seeds} {seeds} on {args.size}: {len(todo)}, {done} of them trained already",
        *(f"           {run.name:<{width}}  {_changes(arm['arm'])}" for run, arm, _ in todo if arm["seed"] == 1),
        "  equal    epochs, not tokens, as in the paper; each run's last checkpoint answers",
        f"  train    {_time(args, [made[0] for run, arm, made in todo if not progress.trained(run, arm)])}",
    ]
    each = todo[0][1]
    calls = sum(arm["asked"] * arm["samples"] for _, arm, _ in todo)
    lines.append(f"  answers  {len(todo)} × {each['asked']} ({found.prompts}) × {each['samples']} = {calls:,}")
    if found.kind is None:
        return [*lines, "  judge    none needed: code checks them"]
    if not args.judge:
        return [*lines, "  judge    none named (JUDGE=…): lengths, stops and repetition alone"]
    read, write = calls * (INSTRUCTION + ANSWER), calls * VERDICT
    cost = f"about ${client.dollars(read, write, args.price):,.2f}" if args.price else "cost unknown (PRICE=IN,OUT)"
    return [
        *lines,
        f"  judge    {args.judge}: {calls:,} calls, about {read / 1e6:.1f} million tokens, {cost} (estimated)",
    ]


def _changes(arm):
    changed = {
        key: value for key, value in arms.changes(arm).items() if key != "model_name_or_path" and value is not None
    }
    return ", ".join(f"{key} {value}" for key, value in changed.items()) or "the recipe as it is"


def _time(args, left):
    """What training takes, estimated for the GPUs here; "" of it where nothing is known."""
    from lima.train import forecast

    if not left:
        return "nothing left"
    low = high = 0.0
    try:
        for resolved in left:
            config = forecast.dimensions(resolved)
            options = argparse.Namespace(gpu=args.gpu, gpus=args.gpus, nodes=None, interconnect=None)
            place, _ = forecast.choose(options, resolved, config)
            tokens, _ = forecast.lengths(resolved)
            minutes = forecast.judge(resolved, config, place, tokens).minutes
            if not minutes:
                return f"{len(left)} runs; time not estimated: this machine has no GPU whose speed is known"
            low, high = low + minutes[0] * place.ranks / 60, high + minutes[1] * place.ranks / 60
    except UserError as error:
        return f"{len(left)} runs; time not estimated ({error})"
    hours = "less than 0.1" if high < 0.1 else forecast.span(low, high)
    return f"{len(left)} runs, {hours} GPU hours on {place} (estimated)"


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
