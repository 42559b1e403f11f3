"""Exact global batches: the paper's 32 examples a step (section 3), dealt to ranks and micro-batches by cost.

Packing fixes padding by changing which examples share an optimiser step; with 1,000 examples that changes the model. Here
the examples of a step are those of plain shuffled training, and only *where* each one is computed is chosen: every
micro-batch of every rank carries about the same work, and runs its examples end to end without padding.
Every rank computes the same deal from the seed, so none has to ask another.
"""

import heapq
import math
from dataclasses import dataclass
from itertools import chain

import torch
from torch.utils.data import Sampler

from lima import UserError

REFINEMENTS = 16  # swaps tried on one global batch: the first few bring nearly all of the gain


@dataclass(frozen=True)
class Shape:
    """How every global batch of a run is laid out. `budget` is the most tokens that one micro-batch may hold."""

    size: int  # examples a step
    ranks: int
    budget: int
    micro: int = 1  # micro-batches a step on each rank


def epoch_order(rows, seed, epoch):
    """The order of `rows` examples in `epoch` (from 0): the one that accelerate's seedable sampler draws too."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed + epoch)).tolist()


def global_batches(rows, size, seed, epoch):
    """The epoch's global batches, `size` examples each; the last is partial, never dropped."""
    order = epoch_order(rows, seed, epoch)
    return [order[start : start + size] for start in range(0, rows, size)]


def deal(batch, lengths, costs, shape):
    """One global batch → `[rank][micro-batch]` lists of examples, or None if a micro-batch would exceed the budget.

    `lengths`: tokens, `costs`: work of every example of the dataset. Evenly, or tightly where that exceeds the budget, then
    swaps that lower the heaviest. Ranks move through micro-batches in step (ZeRO-3 gathers every layer), so micro-batches of like
    cost share a turn.
    """
    held = _evenly(batch, lengths, costs, shape) or _tightly(batch, lengths, shape)
    if held is None:
        return None
    loads = [sum(costs[i] for i in examples) for examples in held]
    _refine(held, loads, lengths, costs, shape.budget)
    return _in_turns(held, loads, shape)


def _evenly(batch, lengths, costs, shape):
    """Longest first to the least loaded that can hold it, or None."""
    bins = shape.ranks * shape.micro
    held, tokens = [[] for _ in range(bins)], [0] * bins
    heap = [(0.0, number) for number in range(bins)]
    for example in sorted(batch, key=lambda i: (-costs[i], i)):
        full = []
        while heap and tokens[heap[0][1]] + lengths[example] > shape.budget:
            full.append(heapq.heappop(heap))
        if not heap:
            return None
        load, number = heapq.heappop(heap)
        held[number].append(example)
        tokens[number] += lengths[example]
        for entry in [*full, (load + costs[example], number)]:
            heapq.heappush(heap, entry)
    return held


def _tightly(batch, lengths, shape):
    """Longest first to the fullest that can hold it (best fit decreasing), or None: fits where dealing evenly does not."""
    held, free = [[] for _ in range(shape.ranks * shape.micro)], [shape.budget] * (shape.ranks * shape.micro)
    for example in sorted(batch, key=lambda i: (-lengths[i], i)):
        room = [number for number in range(len(free)) if free[number] >= lengths[example]]
        if not room:
            return None
        number = min(room, key=free.__getitem__)
        held[number].append(example)
        free[number] -= lengths[example]
    return held


def _refine(held, loads, lengths, costs, budget):
    """Swaps an example of the heaviest bin for a lighter one elsewhere, or for none, while that lowers the heaviest."""
    for _ in range(REFINEMENTS):
        top = max(range(len(held)), key=loads.__getitem__)
        swap = _best_swap(held, loads, lengths, costs, budget, top)
        if swap is None:
            return
        mine, other, theirs = swap
        held[top].remove(mine)
        held[other].append(mine)
        if theirs is not None:
            held[other].remove(theirs)
            held[top].append(theirs)
        moved = costs[mine] - (0 if theirs is None else costs[theirs])
        loads[top] -= moved
        loads[other] += moved


def _best_swap(held, loads, lengths, costs, budget, top):
    """`(example of the heaviest bin, other bin, example of it or None)` that lowers the heavier of the two most, or None."""
    best, found = loads[top] * (1 - 1e-9), None
    tokens = [sum(lengths[i] for i in examples) for examples in held]
    for other, examples in enumerate(held):
        if other == top or len(held[top]) == 1:
            continue
        for theirs in [*examples, None]:
            cost, length = (0, 0) if theirs is None else (costs[theirs], lengths[theirs])
            for mine in held[top]:
                moved, longer = costs[mine] - cost, lengths[mine] - length
                heavier = max(loads[top] - moved, loads[other] + moved)
                if heavier < best and tokens[other] + longer <= budget and tokens[top] - longer <= budget:
                    best, found = heavier, (mine, other, theirs)
    return found


