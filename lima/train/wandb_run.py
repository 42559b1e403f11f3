"""The copy of a run at Weights & Biases: what `metrics.jsonl` and `samples.jsonl` hold, row for row, and what made them.

W&B is never the only place of a number, so it can never cost a run: whatever fails there is said in one line, and
`make sync` sends later what it lacks. A run that is resumed goes on as the same W&B run.
"""

import atexit
import contextlib
import os
import re
import sys
from fnmatch import fnmatch
from pathlib import Path

from transformers import TrainerCallback

from lima import runs
from lima.train import checkpoints, wandb_session
from lima.train.wandb_session import private, reason, say

SAMPLES = "samples/eot_share"  # logged together with answers in samples.jsonl
ONCE = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos")
COLUMNS = ("step", "epoch", "prompt_id", "prompt", "response", "finish_reason", "tokens")


def start(recipe, record, resumed=False):
    """Starts the W&B run of a recipe, offline unless a key is there and the server takes it.

    `record`: what `recipe.yaml` holds; `resumed`: goes on with the run of this folder. Returns a callback for the Trainer,
    or None where `report_to` does not name wandb or W&B cannot run at all.
    """
    mode = os.environ.get("WANDB_MODE")
    if not wants_wandb(recipe) or mode == "disabled":
        return None
    folder = Path(recipe.output_dir)
    if not resumed:
        (folder / wandb_session.IDENTITY).unlink(missing_ok=True)
    later = f"`make sync RUN={folder}` sends it later"
    if (mode or ("online" if wandb_session.has_key() else "offline")) != "offline":
        try:
            return WandbRun(folder, record, recipe.keep_epochs, wandb_session.begin(folder, "online", **about(record)))
        except Exception as error:
            say(f"{reason(error)}; logging offline, {later}")
            with contextlib.suppress(Exception):
                sys.modules["wandb"].teardown(1)  # else the run's id counts as taken
    try:
        return WandbRun(folder, record, recipe.keep_epochs, wandb_session.begin(folder, "offline", **about(record)))
    except Exception as error:
        say(f"off ({reason(error)}); metrics.jsonl has every number, {later}")
        return None


def about(record):
    """What W&B shows of a run beside its numbers, from what `recipe.yaml` holds."""
    config, given = Path(record["config"]), record["recipe"]
    family = config.stem if config.parent.name == "recipes" else config.parent.name
    return {
        "name": given.get("run_name") or config.stem,
        "config": private(record),
        "group": family,
        "job_type": "sft",
        "tags": sorted({family, config.stem, Path(str(record["dataset"]["name"])).stem}),
    }


def wants_wandb(recipe):
    report_to = [recipe.report_to] if isinstance(recipe.report_to, str) else recipe.report_to or []
    return "wandb" in report_to or "all" in report_to


def named(key):
    """`loss` → `train/loss`, `eval_loss` → `eval/loss`, as transformers names them at W&B; `samples/…` stays."""
    if "/" in key:
        return key
    return f"eval/{key[5:]}" if key.startswith("eval_") else f"train/{key}"


