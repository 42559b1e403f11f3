"""The table of GPUs against their names, what a driver would report, and the fewest that hold a recipe against hand sums."""

import re
from types import SimpleNamespace

import pytest
import torch

from lima import UserError, recipe
from lima.train import gpus, memory


@pytest.mark.parametrize("name", gpus.TABLE)
def test_a_kind_has_the_memory_that_its_name_says_and_rates_that_a_gpu_can_have(name):
    """PyTorch sees up to 8 % less than the box says, never more. Of rates: nothing is faster than a B200 or its NVLink."""
    kind = gpus.named(name)
    said = int(re.fullmatch(r"[a-z0-9]+-(\d+)gb", name)[1])
    assert 0.92 * said < kind.memory / 2**30 <= said
    assert 7e13 < kind.flops <= 2.25e15
    assert kind.net <= 50e9 and kind.net < kind.link <= 900e9


def test_a_kind_is_found_whatever_its_case():
    kind = gpus.named("H100-80GB")
    assert kind == gpus.named("h100-80gb")
    assert (kind.name, kind.memory, kind.flops, kind.link) == ("h100-80gb", 81008 * 2**20, 989e12, 450e9)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("h100", "did you mean h100-80gb?"), ("a10080gb", "did you mean a100-80gb?"), ("banana", "expected")],
)
def test_another_kind_is_one_line_that_names_those_there_are(name, hint):
    with pytest.raises(UserError) as raised:
        gpus.named(name)
    message = str(raised.value)
    assert message.startswith(f"GPU {name}: unknown; {hint}") and "\n" not in message
    assert all(kind in message for kind in gpus.TABLE) and message.endswith("or cpu for none")


def test_a_machine_without_gpus_has_none():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert gpus.present() is None


@pytest.mark.parametrize(
    ("reported", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-80gb"),
        ("NVIDIA H200", "h200-141gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA GeForce RTX 4090", "rtx4090-24gb"),
        ("NVIDIA RTX A6000", "a6000-48gb"),
        ("NVIDIA RTX 6000 Ada Generation", None),
        ("Tesla V100-SXM2-32GB", None),
    ],
)
def test_the_gpus_here_are_known_by_what_the_driver_calls_them(reported, kind, monkeypatch):
    """Their memory is what they have, not what the table says; of a kind that it lacks, nothing else is known."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    properties = SimpleNamespace(name=reported, total_memory=12_345_678_900)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    found, count = gpus.present()
    assert (found.name, found.memory, count) == (kind or reported, 12_345_678_900, 4)
    assert found.flops == (gpus.named(kind).flops if kind else None)


@pytest.mark.parametrize(
    ("name", "parameters", "kind"),
    [("7b", 6_738_415_616, "h100-80gb"), ("8b", 8_030_261_248, "a100-40gb"), ("65b", 65_285_660_672, "h100-80gb")],
)
def test_the_fewest_have_room_for_16_bytes_a_parameter_and_half_as_many_do_not(name, parameters, kind):
    args = recipe.load(["--config", f"recipes/{name}.yaml", "--model_name_or_path", "absent"])
    config, gpu, before = memory.base_config(args), gpus.named(kind), dict(vars(args))
    count = memory.fewest(args, config, gpu)
    assert 16 * parameters / count < 0.92 * gpu.memory  # bf16 weights and gradients, fp32 weights and two moments
    assert 16 * parameters / (count // 2) + 9e9 > 0.92 * gpu.memory  # a pass takes up to 9 GB beside them
    assert count in (1, 2, 4) or count % gpus.NODE == 0
    assert vars(args) == before


def test_no_number_of_gpus_holds_what_a_step_has_too_few_examples_for():
    args = recipe.load(["--config", "recipes/65b.yaml", "--model_name_or_path", "absent", "--global_batch_size", "8"])
    assert memory.fewest(args, memory.base_config(args), gpus.named("h100-80gb")) is None
