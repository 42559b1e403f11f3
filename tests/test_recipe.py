"""Recipes: chains, types, flags, errors and exit codes; every shipped recipe; the paper's numbers in `65b` and `7b`."""

import dataclasses
import enum
import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import types
import typing

import pytest
import torch
import yaml
from conftest import ROOT, run
from transformers import get_scheduler
from trl import ModelConfig, SFTConfig

from lima import UserError, recipe, runs

NEEDED = "model_name_or_path: bases/none\ndataset: none.jsonl\n"
RECIPES = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "recipes").rglob("*.yaml") if path.parent.name != "data"
)
ON_CPU = {"use_cpu": True, "deepspeed": None, "bf16": False}  # a recipe for GPUs, built here


@pytest.fixture
def write(tmp_path):
    """Writes a recipe below tmp_path and returns its path; `needed=False` leaves out the model and the dataset."""

    def write(text="", name="mine.yaml", needed=True):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((NEEDED if needed else "") + text, encoding="utf-8")
        return path

    return write


def load(path, *flags):
    return recipe.load(["--config", str(path), *flags])


def error_of(path, *flags):
    with pytest.raises(UserError) as caught:
        load(path, *flags)
    return str(caught.value)


# ---- extends ---------------------------------------------------------------------------------------------------------


def test_child_wins_and_inherits_the_rest(write):
    write("learning_rate: 1.0\nseed: 7\n", "parent.yaml")
    args = load(write("extends: parent.yaml\nlearning_rate: 2.0\n", "child.yaml", needed=False))
    assert (args.learning_rate, args.seed, args.dataset) == (2.0, 7, "none.jsonl")


def test_extends_nests_and_is_relative_to_the_recipe_that_says_it(write):
    write("seed: 1\nmax_steps: 1\nlora_r: 1\n", "base.yaml")
    write("extends: ../base.yaml\nmax_steps: 2\nlora_r: 2\n", "sizes/middle.yaml", needed=False)
    args = load(write("extends: ../sizes/middle.yaml\nlora_r: 3\n", "ablations/child.yaml", needed=False))
    assert (args.seed, args.max_steps, args.lora_r) == (1, 2, 3)


@pytest.mark.parametrize("key, parents, default", [("learning_rate", "1.0", 2e-5), ("heldout", "some.jsonl", None)])
def test_null_resets_to_the_default(write, key, parents, default):
    write(f"{key}: {parents}\n", "parent.yaml")
    args = load(write(f"extends: parent.yaml\n{key}: null\n", "child.yaml", needed=False))
    assert getattr(args, key) == default


def test_a_grandchild_sets_what_the_child_reset(write):
    write("seed: 1\n", "a.yaml")
    write("extends: a.yaml\nseed: null\n", "b.yaml", needed=False)
    assert load(write("extends: b.yaml\nseed: 3\n", "c.yaml", needed=False)).seed == 3


def test_output_dir_reset_by_null_is_the_runs_folder_again(write):
    write("output_dir: elsewhere\n", "parent.yaml")
    args = load(write("extends: parent.yaml\noutput_dir: null\n", "child.yaml", needed=False))
    assert args.output_dir == "runs/child"


@pytest.mark.parametrize(
    "files",
    [
        {"a.yaml": "a.yaml"},
        {"a.yaml": "b.yaml", "b.yaml": "a.yaml"},
        {"a.yaml": "sub/b.yaml", "sub/b.yaml": "../a.yaml"},
    ],
    ids=["itself", "two", "across-folders"],
)
def test_a_loop_of_extends_is_named_as_one(write, files):
    for name, parent in files.items():
        write(f"extends: {parent}\n", name)
    message = error_of(write(f"extends: {files['a.yaml']}\n", "a.yaml"))
    assert "extends itself" in message and "a.yaml" in message


def test_missing_parent_names_the_file(write):
    assert "gone.yaml" in error_of(write("extends: gone.yaml\n"))


