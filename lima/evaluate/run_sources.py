"""Runs to compare, read from where they are: `runs/NAME`, W&B's own folders, a W&B server. The three give the same `Run`.

A row has the names of `metrics.jsonl` (`step`, `epoch`, `loss`, `eval_loss`, `samples/eot_share`, …); W&B's (`train/loss`,
`eval/loss`) are turned back into them.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from lima import UserError

ONCE = ("train_runtime", "train_loss", "total_flos")  # in W&B's summary, not in its history


@dataclass
class Run:
    """A run. name: unique among those compared. source: where it was read. record: what its `recipe.yaml` holds. rows: its
    logged numbers, in the order logged. samples: its answers to the dev prompts, rows as in `samples.jsonl`. notes: what
    could not be read."""

    name: str
    source: str
    record: dict
    rows: list = field(default_factory=list)
    samples: list = field(default_factory=list)
    notes: list = field(default_factory=list)

    def curve(self, key):
        """`[(epoch, value), …]` by step. A step that was logged twice, by a run that was resumed before it, counts once."""
        found = {row["step"]: (row["epoch"], row[key]) for row in self.rows if {key, "epoch"} <= row.keys()}
        return [found[step] for step in sorted(found)]

    @property
    def family(self):
        """The recipe family, which is also the run's group in W&B: `7b` for recipes/7b.yaml, `ablations` for what is there."""
        config = Path(str(self.record.get("config")))
        return config.stem if config.parent.name == "recipes" else config.parent.name


def read(path):
    """The runs at `path`: a run's own folder, or one of W&B (`offline-run-…`, or the folder `wandb` of several).

    Raises `UserError` where there is none, or none with a number in it.
    """
    path = Path(path)
    if not path.is_dir():
        have = ", ".join(sorted(p.name for p in Path("runs").glob("*") if p.is_dir())) or "none yet"
        raise UserError(f"{path}: no run there; runs here: {have}")
    folders = wandb_folders(path)
    if (path / "metrics.jsonl").exists() or not (folders or list(path.glob("wandb/*run-*"))):
        found = [read_local(path)]
    else:
        found = read_wandb(folders or wandb_folders(path / "wandb"))
    for run in found:
        if not run.rows:
            raise UserError(f"{run.source}: no numbers in it yet (a run writes metrics.jsonl at its first logged step)")
    return found


# ---- runs/NAME ---------------------------------------------------------------------------------------------------------


def read_local(folder):
    """The run in `folder`, from `recipe.yaml`, `metrics.jsonl` and `samples.jsonl`."""
    try:
        record = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{folder}: not a run (no recipe.yaml); name folders such as runs/7b") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        record = None
    if not isinstance(record, dict):
        raise UserError(f"{folder}/recipe.yaml: not the record of a run; it holds `recipe:`, `dataset:`, …")
    run = Run(folder.resolve().name, str(folder), record)
    run.rows = [as_numbers(row) for row in json_rows(folder / "metrics.jsonl", {"step"}, run.notes)]
    run.samples = json_rows(folder / "samples.jsonl", {"step", "prompt_id", "prompt", "response"}, run.notes)
    return run


def json_rows(path, needed, notes):
    """The rows of a file; what a killed run left broken in it is left out, and `notes` says so."""
    rows = []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and needed <= row.keys():
            rows.append(row)
        elif line and number < len(lines):  # the last may be being written right now
            notes.append(f"{path}, line {number}: not a JSON row with {', '.join(sorted(needed))}; left out")
    return rows


def as_numbers(row):
    """Its finite and infinite numbers and NaN, which W&B and JSON write as text."""
    read = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    row = {key: read.get(value, value) if isinstance(value, str) else value for key, value in row.items()}
    return {key: value for key, value in row.items() if isinstance(value, int | float)}


# ---- W&B's folders -----------------------------------------------------------------------------------------------------


def wandb_folders(path):
    """W&B's run folders at `path`, oldest first: itself, or those in it."""
    if list(path.glob("run-*.wandb")):
        return [path]
    found = [log.parent for log in path.glob("*run-*-*/run-*.wandb")]
    return sorted(found, key=lambda folder: folder.name.removeprefix("offline-"))


