"""What a DeepSpeed config means for memory, and what is wrong with it: one line, before anything is loaded.

DeepSpeed ignores a top-level key that it does not know, and finds one inside `zero_optimization` after minutes of loading.
"""

import difflib
import functools
import json
from dataclasses import dataclass
from pathlib import Path

from lima import UserError

STATED = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
GATHER = "stage3_gather_16bit_weights_on_model_save"
ELSEWHERE = {
    "communication_data_type",
    "seq_parallel_communication_data_type",
    "elasticity",
}  # read outside its config class


def check_config(config):
    """A DeepSpeed config (a path, or a dict) as a dict. Raises `UserError` for what DeepSpeed or the Trainer would refuse, or
    worse not.

    Refused too: what a recipe states (batches, clipping, optimiser, schedule), and ZeRO-3 that saves no whole weights.
    """
    where = config if isinstance(config, str) else "deepspeed"
    content = _read(config) if isinstance(config, str) else config
    for key in ("optimizer", "scheduler"):
        if key in content:
            raise UserError(
                f"{where}: {key}: remove it; the recipe says it (optim, learning_rate, lr_scheduler_type …)"
            )
    for key in STATED:
        if content.get(key) != "auto":
            raise UserError(
                f'{where}: {key}: expected "auto", found {json.dumps(content.get(key))}; the recipe says it'
            )
    zero = content.get("zero_optimization")
    if not isinstance(zero, dict):
        raise UserError(f"{where}: zero_optimization: expected an object with a stage, as in ds_configs/zero3.json")
    if zero.get("stage") == 3 and zero.get(GATHER) is not True:
        raise UserError(f"{where}: zero_optimization.{GATHER}: expected true; checkpoints would hold no whole weights")
    _ask_deepspeed(where, content)
    return content


@dataclass(frozen=True)
class Zero:
    """What a DeepSpeed config makes of memory. Sizes of buckets and groups are in elements."""

    stage: int
    half: bool
    gradient_bytes: int
    offload_optimizer: bool
    offload_param: bool
    overlap: bool
    reduce_bucket: float
    prefetch_bucket: float
    live: float
    sub_group: float


def read(recipe, config):
    """The `Zero` of the recipe's DeepSpeed config, "auto" as the Trainer fills it in for a model of `config`; None without one.

    Raises `UserError` as `check_config` does. Gradients are bf16 under ZeRO unless `data_types.grad_accum_dtype` says fp32.
    """
    if not recipe.deepspeed:
        return None
    content = _checked(json.dumps(recipe.deepspeed))
    zero = content["zero_optimization"]
    enabled = content.get("bf16", {}).get("enabled", False)
    half = bool(recipe.bf16) if enabled == "auto" else bool(enabled)
    width = config.hidden_size

    def number(key, auto, default):
        value = zero.get(key, default)
        return auto if value == "auto" else value

    accumulated = content.get("data_types", {}).get("grad_accum_dtype")
    return Zero(
        stage=zero.get("stage", 0),
        half=half,
        gradient_bytes=4 if accumulated == "fp32" or not half else 2,
        offload_optimizer=(zero.get("offload_optimizer") or {}).get("device", "none") != "none",
        offload_param=(zero.get("offload_param") or {}).get("device", "none") != "none",
        overlap=bool(zero.get("overlap_comm", zero.get("stage") == 3)),
        reduce_bucket=number("reduce_bucket_size", width * width, 5e8),
        prefetch_bucket=number("stage3_prefetch_bucket_size", int(0.9 * width * width), 5e7),
        live=number("stage3_max_live_parameters", 1e9, 1e9),
        sub_group=number("sub_group_size", 1e9, 1e9),
    )


@functools.lru_cache(maxsize=16)
def _checked(config):
    """`check_config` of what is JSON here (a path, or a dict), once a process."""
    return check_config(json.loads(config))


def _read(path):
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        have = ", ".join(sorted(map(str, Path("ds_configs").glob("*.json"))))
        raise UserError(f"{path}: DeepSpeed config cannot be read ({error.strerror}); there are {have}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


class _Watched(dict):
    """A dict that remembers which keys were asked for."""

    def __init__(self, content):
        super().__init__(content)
        self.asked = set(ELSEWHERE)

    def __contains__(self, key):
        self.asked.add(key)
        return super().__contains__(key)

    def get(self, key, default=None):
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key):
        self.asked.add(key)
        return super().__getitem__(key)


def _ask_deepspeed(where, content):
    """DeepSpeed's own classes on the config (other "auto" values they take for absent); a key they never ask for is unknown."""
    from deepspeed.runtime.config import DeepSpeedConfig
    from pydantic import ValidationError

    watched = _Watched({**content, **dict.fromkeys(STATED, 1), "train_batch_size": None})
    try:
        DeepSpeedConfig(watched)
    except ValidationError as error:
        first = error.errors()[0]
        section = next((k for k, v in content.items() if isinstance(v, dict) and first["loc"][0] in v), "")
        path = ".".join(map(str, (*filter(None, [section]), *first["loc"])))
        problem = "unknown key" if first["type"] == "extra_forbidden" else f"{first['msg']}, found {first['input']!r}"
        raise UserError(f"{where}: {path}: {problem}{_near(first, section)}") from None
    except (AssertionError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: {' '.join(str(error).split())[:300]}") from None
    for key in content:
        if key not in watched.asked:
            near = difflib.get_close_matches(key, watched.asked, n=1)
            raise UserError(f"{where}: unknown key {key}{f'; did you mean {near[0]}?' if near else ''}")


def _near(error, section):
    """A hint at the key that was meant, for an unknown one in `zero_optimization`."""
    if error["type"] != "extra_forbidden" or section != "zero_optimization" or len(error["loc"]) > 1:
        return ""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    fields = DeepSpeedZeroConfig.model_fields
    known = [field.alias or name for name, field in fields.items()]
    near = difflib.get_close_matches(str(error["loc"][0]), known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
