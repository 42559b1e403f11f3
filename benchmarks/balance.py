"""Slots computed for a token needed, by strategy and number of ranks, on LIMA's lengths: `make bench-balance`.

A slot is one token's room on one rank. Ranks move through micro-batches in step, so a step costs
ranks × (the fullest rank of each micro-batch). All arms run one micro-batch a step, so that only the dealing differs.
Writes docs/figures/balance.svg and prints the table of docs/performance.md. No model is loaded.
"""

import json
import sys
import time
from pathlib import Path

from transformers import LlamaConfig
from transformers.trainer_pt_utils import BatchRebalanceSampler

from lima.train import batches, plan

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = [length for length, _ in json.loads((ROOT / "benchmarks/lima_lengths.json").read_text())["lengths"]]
EPOCHS, SEED = 15, 42
RANKS = {32: [1, 2, 4, 8, 16, 32], 64: [1, 2, 4, 8, 16, 32, 64]}


def at_random(batch, ranks):
    """Consecutive examples of the shuffle to each rank, as TRL's data loader hands them out."""
    share = -(-len(batch) // ranks)
    return [batch[start : start + share] for start in range(0, len(batch), share)]


def rebalanced(batch, ranks):
    """transformers' `train_sampling_strategy="batch_rebalance"`, its own code."""
    batch = (batch * ranks)[: max(len(batch), ranks)]  # it fills up a batch that is too small
    sampler = BatchRebalanceSampler(LENGTHS, len(batch), ranks, 1, drop_last=False)
    return [part[0] for part in sampler._assign(batch, [LENGTHS[i] for i in batch])]


def exact(batch, ranks):
    """Ours, for LLaMA 7B's cost of attention."""
    shape = batches.Shape(len(batch), ranks, budget=10**9)
    return [part[0] for part in batches.deal(batch, LENGTHS, COSTS, shape)]


def padded(examples):
    return len(examples) * max((LENGTHS[i] for i in examples), default=0)


def end_to_end(examples):
    return sum(LENGTHS[i] for i in examples)


ARMS = {
    "shuffled, padded (TRL)": (at_random, padded),
    "shuffled, padding-free (TRL)": (at_random, end_to_end),
    "batch_rebalance, padded": (rebalanced, padded),
    "batch_rebalance, padding-free": (rebalanced, end_to_end),
    "exact batches (ours)": (exact, end_to_end),
}
COSTS = plan.work(LlamaConfig(), LENGTHS)  # LlamaConfig's defaults are 7B's


def measure(size, ranks):
    """Slots per token of every arm, and of the bound max(longest example, mean load), over the run's steps."""
    slots, bound, tokens = dict.fromkeys(ARMS, 0), 0, 0
    for epoch in range(EPOCHS):
        for batch in batches.global_batches(len(LENGTHS), size, SEED, epoch):
            needed = end_to_end(batch)
            tokens += needed
            bound += max(ranks * max(LENGTHS[i] for i in batch), needed)
            for name, (deal, cost) in ARMS.items():
                slots[name] += ranks * max(map(cost, deal(batch, ranks)))
    return {name: count / tokens for name, count in {**slots, "no dealing does better": bound}.items()}


def table(size, results):
    lines = [
        f"| {size} examples a step, ranks | " + " | ".join(map(str, results)) + " |",
        "|---" * (len(results) + 1) + "|",
    ]
    for name in [*ARMS, "no dealing does better"]:
        lines.append(f"| {name} | " + " | ".join(f"{row[name]:.3f}" for row in results.values()) + " |")
    return "\n".join(lines)


def draw(results, path):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.6), sharey=True)
    styles = ["#b0483a", "#d99a6c", "#8a7fb5", "#5b8fc7", "#1d7a4f"]
    for axis, (size, by_ranks) in zip(axes, results.items(), strict=True):
        ranks = list(by_ranks)
        bound = [by_ranks[n]["no dealing does better"] for n in ranks]
        axis.fill_between(ranks, 0.9, bound, color="#eeeeee", label="out of reach: one example is a rank's whole load")
        for name, colour in zip(ARMS, styles, strict=True):
            ours = "ours" in name
            values = [by_ranks[n][name] for n in ranks]
            axis.plot(
                ranks, values, color=colour, lw=2.6 if ours else 1.5, marker="o", ms=4, label=name, zorder=3 + ours
            )
        axis.set_xscale("log", base=2)
        axis.set_xticks(ranks, map(str, ranks))
        axis.set_ylim(0.9, 3.4)
        axis.set_title(f"{size} examples a step", fontsize=10, loc="left")
        axis.set_xlabel("GPUs")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#dddddd", lw=0.6)
    axes[0].set_ylabel("slots a token needed")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles[1:] + handles[:1], labels[1:] + labels[:1], loc="lower center", ncol=3, frameon=False, fontsize=8
    )
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    plt.rcParams["svg.hashsalt"] = "lima"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main():
    results = {size: {ranks: measure(size, ranks) for ranks in counts} for size, counts in RANKS.items()}
    print("\n\n".join(table(size, by_ranks) for size, by_ranks in results.items()))
    started = time.perf_counter()
    for batch in [b for e in range(EPOCHS) for b in batches.global_batches(len(LENGTHS), 64, SEED, e)] * 2:
        batches.deal(batch, LENGTHS, COSTS, batches.Shape(64, 64, 4096))
    print(f"\ndealing 480 steps of 64 examples to 64 ranks took {time.perf_counter() - started:.2f} s")
    path = ROOT / "docs/figures/balance.svg"
    try:
        draw(results, path)
    except ImportError:
        sys.exit("the table stands; the figure needs matplotlib: pip install -r requirements-bench.txt")
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
