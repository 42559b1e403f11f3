"""The arms of the ablations: what each changes, on the paper's size and on others, and that it is no more than its question."""

import hashlib
import json
import random
import shutil
from argparse import Namespace

import pytest
import yaml
from conftest import ROOT
from transformers import AutoTokenizer

import lima_sft
from lima import UserError, conversations, recipe, runs
from lima.reproduce import arms
from lima.train import base, batches

ALL = [arm for one in arms.ABLATIONS.values() for arm in one.arms]
OWN = {"run_name", "seed", "keep_epochs"}  # what is each run's own


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """A copy of the recipes in an empty working folder, to be changed."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "recipes"


def test_every_file_is_an_arm_and_every_arm_a_file():
    assert sorted(set(ALL)) == sorted(path.stem for path in arms.FOLDER.glob("*.yaml"))
    for name in arms.ABLATIONS:
        arms.check(name)


@pytest.mark.parametrize("arm", sorted(set(ALL)))
def test_on_the_papers_size_an_arm_is_its_file(arm):
    """`SIZE=7b` resolves to what `--config recipes/ablations/ARM.yaml` says."""
    ours = recipe.load(arms.words(arm, "7b", 1)).given
    file = recipe.load(["--config", f"recipes/ablations/{arm}.yaml"]).given
    assert {key: value for key, value in ours.items() if key not in OWN} == {
        key: value for key, value in file.items() if key not in OWN
    }


@pytest.mark.parametrize("arm", sorted(set(ALL)))
@pytest.mark.parametrize("size", ["7b", "135m"])
def test_an_arm_changes_what_its_file_says_and_nothing_else(arm, size):
    given = recipe.load(["--config", f"recipes/{size}.yaml"]).given
    ours = recipe.load(arms.words(arm, size, 3)).given
    differ = {key for key in {*given, *ours} if given.get(key) != ours.get(key)} - OWN
    said = yaml.safe_load((ROOT / f"recipes/ablations/{arm}.yaml").read_text())
    if said["extends"] == "quality-filtered.yaml":
        said = yaml.safe_load((ROOT / "recipes/ablations/quality-filtered.yaml").read_text())
    assert differ <= said.keys() - {"extends"}
    assert (ours["seed"], ours["run_name"], ours["keep_epochs"]) == (3, f"{size}-{arm}-s3", "none")


def test_another_preparation_of_the_base_follows_the_size():
    words = arms.words("eot-vs-eos", "135m", 1)
    assert recipe.load(words).model_name_or_path == "bases/smollm2-135m-eos"
    assert recipe.load(arms.words("eot-vs-eos", "7b", 1)).model_name_or_path == "bases/llama-7b-eos"


def test_one_training_for_what_is_the_same():
    assert {arms.trained_as(arm) for arm in ("quality-filtered", "diversity-stackexchange", "quantity-2k")} == {
        "quality-filtered"
    }
    assert [arms.trained_as(arm) for arm in ("baseline", "structure-with", "quantity-4k")] == [
        "baseline",
        "structure-with",
        "quantity-4k",
    ]


def test_arms_that_differ_in_more_are_refused(recipes):
    path = recipes / "ablations/quality-unfiltered.yaml"
    path.write_text(path.read_text() + "learning_rate: 2e-5\n")
    with pytest.raises(
        UserError, match=r"quality-unfiltered.yaml: changes learning_rate; the arms of quality may differ in dataset"
    ):
        arms.check("quality")


def test_missing_data_is_named_with_what_makes_it(recipes):
    (line, other) = arms.missing("quality", "7b")
    assert line == "data/se-filtered-2k: make curate-stackexchange RAW=dumps/ && make curate-mix DATA=se-filtered-2k"
    assert "curate-stackexchange RAW=dumps/ DATA=se-unfiltered-2k && make curate-mix DATA=se-unfiltered-2k" in other
    (recipes.parent / "data/se-filtered-2k").mkdir(parents=True)
    assert len(arms.missing("quality", "7b")) == 1 and "curate-wikihow RAW=pages/" in arms.missing("diversity", "7b")[0]
    assert arms.missing("open-questions", "135m") == []
    assert arms.missing("open-questions", "7b")[0].startswith("GAIR/lima: ")
    assert arms.missing("open-questions", "7b", ["--dataset", "mine.jsonl", "--seed", "3"]) == []
    assert arms.missing("dialogue", "7b", ["--dataset=mine.jsonl"])[0].startswith("GAIR/lima: ")  # an arm's own stands


@pytest.mark.parametrize(("name", "words"), [("quallity", "no ablation 'quallity'; there are quality, diversity")])
def test_unknown_names(name, words):
    with pytest.raises(UserError, match=words):
        arms.ablation(name)
    with pytest.raises(UserError, match=r"SIZE=8x: no recipes/8x.yaml; there are 135m"):
        arms.words("baseline", "8x", 1)


# ---- the keys that arms need -------------------------------------------------------------------------------------------


def test_rows_are_left_out_by_number(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]} for n in range(5)
    ]
    runs.write_jsonl(tmp_path / "d.jsonl", rows)
    found = conversations.load(str(tmp_path / "d.jsonl"), exclude_rows=[1, 3])
    assert [row["row"] for row in found.rows] == [0, 2, 4] and found.excluded == 2
    with pytest.raises(UserError, match="exclude_rows names row 5, but it has rows 0 to 4"):
        conversations.load(str(tmp_path / "d.jsonl"), exclude_rows=[5])


def best_fit_decreasing(lengths, size):
    """Blocks that packing needs, written out plainly."""
    room = []
    for length in sorted(lengths, reverse=True):
        fits = [left for left in room if left >= length]
        if fits:
            room.remove(min(fits))
            room.append(min(fits) - length)
        else:
            room.append(size - length)
    return len(room)


def test_packed_steps_hold_what_packed_blocks_would():
    chance = random.Random(0)
    lengths = [chance.randint(20, 2048) for _ in range(1000)]
    wanted = Namespace(packed=True, global_batch_size=32, max_length=2048)
    assert batches.packed(wanted, lengths) is lengths
    assert wanted.global_batch_size == round(32 * 1000 / best_fit_decreasing(lengths, 2048)) > 50
    batches.packed(wanted, lengths)
    assert wanted.global_batch_size < 80  # once, however often it is asked
    plain = Namespace(packed=False, global_batch_size=32, max_length=2048)
    batches.packed(plain, lengths)
    assert plain.global_batch_size == 32


def test_a_base_may_keep_its_own_eos(tiny_base, tmp_path):
    source = tiny_base.parent / "source"
    record = base.prepare(source, tmp_path / "eos", eot_token=base.OWN_EOS)
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (source, tmp_path / "eos"))
    assert after.eos_token_id == before.eos_token_id == record["eot_id"] and "<|eot|>" not in record["new_tokens"]
    generation = json.loads((tmp_path / "eos/generation_config.json").read_text())
    assert generation["eos_token_id"] == [before.eos_token_id]
    assert base.prepare(source, tmp_path / "eos", eot_token=base.OWN_EOS) == record


def test_an_arm_that_changes_nothing_gives_the_same_weights(tiny_base, tmp_path):
    """Bit for bit: the recipe itself, and `baseline` of it."""
    rows = (ROOT / "data/starter.jsonl").read_text(encoding="utf-8").splitlines()[:6]
    (tmp_path / "six.jsonl").write_text("\n".join(rows), encoding="utf-8")
    small = ["--model_name_or_path", tiny_base, "--dataset", tmp_path / "six.jsonl", "--report_to", "none", "--max_steps", 2,
             "--global_batch_size", 4, "--heldout", "None", "--dataloader_pin_memory", "false"]  # fmt: skip
    made = []
    for words in (
        ["--config", "recipes/135m.yaml", "--seed", "2"],
        arms.words("baseline", "135m", 2),
        arms.words("no-ramp", "135m", 2),
    ):
        folder = tmp_path / str(len(made))
        lima_sft.main([str(word) for word in [*words, *small, "--output_dir", folder]])
        made.append(hashlib.sha256((folder / "checkpoint-2/model.safetensors").read_bytes()).hexdigest())
    assert made[0] == made[1] != made[2]