class WandbRun(TrainerCallback):
    """Sends each step's numbers as one row, `_step` being the Trainer's step; only on the first rank.

    A row is sent whole, so that a death leaves none half-sent; at the start, rows that W&B lacks are sent out of
    `metrics.jsonl`, and steps that it has (of before a death) are passed over: a resumed run computes the same again.
    """

    def __init__(self, folder, record, keep_epochs, run):
        self.folder, self.record, self.run = Path(folder), record, run
        self.keep, self.referred = runs.parse_epochs(keep_epochs), set()
        self.known = run.starting_step  # W&B has the steps before this one
        self.lock = wandb_session.lock(self.folder)
        self.step, self.row, self.complaint = 0, {}, None
        atexit.register(self.finish, 1)

    # ---- the Trainer's events ------------------------------------------------------------------------------------------

    def on_train_begin(self, args, state, control, **kwargs):
        with self._harmless():
            self.refer_dataset()
            self.send_missing()

    def on_log(self, args, state, control, logs=None, **kwargs):
        with self._harmless():
            self.add(state.global_step, logs or {})

    def on_step_begin(self, args, state, control, **kwargs):
        with self._harmless():
            self.flush()

    def on_save(self, args, state, control, **kwargs):
        with self._harmless():
            self.refer_checkpoints()

    # ---- rows ----------------------------------------------------------------------------------------------------------

    def send_missing(self):
        """Sends the rows of `metrics.jsonl` that W&B lacks."""
        path = self.folder / "metrics.jsonl"
        for row in runs.read_jsonl(path) if path.exists() else []:
            self.add(row.pop("step"), row)

    def add(self, step, logs):
        """Adds logged numbers to the step's row; once-only ones go to the summary."""
        if once := {key: logs[key] for key in ONCE if key in logs}:
            self.run.summary.update(once)
        if step < self.known:
            return
        if step != self.step:
            self.flush()
        self.step = step
        self.row |= {named(key): value for key, value in logs.items() if key not in ONCE}
        if SAMPLES in logs:
            self.row["samples"] = self._answers(step)

    def flush(self):
        row, self.row = self.row, {}
        if row:
            self.run.log({**row, "train/global_step": self.step}, step=self.step, commit=True)
            self.known = self.step + 1

    def _answers(self, step):
        import wandb

        rows = [row for row in runs.read_jsonl(self.folder / "samples.jsonl") if row["step"] == step]
        return wandb.Table(columns=list(COLUMNS), data=[[row[column] for column in COLUMNS] for row in rows])

    # ---- what made the numbers and what came of them: by reference, nothing is uploaded --------------------------------

    def refer_dataset(self):
        """The dataset, by its digest: a file's sha256, or the fingerprint of a Hub dataset's conversations."""
        data = self.record["dataset"]
        name, path = str(data["name"]), Path(str(data["name"]))
        if path.is_file():
            files = {path.name: f"lima:{path.name if path.is_absolute() else path}?sha256={runs.sha256(path)}"}
        else:
            files = {path.name: f"hf://datasets/{name}@{data['revision'] or 'main'}?fingerprint={data['fingerprint']}"}
        self._refer(path.stem, "dataset", files, data)

    def refer_checkpoints(self, last=False):
        """The complete checkpoints whose weights are kept (and the `last` one), by the digests in their markers."""
        found = [(folder, runs.marker(folder)) for folder in runs.checkpoints(self.folder)]
        for folder, marker in found:
            epoch = marker["epoch"]
            kept = (float(epoch).is_integer() and self.keep(int(epoch))) or (last and folder == found[-1][0])
            if kept and folder not in self.referred:
                files = {
                    path: f"lima:{self.folder.name}/{folder.name}/{path}?sha256={digest['sha256']}"
                    for path, digest in marker["files"].items()
                    if not any(fnmatch(path.split("/")[0], pattern) for pattern in checkpoints.RESUME_ONLY)
                }
                about = {"step": marker["step"], "epoch": epoch}
                self._refer(self.folder.name, "model", files, about, [f"epoch-{epoch:g}", f"step-{marker['step']}"])
                self.referred.add(folder)

    def _refer(self, name, kind, files, metadata, aliases=()):
        import wandb

        name = re.sub(r"[^\w.-]+", "-", name)[:100] or kind
        artifact = wandb.Artifact(name, kind, metadata=private(metadata))
        for path, uri in files.items():
            artifact.add_reference(uri, name=path)  # wandb knows no such scheme: it keeps the text, and opens nothing
        self.run.log_artifact(artifact, aliases=["latest", *aliases])

    # ---- the end -------------------------------------------------------------------------------------------------------

    def finish(self, exit_code=0):
        """Ends the W&B run: all of it is sent, or on disk and said to be; the second call does nothing."""
        if self.run is None:
            return
        run, log = self.run, wandb_session.log_of(self.folder)
        with self._harmless():
            self.flush()
            self.refer_checkpoints(last=True)
        self.run = None
        try:
            run.finish(exit_code)
            if run.offline:
                return
            if not self.complaint and not _gave_up(log):
                return wandb_session.mark_sent(log)
            why = "its uploader gave up" if not self.complaint else reason(self.complaint)
        except Exception as error:
            why = reason(error)
        finally:
            if self.lock:
                self.lock.close()
        say(f"it has not got everything ({why}); `make sync RUN={self.folder}` sends the rest")

    @contextlib.contextmanager
    def _harmless(self):
        if self.run is None:
            return (yield)
        try:
            yield
        except Exception as error:
            if not self.complaint:
                say(f"{reason(error)}; the run goes on, its numbers are in {self.folder}/metrics.jsonl")
            self.complaint = error


def _gave_up(log):
    """Whether W&B's uploader met an error that it does not retry, such as a key that was revoked."""
    text = (log.parent / "logs/debug-internal.log").read_text(encoding="utf-8", errors="replace")
    return "filestream: fatal error" in text
