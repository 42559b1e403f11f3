"""The numbers of a run: `metrics.jsonl`, a line a logged step, the progress bar, and what `recipe.yaml` records."""

import contextlib
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path

import torch
from transformers import ProgressCallback, TrainerCallback
from trl.trainer.utils import get_peak_flops

from lima import runs
from lima.train.batches import Load


class Metrics(TrainerCallback):
    """Adds to every logged step how it ran, and appends every log to `metrics.jsonl`.

    tokens_per_second: over all ranks, since the last log. mfu: percent of the GPUs' dense bf16 peak,
    100 · FLOPs of the step's examples / (seconds · ranks · peak), with FLOPs = 3 · (2 · weights in matrix products a token +
    attention over the causal half), so neither recomputation nor padding counts. slots_per_token and balance: see
    `batches.Load`. peak_memory_gb: of this rank's GPU, or of this process on CPU.
    """

    def __init__(self, folder, batches, gpu):
        self.path, self.batches = Path(folder) / "metrics.jsonl", batches
        self.peak = get_peak_flops(gpu, "bfloat16") if gpu else None
        self.gpu, self.time, self.load = gpu, 0.0, Load()

    def on_train_begin(self, args, state, control, **kwargs):
        self.time = time.perf_counter()
        if state.is_world_process_zero:
            for name in ("metrics.jsonl", "samples.jsonl"):
                trim(self.path.with_name(name), state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        self.load += self.batches.load(state.global_step - 1)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs and self.load.tokens:
            logs.update(self._speed())
        self.time += (logs or {}).get("samples/seconds", 0.0)  # generating is not training time
        if state.is_world_process_zero and logs:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")

    def _speed(self):
        now = time.perf_counter()
        seconds, load = now - self.time, self.load
        self.time, self.load = now, Load()
        out = {
            "tokens_per_second": round(load.tokens / seconds, 1),
            "slots_per_token": round(load.slots_per_token, 4),
            "balance": round(load.balance, 4),
            "peak_memory_gb": round(self._peak_memory() / 1e9, 2),
        }
        if self.peak:
            out["mfu"] = round(100 * load.work / (seconds * self.batches.shape.ranks * self.peak), 2)
        return out

    def _peak_memory(self):
        if self.gpu:
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def on_evaluate(self, args, state, control, **kwargs):
        self.time = time.perf_counter()  # held-out loss is not training time


def trim(path, step):
    """Leaves of a file of rows those up to `step`, from which a run goes on; none at step 0.

    Later steps come again. So do the totals of a run that was stopped, and a last row that a death cut off is dropped.
    """
    if not path.exists() or step == 0:
        return path.unlink(missing_ok=True)
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    runs.write_jsonl(path, [row for row in rows if row["step"] <= step and "train_runtime" not in row])


class Progress(ProgressCallback):
    """The Trainer's bar with loss and speed in it, instead of a dictionary a step above it."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and logs and "loss" in logs:
            shown = {"loss": f"{logs['loss']:.3f}", "rate": f"{logs['learning_rate']:.1e}"}
            if "tokens_per_second" in logs:
                shown["tok/s"] = f"{logs['tokens_per_second']:,.0f}"
            self.training_bar.set_postfix(shown)

    def on_prediction_step(self, args, state, control, **kwargs):
        pass

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        super().on_evaluate(args, state, control, **kwargs)
        if self.training_bar is not None and metrics:
            self.training_bar.write(f"epoch {metrics.get('epoch', 0):<4.3g} held-out loss {metrics['eval_loss']:.3f}")


def record(recipe, data, encoded, shape, here=None, plan=()):
    """What `runs/<name>/recipe.yaml` keeps and W&B's config gets. `here`: `memory.machine()`; `plan`: lines of `plan.lines`."""
    plan_lines, topic = {}, ""
    for name, text in plan:
        topic = name or topic
        if text:
            plan_lines[topic] = f"{plan_lines[topic]} · {text}" if topic in plan_lines else text
    return {
        "config": recipe.config,
        "recipe": recipe.given,
        "dataset": {
            "name": data.name,
            "revision": recipe.dataset_revision,
            "fingerprint": data.fingerprint,
            "rows": len(encoded.rows),
            "sources": encoded.sources,
            "trimmed": len(encoded.trimmed),
            "dropped": len(encoded.dropped),
            "tokens": sum(encoded.lengths),
        },
        "batches": {"ranks": shape.ranks, "micro": shape.micro, "tokens_per_device": shape.budget},
        "hardware": {
            "gpu": here and here.gpu,
            "memory_gb": here and round(here.memory / 1e9, 1),
            "cpus": os.cpu_count(),
            "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        },
        **({"plan": plan_lines} if plan_lines else {}),
        "versions": runs.versions(),
        "commit": runs.git_commit(),
    }
