"""A recipe and a data folder of one's own: what is written loads, resolves and trains; nothing is overwritten or left half."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

import lima_sft
from lima import UserError, conversations, recipe, runs, turns
from lima.curate import new
from lima.evaluate.generate import load_prompts
from lima.publish import data as push_data

DECLARED = {"dataset", "heldout", "dev_prompts", "test_prompts", "exclude_sources"}
FOLLOWS = {"config", "run_name", "output_dir", "given"}  # from the recipe's name, and what the recipes say


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A checkout with the shipped recipes and prompts, and nothing of anybody's own."""
    sizes = subprocess.run(["git", "ls-files", "recipes"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    for name in sizes or [str(path.relative_to(ROOT)) for path in (ROOT / "recipes").rglob("*.yaml")]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "data/prompts", tmp_path / "data/prompts")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything(folder):
    """Every path under `folder` with what it holds."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(*words):
    with pytest.raises(UserError) as caught:
        new.make(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["135m", "7b", "65b", "65b-qlora", "quickstart"])
def test_the_recipe_is_the_sizes_but_for_its_data(place, size):
    new.main(["--name", "mine", "--size", size])
    ours, theirs = (vars(recipe.load(["--config", f"recipes/{name}.yaml"])) for name in ("mine", size))
    differs = {key for key in ours if ours[key] != theirs[key]} - FOLLOWS
    assert {"dataset", "dev_prompts", "heldout"} <= differs <= DECLARED
    assert ours["dataset"] == "data/mine/train.jsonl" and not ours["exclude_sources"]
    assert (ours["run_name"], ours["output_dir"]) == ("mine", "runs/mine")
    chain = [path.name for path, _ in recipe.read_chain("recipes/mine.yaml")]
    assert chain[0] == "lima.yaml" and chain[-2:] == [f"{size}.yaml", "mine.yaml"]
    assert recipe.base_command("recipes/mine.yaml") == "make base-mine"


def test_what_a_size_says_of_its_own_dataset_does_not_reach_ours(place):
    (place / "recipes/odd.yaml").write_text(
        "extends: 7b.yaml\ndataset_split: train_sft\ndataset_revision: abc\n", encoding="utf-8"
    )
    new.make("mine", "odd")
    args = recipe.load(["--config", "recipes/mine.yaml"])
    found = conversations.load(args.dataset, args.dataset_split, args.dataset_revision, args.exclude_sources)
    assert len(found.rows) == 3 and args.dataset_revision is None


def test_another_size_is_another_word(place):
    """quickstart's recipe turned into 7b's by its `extends` alone: 7b's own dataset has sources that ours lacks."""
    new.make("mine", "quickstart")
    path = place / "recipes/mine.yaml"
    path.write_text(path.read_text().replace("extends: quickstart.yaml", "extends: 7b.yaml"))
    ours, theirs = (vars(recipe.load(["--config", f"recipes/{name}.yaml"])) for name in ("mine", "7b"))
    assert {key for key in ours if ours[key] != theirs[key]} - FOLLOWS <= DECLARED
    assert len(conversations.load(ours["dataset"], exclude_sources=ours["exclude_sources"]).rows) == 3


def test_the_recipe_opens_as_the_others_do(place):
    new.make("mine", "7b")
    head = [line for line in (place / "recipes/mine.yaml").read_text().splitlines() if line.startswith("#")]
    assert head[0].startswith("# make base-mine && make sft-mine ")
    assert [line.split()[1] for line in head[2:]] == ["hardware", "time", "deviations"]


def test_the_examples_show_every_form_and_meet_no_shipped_prompt(place):
    new.make("mine", "135m")
    raw = runs.read_jsonl("data/mine/train.jsonl")
    found = conversations.load("data/mine/train.jsonl")
    assert [one["id"] for one in raw] == ["mine-001", "mine-002", "mine-003"] == [one["id"] for one in found.rows]
    assert sorted({len(one["messages"]) for one in raw}) == [2, 4] and found.notes == [] and found.cut == []
    assert all(one["source"] != "unknown" for one in found.rows)
    name, prompts = load_prompts("data/mine/mine-dev.jsonl")
    assert name == "mine-dev" and len(prompts) == 3  # a set of its own: answers to `dev` are kept beside
    own = found.rows + conversations.load("data/mine/heldout.jsonl").rows
    shipped = [conversations.load_prompts(path) for path in (place / "data/prompts").glob("*.jsonl")]
    assert [conversations.contaminated(own, rows) for rows in [prompts, *shipped] if rows] == [[]] * (len(shipped) + 1)
    assert conversations.contaminated(found.rows, conversations.load("data/mine/heldout.jsonl").rows) == []


def test_every_key_that_the_guide_in_the_folder_names_is_read(place):
    """The table's keys on one row: what is short is read, what is beside reaches the pushed data."""
    new.make("mine", "135m")
    text = (place / "data/mine/README.md").read_text()
    keys = [
        key
        for line in text.splitlines()
        if line.startswith("| `")
        for key in re.findall("`(\\w+)`", line.split("|")[1])
    ]
    assert keys == ["messages", "id", "source", "author", "url", "license"]
    rows = [
        {"prompt": "One?", "response": "Two.", "author": "Ada", "url": "https://a.example", "license": "CC-BY-4.0"},
        {"conversations": ["Three?", "Four.", "Five?", "Six."], "license": "CC-BY-4.0"},
    ]
    runs.write_jsonl(place / "data/mine/train.jsonl", rows)
    revision, notes = push_data.collect("data/mine")
    assert {"train.parquet", "heldout.parquet", "prompts/dev.parquet"} < set(revision.files)
    card = revision.files["README.md"].decode()
    assert (
        "# mine\n" in card and "license: cc-by-4.0" in card and "`author` 1" in card and notes[-1].endswith("cc-by-4.0")
    )


def test_three_examples_train_for_a_step_and_the_run_gets_the_name(place, tiny_base, capsys):
    """A global batch of 64 with three examples: one partial step."""
    new.make("mine", "135m")
    words = ["--config", "recipes/mine.yaml", "--model_name_or_path", tiny_base, "--num_train_epochs", 1, "--bf16", "false",
             "--report_to", "none", "--sample_prompts", 2, "--dataloader_pin_memory", "false"]  # fmt: skip
    lima_sft.main([str(word) for word in words])
    checkpoint = place / "runs/mine/checkpoint-1"
    marker, metrics = runs.marker(checkpoint), runs.read_jsonl(place / "runs/mine/metrics.jsonl")
    assert marker["step"] == 1 and (checkpoint / "model.safetensors").is_file()
    held = [row["eval_loss"] for row in metrics if "eval_loss" in row]
    assert len(held) == 2 and held[1] != held[0]  # before, and after a step that moved the weights
    answered = [row["prompt_id"] for row in runs.read_jsonl(place / "runs/mine/samples.jsonl")]
    assert answered == ["mine-dev-001", "mine-dev-002"]
    assert "64 examples a step" in capsys.readouterr().out.replace("\n", " ")


def test_all_of_every_example_fits_and_its_answers_are_in_the_loss(place, smollm2_tokenizer):
    """quickstart drops what is longer than 256 tokens: it must keep all three."""
    new.make("mine", "quickstart")
    rows = conversations.load("data/mine/train.jsonl").rows
    encoded = turns.encode_all(smollm2_tokenizer, rows, 256, "responses", "drop")
    assert len(encoded.rows) == 3
    for row, source in zip(encoded.rows, rows, strict=True):
        kept = [token for token in row["labels"] if token != turns.IGNORED]
        said = smollm2_tokenizer.decode(kept).split("<|eot|>")
        assert said == [turn["content"] for turn in source["messages"] if turn["role"] == "assistant"] + [""]


# ---- what is there already -------------------------------------------------------------------------------------------


def test_a_folder_with_examples_stays_and_is_trained_on(place, capsys):
    (place / "data/mine").mkdir()
    (place / "data/mine/train.json").write_text(json.dumps([{"prompt": "One?", "response": "Two."}]))
    runs.write_jsonl(place / "data/mine/dev.jsonl", [{"messages": [{"role": "user", "content": "Three?"}]}])
    before = everything(place / "data")
    new.main(["--name", "mine", "--size", "65b-dialogue"])
    assert everything(place / "data") == before
    args = recipe.load(["--config", "recipes/mine.yaml"])
    assert (args.dataset, args.dev_prompts) == ("data/mine/train.json", "data/mine/dev.jsonl") and args.heldout is None
    said = capsys.readouterr().out
    assert "data/mine/train.json: 1 example, 0 of them dialogues" in said and "README" not in said


def test_a_second_time_changes_nothing(place):
    new.make("mine", "135m")
    (place / "data/mine/train.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    before = everything(place)
    assert refused("mine", "7b") == (
        "recipes/mine.yaml: stands already, and nothing was changed; choose another NAME, or edit what is there"
    )
    assert everything(place) == before


@pytest.mark.parametrize("there", ["recipes/mine.yaml", "recipes/data/mine.yaml", "runs/mine/metrics.jsonl"])
def test_a_name_in_use_is_refused(place, there):
    (place / there).parent.mkdir(parents=True, exist_ok=True)
    (place / there).touch()
    before = everything(place)
    assert "stands already, and nothing was changed" in refused("mine", "135m")
    assert everything(place) == before


def test_a_folder_or_file_without_examples_is_refused(place):
    (place / "data/a").mkdir()
    (place / "data/b").write_text("")
    os.symlink("nowhere", place / "data/c")
    before = everything(place)
    for name in ("a", "b", "c", "prompts"):
        assert refused(name, "135m").startswith(f"data/{name}: stands already, without a train.jsonl; put one there")
    assert everything(place) == before


def test_examples_that_cannot_be_trained_on_get_no_recipe(place):
    (place / "data/mine").mkdir()
    runs.write_jsonl(place / "data/mine/train.jsonl", [{"prompt": "a", "response": "b"}, {"prompt": "a"}])
    before = everything(place)
    with pytest.raises(UserError, match=r"data/mine/train.jsonl: 1 row cannot be used"):
        new.make("mine", "135m")
    assert everything(place) == before


# ---- errors ----------------------------------------------------------------------------------------------------------

BAD = ["Mine", "my own", "../up", "a/b", ".mine", "-x", "mine.yaml", "a" * 41, "münchen", "mine\n", "$(id)", "*"]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_name_is_one_line(place, name):
    before = everything(place)
    with pytest.raises(UserError, match="expected up to 40 lower-case letters, digits, - and _"):
        new.make(name, "135m")
    assert everything(place) == before


def test_other_mistakes_are_one_line(place, monkeypatch):
    assert refused("", "135m").startswith("NAME is missing: make new NAME=mine")
    for name in ("lima", "7b", "quickstart", "65b-qlora"):
        assert refused(name, "135m").startswith(f"recipes/{name}.yaml: stands already")
    assert refused("mine", "9b").startswith("SIZE=9b: no such recipe; there are: 135m, 13b, 1b, 30b,")
    for size in ("lima", "", "7b.yaml", "data/lima-open", "../recipes/7b"):
        assert refused("mine", size).startswith(f"SIZE={size}: no such recipe")
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    assert "where the Makefile lies" in refused("mine", "135m")
    assert everything(place / "elsewhere") == {}


def command(folder, *words, **more):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, *words], cwd=folder, env=env, text=True, stderr=subprocess.PIPE, **more)