def read_wandb(folders):
    """The runs in W&B's folders; those of one run id (it was resumed) are one run."""
    found = {}
    for folder in folders:
        start, config, history, summary = _replay(folder)
        if start is None:
            raise UserError(f"{folder}: W&B's log there cannot be read; `wandb leet inspect {folder}` says more")
        run = found.setdefault(start.get("run_id"), Run(start.get("display_name") or folder.name, str(folder), {}))
        run.record.update(config)
        _add(run, history, summary, lambda path, folder=folder: (folder / "files" / path).read_bytes())
    return list(found.values())


def _replay(folder):
    """`(start, config, history rows, summary)` of a folder, by W&B's own reader of its log."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    env = {**os.environ, "WANDB_ERROR_REPORTING": "false"}  # it would call home
    log = subprocess.run(command, capture_output=True, encoding="utf-8", env=env).stdout
    start, config, history, summary = None, {}, [], {}
    for entry in map(json.loads, filter(None, log.split("\n"))):
        kind, body = entry["type"], entry.get(entry["type"], {})
        if kind == "run":
            start = body
            body = body.get("config", {})
        if kind in ("run", "config"):
            config.update(body.get("update", {}))
        elif kind == "history":
            history.append(_nested(body["item"]))
        elif kind == "summary":
            summary.update(body.get("update", {}))
    return start, config, history, summary


def _nested(item):
    """W&B's reader writes `{"a": {"_type": …}}` as `{"a._type": …}`."""
    media = [key.removesuffix("._type") for key in item if key.endswith("._type")]
    return item | {name: {k[len(name) + 1 :]: v for k, v in item.items() if k.startswith(f"{name}.")} for name in media}


# ---- a W&B server ------------------------------------------------------------------------------------------------------


def read_project(path, group=None):
    """The runs of the project `entity/project` on W&B's server, or those of one group, oldest first."""
    if path.count("/") != 1 or not all(path.split("/")):
        raise UserError(f"{path}: expected a W&B project as entity/project")
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    os.environ["WANDB_MODE"] = "online"  # offline, `wandb.login` finds no key
    import wandb

    failures = (wandb.Error, wandb.sdk.lib.service.service_connection.WandbApiFailedError, ValueError, OSError)
    try:
        known = wandb.login(prompt=False)
        api = wandb.Api() if known else None  # without a key it would ask for one
        found = api.runs(path, {"group": group} if group else None, order="+created_at", lazy=False) if api else []
        read = [_read_remote(run) for run in found]
    except failures as error:
        said = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read from W&B: {said[:300]}") from None
    if not known:
        raise UserError("no W&B key; `wandb login`, or set WANDB_API_KEY; local runs need none: --runs runs/a runs/b")
    return read


def _read_remote(remote):
    run = Run(remote.name, "/".join(remote.path), dict(remote.config))
    with tempfile.TemporaryDirectory() as folder:

        def fetch(path):
            remote.file(path).download(root=folder, replace=True).close()
            return (Path(folder) / path).read_bytes()

        _add(run, remote.scan_history(), dict(remote.summary), fetch)
    return run


# ---- W&B's names → ours ------------------------------------------------------------------------------------------------


def _add(run, history, summary, fetch):
    """Adds W&B's history rows to `run`, and the answers in their tables, whose files `fetch(path)` reads."""
    at = {"step": 0, "epoch": 0.0}
    for item in history:
        row = as_numbers({_ours(key): value for key, value in item.items()})
        at |= {key: row[key] for key in at if key in row}  # not every row says where it stands
        run.rows.append(at | row)
        for value in item.values():
            if isinstance(value, dict) and value.get("_type") == "table-file":
                run.samples += [at | answer for answer in _answers(value["path"], fetch)]
    if once := as_numbers({key: summary[key] for key in ONCE if key in summary}):
        run.rows.append(at | once)


def _ours(key):
    """`train/loss` → `loss`, `eval/loss` → `eval_loss`, `samples/eot_share` as it is (transformers' `rewrite_logs`, undone)."""
    if key == "train/global_step":
        return "step"
    return f"eval_{key[5:]}" if key.startswith("eval/") else key.removeprefix("train/")


def _answers(path, fetch):
    """The rows of a table of answers; none if the table holds something else or is gone."""
    if ".." in Path(path).parts or Path(path).is_absolute():  # a server's word is not trusted with our disk
        return []
    try:
        table = json.loads(fetch(path))
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [row for row in rows if {"prompt_id", "prompt", "response"} <= row.keys()]
