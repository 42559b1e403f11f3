"""Will it fit: what a run takes of a device's memory and of the disk, estimated before anything is downloaded."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from lima import UserError
from lima.train import checkpoints

SHAPES = Path(__file__).with_name("shapes.json")
GB = 1e9
MARGIN = 0.92  # of a device's memory that a plan may fill
LIBRARIES = 1.0 * GB  # what PyTorch and its friends take of host memory before a model is loaded


@dataclass
class Machine:
    """What a rank has: `memory` bytes of its GPU, or its share of host memory without one."""

    ranks: int
    gpu: str | None
    memory: int


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
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(ranks, None, host // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


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
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(p.numel() for p in model.parameters())


def model_states(recipe, count):
    """Bytes of weights, gradients and optimiser states, over all ranks.

    16 a parameter for AdamW in mixed precision: fp32 master weights and gradients, or bf16 ones with an fp32 copy, and
    two fp32 moments; 10 with 8-bit moments. 8 and 6 where the weights are bf16 without a copy. 0.56 for a 4-bit base whose
    adapters are small beside it.
    """
    if recipe.use_peft:
        return count * (0.56 if recipe.load_in_4bit else 4)
    alone = recipe.dtype == "bfloat16" and not recipe.deepspeed
    if "8bit" in str(recipe.optim):
        return count * (6 if alone else 10)
    return count * (8 if alone else 16)


def activations(recipe, config):
    """Bytes that the forward pass of one full micro-batch (`tokens_per_device`) keeps for its backward pass.

    A token keeps, in a layer, 8 bytes per unit of the MLP and 26 per unit of width, 36 where autocast keeps the residual
    stream in fp32, and 4 more under residual dropout (counted with `torch.autograd.graph.saved_tensors_hooks`).
    """
    stream = 2 if recipe.deepspeed or recipe.dtype == "bfloat16" else 4  # bytes an element of the residual stream
    layer = (26 if stream == 2 else 36) + (4 if recipe.residual_dropout else 0)
    inner = layer * config.hidden_size + 8 * config.intermediate_size
    layers = config.num_hidden_layers
    token = layers * stream * config.hidden_size + inner if recipe.gradient_checkpointing else layers * inner
    return recipe.tokens_per_device * token


def expected(recipe, config, count, ranks):
    """Bytes a rank, estimated: its share of the model states, activations, the loss, and weights in passing."""
    shards = ranks if "zero3" in str(recipe.deepspeed) else 1
    head = config.vocab_size * config.hidden_size
    tile = min(recipe.tokens_per_device, 4096) * min(config.vocab_size, 32768)  # of logits; never all of them
    loss = 8 * head + 6 * tile
    passing = 2 * count  # bf16 copies under autocast
    if recipe.deepspeed or recipe.dtype == "bfloat16":
        passing = 4 * count / config.num_hidden_layers if shards > 1 else 0  # two layers gathered at a time
    return model_states(recipe, count) / shards + activations(recipe, config) + loss + passing


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
    count = parameters(config)
    extra = 0 if here.gpu else LIBRARIES
    room = here.memory * MARGIN
    if recipe.given.get("gradient_checkpointing") is None:
        recipe.gradient_checkpointing = False
        recipe.gradient_checkpointing = expected(recipe, config, count, here.ranks) + extra > room
    need = expected(recipe, config, count, here.ranks) + extra
    if need > room:
        _refuse(recipe, here, count, need)
    return config, count, need


def _refuse(recipe, here, count, need):
    have = f"{here.gpu}, {here.memory / GB:.0f} GB" if here.gpu else f"no GPU, {here.memory / GB:.0f} GB of memory"
    states = model_states(recipe, count)
    gpus = 2 ** math.ceil(math.log2(max(1, states / (80 * GB * 0.85))))
    problem = (
        f"{recipe.run_name} does not fit: {count / 1e9:.1f}B parameters need {states / GB:,.0f} GB for weights, "
        f"gradients and optimiser alone, about {gpus} × 80 GB GPUs with ZeRO-3 (estimated); a rank here would need "
        f"{need / GB:,.0f} GB and has {have}"
    )
    if not (recipe.ignore_fit or recipe.dry_run):
        raise UserError(
            f"{problem}. Nothing was downloaded. Smaller: recipes 7b, 7b-qlora, quickstart. "
            "To try all the same: ARGS='--ignore_fit true'"
        )
    print(f"note: {problem}", flush=True)


def disk_need(recipe, count, epochs):
    """Bytes that the run's checkpoints take at their most: kept weights, and two full ones while one replaces another."""
    weight = count * (2 if recipe.deepspeed or recipe.dtype in ("bfloat16", "float16") else 4)
    if recipe.use_peft:
        return 0.05 * weight * epochs
    state = 0 if recipe.save_only_model else 2 * count * (4 if "8bit" in str(recipe.optim) else 12)
    return weight * (len(checkpoints.kept(epochs, recipe.keep_epochs)) + 1) + state