@pytest.mark.parametrize("value", ["[parent.yaml]", "7", "{a: b}"])
def test_extends_that_is_not_a_name_names_file_and_key(write, value):
    message = error_of(write(f"extends: {value}\n"))
    assert "mine.yaml" in message and "extends" in message


# ---- types -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1e-5", "1E-5", "1.0e-5", "1.e-5", "+1e-5", "0.00001", "10e-6"])
def test_floats_arrive_as_numbers(write, text):
    assert load(write(f"learning_rate: {text}\n")).learning_rate == 1e-5


def test_numbers_inside_a_dict_arrive_as_numbers(write):
    args = load(write("lr_scheduler_kwargs: {lr_end: 1e-6, power: 1.0}\n"))
    config = recipe.build(args, SFTConfig, **ON_CPU)
    assert config.lr_scheduler_kwargs == {"lr_end": 1e-6, "power": 1.0}
    assert all(isinstance(value, float) for value in config.lr_scheduler_kwargs.values())


def test_a_dict_on_the_command_line_wins_over_yaml(write):
    args = load(write("lr_scheduler_kwargs: {lr_end: 1e-6}\n"), "--lr_scheduler_kwargs", '{"lr_end": 1e-7}')
    assert recipe.build(args, SFTConfig, **ON_CPU).lr_scheduler_kwargs == {"lr_end": 1e-7}


@pytest.mark.parametrize("text", ["[a, b c]", "\n- a\n- b c"])
def test_lists_keep_their_items(write, text):
    assert load(write(f"exclude_sources: {text}\n")).exclude_sources == ["a", "b c"]


def test_a_single_value_is_a_list_of_one(write):
    assert load(write("exclude_sources: multi_turn\n")).exclude_sources == ["multi_turn"]


@pytest.mark.parametrize("text, value", [("true", True), ("false", False), ("yes", True), ("no", False)])
def test_booleans_are_booleans(write, text, value):
    args = load(write(f"padding_free: {text}\ngradient_checkpointing: {text}\n"))
    assert (args.padding_free, args.gradient_checkpointing) == (value, value)


def test_negative_numbers_are_values_not_flags(write):
    assert load(write("max_steps: -1\n")).max_steps == -1
    assert load(write(), "--max_steps", "-1").max_steps == -1


@pytest.mark.parametrize("revision", ["4782e5f", "68958e4", "9e107d9d372bb6826bd81d3542a419d6d542ba4f"])
def test_a_commit_that_looks_like_a_number_stays_as_written(write, revision):
    assert load(write(f"base_revision: {revision}\n")).base_revision == revision


@pytest.mark.parametrize("token", ["{eot}", "<|eot|>", "[EOT]", "#"])
def test_a_token_may_hold_any_sign(write, token):
    args = load(write(f"eot_token: '{token}'\n"))
    assert (args.eot_token, args.given["eot_token"]) == (token, token)


def test_reading_a_recipe_leaves_other_peoples_yaml_alone():
    assert yaml.safe_load("x: 1e-5") == {"x": "1e-5"}


# ---- flags -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        ["--learning_rate", "3e-5"],
        ["--learning_rate=3e-5"],
        ["--learning-rate", "3e-5"],
        ["--learning-rate=3e-5"],
        ["--learning_rate=1.0", "--learning-rate", "3e-5"],
    ],
)
def test_command_line_wins_over_yaml(write, flags):
    assert load(write("learning_rate: 1e-5\n"), *flags).learning_rate == 3e-5


def test_a_list_on_the_command_line_replaces_the_recipes(write):
    args = load(write("exclude_sources: [a, b]\n"), "--exclude_sources", "c", "d e", "--seed", "3")
    assert (args.exclude_sources, args.seed) == (["c", "d e"], 3)


def test_a_dash_inside_a_value_stays(write):
    assert load(write(), "--run-name=my-run-1").run_name == "my-run-1"


def test_a_bare_flag_is_true(write):
    args = load(write("dry_run: false\n"), "--dry-run", "--seed", "3")
    assert (args.dry_run, args.seed) == (True, 3)


