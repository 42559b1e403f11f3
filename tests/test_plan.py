"""The plan's numbers against arithmetic done here, and its lines for a real tiny run on several ranks."""

import math

import pytest

from lima import UserError, conversations, recipe, turns
from lima.train import batches, checkpoints, memory, plan


def load(name, *flags):
    return recipe.load(["--config", f"recipes/{name}.yaml", "--model_name_or_path", "absent", *map(str, flags)])


def test_lima_takes_32_steps_an_epoch_with_the_last_partial():
    assert plan.steps(1000, load("65b")) == (32, 8, 480)
    assert plan.steps(1000, load("7b")) == (16, 40, 240)


def test_steps_follow_the_rows():
    for rows in (1, 31, 32, 33, 1030):
        each, last, _ = plan.steps(rows, load("65b"))
        assert each == math.ceil(rows / 32)
        assert (each - 1) * 32 + last == rows


def test_max_steps_and_parts_of_an_epoch_are_counted():
    assert plan.steps(1000, load("65b", "--max_steps", 7))[2] == 7
    assert plan.steps(1000, load("65b", "--num_train_epochs", 1.5))[2] == 48


def test_rates_are_the_papers():
    first, last = plan.rates(load("65b"), 480)
    assert first == pytest.approx(1e-5)
    assert last == pytest.approx(1e-6 + 9e-6 / 480)


def test_warmup_starts_at_nothing():
    assert plan.rates(load("65b", "--warmup_steps", 10), 480)[0] == 0


@pytest.mark.parametrize(
    ("text", "epochs", "kept"),
    [("5-10", 15, [5, 6, 7, 8, 9, 10, 15]), ("none", 2, [2]), ("all", 3, [1, 2, 3]), ("1,3-4", 5, [1, 3, 4, 5])],
)
def test_kept_epochs(text, epochs, kept):
    assert checkpoints.kept(epochs, text) == kept


@pytest.mark.parametrize(
    ("name", "parameters", "vocab", "width", "layers"),
    [("7b", 6_738_415_616, 32_000, 4096, 32), ("70b", 70_553_706_496, 128_256, 8192, 80)],
)
def test_work_is_six_flops_a_multiplied_weight_and_causal_attention(name, parameters, vocab, width, layers):
    """All weights multiply but the embedding's (a lookup) and the norms'; a token attends to half of its example."""
    multiplied = parameters - vocab * width - (2 * layers + 1) * width
    lengths = [1, 100, 2048]
    scores = 2 * 2 * width * layers  # a token with one other: query times key, weight times value
    by_hand = [3 * (2 * multiplied * n + scores * n * n / 2) for n in lengths]
    assert plan.work(memory.base_config(load(name)), lengths) == pytest.approx(by_hand, rel=1e-9)


@pytest.fixture
def tiny_run(tiny_base):
    """All that `lines` wants, of a recipe on the tiny base: three ranks, the dialogues left out."""
    args = load(
        "135m",
        "--model_name_or_path",
        tiny_base,
        "--global_batch_size",
        8,
        "--tokens_per_device",
        1024,
        "--max_length",
        256,
    )
    here = memory.Machine(3, None, 16 * 10**9)
    model = memory.check_fit(args, here)
    data = conversations.load("data/starter.jsonl", exclude_sources=["dialogue"])
    encoded = turns.encode_all(turns.load_tokenizer(tiny_base), data.rows, args.max_length)
    shape, load_of_run = batches.lay_out(args, encoded.lengths, plan.work(model[0], encoded.lengths), here.ranks)
    return [args, data, encoded, shape, load_of_run, here, model]


def test_the_batch_line_says_how_evenly_a_step_is_shared(tiny_run):
    args, _, encoded, shape, _, _, (config, *_) = tiny_run
    lengths, costs = encoded.lengths, plan.work(config, encoded.lengths)
    turns_of_run = []  # the examples of every rank, turn by turn
    for epoch in range(15):
        samplers = [batches.ExactBatches(lengths, costs, shape, rank, args.seed) for rank in range(3)]
        for sampler in samplers:
            sampler.set_epoch(epoch)
        turns_of_run += zip(*samplers, strict=True)

    def spent(numbers):
        """Over what is needed, what three ranks spend that wait for each other."""
        shares = [[sum(numbers[i] for i in micro if i < len(lengths)) for micro in turn] for turn in turns_of_run]
        return sum(3 * max(turn) for turn in shares) / sum(map(sum, shares))

    assert shape.micro == 1 and spent(costs) > 1.01
    assert dict(plan.lines(*tiny_run))["batch"] == (
        "8 examples a step = 3 ranks × 1 micro-batch of at most 1,024 tokens · "
        f"balance {spent(costs):.3f} (max/mean) · {spent(lengths):.3f} slots a token"
    )


def test_the_other_lines_count_what_is_there(tiny_run, tiny_base):
    args, _, encoded, _, _, _, (_, count, _) = tiny_run
    said = dict(plan.lines(*tiny_run))
    rows, cut = len(encoded.rows), len(encoded.trimmed)
    assert (rows, args.num_train_epochs) == (176, 15) and cut > 0
    assert said["base"] == f"{tiny_base} · {count:,} parameters"
    left_out = next(text for topic, text in plan.lines(*tiny_run) if not topic)
    assert left_out == f"{cut} trimmed at 256 tokens · 14 left out by source"
    assert said["steps"] == "22 an epoch, the last with 8 · 330 in all over 15 epochs"
    assert said["dropout"] == "0.00 at the first layer → 0.20 at the last of 4"
    assert said["memory"].endswith("16 GB of host memory · gradient checkpointing off")


def test_a_disk_that_cannot_hold_the_checkpoints_is_an_error(tiny_run):
    config, _, need = tiny_run[-1]
    tiny_run[-1] = (config, 10**15, need)
    with pytest.raises(UserError, match=r"checkpoints need [\d,.]+ GB and [\d,.]+ GB are free"):
        plan.lines(*tiny_run)
    tiny_run[0].ignore_fit = True
    assert plan.lines(*tiny_run)
