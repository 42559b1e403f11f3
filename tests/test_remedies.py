"""Remedies as a user meets them: what is printed is given to the planner again, and it must fit at the price it named."""

import itertools
import re

import pytest

from lima import recipe
from lima.train import forecast, gpus, memory, remedies
from lima.train.speed import Place

GB = 1e9


def flags_of(change, words):
    """The planner's command line after a remedy: flags added, make's variables and another recipe as the flags they become."""
    words = list(words)
    if change.startswith("recipe "):
        words[words.index("--config") + 1] = f"recipes/{change.removeprefix('recipe ')}.yaml"
        return [*words, "--gpus", "1"]  # for one GPU, as the remedy says
    variables = re.findall(r"([A-Z]+)=(\S+)", change)
    return [*words, *(change.split() if not variables else [])] + [
        part for name, value in variables for part in (f"--{name.lower()}", value)
    ]


def planned(words, capsys):
    forecast.main(list(words))
    return capsys.readouterr().out


def listed(out):
    """`[(change, GB a GPU, the rest), …]` of the remedies that a plan printed."""
    _, _, text = out.partition("What would fit, cheapest first")
    entries = re.split(r"\n +\d+  ", re.sub(r"\n {11}", " ", text))[1:]
    return [
        (parts[0], float(parts[1].split()[0].replace(",", "")), parts[1:])
        for parts in (e.split(" · ") for e in entries)
    ]


CASES = {
    "one small GPU": "7b --gpu rtx4090-24gb --gpus 1",
    "8-bit moments there already": "7b-1gpu --gpu rtx4090-24gb --gpus 1",
    "two settings": "7b --gpu a100-40gb --gpus 2",
    "one node instead of two": "65b --gpu h100-80gb --gpus 8",
    "all kept": "7b --gpu h100-80gb --gpus 1 --gradient_checkpointing false --tokens_per_device 8192",
    "nothing shared": "7b --gpu rtx4090-24gb --gpus 8 --deepspeed None",
    "adapters": "65b-qlora --gpu a100-40gb --gpus 1",
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_said_to_fit_fits_and_the_cheapest_comes_first(case, capsys, monkeypatch):
    """The price of each: hours on all its GPUs, as planned again, each hour worth its kind's peak."""
    monkeypatch.setenv("COLUMNS", "100")
    name, *flags = case.split()
    words = ["--config", f"recipes/{name}.yaml", "--model_name_or_path", "absent", *flags]
    first = planned(words, capsys)
    found = listed(first)
    assert "DOES NOT FIT" in first and found
    prices = []
    for change, peak, _ in found:
        again = planned([*flags_of(change, words), "--price", "1"], capsys)
        assert re.search(r"^ +fits: ([\d,.]+) of", again, re.M)[1].replace(",", "") == f"{peak:.1f}", change
        kind = gpus.named(re.search(r"^plan · \S+ on \d+ × (\S+)", again, re.M)[1])
        dollars = re.search(r"^  cost +([\d.,]+)(?:–([\d.,]+))? dollars", again, re.M)
        prices.append(float((dollars[2] or dollars[1]).replace(",", "")) * kind.flops)
    slack = 0.5 * 1e15  # of what is printed rounded
    assert all(later > earlier - slack for earlier, later in itertools.pairwise(prices)), prices


def find(name, kind, count, *flags):
    args = recipe.load(["--config", f"recipes/{name}.yaml", "--model_name_or_path", "absent", *flags])
    config, place = memory.base_config(args), Place(gpus.named(kind), count)
    tokens = [2048, 500, 300, 100] * 16
    found = forecast.judge(args, config, place, tokens)
    assert not found.fits
    return remedies.find(args, config, place, tokens)


def test_prices_rise():
    found = find("7b", "a100-40gb", 2)
    by_hand = [each.place.ranks * each.minutes[1] * each.place.gpu.flops for each in found]
    assert by_hand == sorted(by_hand) and by_hand[0] < by_hand[-1]


def test_settings_that_do_it_alone_are_not_said_again_together():
    settings = [r.change for r in find("7b", "h100-80gb", 8, "--tokens_per_device", "16384", "--gradient_checkpointing", "false")
                if r.change.startswith("--")]  # fmt: skip
    assert "--tokens_per_device 2048" in settings and "--gradient_checkpointing true" in settings
    assert not any("tokens_per_device" in each and " --" in each for each in settings)


def test_settings_come_together_where_none_does_it_alone():
    found = {r.change: r for r in find("7b", "h100-80gb", 1, "--gradient_checkpointing", "false")}
    both = found["--gradient_checkpointing true --optim adamw_bnb_8bit"]
    assert both.costs == "a third more computing, the same gradient; moments in 8 bits: not the paper's optimiser"
    assert "--optim adamw_bnb_8bit" not in found and "--gradient_checkpointing true" not in found


def test_offloading_says_what_a_node_must_have_and_takes_32_bit_adam():
    """DeepSpeed's Adam on CPUs has no 8 bits. Per parameter: bf16 weights and gradients, 4 fp32 numbers; a library's GB a rank."""
    offload = next(r for r in find("7b-1gpu", "rtx4090-24gb", 1) if "offload" in r.change)
    assert offload.change == "--deepspeed ds_configs/zero3_offload.json --optim adamw_torch_fused"
    host = (2 + 2 + 4 * 4 + 2) * 6_738_415_616 + 1e9  # and the weights that are gathered to be saved
    assert f"{-(-host // GB):,.0f} GB of host memory a node" in offload.costs


@pytest.mark.slow
def test_a_machine_without_gpus_is_not_told_to_offload_nor_to_have_more_of_them():
    args = recipe.load(["--config", "recipes/7b.yaml", "--model_name_or_path", "absent"])
    place = Place(gpus.Gpu(gpus.CPU, 24 * 10**9, None, None, None), 1)
    config = memory.base_config(args)
    assert not forecast.judge(args, config, place, [2048, 100]).fits
    found = remedies.find(args, config, place, [2048, 100])
    assert [r.change for r in found] == ["recipe 7b-qlora", "GPUS=2 GPU=h100-80gb"]
    assert found[0].need == memory.needed(recipe_of(found[0]), config, 1, gpu=False)


def recipe_of(remedy):
    args = recipe.load(["--config", f"recipes/{remedy.change.removeprefix('recipe ')}.yaml"])
    args.gradient_checkpointing = True
    return args


def test_where_nothing_would_do_it_is_said(capsys):
    """A step of one example is for one GPU, and none holds 65B."""
    flags = "--gpu rtx3090-24gb --gpus 1 --global_batch_size 1 --deepspeed None"
    out = planned(["--config", "recipes/65b.yaml", "--model_name_or_path", "absent", *flags.split()], capsys)
    assert "Nothing that this planner knows would make it fit; a smaller model would." in out