def test_config_may_stand_anywhere(write):
    assert recipe.load(["--seed", "3", f"--config={write()}"]).seed == 3


SAMPLES = {bool: ("true", True), int: ("7", 7), float: ("0.5", 0.5), list: ("a b", ["a", "b"]), str: ("text", "text")}
OURS = {"keep_epochs": ("2-3", "2-3"), "exclude_rows": ("1 2", [1, 2])}  # with a form of their own


def sample(field, hint):
    """A valid `(words, expected value)` for a field of that type, chosen without asking the parser."""
    kinds = [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    if field.name in OURS:
        return OURS[field.name]
    if field.metadata.get("choices"):
        return (str(list(field.metadata["choices"])[-1]),) * 2
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return (list(kind)[-1].value,) * 2
        if typing.get_origin(kind) is typing.Literal:
            return (str(typing.get_args(kind)[-1]),) * 2
    plain = [typing.get_origin(kind) or kind for kind in kinds]
    if dict in plain:
        return '{"rope": true}', {"rope": True}
    if str in plain and bool not in plain:
        of = next((typing.get_args(kind)[0] for kind in kinds if typing.get_origin(kind) is list), None)
        return (list(of)[-1].value,) * 2 if isinstance(of, enum.EnumType) else SAMPLES[str]
    for kind in (bool, int, float, list, str):
        if kind in plain:
            return SAMPLES[kind]
    return "none", None  # a Python object, which has no other form as text


def fields():
    for cls in (recipe.LimaArguments, SFTConfig, ModelConfig):
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if field.init and field.name not in recipe.DERIVED:
                yield pytest.param(field, hints[field.name], id=f"{cls.__name__}.{field.name}")


@pytest.mark.parametrize("field, hint", fields())
def test_every_field_is_a_flag_and_can_be_recorded(write, field, hint):
    words, expected = sample(field, hint)
    args = load(write(), f"--{field.name}", *(words.split() if isinstance(expected, list) else [words]))
    value = getattr(args, field.name)
    if isinstance(value, list) and not isinstance(expected, list):
        value = value[0]
    assert (json.loads(value) if isinstance(expected, dict) and isinstance(value, str) else value) == expected
    assert field.name in yaml.safe_load(recipe.as_yaml(args.given))


# ---- what load returns -----------------------------------------------------------------------------------------------


def test_given_holds_what_the_recipes_and_the_command_line_set(write):
    write("seed: 7\n", "parent.yaml")
    args = load(write("extends: parent.yaml\nlora_r: 4\n", "child.yaml", needed=False), "--max-steps", "2")
    expected = {"model_name_or_path": "bases/none", "dataset": "none.jsonl", "seed": 7, "lora_r": 4, "max_steps": 2}
    assert args.given == expected


@pytest.mark.parametrize(
    "text, flags, name, folder",
    [
        ("", [], "mine", "runs/mine"),
        ("run_name: other\n", [], "other", "runs/other"),
        ("run_name: other\n", ["--run_name", "third"], "third", "runs/third"),
        ("output_dir: /data/x\n", [], "mine", "/data/x"),
    ],
)
def test_a_run_is_named_after_its_recipe_and_lies_in_runs(write, text, flags, name, folder):
    args = load(write(text), *flags)
    assert (args.run_name, args.output_dir) == (name, folder)


def test_what_as_yaml_writes_is_read_back_with_the_same_types(tmp_path):
    values = {
        "learning_rate": 1e-5,
        "lr_scheduler_kwargs": {"lr_end": 1e-6, "power": 1.0},
        "texts": ["1e-5", "4782e5f", "null", "yes", "5-10", "007", "a: b # c", "é 漢 😀"],
        "seed": 42,
        "bf16": True,
        "heldout": None,
    }
    (tmp_path / "out.yaml").write_text(recipe.as_yaml(values), encoding="utf-8")
    [(_, back)] = recipe.read_chain(tmp_path / "out.yaml")
    assert list(back.items()) == list(values.items())
    assert [type(value) for value in back.values()] == [type(value) for value in values.values()]


def test_build_turns_a_value_that_trl_refuses_into_an_error_that_names_the_recipe(write):
    args = load(write("load_best_model_at_end: true\nsave_strategy: epoch\neval_strategy: 'no'\n"))
    with pytest.raises(UserError, match=r"mine\.yaml"):
        recipe.build(args, SFTConfig, **ON_CPU)


def test_build_overrides_win(write):
    args = load(write("seed: 1\n"))
    assert recipe.build(args, SFTConfig, **{**ON_CPU, "seed": 2}).seed == 2


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "typo, meant",
    [
        ("learning_rat", "learning_rate"),
        ("globl_batch_size", "global_batch_size"),
        ("residual-dropout-rate", "residual_dropout"),
        ("lora_rr", "lora_r"),
    ],
)
def test_unknown_key_names_the_nearest_one_and_the_file(write, typo, meant):
    message = error_of(write(f"{typo}: 1\n"))
    assert "mine.yaml" in message and typo in message and f"did you mean {meant}?" in message