def _in_turns(held, loads, shape):
    """Bins → `[rank][micro-batch]`: like costs share a turn, and within a turn the rank with least so far takes the most."""
    order = sorted(range(len(held)), key=lambda number: -loads[number])
    out, total = [[] for _ in range(shape.ranks)], [0.0] * shape.ranks
    for turn in range(shape.micro):
        ranks = sorted(range(shape.ranks), key=lambda rank: (total[rank], rank))
        for rank, number in zip(ranks, order[turn * shape.ranks : (turn + 1) * shape.ranks], strict=True):
            out[rank].append(sorted(held[number]))
            total[rank] += loads[number]
    return out


@dataclass(frozen=True)
class Load:
    """What dealing makes of a step or a run: `tokens` and work that are needed, and what all ranks spend on it, waiting
    for the slowest of each turn included."""

    tokens: int = 0
    slots: int = 0
    work: float = 0.0
    spent: float = 0.0

    def __add__(self, other):
        return Load(*(a + b for a, b in zip(self.values(), other.values(), strict=True)))

    def values(self):
        return self.tokens, self.slots, self.work, self.spent

    @property
    def slots_per_token(self):
        """1.0 where no rank computes padding or waits."""
        return self.slots / self.tokens

    @property
    def balance(self):
        """Work of the slowest over the mean work, turn by turn."""
        return self.spent / self.work


def load_of(dealt, lengths, costs):
    """The `Load` of one dealt step."""
    turns = list(zip(*dealt, strict=True))
    tokens = [[sum(lengths[i] for i in examples) for examples in turn] for turn in turns]
    work = [[sum(costs[i] for i in examples) for examples in turn] for turn in turns]
    return Load(
        sum(map(sum, tokens)),
        sum(len(turn) * max(turn) for turn in tokens),
        sum(map(sum, work)),
        sum(len(turn) * max(turn) for turn in work),
    )


def packed(recipe, lengths):
    """Sets the examples a step of a recipe with `packed` to as many as its `global_batch_size` blocks of `max_length` tokens hold
    when the dataset is packed as TRL does; returns `lengths`."""
    if recipe.packed:
        import datasets
        from trl import pack_dataset

        rows = datasets.Dataset.from_dict({"input_ids": [[0] * length for length in lengths]})
        datasets.disable_progress_bars()
        blocks = len(pack_dataset(rows, recipe.max_length, "bfd"))
        datasets.enable_progress_bars()
        recipe.global_batch_size = min(round(recipe.global_batch_size * len(lengths) / blocks), len(lengths))
        recipe.packed = False  # done
    return lengths


def lay_out(recipe, lengths, costs, ranks):
    """`(Shape, Load)` of a run: the fewest micro-batches that `deal` fits into the budget at every one of its steps.

    Raises `UserError` for a batch that the ranks cannot share, an empty example, or one beyond the budget.
    """
    size, budget = recipe.global_batch_size, recipe.tokens_per_device
    if ranks > size:
        raise UserError(
            f"global_batch_size {size} is fewer examples than there are ranks ({ranks}); use {size} at most"
        )
    if not min(lengths):
        raise UserError(f"example {lengths.index(0)} has no tokens; leave it out of the dataset")
    if max(lengths) > budget:
        raise UserError(
            f"tokens_per_device {budget} cannot hold the longest example, {max(lengths)} tokens; raise it by "
            f"{max(lengths) - budget}, or lower max_length"
        )
    each = math.ceil(len(lengths) / size)
    total = recipe.max_steps if recipe.max_steps > 0 else math.ceil(each * recipe.num_train_epochs)
    epochs = [global_batches(len(lengths), size, recipe.seed, epoch) for epoch in range(math.ceil(total / each))]
    batches = list(chain.from_iterable(epochs))[:total]
    needed = max(sum(lengths[i] for i in batch) for batch in batches)
    micro = math.ceil(needed / (ranks * budget))
    while True:
        shape, load = Shape(size, ranks, budget, micro), Load()
        for batch in batches:
            dealt = deal(batch, lengths, costs, shape)
            if dealt is None:
                break
            load += load_of(dealt, lengths, costs)
        else:
            return shape, load
        micro += 1


class ExactBatches(Sampler):
    """The batch sampler of one rank: `shape.micro` lists of examples a step, the same steps whatever the ranks.

    A micro-batch that has nothing to do (the partial last batch on many ranks) holds `filler`, the number of a row without
    labels behind the dataset's own, so that every rank takes part in every collective.
    """

    def __init__(self, lengths, costs, shape, rank, seed):
        self.lengths, self.costs, self.shape, self.rank, self.seed = lengths, costs, shape, rank, seed
        self.epoch, self.filler = 0, len(lengths)

    def set_epoch(self, epoch):
        self.epoch = epoch

    def steps(self):
        """Steps an epoch."""
        return math.ceil(len(self.lengths) / self.shape.size)

    def __len__(self):
        return self.steps() * self.shape.micro

    def __iter__(self):
        for batch in global_batches(len(self.lengths), self.shape.size, self.seed, self.epoch):
            for examples in self._deal(batch)[self.rank]:
                yield examples or [self.filler]

    def load(self, step):
        """The `Load` of a run's step (from 0), over all ranks."""
        epoch, number = divmod(step, self.steps())
        batch = global_batches(len(self.lengths), self.shape.size, self.seed, epoch)[number]
        return load_of(self._deal(batch), self.lengths, self.costs)

    def _deal(self, batch):
        return deal(batch, self.lengths, self.costs, self.shape)
