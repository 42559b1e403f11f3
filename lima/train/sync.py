"""Sends to Weights & Biases what it lacks of runs that were logged offline or lost their connection, and what was measured of
their answers since (signals, copying, constraints).

python -m lima.train.sync [--run runs/NAME]      (make sync; without --run: every run in runs/)
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from lima import UserError, exit_codes, runs
from lima.train import wandb_session


def send(folder):
    """Sends what W&B lacks of the run in `folder`; returns what was done. Raises `UserError` where W&B does not take it."""
    known, log = wandb_session.identity(folder), wandb_session.log_of(folder)
    if log is None:
        return "nothing was logged for W&B"
    if wandb_session.is_sent(log):
        return f"sent already · {known['url'] or ''}".rstrip(" ·")
    lock = wandb_session.lock(folder)
    if lock is None:
        return "is running; send it when it has ended"
    lock.close()
    wandb_session.via(folder, known["via"])
    if not steps_held(known) and send_log(log):
        return f"sent · {note_page(folder)}"
    count = send_rows(folder)
    return f"sent {count} rows that W&B lacked · {wandb_session.identity(folder)['url']}"


def send_figures(folder):
    """Adds what `make signals` and its like measured of a run's answers to its summary at W&B; "" where there is nothing new."""
    found, known = figures(folder), wandb_session.identity(folder)
    digest = runs.content_digest(found)
    if not found or known.get("figures") == digest or (run := page(known)) is None:
        return ""
    try:
        run.summary.update(found)
    except Exception as error:
        raise UserError(
            f"W&B does not take the figures of {folder}: {wandb_session.reason(error)}; try again later"
        ) from None
    wandb_session.note(folder, figures=digest)
    return f"{len(found)} figure{'s' * (len(found) != 1)} of its answers"


def figures(folder):
    """`{"answers/test/epoch-7/eot_share": 0.9, …}`: the numbers that programs keep in a run's generations/*.json."""
    out = {}

    def walk(value, path):
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, [*path, key])
        elif type(value) in (int, float):
            out["/".join(path)] = value

    for name in ("signals", "copied", "constraints"):
        path = Path(folder) / "generations" / f"{name}.json"
        for prompts, checkpoints in json.loads(path.read_text(encoding="utf-8")).items() if path.exists() else ():
            for one in checkpoints.values():
                walk({key: value for key, value in one.items() if key not in ("epoch", "step")},
                     ["answers", prompts, f"epoch-{one['epoch']:g}"])  # fmt: skip
    return out


def steps_held(known):
    """How many steps W&B has of a run: 0 where it has none, or does not know it."""
    run = page(known)
    return run.lastHistoryStep + 1 if run else 0


def page(known):
    """The run at W&B, or None where there is none."""
    import wandb

    try:
        api = wandb.Api(timeout=30)
        return api.run(f"{known['entity'] or api.default_entity}/{known['project']}/{known['id']}")
    except Exception as error:
        if "could not find" in str(error).lower():
            return None
        raise UserError(f"W&B does not answer: {wandb_session.reason(error)}; try again later") from None


def send_log(log):
    """W&B's own sync of its log of a run; returns whether it could (a death can leave a log that it cannot read)."""
    command = [sys.executable, "-m", "wandb", "beta", "sync", "--yes", "--no-skip-online", str(log)]
    subprocess.run(command, capture_output=True)
    return wandb_session.is_sent(log)


def send_rows(folder):
    """Goes on with a run that W&B has a part of, row by row (its own sync would add all of them again), or whose log
    there cannot be read; returns how many steps were sent."""
    from lima.train.wandb_run import WandbRun, about

    record = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    former = wandb_session.log_of(folder)
    try:
        begun = wandb_session.begin(folder, "online", **about(record))
    except Exception as error:
        raise UserError(f"W&B does not take {folder}: {wandb_session.reason(error)}; try again later") from None
    run = WandbRun(folder, record, record["recipe"].get("keep_epochs", "none"), begun)
    rows = runs.read_jsonl(folder / "metrics.jsonl")
    lacks = len({row["step"] for row in rows if row["step"] >= run.known})
    run.on_train_begin(None, None, None)
    run.finish(0 if any("train_runtime" in row for row in rows) else 1)
    if not wandb_session.is_sent(wandb_session.log_of(folder)):
        raise UserError(f"{folder}: W&B did not take everything; try again later")
    wandb_session.mark_sent(former)
    return lacks


def note_page(folder):
    """Notes the address of a run that was offline; returns it."""
    known = wandb_session.identity(folder)
    run = page(known)
    if run is None:
        return "W&B does not show it yet"
    wandb_session.note(folder, url=run.url, entity=run.entity)
    return run.url


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="one run (runs/NAME) [every run in runs/]")
    args = parser.parse_args(argv)
    folders = [Path(args.run)] if args.run else sorted(path.parent for path in Path("runs").glob("*/wandb.json"))
    if args.run and not wandb_session.identity(args.run):
        raise UserError(f"{args.run}: no wandb.json there, so W&B logged nothing of it")
    if not folders:
        raise UserError("runs/: no run with a wandb.json, so W&B logged nothing; `report_to: wandb` makes it")
    if os.environ.get("WANDB_MODE") in ("offline", "disabled") or not wandb_session.has_key():
        raise UserError("no W&B key, or WANDB_MODE says offline; `wandb login`, or set WANDB_API_KEY")
    for folder in folders:
        said = send(folder)
        print(f"{folder}  {' · '.join(filter(None, [said, send_figures(folder)]))}", flush=True)


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
