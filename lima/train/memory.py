"""Will it fit: what a run takes of a device's memory, by part, and of host memory and disk, before anything is downloaded.

What a model's states take follows ZeRO's paper (arXiv 1910.02054, section 3.1) and DeepSpeed's code; activations and the loss
are measured (`fake.py`).
"""

import copy
import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path

from lima import UserError
from lima.train import checkpoints, fake, gpus, zero

SHAPES = Path(__file__).with_name("shapes.json")
GB = 1e9
MARGIN = 0.92  # of a device's memory that a plan may fill: the rest is CUDA's and NCCL's own, and fragments
LIBRARIES = 1.0 * GB  # what PyTorch and its friends take of host memory before a model is loaded (measured on CPU)
NF4 = 4.127 / 8  # bytes a 4-bit weight with its doubly quantised scales (QLoRA, arXiv 2305.14314, section 3)
EIGHT_BIT = 2 * (1 + 4 / 256)  # bytes of two moments, each with a float a block of 256


@dataclass
class Machine:
    """What a rank has: `memory` bytes of its GPU, or its share of host memory without one."""

    ranks: int
    gpu: str | None
    memory: int


@dataclass(frozen=True)
class Need:
    """Bytes. `states`, `buffers` and the larger of `passing` (a forward and backward pass) and `stepping` (the optimiser's
    step) are held at once, a rank; `offloaded` lies in host memory instead, over all ranks."""

    states: dict
    buffers: float
    passing: dict
    stepping: float
    offloaded: float

    @property
    def peak(self):
        return sum(self.states.values()) + self.buffers + max(sum(self.passing.values()), self.stepping)


