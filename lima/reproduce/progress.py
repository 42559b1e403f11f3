"""How far the run of an arm has come, from its files alone: what the runner skips and what `make status` shows.

`arm.json` in the run's folder says what it is to become: `{ablation, arm, size, seed, label, epochs, max_steps, prompts, asked,
samples, kind, judge}`; `asked`: prompts, or replies of a dialogue.
"""

import json
import os
from pathlib import Path

from lima import UserError, runs
from lima.evaluate import answers, judgments
from lima.evaluate.rate import VALUES

ARM = "arm.json"


def read(run):
    """What arm.json says."""
    try:
        return json.loads((Path(run) / ARM).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{run}/{ARM}: cannot be read ({error}); remove it, and run the ablation again") from None


def trained(run, arm):
    """Whether its last step is saved; of `arm` only `epochs` and `max_steps` count."""
    return _share_trained(run, arm) >= 1


def _share_trained(run, arm):
    found = runs.checkpoints(run)
    at = runs.marker(found[-1]) if found else {"epoch": 0, "step": 0}
    if arm["max_steps"] > 0:
        return at["step"] / arm["max_steps"]
    return round(at["epoch"], 4) / arm["epochs"]


def answered(run, arm):
    """Whether all answers of its last checkpoint are there. A dialogue that fills the model's context has fewer replies."""
    path = _answers(run, arm)
    return path is not None and path.is_file() and (arm["prompts"] == "dialogue" or _lines(path) >= _want(arm))


def _want(arm):
    return arm["asked"] * arm["samples"]


def _answers(run, arm):
    found = runs.checkpoints(run)
    return Path(run) / "generations" / found[-1].name / f"{arm['prompts']}.jsonl" if found else None


def judged(run, arm):
    """Whether the judge has said something readable of all of its answers; True where nobody is to judge."""
    if not (arm["judge"] and arm["kind"]):
        return True
    return answered(run, arm) and _judged(run, arm) >= _lines(_answers(run, arm))


def _judged(run, arm):
    key = VALUES[arm["kind"]][0]
    mine = [row for row in _ratings(run, arm) if row["judge"] == arm["judge"] and row[key] is not None]
    return len({(row["prompt_id"], row["sample"]) for row in mine})


def judges(run, arm):
    """The judges that rated its answers so far."""
    return {row["judge"] for row in _ratings(run, arm)}


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
    said = "done" if path and answered(run, arm) else _part(have, _want(arm))
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
