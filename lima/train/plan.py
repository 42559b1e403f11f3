"""What a run will do and need, before anything expensive starts: steps, batch split, learning rates, memory, disk."""

import json
import math
import os
import shutil
import statistics
import textwrap
from dataclasses import dataclass
from pathlib import Path

from lima import UserError
from lima.train import checkpoints, dropout

SHAPES = Path(__file__).with_name("shapes.json")
GB = 1e9
MARGIN = 0.92  # of a device's memory that a plan may fill


@dataclass
class Batch:
    """How one global batch is run: `ranks × micro × accumulation` examples."""

    ranks: int
    micro: int
    accumulation: int


@dataclass
class Machine:
    """What a rank has: `memory` bytes of its GPU, or its share of host memory without one."""

    ranks: int
    gpu: str | None
    memory: int


def machine():
    """This machine as the launcher started us (`WORLD_SIZE`)."""
    import torch

    ranks = int(os.environ.get("WORLD_SIZE", 1))
    if torch.cuda.is_available():
        local = torch.cuda.get_device_properties(int(os.environ.get("LOCAL_RANK", 0)))
        return Machine(ranks, local.name, local.total_memory)
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(ranks, None, host // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def split_batch(recipe, ranks):
    """The stated global batch over `ranks`; raises `UserError` when they do not divide it."""
    size = recipe.global_batch_size
    if size % ranks:
        fits = [n for n in range(1, size + 1) if size % n == 0]
        raise UserError(f"global_batch_size {size} does not divide over {ranks} ranks; use one of {fits}")
    share = size // ranks
    micro = max(n for n in range(1, min(recipe.per_device_train_batch_size, share) + 1) if share % n == 0)
    return Batch(ranks, micro, share // micro)


def base_config(recipe):
    """The base's dimensions (a transformers config) without touching the network; None if nobody here knows them."""
    from transformers import AutoConfig

    for folder in (recipe.model_name_or_path, recipe.base or ""):
        if (Path(folder) / "config.json").is_file():
            return AutoConfig.from_pretrained(folder)
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
    two fp32 moments; 10 with 8-bit moments; 0.56 for a 4-bit base whose adapters are small beside it.
    """
    if recipe.use_peft:
        return count * (0.56 if recipe.load_in_4bit else 4)
    return count * (10 if "8bit" in str(recipe.optim) else 16)


def expected_memory(recipe, config, count, batch):
    """Bytes a rank, estimated: its share of the model states, activations of one micro-batch, and the logits."""
    shards = batch.ranks if "zero3" in str(recipe.deepspeed) else 1
    tokens = batch.micro * recipe.max_length
    width, layers = config.hidden_size, config.num_hidden_layers
    inner = tokens * (18 * width + 8 * config.intermediate_size)  # bf16 activations inside one layer
    saved = layers * tokens * width * 2 + inner if recipe.gradient_checkpointing else layers * inner
    logits = min(tokens, 1024) * config.vocab_size * 8
    gathered = 2 * count / layers * 2 if shards > 1 else 0
    return model_states(recipe, count) / shards + saved + logits + gathered


def check_fit(recipe, here, batch):
    """`(parameters, expected bytes a rank)`, or None for both where the base's size is unknown.

    Raises `UserError` when this machine cannot hold the run, saying what could; only a note where the recipe ignores it.
    Reads nothing from the network.
    """
    config = base_config(recipe)
    if config is None:
        return None, None
    count = parameters(config)
    need = expected_memory(recipe, config, count, batch)
    if need > here.memory * MARGIN:
        have = f"{here.gpu}, {here.memory / GB:.0f} GB" if here.gpu else f"no GPU, {here.memory / GB:.0f} GB of memory"
        states = model_states(recipe, count)
        gpus = 2 ** math.ceil(math.log2(max(1, states / (80 * GB * 0.85))))  # must divide the global batch too
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
    return count, need


def disk_need(recipe, count, epochs):
    """Bytes that the run's checkpoints take at their most: kept weights, and two full ones while one replaces another."""
    weight = count * (2 if recipe.deepspeed or recipe.dtype in ("bfloat16", "float16") else 4)
    if recipe.use_peft:
        return 0.05 * weight * epochs
    state = 0 if recipe.save_only_model else 2 * count * (4 if "8bit" in str(recipe.optim) else 12)
    return weight * (len(checkpoints.kept(epochs, recipe.keep_epochs)) + 1) + state


def steps(rows, recipe):
    """`(steps an epoch, examples in the last of them, steps in all)`; the last batch is partial, never dropped."""
    each = math.ceil(rows / recipe.global_batch_size)
    last = rows - (each - 1) * recipe.global_batch_size
    total = math.ceil(each * recipe.num_train_epochs) if recipe.max_steps <= 0 else recipe.max_steps
    return each, last, total


def rates(recipe, total):
    """Learning rate of the first and of the last update, from the scheduler that the run will use."""
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=recipe.learning_rate)
    warmup = math.ceil(recipe.warmup_steps if recipe.warmup_steps >= 1 else recipe.warmup_steps * total)
    schedule = get_scheduler(recipe.lr_scheduler_type, optimizer, warmup, total, recipe.lr_scheduler_kwargs)
    first = schedule.get_last_lr()[0]
    for _ in range(total - 1):
        optimizer.step()
        schedule.step()
    return first, schedule.get_last_lr()[0]


def lines(recipe, data, encoded, batch, here, count, need):
    """The plan, a `(topic, text)` a line. Raises `UserError` if the disk cannot hold the run."""
    each, last, total = steps(len(encoded.rows), recipe)
    first_rate, last_rate = rates(recipe, total)
    epochs = math.ceil(total / each)
    lengths = encoded.lengths
    config = base_config(recipe)
    changed = [
        f"{len(rows)} {word}"
        for rows, word in (
            (encoded.trimmed, f"trimmed at {recipe.max_length} tokens"),
            (encoded.dropped, f"longer than {recipe.max_length} tokens dropped"),
        )
        if rows
    ]
    changed += [f"{data.excluded} left out by source"] if data.excluded else []
    out = [
        ("base", f"{recipe.model_name_or_path} · {f'{count:,} parameters' if count else 'size unknown'}"),
        (
            "data",
            f"{data.name} · {len(encoded.rows):,} examples ("
            + " · ".join(f"{name} {n}" for name, n in encoded.sources.items())
            + ")",
        ),
    ]
    out += [("", " · ".join(changed) or "none trimmed, none dropped")] + [("", note) for note in data.notes]
    out += [
        (
            "tokens",
            f"{sum(lengths):,} an epoch, {encoded.supervised:,} of them in the loss · longest {max(lengths):,}, "
            f"median {statistics.median(lengths):,.0f}",
        ),
        (
            "batch",
            f"{recipe.global_batch_size} examples a step = {batch.ranks} rank{'s' * (batch.ranks > 1)} × "
            f"{batch.micro} at a time × {batch.accumulation} accumulated",
        ),
        ("steps", f"{each} an epoch, the last with {last} · {total} in all over {recipe.num_train_epochs:g} epochs"),
        (
            "rate",
            f"{first_rate:.2e} → {last_rate:.2e}, {recipe.lr_scheduler_type} · AdamW ({recipe.adam_beta1}, "
            f"{recipe.adam_beta2}), decay {recipe.weight_decay}",
        ),
    ]
    if recipe.residual_dropout and config is not None:
        ramp = dropout.probabilities(config.num_hidden_layers, recipe.residual_dropout)
        out.append(("dropout", f"{ramp[0]:.2f} at the first layer → {ramp[-1]:.2f} at the last of {len(ramp)}"))
    kept = ", ".join(map(str, checkpoints.kept(epochs, recipe.keep_epochs)))
    disk = disk_need(recipe, count or 0, epochs)
    free = _free(recipe.output_dir)
    out.append(
        (
            "keeps",
            f"weights of epoch {kept} in {recipe.output_dir} · disk {disk / GB:,.1f} GB at most, "
            f"{free / GB:,.0f} GB free",
        )
    )
    if need:
        place = f"on {here.gpu}" if here.gpu else "of host memory"
        out.append(("memory", f"{need / GB:,.1f} GB a rank (estimated) · {here.memory / GB:,.0f} GB {place}"))
    if disk > free and not (recipe.ignore_fit or recipe.dry_run):
        raise UserError(
            f"{recipe.output_dir}: the run's checkpoints need {disk / GB:,.1f} GB and {free / GB:,.1f} GB are "
            "free; free some, set output_dir, or keep fewer epochs"
        )
    return out


def _free(folder):
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def show(name, plan):
    """Prints the plan within the terminal's width."""
    width = max(50, min(shutil.get_terminal_size((100, 20)).columns, 110))
    print(f"\nplan · {name}")
    for topic, text in plan:
        print(textwrap.fill(text, width, initial_indent=f"  {topic:<9}", subsequent_indent=" " * 11))
    print(flush=True)