def test_the_command_ends_with_2_and_a_line(place):
    process = command(place, "-m", "lima.curate.new", "--name=7b")
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 2 and said.strip().startswith("error: recipes/7b.yaml: stands already")


UNPRIVILEGED = """
import encodings.utf_8_sig  # while it may read everything
import os
from types import SimpleNamespace
from lima import exit_codes
from lima.curate import new
new.recipe.load = lambda words: SimpleNamespace(given={})  # TRL may lie where only its owner reads
if os.geteuid() == 0:  # who may write anywhere
    os.setuid(65534)
with exit_codes():
    new.main(["--name", "mine"])
"""


@pytest.mark.parametrize("shut", ["recipes", "data", None])
def test_a_read_only_folder_is_a_line_and_leaves_nothing(place, shut):
    place.chmod(0o755)
    before = everything(place)
    for name in ("recipes", "data"):
        (place / name).chmod(0o555 if name == shut else 0o777)
    process = command(place, "-c", UNPRIVILEGED)
    said = process.communicate(timeout=120)[1].strip()
    (place / "recipes").chmod(0o755)
    (place / "data").chmod(0o755)
    if shut is None:  # with both open the same script writes
        assert process.returncode == 0 and (place / "recipes/mine.yaml").is_file()
        return
    assert process.returncode == 2 and said.splitlines()[-1] == f"error: {shut}/.mine.partial: Permission denied"
    assert everything(place) == before


