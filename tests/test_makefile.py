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
    assert len(lines) <= 40 and max(map(len, lines)) <= 100
    for recipe in Path("recipes").glob("*.yaml"):
        if recipe.stem != "lima":
            assert f" {recipe.stem} " in page.replace("\n", " ") + " "


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("sft-65b", "lima_sft.py --config recipes/65b.yaml"),
        ("plan-7b", "lima_sft.py --config recipes/7b.yaml --dry_run"),
        ("show-quickstart", "lima.train.show --config recipes/quickstart.yaml"),
        ("base-8b", "lima.train.base --config recipes/8b.yaml"),
        ("chat", "lima.evaluate.chat --run runs/quickstart"),
    ],
)
def test_targets_run_what_they_say(target, command):
    assert command in make("-n", target)


def test_gpus_dataset_and_args_reach_the_trainer():
    said = make("-n", "sft-7b", "GPUS=8", "DATASET=mine.jsonl", "ARGS=--seed 7")
    assert "torchrun --standalone --nproc_per_node 8" in said
    assert "--dataset mine.jsonl --seed 7" in said
    assert "torchrun" not in make("-n", "sft-7b", "GPUS=1")


def test_quickstart_prepares_trains_and_compares():
    said = make("-n", "-B", "quickstart")
    steps = ["lima.train.base --config recipes/quickstart.yaml", "lima_sft.py --config recipes/quickstart.yaml",
             "lima.evaluate.before_after --run runs/quickstart"]  # fmt: skip
    assert [said.index(step) for step in steps] == sorted(said.index(step) for step in steps)
