"""What a run will do, before anything expensive starts: data, steps, batches, learning rates, what it keeps and needs.

python -m lima.train.plan --config recipes/65b.yaml --gpu h100-80gb --gpus 8 --nodes 4     (--help says more)
"""

import math
import shutil
import statistics
import sys
import textwrap
from pathlib import Path

from lima import UserError, exit_codes
from lima.train import checkpoints, memory
from lima.train.memory import GB, disk_need


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


def work(config, lengths):
    """Training FLOPs of examples of these lengths: forward and backward, causal attention within the example."""
    from trl.trainer.utils import compute_flops_per_token

    return [length * compute_flops_per_token(config, length / 2) for length in lengths]


def lines(recipe, data, encoded, shape, load, here, model):
    """The plan, a `(topic, text)` a line. Raises `UserError` if the disk cannot hold the run.

    `shape`, `load`: what `batches.lay_out` made of the run; `model`: what `memory.check_fit` found.
    """
    from lima.train import dropout

    config, count, need = model
    each, last, total = steps(len(encoded.rows), recipe)
    first_rate, last_rate = rates(recipe, total)
    epochs = math.ceil(total / each)
    lengths = encoded.lengths
    sources = " · ".join(f"{name} {n}" for name, n in encoded.sources.items())
    kept = ", ".join(map(str, checkpoints.kept(epochs, recipe.keep_epochs)))
    disk, free = disk_need(recipe, count, epochs), _free(recipe.output_dir)
    place = f"on {here.gpu}" if here.gpu else "of host memory"
    out = [
        ("base", f"{recipe.model_name_or_path} · {count:,} parameters"),
        ("data", f"{data.name} · {len(encoded.rows):,} examples ({sources})"),
        ("", _left_out(recipe, data, encoded)),
        *[("", note) for note in data.notes],
        (
            "tokens",
            f"{sum(lengths):,} an epoch, {encoded.supervised:,} of them in the loss · longest {max(lengths):,}, "
            f"median {statistics.median(lengths):,.0f}",
        ),
        (
            "batch",
            f"{shape.size} examples a step = {many(shape.ranks, 'rank')} × {many(shape.micro, 'micro-batch', 'es')} of at "
            f"most {shape.budget:,} tokens · balance {load.balance:.3f} (max/mean) · {load.slots_per_token:.3f} slots a token",
        ),
        ("steps", f"{each} an epoch, the last with {last} · {total} in all over {recipe.num_train_epochs:g} epochs"),
        (
            "rate",
            f"{first_rate:.2e} → {last_rate:.2e}, {recipe.lr_scheduler_type} · AdamW ({recipe.adam_beta1}, "
            f"{recipe.adam_beta2}), decay {recipe.weight_decay}",
        ),
    ]
    if recipe.residual_dropout:
        ramp = dropout.probabilities(config.num_hidden_layers, recipe.residual_dropout)
        out.append(("dropout", f"{ramp[0]:.2f} at the first layer → {ramp[-1]:.2f} at the last of {len(ramp)}"))
    out += [
        (
            "keeps",
            f"weights of epoch {kept} in {recipe.output_dir} · disk {disk / GB:,.1f} GB at most, {free / GB:,.0f} GB free",
        ),
        (
            "memory",
            f"{need / GB:,.1f} GB a rank (estimated) · {here.memory / GB:,.0f} GB {place} · gradient checkpointing "
            f"{'on' if recipe.gradient_checkpointing else 'off'}",
        ),
        ("", parts(memory.needed(recipe, config, here.ranks, bool(here.gpu)))),
    ]
    if disk > free and not (recipe.ignore_fit or recipe.dry_run):
        raise UserError(
            f"{recipe.output_dir}: the run's checkpoints need {disk / GB:,.1f} GB and {free / GB:,.1f} GB are "
            "free; free some, set output_dir, or keep fewer epochs"
        )
    return out


def parts(need):
    """The parts of a `memory.Need` in one line, GB."""
    sizes = {**need.states, "buffers": need.buffers, **need.passing, "or the optimiser's step": need.stepping}
    return " · ".join(f"{name} {size / GB:,.1f}" for name, size in sizes.items() if size >= 0.05 * GB)


def _left_out(recipe, data, encoded):
    parts = [
        f"{len(rows)} {word}"
        for rows, word in (
            (encoded.trimmed, f"trimmed at {recipe.max_length} tokens"),
            (encoded.dropped, f"longer than {recipe.max_length} tokens dropped"),
        )
        if rows
    ]
    parts += [f"{data.excluded} left out by source"] if data.excluded else []
    return " · ".join(parts) or "none trimmed, none dropped"


def many(count, word, plural="s"):
    return f"{count} {word}{plural * (count > 1)}"


def _free(folder):
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def show(name, plan):
    """Prints the plan within the terminal's width."""
    print(f"\nplan · {name}")
    show_lines(plan)


def show_lines(lines):
    """Prints `(topic, text)` pairs within the terminal's width."""
    width = max(50, min(shutil.get_terminal_size((100, 20)).columns, 110))
    for topic, text in lines:
        print(textwrap.fill(text, width, initial_indent=f"  {topic:<9}", subsequent_indent=" " * 11))
    print(flush=True)


if __name__ == "__main__":
    from lima.train import forecast

    with exit_codes():
        forecast.main(sys.argv[1:])