def test_unknown_key_in_a_parent_names_the_parent(write):
    write("learning_rat: 1\n", "parent.yaml")
    message = error_of(write("extends: parent.yaml\n", "child.yaml", needed=False))
    assert "parent.yaml" in message and "child.yaml" not in message


def test_unknown_key_without_a_near_one_points_to_the_help(write):
    message = error_of(write("zzzz: 1\n"))
    assert "zzzz" in message and "--help" in message


@pytest.mark.parametrize("flags", [["--learning_rat", "1"], ["--learning-rat=1"], ["--seed", "1", "--learning_rat"]])
def test_unknown_flag_names_the_nearest_one_and_the_command_line(write, flags):
    message = error_of(write(), *flags)
    assert "command line" in message and "learning_rat;" in message and "did you mean learning_rate?" in message


def test_a_flag_may_not_be_abbreviated(write):
    assert "unknown key learning" in error_of(write(), "--learning", "1")


@pytest.mark.parametrize("key", ["on", "yes", "1", "2.5", "null"])
def test_a_key_that_is_not_text_names_the_file(write, key):
    assert "mine.yaml" in error_of(write(f"{key}: 1\n"))


@pytest.mark.parametrize(
    "key, value",
    [
        ("learning_rate", "fast"),
        ("learning_rate", "true"),
        ("learning_rate", "[1, 2]"),
        ("num_train_epochs", "{a: 1}"),
        ("global_batch_size", "32.5"),
        ("global_batch_size", "many"),
        ("dry_run", "maybe"),
        ("eot_init", "zeros"),
        ("lr_scheduler_type", "straight"),
        ("keep_epochs", "soon"),
    ],
)
def test_wrong_type_names_file_and_key(write, key, value):
    message = error_of(write(f"{key}: {value}\n"))
    assert "mine.yaml" in message and key in message


@pytest.mark.parametrize("child, named", [("", "parent.yaml"), ("seed: y\n", "child.yaml")])
def test_wrong_type_names_the_recipe_that_says_it(write, child, named):
    write("seed: x\n", "parent.yaml")
    message = error_of(write(f"extends: parent.yaml\n{child}", "child.yaml", needed=False))
    assert f"{named}: seed" in message


@pytest.mark.parametrize(
    "flags",
    [
        ["--learning_rate", "fast"],
        ["--learning_rate"],
        ["--learning-rate", "1", "2"],
        ["--lr_scheduler_kwargs", "{lr_end:1e-6}"],  # what a shell leaves of unquoted JSON
    ],
    ids=" ".join,
)
def test_wrong_value_of_a_flag_names_the_flag(write, flags):
    message = error_of(write(), *flags)
    named = flags[0][2:].replace("-", "_")
    assert named in message or f"cannot read '{flags[-1]}'" in message


@pytest.mark.parametrize("words", [["word"], ["-seed", "3"], ["--seed", "3", "4"]])
def test_words_that_are_no_flag_are_an_error(write, words):
    assert "cannot read" in error_of(write(), *words)


