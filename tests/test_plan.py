"""The plan against the models' published sizes, DeepSpeed's own estimator, and arithmetic done here."""

import math

import pytest

from lima import UserError, recipe
from lima.train import checkpoints, plan

PUBLISHED = {  # parameters, as counted from the released weights
    "7b": 6_738_415_616,
    "13b": 13_015_864_320,
    "30b": 32_528_943_616,
    "65b": 65_285_660_672,
    "8b": 8_030_261_248,
    "70b": 70_553_706_496,
    "32b": 32_763_876_352,
}


def load(name, *flags):
    return recipe.load(["--config", f"recipes/{name}.yaml", *flags])


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_equal_the_released_model(name):
    config = plan.base_config(load(name, "--model_name_or_path", "absent"))
    assert plan.parameters(config) == PUBLISHED[name]


@pytest.mark.parametrize("name", ["7b", "65b"])
@pytest.mark.parametrize("gpus", [8, 16, 64])
def test_model_states_agree_with_deepspeeds_estimator(name, gpus):
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs

    args = load(name, "--model_name_or_path", "absent")
    count = plan.parameters(plan.base_config(args))
    _, gpu, largest = estimate_zero3_model_states_mem_needs(count, 0, gpus, 1, False, False, True)
    # theirs keeps 18 bytes a parameter: 16 and a second fp16 copy of the gradients (which bf16 training does not hold)
    assert plan.model_states(args, count) / gpus == pytest.approx((gpu - largest) * 16 / 18, rel=0.01)


@pytest.mark.parametrize(
    ("size", "limit", "ranks", "expected"),
    [(32, 1, 1, (1, 32)), (32, 4, 8, (4, 1)), (32, 3, 1, (2, 16)), (64, 8, 16, (4, 1)), (6, 4, 1, (3, 2))],
)
def test_the_global_batch_is_split_and_never_changed(size, limit, ranks, expected):
    args = load("7b", "--global_batch_size", str(size), "--per_device_train_batch_size", str(limit))
    batch = plan.split_batch(args, ranks)
    assert (batch.micro, batch.accumulation) == expected
    assert batch.ranks * batch.micro * batch.accumulation == size


def test_a_world_size_that_does_not_divide_the_batch_is_an_error():
    with pytest.raises(UserError, match=r"global_batch_size 32 .* 24 ranks.*16, 32"):
        plan.split_batch(load("65b"), 24)


def test_lima_takes_32_steps_an_epoch_with_the_last_partial():
    assert plan.steps(1000, load("65b")) == (32, 8, 480)
    assert plan.steps(1000, load("7b")) == (16, 40, 240)


def test_rates_are_the_papers():
    first, last = plan.rates(load("65b"), 480)
    assert first == pytest.approx(1e-5)
    assert last == pytest.approx(1e-6 + 9e-6 / 480)


def test_a_machine_without_gpus_refuses_65b_and_says_what_could_hold_it():
    here = plan.Machine(1, None, 24 * 10**9)
    with pytest.raises(UserError, match=r"does not fit: 65\.3B parameters need 1,045 GB .*16 × 80 GB GPUs") as error:
        args = load("65b", "--model_name_or_path", "absent")
        plan.check_fit(args, here, plan.split_batch(args, 1))
    assert "Nothing was downloaded" in " ".join(str(error.value).split())


def test_65b_fits_on_16_gpus_of_80_gb_and_not_on_8():
    args = load("65b", "--model_name_or_path", "absent")
    here = plan.Machine(16, "H100", 80 * 2**30)
    plan.check_fit(args, here, plan.split_batch(args, 16))
    with pytest.raises(UserError, match="does not fit"):
        plan.check_fit(args, here, plan.split_batch(args, 8))


@pytest.mark.parametrize(
    ("text", "epochs", "kept"),
    [("5-10", 15, [5, 6, 7, 8, 9, 10, 15]), ("none", 2, [2]), ("all", 3, [1, 2, 3]), ("1,3-4", 5, [1, 3, 4, 5])],
)
def test_kept_epochs(text, epochs, kept):
    assert checkpoints.kept(epochs, text) == kept


def test_disk_counts_every_kept_epoch_and_two_optimiser_states():
    args, count = load("65b"), 65_285_660_672
    weights, state = 2 * count, 12 * count  # bf16, and fp32 master, first and second moments
    assert plan.disk_need(args, count, 15) == 8 * weights + 2 * state


def test_steps_follow_the_rows():
    for rows in (1, 31, 32, 33, 1030):
        each, last, _ = plan.steps(rows, load("65b"))
        assert each == math.ceil(rows / 32)
        assert (each - 1) * 32 + last == rows
