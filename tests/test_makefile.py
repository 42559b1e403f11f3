"""The front door: `make help`, and what the targets would run."""

import subprocess
from pathlib import Path

import pytest


def make(*words):
    done = subprocess.run(["make", *words], capture_output=True, text=True)
    return done.stdout + done.stderr


def test_help_fits_a_screen_and_names_every_recipe():
    page = make("help")
    lines = page.splitlines()
    assert len(lines) <= 66 and max(map(len, lines)) <= 100
    for recipe in Path("recipes").glob("*.yaml"):
        if recipe.stem != "lima":
            assert f" {recipe.stem} " in page.replace("\n", " ") + " "


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("sft-65b", "lima.train.launch --config recipes/65b.yaml"),
        ("plan-7b", "lima.train.plan --config recipes/7b.yaml"),
        ("show-quickstart", "lima.train.show --config recipes/quickstart.yaml"),
        ("base-8b", "lima.train.base --config recipes/8b.yaml"),
        ("merge", "lima.train.merge --run runs/quickstart"),
        ("chat", "lima.evaluate.chat --run runs/quickstart"),
    ],
)
def test_targets_run_what_they_say(target, command):
    assert command in make("-n", target)


def test_place_dataset_and_args_reach_the_launcher():
    place = ["GPUS=8", "NODES=2", "NODE_RANK=1", "MASTER_ADDR=a"]
    said = " ".join(make("-n", "sft-7b", *place, "DATASET=mine.jsonl", "ARGS=--seed 7").split())
    assert "--gpus 8 --nodes 2 --node-rank 1 --master-addr a" in said and "--dataset mine.jsonl --seed 7" in said
    assert "--hostfile hosts" in make("-n", "sft-7b", "HOSTFILE=hosts")


def test_the_planner_gets_kind_number_and_price():
    said = " ".join(make("-n", "plan-7b", "GPU=a100-80gb", "GPUS=8", "NODES=2", "PRICE=2").split())
    assert "--gpu a100-80gb --gpus 8 --nodes 2 \\ --price 2" in said


def test_quickstart_prepares_trains_and_compares():
    said = make("-n", "-B", "quickstart")
    steps = ["lima.train.base --config recipes/quickstart.yaml", "lima_sft.py --config recipes/quickstart.yaml",
             "lima.evaluate.before_after --run runs/quickstart"]  # fmt: skip
    assert [said.index(step) for step in steps] == sorted(said.index(step) for step in steps)