REFUSED = {
    "gradient_accumulation_steps": ("4", "global_batch_size"),
    "push_to_hub": ("true", "three steps"),
    "trust_remote_code": ("true", "no code"),
    "pad_token": ("x", "padding_token"),
    "eos_token": ("x", "eot_token"),
    "hub_token": ("hf_secret", "HF_TOKEN"),
    "chat_template_path": ("x", "lima/chat_template.jinja"),
    "packing": ("true", "optimiser step"),
    "assistant_only_loss": ("true", "loss_on"),
    "completion_only_loss": ("true", "loss_on"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_derived_key_in_a_recipe_is_refused_with_the_reason(write, key):
    value, reason = REFUSED[key]
    message = error_of(write(f"{key}: {value}\n"))
    assert "mine.yaml" in message and f"{key} cannot be set" in message and reason in message


@pytest.mark.parametrize("key", REFUSED)
def test_derived_key_as_a_flag_is_refused_with_the_reason(write, key):
    value, reason = REFUSED[key]
    message = error_of(write(), f"--{key.replace('_', '-')}={value}")
    assert "command line" in message and f"{key} cannot be set" in message and reason in message
    assert "hf_secret" not in message


@pytest.mark.parametrize("text", ["seed: 1\nlora_r: [1, 2\n", "seed: 1\n\tlora_r: 2\n", "seed: 1\na: b: c\n"])
def test_bad_yaml_names_file_and_line(write, text):
    lines = [line for line in text.splitlines() if line]
    message = error_of(write(text, needed=False))
    assert "mine.yaml" in message and "not valid YAML" in message
    assert any(f"line {number}" in message for number in (len(lines), len(lines) + 1))  # an open bracket ends below it


def test_bytes_that_are_not_text_name_the_file(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"seed: 1 # \xe9\n")
    assert "mine.yaml" in error_of(tmp_path / "mine.yaml")


@pytest.mark.parametrize("text, found", [("- a\n- b\n", "list"), ("words\n", "str"), ("7\n", "int")])
def test_yaml_that_is_no_mapping_names_the_file_and_what_it_is(write, text, found):
    message = error_of(write(text, needed=False))
    assert "mine.yaml" in message and found in message and "key: value" in message


@pytest.mark.parametrize("path", ["recipes/gone.yaml", "recipes"])
def test_a_recipe_that_cannot_be_read_is_named(path):
    message = error_of(path)
    assert path in message and "recipes/" in message


def test_no_recipe_at_all_shows_how_to_name_one():
    with pytest.raises(UserError, match=r"--config recipes/"):
        recipe.load([])


@pytest.mark.parametrize(
    "text, key",
    [
        ("dataset: d\n", "model_name_or_path"),
        ("model_name_or_path: m\n", "dataset"),
        (NEEDED + "global_batch_size: 0\n", "global_batch_size"),
        (NEEDED + "num_train_epochs: 0\n", "num_train_epochs"),
        (NEEDED + "residual_dropout: 1.0\n", "residual_dropout"),
        (NEEDED + "residual_dropout: -0.1\n", "residual_dropout"),
        (NEEDED + "max_length: 3\n", "max_length"),
    ],
)
def test_missing_or_impossible_value_names_file_and_key(write, text, key):
    message = error_of(write(text, needed=False))
    assert "mine.yaml" in message and key in message


# ---- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", dataclasses.fields(recipe.LimaArguments), ids=lambda field: field.name)
def test_help_names_every_field_of_ours_with_its_meaning(field):
    entry = recipe.help_text().split(f"  --{field.name} ", 1)[1].split("\n  --")[0]
    assert field.metadata["help"] in entry
    assert all(choice in entry for choice in field.metadata.get("choices", []))


def test_help_all_names_every_field_of_trls_configs():
    text = recipe.help_text(all_fields=True)
    names = [f.name for cls in (recipe.LimaArguments, SFTConfig, ModelConfig) for f in dataclasses.fields(cls)]
    assert [name for name in names if f"--{name}" not in text] == []


# ---- exit codes, in a process of their own ---------------------------------------------------------------------------


def assert_user_error(done, *parts):
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().startswith("error: ")
    for part in parts:
        assert part in done.stderr


@pytest.mark.slow
def test_unknown_key_exits_with_2(write):
    done = run("lima_sft.py", "--config", write("learning_rat: 1\n"))
    assert_user_error(done, "mine.yaml", "did you mean learning_rate?")


def test_missing_recipe_exits_with_2():
    assert_user_error(run("lima_sft.py", "--config", "recipes/gone.yaml"), "recipes/gone.yaml")


@pytest.mark.slow
def test_missing_dataset_exits_with_2(write, tmp_path):
    done = run("lima_sft.py", "--config", write(), "--dataset", tmp_path / "gone.jsonl")
    assert_user_error(done, "gone.jsonl", "no such file")


@pytest.mark.slow
def test_dataset_with_bad_rows_exits_with_2_and_names_them(write, tmp_path):
    rows = [{"prompt": "Hi", "response": "Hello."}, {"conversations": ["Hi"]}, {"prompt": "Hi", "response": " "}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("lima_sft.py", "--config", write(), "--dataset", tmp_path / "rows.jsonl")
    assert_user_error(done, "rows.jsonl", "2 rows", "row 1:", "row 2:")
    assert "row 0:" not in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--config", "recipes/gone.yaml", "--help"]])
def test_help_exits_with_0(words):
    done = run("lima_sft.py", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--global_batch_size" in done.stdout


def test_ctrl_c_exits_with_130_and_no_traceback(tmp_path):
    fifo = tmp_path / "mine.yaml"
    os.mkfifo(fifo)  # reading the recipe then waits for us, so the signal comes at a known place
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # else a child of `nohup` ignores it
    try:
        words = [sys.executable, "lima_sft.py", "--config", str(fifo), "--dry_run"]
        child = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        writer = when_read(fifo)
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=30)
        os.close(writer)
    finally:
        child.kill()
        signal.signal(signal.SIGINT, before)
    assert child.returncode == 130, said
    assert "Traceback" not in said and "Ctrl-C" in said


def when_read(fifo, seconds=60):
    """Opens `fifo` for writing as soon as somebody reads it."""
    for _ in range(seconds * 20):
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            assert error.errno == errno.ENXIO
            time.sleep(0.05)
    raise TimeoutError(fifo)


# ---- every recipe that ships -----------------------------------------------------------------------------------------


def shipped(path):
    """A shipped recipe, resolved; `lima.yaml` itself names no model and no dataset."""
    return load(path, *(["--model_name_or_path", "m", "--dataset", "d"] if path == "recipes/lima.yaml" else []))


@pytest.mark.parametrize("path", RECIPES)
def test_shipped_recipe_is_what_the_installed_trl_takes(path):
    args = shipped(path)
    recipe.build(args, ModelConfig)
    config = recipe.build(args, SFTConfig, **ON_CPU)
    assert config.learning_rate == args.learning_rate and config.num_train_epochs == args.num_train_epochs


@pytest.mark.parametrize("path", RECIPES)
def test_shipped_recipe_names_files_that_ship(path):
    args = shipped(path)
    named = [name for name in (args.deepspeed, args.dev_prompts, args.test_prompts) if name]
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("path", [path for path in RECIPES if path != "recipes/lima.yaml"])
def test_shipped_recipe_opens_with_command_hardware_time_and_deviations(path):
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    header = "\n".join(itertools.takewhile(lambda line: line.startswith("#") or not line.strip(), lines))
    words = (
        ["make "] if "ablations/" in path else ["make ", "hardware", "time", "deviations"]
    )  # an arm's are its size's
    assert [word for word in words if word not in header] == []


# ---- the paper's numbers (arXiv 2305.11206, section 3), written out here ---------------------------------------------

PAPER = {
    "num_train_epochs": 15,
    "optim": ("adamw_torch", "adamw_torch_fused"),
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "weight_decay": 0.1,
    "learning_rate": 1e-5,
    "lr_scheduler_type": "polynomial",
    "warmup_steps": 0,
    "max_length": 2048,
    "over_length": "trim",
    "keep_epochs": "5-10",
    "save_strategy": "epoch",
    "loss_on": "responses",
    "eot_init": "eos",
    "packing": False,
    "dataset": "GAIR/lima",
    "exclude_sources": ["multi_turn"],
    "use_peft": False,
    "max_steps": -1,
    "dataloader_drop_last": False,
    "neftune_noise_alpha": None,
    "label_smoothing_factor": 0,
}
SIZES = {
    "65b": {"global_batch_size": 32, "residual_dropout": 0.3, "base": "huggyllama/llama-65b"},
    "7b": {"global_batch_size": 64, "residual_dropout": 0.2, "base": "huggyllama/llama-7b"},
}


@pytest.mark.parametrize("name, key", [(name, key) for name in SIZES for key in {**PAPER, **SIZES[name]}])
def test_recipe_says_what_the_paper_says(name, key):
    expected = {**PAPER, **SIZES[name]}[key]
    value = getattr(load(f"recipes/{name}.yaml"), key)
    assert value in expected if isinstance(expected, tuple) else value == expected


@pytest.mark.parametrize("name", SIZES)
def test_kept_epochs_are_the_papers_five_to_ten(name):
    keep = runs.parse_epochs(load(f"recipes/{name}.yaml").keep_epochs)
    assert [epoch for epoch in range(1, 16) if keep(epoch)] == [5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("name", SIZES)
def test_built_config_says_what_the_paper_says(name):
    config = recipe.build(load(f"recipes/{name}.yaml"), SFTConfig, **ON_CPU)
    keys = [field.name for field in dataclasses.fields(SFTConfig) if field.name in PAPER and field.name != "optim"]
    assert {key: getattr(config, key) for key in keys} == {key: PAPER[key] for key in keys}
    assert config.lr_scheduler_kwargs == {"lr_end": 1e-6, "power": 1.0}
    assert config.get_warmup_steps(480) == 0
    assert (config.use_cpu, config.deepspeed, config.bf16) == (True, None, False)


@pytest.mark.parametrize("name", SIZES)
def test_learning_rate_falls_in_a_line_from_1e_5_to_1e_6(name):
    config = recipe.build(load(f"recipes/{name}.yaml"), SFTConfig, **ON_CPU)
    steps = 480  # 1,000 examples at 32 a step, 15 epochs
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=config.learning_rate)
    warmup = config.get_warmup_steps(steps)
    schedule = get_scheduler(config.lr_scheduler_type, optimizer, warmup, steps, config.lr_scheduler_kwargs)
    rates = []
    for _ in range(steps + 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    line = [1e-5 + (1e-6 - 1e-5) * step / steps for step in range(steps + 1)]
    assert rates == pytest.approx(line, rel=1e-9)


def test_exclusions_belong_to_the_dataset_that_they_were_made_for(write):
    """Another dataset, by a recipe above or by a flag, starts without them; the same one keeps them."""
    write("dataset: GAIR/lima\nexclude_sources: [multi_turn]\nexclude_rows: [3]\n", "below.yaml")
    kept = load(write("extends: below.yaml\ndataset: GAIR/lima\n"))
    assert (kept.exclude_sources, kept.exclude_rows) == (["multi_turn"], [3])
    for args in (
        load(write("extends: below.yaml\ndataset: mine.jsonl\n")),
        load(write("extends: below.yaml\n"), "--dataset", "mine.jsonl"),
        load(write("extends: below.yaml\n"), "--dataset=mine.jsonl"),
    ):
        assert (args.dataset, args.exclude_sources, args.exclude_rows) == ("mine.jsonl", None, None)
        assert "exclude_sources" not in args.given
    named = load(write("extends: below.yaml\n"), "--dataset", "mine.jsonl", "--exclude_sources", "dull")
    assert named.exclude_sources == ["dull"]