def machine():
    """This machine as the launcher started us (`WORLD_SIZE`). Raises `UserError` where one process would drive many GPUs."""
    import torch

    ranks = int(os.environ.get("WORLD_SIZE", 1))
    if torch.cuda.is_available():
        if torch.cuda.device_count() > 1 and "WORLD_SIZE" not in os.environ:
            raise UserError(
                f"{torch.cuda.device_count()} GPUs but one process; start one each with `make sft-NAME` or torchrun, or name "
                "a single GPU with CUDA_VISIBLE_DEVICES=0"
            )
        local = torch.cuda.get_device_properties(int(os.environ.get("LOCAL_RANK", 0)))
        return Machine(ranks, local.name, local.total_memory)
    return Machine(ranks, None, host_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def host_memory():
    """Bytes of memory of this machine, GPUs aside."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def base_config(recipe, fetch=False):
    """The base's dimensions (a transformers config); None if nobody here knows them and the network may not be asked."""
    from transformers import AutoConfig

    for folder in (recipe.model_name_or_path, recipe.base or ""):
        if (Path(folder) / "config.json").is_file():
            return AutoConfig.from_pretrained(folder)
    if fetch:
        return AutoConfig.from_pretrained(recipe.model_name_or_path)
    shape = json.loads(SHAPES.read_text()).get(recipe.base)
    return AutoConfig.for_model(**shape) if shape else None


def parameters(config):
    """Parameters of a model of that config, counted on the meta device."""
    return _sizes(fake.as_json(config))[0]


@functools.lru_cache(maxsize=64)
def _sizes(shape):
    """`(parameters, those of the largest tensor, those of embeddings and head, tied or not)`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**json.loads(shape)))
    ends = {id(m.weight): m.weight.numel() for m in (model.get_input_embeddings(), model.get_output_embeddings())}
    sizes = [p.numel() for p in model.parameters()]
    return sum(sizes), max(sizes), sum(ends.values())


def _ends(config):
    return _sizes(fake.as_json(config))[1:]


def trained(recipe, config):
    """Parameters that a recipe trains: all, or the adapters' and what is trained in full beside them."""
    return fake.adapters(config, _lora(recipe)) if recipe.use_peft else parameters(config)


def _lora(recipe):
    """What `fake.Way` calls `lora`."""
    if not recipe.use_peft:
        return None
    targets, in_full = recipe.lora_target_modules, recipe.lora_modules_to_save
    return (recipe.lora_r, recipe.lora_dropout, tuple(targets or ["all-linear"]), tuple(in_full or []))


def way(recipe, gpu, ds):
    """The `fake.Way` in which a recipe's passes run. `ds`: its `zero.Zero` or None."""
    half = ds.half if ds else recipe.dtype in ("bfloat16", "float16")
    return fake.Way(
        bf16_weights=half,
        autocast=bool(recipe.bf16 or recipe.fp16) and not ds,
        checkpointing=bool(recipe.gradient_checkpointing),
        dropout=recipe.residual_dropout,
        gpu=gpu,
        lora=_lora(recipe),
        four_bit=bool(recipe.load_in_4bit),
    )


def model_states(recipe, config, ranks):
    """`({part: bytes a rank}, bytes over all ranks that are offloaded)` of weights, gradients and optimiser, at rest."""
    ds, count, learnt = zero.read(recipe, config), parameters(config), trained(recipe, config)
    weight = 2 if way(recipe, True, ds).bf16_weights else 4
    weights = weight * count
    if recipe.use_peft:
        ends = _ends(config)[1]
        weights = (NF4 * (count - ends) + weight * ends) if recipe.load_in_4bit else weights
        weight = weight if ds else 4  # what is trained is fp32 (`lima_sft.py`)
        weights += weight * learnt
    gradient = gradient_bytes(recipe, ds)
    optimiser = _moments(recipe, 4 if ds else weight) * learnt + (4 * learnt if ds and ds.half else 0)
    if "8bit" in str(recipe.optim) and not ds and (not recipe.use_peft or recipe.lora_modules_to_save):
        optimiser += (8 - EIGHT_BIT) * config.vocab_size * config.hidden_size  # the Trainer keeps embeddings' in fp32
    parts = {"weights": weights, "gradients": gradient * learnt, "optimiser": optimiser}
    if not ds:
        paged = optimiser if "paged" in str(recipe.optim) else 0  # CUDA moves it to the host where room is short
        return {**parts, "optimiser": optimiser - paged}, paged * ranks
    offloaded = 0
    if ds.offload_optimizer:  # with fp32 gradients beside those that accumulate
        offloaded += parts["gradients"] + parts["optimiser"] + 4 * learnt
        parts["gradients"] = parts["optimiser"] = 0
    if ds.offload_param:
        offloaded += parts["weights"]
        parts["weights"] = 0
    shared = {1: ("optimiser",), 2: ("gradients", "optimiser"), 3: tuple(parts)}.get(ds.stage, ())
    return {name: size / (ranks if name in shared else 1) for name, size in parts.items()}, offloaded


def gradient_bytes(recipe, ds):
    """Bytes a gradient: as DeepSpeed holds it, else as the weight that it belongs to, which under PEFT is fp32."""
    if ds:
        return ds.gradient_bytes
    return 2 if way(recipe, True, ds).bf16_weights and not recipe.use_peft else 4


def _moments(recipe, element):
    """Bytes of optimiser state a parameter, `element` bytes an element."""
    if "8bit" in str(recipe.optim):
        return EIGHT_BIT
    return 0 if "sgd" in str(recipe.optim) else 2 * element


def needed(recipe, config, ranks, gpu=True):
    """The `Need` of one of `ranks` ranks, on a GPU or not, estimated for a micro-batch of `tokens_per_device` tokens."""
    ds, count = zero.read(recipe, config), parameters(config)
    states, offloaded = model_states(recipe, config, ranks)
    held, layer = fake.measure(config, recipe.tokens_per_device, way(recipe, gpu, ds))
    kept = layer.kept * config.num_hidden_layers
    passing = {"activations": kept, "loss and temporaries": held.peak - kept}
    if recipe.load_in_4bit:
        passing["loss and temporaries"] += (
            2 * config.hidden_size * config.intermediate_size
        )  # one layer's weight, dequantised
    if not ds:
        extra = 0 if gpu else LIBRARIES
        buckets = states["gradients"] if ranks > 1 else 0  # DDP's copy gradients
        return Need(states, buckets + extra, passing, 0, offloaded)
    width, largest = (2 if ds.half else 4), _ends(config)[0]
    learnt = trained(recipe, config)
    if ds.stage == 3:
        gathered = min(count, max(ds.live, largest) + ds.prefetch_bucket)
        passing["gathered layers"] = width * gathered if ranks > 1 else 0  # one rank holds them whole
        bucket = max(min(ds.reduce_bucket, learnt), min(largest, learnt))
        buffers = width * (ds.reduce_bucket + 2 * bucket)  # the bucket, and the reduce-scatter's input and output
        group = min(ds.sub_group, learnt / ranks)
    else:
        buffers = width * min(ds.reduce_bucket, learnt) * (2 if ds.overlap else 1)
        group = learnt / (ranks if ds.stage else 1)
    stepping = 0 if ds.offload_optimizer or not ds.half else (ds.gradient_bytes + 4) * group
    return Need(states, buffers + (0 if gpu else LIBRARIES), passing, stepping, offloaded)


def decide(recipe, config, here):
    """The `Need` on a `Machine`; `recipe.gradient_checkpointing`, where left open, is off where that fits and on where not."""
    if recipe.given.get("gradient_checkpointing") is None:
        recipe.gradient_checkpointing = False
        recipe.gradient_checkpointing = not fits(needed(recipe, config, here.ranks, bool(here.gpu)), here)
    return needed(recipe, config, here.ranks, bool(here.gpu))


def fits(need, here):
    """Whether a rank of a `Machine` has the room."""
    return need.peak <= here.memory * MARGIN


def fewest(recipe, config, gpu):
    """The fewest GPUs of a kind that hold a recipe: 1, 2, 4, 8, then whole nodes; None if its examples a step are too few."""
    for ranks in (1, 2, 4, *range(gpus.NODE, recipe.global_batch_size + 1, gpus.NODE)):
        here = Machine(ranks, gpu.name, gpu.memory)
        if ranks <= recipe.global_batch_size and fits(decide(copy.copy(recipe), config, here), here):
            return ranks
    return None


def check_fit(recipe, here, fetch=False):
    """`(config, parameters, expected bytes a rank)`, or None where the base's size is unknown.

    Decides `recipe.gradient_checkpointing` where the recipe leaves it open: off where memory allows, on where not. Raises
    `UserError` when this machine cannot hold the run, saying what could; only a note where the recipe ignores it.
    Reads nothing from the network, unless it may `fetch` the config of a prepared base on the Hub.
    """
    config = base_config(recipe, fetch)
    if config is None:
        if Path(recipe.model_name_or_path).is_dir():
            raise UserError(
                f"{recipe.model_name_or_path}: no config.json in it; remove it, then prepare the base again"
            )
        return None
    need = decide(recipe, config, here)
    if not fits(need, here):
        _refuse(recipe, config, here, need)
    return config, parameters(config), need.peak


def _refuse(recipe, config, here, need):
    have = f"{here.gpu}, {here.memory / GB:.0f} GB" if here.gpu else f"no GPU, {here.memory / GB:.0f} GB of memory"
    states, offloaded = model_states(recipe, config, 1)
    enough = fewest(recipe, config, gpus.named("h100-80gb"))
    could = f"{enough} × 80 GB GPUs hold it" if enough else "`make plan-NAME` says what would hold it"
    problem = (
        f"{recipe.run_name} does not fit: {parameters(config) / 1e9:.1f}B parameters need "
        f"{(sum(states.values()) + offloaded) / GB:,.0f} GB for weights, gradients and optimiser alone; {could} (estimated); "
        f"a rank here would need {need.peak / GB:,.0f} GB and has {have}"
    )
    if not (recipe.ignore_fit or recipe.dry_run):
        raise UserError(
            f"{problem}. Nothing was downloaded. Smaller: recipes 7b, 7b-qlora, quickstart. "
            "To try all the same: ARGS='--ignore_fit true'"
        )
    print(f"note: {problem}", flush=True)


def host_need(recipe, config, need, ranks, nodes):
    """Bytes of a node's memory: libraries, offloaded states, and the 16-bit weights that the first rank gathers to save them.

    Pages of files that the system may drop again, such as the base's, are not counted.
    """
    saved = 2 * parameters(config) if recipe.deepspeed and not recipe.use_peft else 0
    return LIBRARIES * ranks / nodes + need.offloaded / nodes + saved


def disk_need(recipe, count, epochs):
    """Bytes that the run's checkpoints take at their most: kept weights, and two full ones while one replaces another."""
    if recipe.save_strategy == "no":
        return 0
    weight = count * (2 if recipe.deepspeed or recipe.dtype in ("bfloat16", "float16") else 4)
    if recipe.use_peft:
        return 0.05 * weight * epochs
    state = 0 if recipe.save_only_model else 2 * count * (4 if "8bit" in str(recipe.optim) else 12)
    return weight * (len(checkpoints.kept(epochs, recipe.keep_epochs)) + 1) + state
