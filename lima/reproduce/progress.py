"""How far the run of an arm has come, from its files alone: what the runner skips and what `make status` shows.

`arm.json` in the run's folder says what it is to become, by `KEYS`; `asked`: prompts, or replies of a dialogue.
"""

import json
import os
from pathlib import Path

from lima import UserError, runs
from lima.evaluate import answers, judgments
from lima.evaluate.verdicts import HUMAN

ARM = "arm.json"
KEYS = ("ablation", "arm", "size", "seed", "label", "epochs", "max_steps", "prompts", "asked", "samples", "kind",
        "judge")  # fmt: skip


def read(run):
    """What arm.json says. Raises `UserError` for one that lacks something."""
    path = Path(run) / ARM
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        lacking = [key for key in KEYS if key not in found]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it, and run the ablation again") from None
    if lacking:
        raise UserError(f"{path}: lacks {', '.join(lacking)}; remove it, and run the ablation again")
    return found


def same(run, resolved):
    """Raises `UserError` if what stands in `run` was trained by another recipe, or on other data or another base."""
    from lima.train.resuming import differences

    if not (found := runs.checkpoints(run)):
        return
    then, now = runs.marker(found[-1])["recipe"], json.loads(json.dumps(resolved.given))
    free = ("dataset", "model_name_or_path")  # for resuming, which knows data by its fingerprint
    moved = [(key, then.get(key), now.get(key)) for key in free if then.get(key) != now.get(key)]
    for key, was, is_ in [*differences(then, now), *moved]:
        raise UserError(f"{run}: trained with {key}={was}, and now it is {is_}; change it back, or move {run} away")


def trained(run, arm):
    """Whether its last step is saved; of `arm` only `epochs` and `max_steps` count."""
    return _share_trained(run, arm) >= 1


def _share_trained(run, arm):
    found = runs.checkpoints(run)
    at = runs.marker(found[-1]) if found else {"epoch": 0, "step": 0}
    if arm["max_steps"] > 0:
        return at["step"] / arm["max_steps"]
    return round(at["epoch"], 4) / arm["epochs"]


def _want(arm):
    return arm["asked"] * arm["samples"]


def _answers(run, arm):
    found = runs.checkpoints(run)
    return Path(run) / "generations" / found[-1].name / f"{arm['prompts']}.jsonl" if found else None


def _judged(run, arm):
    """How many of its answers the judge has said something of."""
    mine = [row for row in _ratings(run, arm) if row["judge"] == arm["judge"] and row["raw"] is not None]
    return len({(row["prompt_id"], row["sample"]) for row in mine})


def judges(run, arm):
    """The models that rated its answers so far; people may rate beside them."""
    return {row["judge"] for row in _ratings(run, arm) if not row["judge"].startswith(HUMAN)}


def _ratings(run, arm):
    """All judges' rows on its answers."""
    path = judgments.FOLDER / f"{answers.file_name(Path(run).name)}.{arm['kind']}.jsonl"
    return [row for row in judgments.read(path) if row["prompts"] == arm["prompts"]]


def cells(run, arm):
    """`{"train": …, "answer": …, "judge": …}` in words: "done", "–" or how much of it."""
    found = runs.trained_by(run)
    share = 1.0 if trained(run, arm) else max(_share_trained(run, arm), _logged(run) / arm["epochs"])
    train = "done" if share >= 1 else f"{share:.0%}" + (" now" if found else "") if share or found else "–"
    path, have = _answers(run, arm), 0
    if path:
        part = path.with_name(f".{path.stem}.partial.jsonl")
        have = _lines(path) if path.is_file() else _lines(part) if part.is_file() else 0
    whole = path and path.is_file() and arm["prompts"] == "dialogue"  # one that fills the context has fewer replies
    said = "done" if whole else _part(have, _want(arm))
    rated = _part(_judged(run, arm), have or _want(arm)) if arm["judge"] and arm["kind"] else "–"
    return {"train": train, "answer": said, "judge": rated}


def _part(have, want):
    return "done" if have >= want else f"{have:,} of {want:,}" if have else "–"


def _logged(run):
    """The epoch of the last line of metrics.jsonl."""
    try:
        with open(Path(run) / "metrics.jsonl", "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            last = file.read().rstrip(b"\n").split(b"\n")[-1]
        return json.loads(last).get("epoch", 0)
    except (OSError, ValueError, AttributeError):
        return 0


def _lines(path):
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
