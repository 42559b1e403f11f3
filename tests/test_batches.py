"""Exact batches: whose they are, how evenly they are dealt, and that no launch changes them. Referees: accelerate's own
sampler and skipping, textbook LPT, brute force over all deals, and sums done by hand."""

import heapq
import itertools
import json
import math
import random
import time
from types import SimpleNamespace

import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import BatchSampler, DataLoader

from lima import UserError
from lima.train import batches
from lima.train.batches import ExactBatches, Load, Shape

RANKS = [1, 2, 3, 8, 16, 24, 32]


def recipe(size=32, budget=4096, epochs=1, seed=42, steps=-1):
    return SimpleNamespace(
        global_batch_size=size, tokens_per_device=budget, num_train_epochs=epochs, seed=seed, max_steps=steps
    )


def drawn(rows, seed=0, longest=2048):
    """Lengths like LIMA's: many short, a few at the longest."""
    random.seed(seed)
    return [min(longest, max(8, int(random.lognormvariate(5.6, 0.9)))) for _ in range(rows)]


def costs_of(lengths):
    """Work with a part that grows with the square, as attention's does."""
    return [n * (1000 + n / 2) for n in lengths]


def loads(dealt, costs):
    return [sum(costs[i] for i in held) for rank in dealt for held in rank]


def lpt(costs, bins):
    """Graham's rule without a budget: the longest first, each to the least loaded. Returns the heaviest load."""
    heap = [0.0] * bins
    for cost in sorted(costs, reverse=True):
        heapq.heapreplace(heap, heap[0] + cost)
    return max(heap)


def optimum(costs, bins):
    """The lowest heaviest load that any deal has."""
    lowest = math.inf
    for places in itertools.product(range(bins), repeat=len(costs)):
        held = [0.0] * bins
        for place, cost in zip(places, costs, strict=True):
            held[place] += cost
        lowest = min(lowest, max(held))
    return lowest


def sampled(rows, seed, epoch):
    sampler = SeedableRandomSampler(range(rows), generator=torch.Generator(), data_seed=seed)
    sampler.set_epoch(epoch)
    return sampler


# ---- which examples share a step ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_the_order_is_the_one_that_accelerate_draws(rows):
    for seed, epoch in itertools.product((0, 42), range(3)):
        assert batches.epoch_order(rows, seed, epoch) == list(sampled(rows, seed, epoch))
    assert rows < 7 or batches.epoch_order(rows, 42, 0) != list(sampled(rows, 42, 1))