# ---- deaths ----------------------------------------------------------------------------------------------------------


def stopped_at(monkeypatch, number):
    """`os.rename` is stopped by Ctrl-C before its call `number`, or after it where that is negative."""
    calls, rename = [], os.rename

    def interrupted(*paths):
        calls.append(paths)
        if len(calls) == number:
            raise KeyboardInterrupt
        rename(*paths)
        if len(calls) == -number:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)


@pytest.mark.parametrize("number", [1, -1, 2])
def test_ctrl_c_between_folder_and_recipe_leaves_neither(place, monkeypatch, number):
    before = everything(place)
    with monkeypatch.context() as patch:
        stopped_at(patch, number)
        with pytest.raises(KeyboardInterrupt):
            new.make("mine", "135m")
    assert everything(place) == before
    new.make("mine", "135m")
    assert (place / "recipes/mine.yaml").is_file()


def test_ctrl_c_once_all_is_there_leaves_all(place, monkeypatch):
    stopped_at(monkeypatch, -2)
    with pytest.raises(KeyboardInterrupt):
        new.make("mine", "135m")
    assert not list(place.rglob("*.partial"))
    assert len(conversations.load(recipe.load(["--config", "recipes/mine.yaml"]).dataset).rows) == 3


def test_ctrl_c_takes_no_folder_that_somebody_else_made(place, monkeypatch):
    """One that came while ours was checked stands in the way of the rename, and stays."""
    check = new.check_data

    def meanwhile(*words):
        runs.write_jsonl(place / "data/mine/train.jsonl", [{"prompt": "a", "response": "b"}])
        return check(*words)

    monkeypatch.setattr(new, "check_data", meanwhile)
    with pytest.raises(OSError):
        new.make("mine", "135m")
    assert runs.read_jsonl(place / "data/mine/train.jsonl") == [{"prompt": "a", "response": "b"}]
    assert not (place / "recipes/mine.yaml").exists() and not list(place.rglob("*.partial"))