@pytest.mark.parametrize(("rows", "size"), [(1000, 32), (1030, 32), (64, 32), (5, 32), (33, 1)])
def test_an_epochs_batches_hold_every_row_once_and_the_last_is_partial(rows, size):
    got = batches.global_batches(rows, size, 42, 3)
    assert got == list(BatchSampler(sampled(rows, 42, 3), size, drop_last=False))
    assert sorted(itertools.chain.from_iterable(got)) == list(range(rows))
    assert [len(batch) for batch in got] == [size] * (rows // size) + [rows % size] * (rows % size > 0)


@pytest.mark.parametrize("ranks", RANKS)
def test_the_examples_of_a_step_are_the_same_whatever_the_ranks(ranks):
    lengths = drawn(200)
    costs = costs_of(lengths)
    shape, _ = batches.lay_out(recipe(), lengths, costs, ranks)
    every = [list(ExactBatches(lengths, costs, shape, rank, 42)) for rank in range(ranks)]
    for step, batch in enumerate(BatchSampler(sampled(200, 42, 0), 32, drop_last=False)):
        turns = [rank[step * shape.micro : (step + 1) * shape.micro] for rank in every]
        held = [i for rank in turns for micro in rank for i in micro if i != len(lengths)]
        assert sorted(held) == sorted(batch)


# ---- how they are dealt ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", RANKS)
def test_a_deal_holds_every_example_once_and_keeps_to_the_budget(ranks):
    too_tight = 0
    for seed in range(100):
        random.seed(seed)
        lengths = [random.choice([random.randint(1, 100), random.randint(200, 500)]) for _ in range(40)]
        costs = random.choice([costs_of(lengths), [n**3 for n in lengths]])  # many short ones: full long before heavy
        micro = random.randint(1, 40 // ranks)
        budget = max(500, int(sum(lengths) / (ranks * micro) * random.uniform(1.001, 1.2)))
        dealt = batches.deal(list(range(40)), lengths, costs, Shape(40, ranks, budget, micro))
        if dealt is None:
            too_tight += 1
            continue
        assert [len(rank) for rank in dealt] == [micro] * ranks
        held = [micro for rank in dealt for micro in rank]
        assert sorted(itertools.chain.from_iterable(held)) == list(range(40))
        assert max(sum(lengths[i] for i in micro) for micro in held) <= budget
    assert too_tight < 50


def test_what_cannot_fit_is_none():
    assert batches.deal([0, 1, 2], [6, 6, 6], [6, 6, 6], Shape(3, 2, 10)) is None
    assert batches.deal([0, 1, 2], [6, 6, 6], [6, 6, 6], Shape(3, 2, 12)) is not None
    assert batches.deal([0, 1, 2], [6, 6, 6], [6, 6, 6], Shape(3, 1, 10, 3)) == [[[0], [1], [2]]]


def test_the_heaviest_share_is_never_above_lpts_and_often_below():
    below = 0
    for seed in range(300):
        random.seed(seed)
        costs = [random.choice([random.random(), random.lognormvariate(0, 1)]) for _ in range(random.randint(1, 40))]
        bins = random.randint(1, 12)
        dealt = batches.deal(list(range(len(costs))), [1] * len(costs), costs, Shape(len(costs), bins, 10**9))
        ours, theirs = max(loads(dealt, costs)), lpt(costs, bins)
        assert ours <= theirs * (1 + 1e-9), f"seed {seed}"
        below += ours < theirs * (1 - 1e-6)
    assert below > 60


@pytest.mark.parametrize(("count", "bins"), [(4, 2), (5, 2), (6, 2), (7, 2), (5, 3), (6, 3), (7, 3)])
def test_small_batches_are_dealt_within_a_tenth_of_the_best_deal(count, bins):
    exceeds, lpts = [], []
    for seed in range(60):
        random.seed(seed)
        costs = [random.random() for _ in range(count)]
        dealt = batches.deal(list(range(count)), [1] * count, costs, Shape(count, bins, count))
        best = optimum(costs, bins)
        exceeds.append(max(loads(dealt, costs)) / best)
        lpts.append(lpt(costs, bins) / best)
    assert min(exceeds) > 1 - 1e-9 and max(exceeds) < 1.1
    assert sum(exceeds) <= sum(lpts)


def test_micro_batches_of_like_cost_share_a_turn():
    """Ranks wait for each other every turn: no other sharing of the same micro-batches makes them wait less."""
    lengths = drawn(24, seed=3)
    costs = costs_of(lengths)
    dealt = batches.deal(list(range(24)), lengths, costs, Shape(24, 3, 2048, 3))
    turns = [sum(max(sum(costs[i] for i in rank[turn]) for rank in dealt) for turn in range(3))]
    shares = sorted(loads(dealt, costs), reverse=True)
    assert turns[0] == pytest.approx(sum(shares[::3]))
    shuffled = random.Random(1).sample(shares, 9)
    assert turns[0] < sum(max(shuffled[turn * 3 : turn * 3 + 3]) for turn in range(3))


# ---- the layout of a run --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ranks", "budget"), [(1, 2048), (1, 4096), (2, 2048), (3, 2048), (8, 2048), (8, 4096)])
def test_the_layout_has_the_fewest_micro_batches_that_fit(ranks, budget):
    lengths = drawn(200, seed=ranks)
    costs = costs_of(lengths)
    shape, _ = batches.lay_out(recipe(budget=budget, epochs=2), lengths, costs, ranks)
    assert (shape.size, shape.ranks, shape.budget) == (32, ranks, budget)
    steps = [batch for epoch in (0, 1) for batch in BatchSampler(sampled(200, 42, epoch), 32, drop_last=False)]
    deals = [batches.deal(batch, lengths, costs, shape) for batch in steps]
    assert None not in deals
    if shape.micro > 1:
        fewer = Shape(32, ranks, budget, shape.micro - 1)
        heaviest = max(sum(lengths[i] for i in batch) for batch in steps)
        impossible = heaviest > fewer.micro * ranks * budget
        assert impossible or None in [batches.deal(batch, lengths, costs, fewer) for batch in steps]


def bins_at_least(lengths, budget):
    """Martello and Toth's bound L2: no packing takes fewer bins (examples over half the budget never share one)."""
    bounds = []
    for small in {0, *(n for n in lengths if n <= budget / 2)}:
        alone = [n for n in lengths if n > budget - small]
        halves = [n for n in lengths if budget / 2 < n <= budget - small]
        rest = sum(n for n in lengths if small <= n <= budget / 2) - (len(halves) * budget - sum(halves))
        bounds.append(len(alone) + len(halves) + max(0, math.ceil(rest / budget)))
    return max(bounds)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("budget", [2048, 3072, 4096, 8192])
def test_no_layout_of_lima_has_fewer_micro_batches(size, budget):
    lengths = [tokens for tokens, _ in json.load(open("benchmarks/lima_lengths.json"))["lengths"]]
    shape, _ = batches.lay_out(recipe(size, budget, epochs=15), lengths, costs_of(lengths), 1)
    steps = itertools.chain(*(batches.global_batches(1000, size, 42, epoch) for epoch in range(15)))
    assert shape.micro == max(bins_at_least([lengths[i] for i in batch], budget) for batch in steps)


def test_every_step_counts_toward_the_layout_and_max_steps_cuts_it():
    lengths = drawn(200)
    costs = costs_of(lengths)
    for flags, steps in (({"epochs": 2}, 14), ({"epochs": 1.5}, 11), ({"steps": 3, "epochs": 9}, 3)):
        epochs = [BatchSampler(sampled(200, 42, epoch), 32, drop_last=False) for epoch in (0, 1)]
        want = sum(sum(lengths[i] for i in batch) for batch in list(itertools.chain(*epochs))[:steps])
        assert batches.lay_out(recipe(**flags), lengths, costs, 8)[1].tokens == want


def test_the_load_is_what_ranks_compute_and_wait_for():
    """Two ranks, two turns: 10+5 against 7, then 4 against nothing."""
    lengths, costs = [10, 5, 7, 4], [100.0, 25.0, 50.0, 16.0]
    load = batches.load_of([[[0, 1], [3]], [[2], []]], lengths, costs)
    assert load == Load(tokens=26, slots=2 * 15 + 2 * 4, work=191.0, spent=2 * 125.0 + 2 * 16.0)
    assert load.slots_per_token == 38 / 26 and load.balance == 282 / 191
    assert load + load == Load(52, 76, 382.0, 564.0)
    assert batches.load_of([[[0], [1]]], lengths, costs).balance == 1  # one rank waits for nobody


@pytest.mark.parametrize(("rows", "ranks", "budget"), [(33, 8, 2048), (34, 3, 2048), (5, 32, 4096), (70, 16, 2048)])
def test_ranks_without_an_example_get_the_filler_and_all_take_as_many_turns(rows, ranks, budget):
    lengths = drawn(rows)
    costs = costs_of(lengths)
    shape, _ = batches.lay_out(recipe(budget=budget), lengths, costs, ranks)
    every = [ExactBatches(lengths, costs, shape, rank, 42) for rank in range(ranks)]
    yielded = [list(sampler) for sampler in every]
    assert {len(rank) for rank in yielded} == {len(every[0])} == {math.ceil(rows / 32) * shape.micro}
    assert all(micro for rank in yielded for micro in rank)
    fillers = sum(micro == [rows] for rank in yielded for micro in rank)
    last = rows % 32
    assert fillers >= ranks * shape.micro - last > 0
    assert sum(micro.count(rows) for rank in yielded for micro in rank) == fillers  # never beside an example


def test_the_load_of_a_step_is_that_of_what_the_ranks_yield():
    lengths = drawn(100)
    costs = costs_of(lengths)
    shape, whole = batches.lay_out(recipe(budget=2048, epochs=3), lengths, costs, 3)
    every = [ExactBatches(lengths, costs, shape, rank, 42) for rank in range(3)]
    total = Load()
    for epoch in range(3):
        for sampler in every:
            sampler.set_epoch(epoch)
        turns = list(zip(*every, strict=True))
        for step in range(4):
            tokens, slots = 0, 0
            for turn in turns[step * shape.micro : (step + 1) * shape.micro]:
                sums = [sum(lengths[i] for i in micro if i < 100) for micro in turn]
                tokens, slots = tokens + sum(sums), slots + 3 * max(sums)
            load = every[0].load(4 * epoch + step)
            assert (load.tokens, load.slots) == (tokens, slots)
            total += load
    assert total.values() == pytest.approx(whole.values())


# ---- over epochs, and on from a checkpoint --------------------------------------------------------------------------


def sampler_of(lengths, rank=1):
    costs = costs_of(lengths)
    shape, _ = batches.lay_out(recipe(budget=2048, epochs=3), lengths, costs, 2)
    return ExactBatches(lengths, costs, shape, rank, 42)


def test_every_epoch_has_its_own_order_and_the_same_one_again():
    sampler = sampler_of(drawn(100))
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[2] != orders[1]


@pytest.mark.parametrize("skipped", [1, 2, 5])
def test_a_resumed_epoch_goes_on_where_it_was_cut(skipped):
    """As transformers' Trainer does: skip in a fresh loader, then set the epoch of the sampler within its sampler."""
    lengths = drawn(100)
    sampler = sampler_of(lengths)
    sampler.set_epoch(2)
    whole = list(sampler)
    fresh = DataLoader(range(101), batch_sampler=sampler_of(lengths), collate_fn=list)
    loader = skip_first_batches(fresh, skipped)
    loader.batch_sampler.batch_sampler.set_epoch(2)
    assert list(loader) == whole[skipped:] != []
    assert len(loader) == len(whole) - skipped


# ---- what the user can mend, and the time it takes ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "ranks", "message"),
    [
        ([5] * 100, 33, r"global_batch_size 32 .* ranks \(33\); use 32 at most"),
        ([5, 0, 5], 1, "example 1 has no tokens"),
        ([5, 4100, 5], 1, "tokens_per_device 4096 .* 4100 tokens; raise it by 4,"),
    ],
)
def test_a_layout_that_cannot_be_is_one_line(lengths, ranks, message):
    with pytest.raises(UserError, match=message) as error:
        batches.lay_out(recipe(), lengths, costs_of(lengths), ranks)
    assert "\n" not in str(error.value)


def test_planning_a_long_run_takes_less_than_two_seconds():
    lengths = drawn(1000)
    costs = costs_of(lengths)
    started = time.process_time()
    shape, _ = batches.lay_out(recipe(size=64, epochs=470 / 16), lengths, costs, 64)
    assert time.process_time() - started < 2 and shape.ranks == 64


@pytest.fixture(scope="module")
def lima(shared, llama_tokenizer):
    """Lengths of LIMA's 1,000 examples in LLaMA's tokens: BOS, then each utterance and EOT, at most 2,048."""
    rows = [json.loads(line) for line in open(shared / "lima/train.jsonl", encoding="utf-8")]
    talks = [row["conversations"] for row in rows if row["source"] != "multi_turn"]
    counted = iter(llama_tokenizer([text for talk in talks for text in talk], add_special_tokens=False)["input_ids"])
    return [min(2048, 1 + sum(len(next(counted)) + 1 for _ in talk)) for talk in talks]


@pytest.mark.parametrize("ranks", [8, 16])
def test_lima_itself_leaves_hardly_a_slot_empty(lima, ranks):
    """Against what no deal can beat (the longest example, the mean), and against sharing in the order of the shuffle."""
    assert len(lima) == 1000
    costs = [n * (2 * 6_738_415_616 + 32 * 4096 * n) for n in lima]  # in LLaMA 7B: weights, then causal attention
    _, load = batches.lay_out(recipe(epochs=15), lima, costs, ranks)
    steps = [batch for epoch in range(15) for batch in BatchSampler(sampled(1000, 42, epoch), 32, drop_last=False)]
    lengths = [[lima[i] for i in batch] for batch in steps]
    bound = sum(max(ranks * max(step), sum(step)) for step in lengths)
    undealt = sum(ranks * max(sum(step[rank::ranks]) for rank in range(ranks)) for step in lengths)
    assert load.tokens == 15 * sum(lima)
    assert bound <= load.slots <= 1.02 * bound
    assert undealt > 1.3 * bound
    assert ranks != 8 or load.slots_per_token <= 1.03