def test_a_folder_whose_recipe_was_lost_gets_the_same_recipe(place):
    """What a kill between the two leaves."""
    new.make("mine", "7b")
    recipe_file = place / "recipes/mine.yaml"
    first = recipe_file.read_bytes()
    recipe_file.unlink()
    new.make("mine", "7b")
    assert recipe_file.read_bytes() == first


HANGS = """
import time
from pathlib import Path
from types import SimpleNamespace
from lima import exit_codes
from lima.curate import new
new.recipe.load = lambda words: SimpleNamespace(given={})  # quick
def hang(*words):
    Path("hangs").touch()
    time.sleep(100)
new.check_data = hang
with exit_codes():
    new.main(["--name", "mine"])
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_stopped_leaves_the_next_one_free(place, sign):
    before = everything(place)
    process = command(place, "-c", HANGS, start_new_session=True)
    until = time.monotonic() + 120
    while not (place / "hangs").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert (place / "data/.mine.partial/train.jsonl").is_file()
    process.send_signal(sign)
    code = process.wait(60)
    (place / "hangs").unlink()
    if sign == signal.SIGINT:
        assert code == 130 and everything(place) == before
    new.make("mine", "135m")
    assert not list(place.rglob("*.partial")) and len(conversations.load("data/mine/train.jsonl").rows) == 3
