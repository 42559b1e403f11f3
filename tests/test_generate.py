"""Answers of a run's checkpoints, kept through whatever ends the command; answers side by side, whatever a model writes."""

import fcntl
import json
import os
import re
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from rich.cells import cell_len

from lima import UserError, conversations, exit_codes, runs, turns
from lima.evaluate import answer_file, answers, before_after, chat, decoding, generate

QUESTION = [{"role": "user", "content": "Why does bread rise?"}]
KEYS = {"prompt_id", "prompt", "response", "finish_reason", "tokens", "sampling", "sample"}


@pytest.fixture(scope="module")
def model(tiny_base):
    loaded, tokenizer = generate.load_model(tiny_base)
    return loaded.float(), tokenizer


def test_eot_ends_an_answer_and_is_not_part_of_it(model):
    model, tokenizer = model
    head = model.get_output_embeddings().weight.data
    before = head.clone()
    model.model.norm.weight.data.fill_(12.0)
    try:
        head[tokenizer.eos_token_id] = 0
        answers = generate.generate(model, tokenizer, [QUESTION], 6, 0)
        assert answers[0][1:] == ("length", 6)
        with torch.no_grad():
            ids = torch.tensor([turns.encode(tokenizer, QUESTION)[0]])
            hidden = model.model(ids).last_hidden_state[0, -1]
        head[tokenizer.eos_token_id] = hidden
        assert generate.generate(model, tokenizer, [QUESTION], 6, 0) == [("", "eot", 0)]
    finally:
        head.copy_(before)


def test_an_unprepared_model_is_refused(tiny_base):
    with pytest.raises(UserError, match="not prepared for LIMA"):
        generate.load_model(tiny_base.parent / "source")


@pytest.fixture
def run(tiny_base, tmp_path):
    """A run of three whole epochs and one that was cut off: checkpoints 2, 4 and 6 are complete, 5 ends within an epoch."""
    for step, epoch in ((2, 1.0), (4, 2.0), (5, 2.5), (6, 3.0)):
        folder = tmp_path / "runs/r" / f"checkpoint-{step}"
        shutil.copytree(tiny_base, folder, copy_function=os.link)
        files = {"model.safetensors": {"bytes": 1, "sha256": f"{step}"}}
        runs.write_marker(folder, {"step": step, "epoch": epoch, "files": files})
    shutil.copytree(tiny_base, tmp_path / "runs/r/checkpoint-8", copy_function=os.link)
    return tmp_path / "runs/r"


def make(run, *words):
    generate.main(["--run", str(run), "--max_new_tokens", "4", *map(str, words)])


def answers_of(run, step=6, name="dev"):
    return run / f"generations/checkpoint-{step}/{name}.jsonl"


def test_answers_of_the_newest_complete_checkpoint(run, capsys):
    make(run, "--limit", 5, "--samples", 2)
    out = capsys.readouterr().out
    assert "checkpoint 6 (epoch 3)" in out and "1 × 5 prompts (dev) × 2 = 10 answers, 0 of them there" in out
    assert "10 answers: " in out and str(answers_of(run)) in out
    assert all(len(line) <= 80 for line in out.splitlines() if str(run) not in line)
    assert [p.name for p in (run / "generations").rglob("*") if p.is_file()] == ["dev.jsonl"]
    rows = [json.loads(line) for line in answers_of(run).read_text(encoding="utf-8").splitlines()]
    prompts = conversations.load_prompts("data/prompts/dev.jsonl")[:5]
    assert [(row["prompt_id"], row["prompt"], row["sample"]) for row in rows] == [
        (prompt["id"], prompt["messages"][-1]["content"], sample) for prompt in prompts for sample in (0, 1)
    ]
    assert all(set(row) == KEYS and row["finish_reason"] in ("eot", "eos", "length") for row in rows)
    assert all(row["tokens"] == 4 for row in rows if row["finish_reason"] == "length")
    assert len({row["response"] for row in rows}) == 10
    assert rows[0]["sampling"] | {"device": ""} == {
        "engine": "transformers", "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2, "penalised": "generated tokens",
        "max_new_tokens": 4, "seed": 0, "dtype": "bfloat16", "device": "", "model": "checkpoint-6",
        "weights": runs.content_digest({"model.safetensors": "6"})[:16],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("epochs", "steps"), [("1-2", [2, 4]), ("3", [6]), ("2,9", [4]), ("all", [2, 4, 5, 6]), (None, [6])]
)
def test_epochs_choose_complete_checkpoints(run, epochs, steps):
    assert [runs.step_of(folder) for folder in generate.chosen(run, epochs)] == steps


def test_the_selected_checkpoint_goes_before_the_newest(run, capsys):
    (run / "selected.json").write_text('{"checkpoint": "checkpoint-2", "epoch": 1}')
    make(run, "--limit", 1)
    assert "checkpoint 2 (epoch 1, selected)" in capsys.readouterr().out
    assert len(answers.load(run).rows) == 1 and not answers_of(run).exists()  # what is judged next finds them
    assert [runs.step_of(folder) for folder in generate.chosen(run, "3")] == [6]
    assert list(generate.chosen(run / "checkpoint-4").values()) == ["2"]  # a checkpoint that is named is meant
    (run / "checkpoint-2" / runs.MARKER).unlink()
    with pytest.raises(UserError, match=r"selected\.json: names checkpoint-2, which is no complete checkpoint here; "):
        make(run, "--limit", 1)


def test_checkpoints_that_give_no_epoch_count_in_order(run):
    for folder in runs.checkpoints(run):
        runs.write_marker(folder, {"step": runs.step_of(folder), "files": {}})
    assert [runs.step_of(folder) for folder in generate.chosen(run, "2-3")] == [4, 5]


def test_each_checkpoint_has_its_own_answers(run):
    make(run, "--epochs", "2-3", "--limit", 2)
    assert [runs.read_jsonl(answers_of(run, step))[0]["sampling"]["model"] for step in (4, 6)] == [
        "checkpoint-4", "checkpoint-6"]  # fmt: skip
    assert not answers_of(run, 2).exists() and not answers_of(run, 5).exists()


def test_a_checkpoint_and_a_base_have_their_answers_beside_them(run, tiny_base):
    make(run / "checkpoint-4", "--limit", 1)
    assert answers_of(run, 4).exists() and sorted(p.name for p in (run / "checkpoint-4").iterdir()) == sorted(
        p.name for p in (run / "checkpoint-6").iterdir()
    )
    base = shutil.copytree(tiny_base, run.parent.parent / "bases/tiny")
    make(base, "--limit", 1)
    assert (base.parent / "generations/tiny/dev.jsonl").exists()


def test_a_run_that_still_trains_gives_its_complete_checkpoints(run, capsys):
    with runs.training(run):
        make(run, "--limit", 1)
        assert re.search(r"checkpoint 6 \(epoch 3\); process \d+ on .+ still trains it", capsys.readouterr().out)
        with pytest.raises(UserError, match=r"no complete checkpoint of epochs 5-10; it has 1, 2, 2\.5, 3 \(process"):
            make(run, "--epochs", "5-10")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epochs", "5-10"], r"no complete checkpoint of epochs 5-10; it has 1, 2, 2\.5, 3$"),
        (["--epochs", "late"], "--epochs: expected epochs such as 5-10"),
        (["--prompts", "eval"], r"data/prompts/eval\.jsonl: no such prompts; there are: dev, .*test"),
        (["--prompts", "none/such.jsonl"], r"none/such\.jsonl: no such file"),
        (["--greedy", "--samples", "2"], "greedy answers are all the same"),
    ],
)
def test_what_cannot_be_answered_is_said_in_a_line(run, words, said):
    with pytest.raises(UserError, match=said) as error:
        make(run, *words)
    assert "\n" not in str(error.value)
    assert not (run / "generations").exists()


@pytest.mark.parametrize("flag", ["--samples", "--limit", "--batch_size", "--max_new_tokens"])
@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_counts_are_whole_numbers_from_1(run, flag, value, capsys):
    with pytest.raises(SystemExit) as error:
        generate.main(["--run", str(run), flag, value])
    assert error.value.code == 2 and f"argument {flag}: expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no prompt in it"),
        ([("a", "Why?"), ("b", "How?"), ("a", "When?")], r"rows 0 and 2 both have id 'a'"),
        ([("a", " why" * 2100)], r"prompt 'a' has 2,1\d\d tokens, and the model reads 2,048"),
    ],
)
def test_prompts_that_cannot_be_asked(run, tmp_path, rows, said):
    path = tmp_path / "mine.jsonl"
    runs.write_jsonl(path, [{"id": name, "messages": [{"role": "user", "content": text}]} for name, text in rows])
    with pytest.raises(UserError, match=said):
        make(run, "--prompts", path)
    assert not list(run.rglob("*mine*"))


def test_no_run_no_checkpoint_no_such_epochs_of_a_base(tiny_base, tmp_path):
    with pytest.raises(UserError, match="no checkpoint there"):
        make(tmp_path / "none")
    with pytest.raises(UserError, match="this is not one; give runs/NAME"):
        make(tiny_base, "--epochs", "1")


# ---- nothing is lost -----------------------------------------------------------------------------------------------------


def test_a_second_time_does_nothing_and_says_so(run, capsys, monkeypatch):
    make(run, "--limit", 3)
    assert "nothing to do" not in capsys.readouterr().out
    stamp = answers_of(run).stat().st_mtime_ns
    monkeypatch.setattr(generate, "load_model", None)
    make(run, "--limit", 3)
    assert (
        "3 of them there already" in (out := capsys.readouterr().out) and "nothing to do" in out and "3 answers:" in out
    )
    make(run, "--limit", 2)  # fewer: those are there, the third stays
    assert answers_of(run).stat().st_mtime_ns == stamp and len(runs.read_jsonl(answers_of(run))) == 3


def test_the_plan_alone_changes_nothing(run, capsys):
    make(run, "--limit", 2)
    partial, there = answer_file.partial(answers_of(run)), answers_of(run).read_bytes()
    partial.write_bytes(there.replace(b'"seed": 0', b'"seed": 5'))
    make(run, "--limit", 3, "--dry_run", "--overwrite")
    assert "1 × 3 prompts (dev) × 1 = 3 answers, 2 of them there already" in (out := capsys.readouterr().out)
    assert "3 answers:" not in out and answers_of(run).read_bytes() == there and b'"seed": 5' in partial.read_bytes()
    make(run, "--limit", 3, "--overwrite")
    assert len(runs.read_jsonl(answers_of(run))) == 3 and not partial.exists()


def test_more_samples_and_more_prompts_are_added_to_what_is_there(run):
    make(run, "--limit", 2, "--dtype", "float32")
    first = runs.read_jsonl(answers_of(run))
    make(run, "--limit", 2, "--samples", 2, "--dtype", "float32")
    make(run, "--limit", 3, "--dtype", "float32")
    rows = runs.read_jsonl(answers_of(run))
    assert [(row["prompt_id"], row["sample"]) for row in rows] == [
        ("dev-001", 0), ("dev-001", 1), ("dev-002", 0), ("dev-002", 1), ("dev-003", 0)]  # fmt: skip
    assert [rows[0], rows[2]] == first


def stop_after(monkeypatch, ended):
    """Has Ctrl-C come when `ended` answers have ended."""
    plain = decoding.answers

    def cut(*args):
        for number, answer in enumerate(plain(*args)):
            if number == ended:
                raise KeyboardInterrupt
            yield answer

    monkeypatch.setattr(decoding, "answers", cut)


def test_ctrl_c_keeps_what_has_ended_and_the_rest_is_added(run, monkeypatch, capsys):
    make(run, "--limit", 5, "--dtype", "float32")
    whole = answers_of(run).read_bytes()
    answers_of(run).unlink()
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(SystemExit) as error, exit_codes():
            make(run, "--limit", 5, "--dtype", "float32")
    assert error.value.code == 130 and "2 of 5 answers are kept; the same command goes on" in capsys.readouterr().err
    partial = answers_of(run).with_name(".dev.partial.jsonl")
    kept = partial.read_bytes()
    assert kept.count(b"\n") == 2 and not answers_of(run).exists()
    partial.write_bytes(kept + kept[: len(kept) // 3])  # a death amid a line
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 1)
        make(run, "--limit", 5, "--dtype", "float32")
    assert len(runs.read_jsonl(partial)) == 3
    asked = []
    plain = generate.batched
    monkeypatch.setattr(generate, "batched", lambda *args: asked.extend(args[2]) or plain(*args))
    make(run, "--limit", 5, "--dtype", "float32", "--batch_size", 1)
    assert answers_of(run).read_bytes() == whole
    assert len(asked) == 2 and not partial.exists()


def test_a_torn_last_row_is_taken_off(run, monkeypatch):
    make(run, "--limit", 3)
    whole = answers_of(run).read_bytes()
    answers_of(run).write_bytes(whole + whole[:40])
    monkeypatch.setattr(generate, "load_model", None)
    make(run, "--limit", 3)
    assert answers_of(run).read_bytes() == whole


def test_what_was_whole_but_not_renamed_is_not_answered_again(run, monkeypatch):
    make(run, "--limit", 3)
    whole = answers_of(run).read_bytes()
    partial = answers_of(run).with_name(".dev.partial.jsonl")
    partial.write_bytes(b"".join(whole.splitlines(keepends=True)[::-1]))
    answers_of(run).unlink()
    monkeypatch.setattr(generate, "load_model", None)
    make(run, "--limit", 3)
    assert answers_of(run).read_bytes() == whole and not partial.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "1"], r"seed 0 \(now 1\)"),
        (["--greedy"], r"temperature 0\.7 \(now 0\.0\), top_p 0\.9 \(now 1\.0\)"),
        (["--dtype", "float32", "--seed", "2"], r"seed 0 \(now 2\), dtype bfloat16 \(now float32\)"),
    ],
)
@pytest.mark.parametrize("where", ["dev.jsonl", ".dev.partial.jsonl"])
def test_other_settings_are_named_and_refused(run, words, said, where):
    make(run, "--limit", 2)
    there = answers_of(run).rename(answers_of(run).with_name(where)).read_bytes()
    with pytest.raises(
        UserError, match=f"{re.escape(where)}: holds answers with other settings: {said}; .+--overwrite"
    ):
        make(run, "--limit", 2, *words)
    assert answers_of(run).with_name(where).read_bytes() == there
    make(run, "--limit", 1, *words, "--overwrite")
    (row,) = runs.read_jsonl(answers_of(run))
    assert row["sampling"] != json.loads(there.splitlines()[0])["sampling"]
    assert not answers_of(run).with_name(".dev.partial.jsonl").exists()


def test_the_batch_size_is_not_a_setting_and_the_weights_are(run):
    make(run, "--limit", 2)
    make(run, "--limit", 2, "--batch_size", 1)
    marker = runs.marker(run / "checkpoint-6")
    runs.write_marker(run / "checkpoint-6", {**marker, "files": {"model.safetensors": {"sha256": "another"}}})
    with pytest.raises(UserError, match=r"other settings: weights \w+ \(now \w+\)"):
        make(run, "--limit", 2)


def test_other_prompts_of_the_same_name_are_refused(run, tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [{"id": name, "messages": QUESTION} for name in "ab"]
    runs.write_jsonl(path, rows)
    make(run, "--prompts", path)
    runs.write_jsonl(path, [rows[0], {**rows[1], "id": "c"}])
    with pytest.raises(UserError, match="holds answers to a prompt that is not among these, 'b'"):
        make(run, "--prompts", path)
    runs.write_jsonl(path, [rows[0], {"id": "b", "messages": [{"role": "user", "content": "Why not?"}]}])
    with pytest.raises(UserError, match=r"holds answers to another text of prompt 'b'; .+ replace 1 of its 2 answers"):
        make(run, "--prompts", path)
    make(run, "--prompts", path, "--overwrite")
    assert [row["prompt"] for row in runs.read_jsonl(answers_of(run, name="mine"))] == [
        QUESTION[0]["content"],
        "Why not?",
    ]


def test_a_file_that_holds_no_answers_is_not_touched(run):
    answers_of(run).parent.mkdir(parents=True)
    for text in ('{"id": 1}\n', "[1]\n", '{"prompt_id": "a", "prompt": "b", "sample": 0}\n'):
        answers_of(run).write_text(text)
        with pytest.raises(UserError, match=r"dev\.jsonl: has rows without prompt, prompt_id, sample, sampling"):
            make(run, "--limit", 1)
        assert answers_of(run).read_text() == text


def test_two_processes_do_not_write_the_same_answers(run):
    partial = answer_file.partial(answers_of(run))
    partial.parent.mkdir(parents=True)
    with open(partial, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"partial\.jsonl: another process adds answers"):
            make(run, "--limit", 1)
    make(run, "--limit", 1)
    assert len(runs.read_jsonl(answers_of(run))) == 1


def test_a_gpu_too_small_for_a_batch_gets_smaller_ones(run, monkeypatch, capsys):
    plain, sizes = decoding.answers, []

    def small(model, tokenizer, texts, *more):
        sizes.append(len(texts))
        for number, answer in enumerate(plain(model, tokenizer, texts, *more)):
            if len(texts) > 2 and number == 1:
                raise torch.OutOfMemoryError
            yield answer

    make(run, "--limit", 7, "--dtype", "float32")
    whole = answers_of(run).read_bytes()
    answers_of(run).unlink()
    monkeypatch.setattr(decoding, "answers", small)
    make(run, "--limit", 7, "--dtype", "float32", "--batch_size", 6)
    assert sizes == [6, 3, 1, 1, 1, 1, 1] and answers_of(run).read_bytes() == whole
    assert "out of memory: 3 at a time from here on" in capsys.readouterr().err
    answers_of(run).unlink()
    monkeypatch.setattr(decoding, "answers", lambda *args: (_ for _ in ()).throw(torch.OutOfMemoryError))
    with pytest.raises(UserError, match="holds not even one answer"):
        make(run, "--limit", 2)
    assert not list(answers_of(run).parent.iterdir())


def test_a_checkpoint_of_an_adapter_alone_answers(tiny_base, tmp_path):
    base, tokenizer = generate.load_model(tiny_base)
    folder = tmp_path / "r/checkpoint-3"
    get_peft_model(base, LoraConfig(target_modules=["q_proj"])).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    runs.write_marker(folder, {"step": 3, "epoch": 0.5, "files": {}})
    assert (folder / "adapter_config.json").exists() and not (folder / "config.json").exists()
    make(folder, "--limit", 1)
    make(folder.parent, "--limit", 2)
    assert len(runs.read_jsonl(answers_of(folder.parent, 3))) == 2


# ---- in the terminal -----------------------------------------------------------------------------------------------------


def test_chat_prints_an_answer_as_it_comes_and_says_when_the_context_is_full(model, monkeypatch, capsys):
    lines = iter(["Why?", " why" * 2100, "/quit"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    monkeypatch.setattr(chat, "load_model", lambda folder: model)
    monkeypatch.setattr(runs, "newest_checkpoint", lambda folder: folder)
    chat.main(["--run", "runs/any", "--max_new_tokens", "5"])
    out = capsys.readouterr().out
    text, _, tokens = generate.generate(*model, [[{"role": "user", "content": "Why?"}]], 5, 0)[0]
    assert f"lima  {text.strip()}" in out and f"{tokens} tokens)" in out
    assert "as long as the model can read" in out


def test_before_and_after_of_a_run(run, tiny_base, capsys):
    (run / "recipe.yaml").write_text(json.dumps({"recipe": {"model_name_or_path": str(tiny_base)}}))
    runs.write_jsonl(run / "metrics.jsonl", [{"eval_loss": 3.5}, {"eval_loss": 2.5}])
    make(run, "--limit", 3)
    for seed in ("0", "0", "1"):
        before_after.main(["--run", str(run), "--limit", "2", "--max_new_tokens", "3", "--seed", seed])
    assert "of 2 (" in capsys.readouterr().out and (run / "before_after.md").exists()
    places = [p.relative_to(run / "generations").as_posix() for p in (run / "generations").rglob("*.jsonl")]
    assert sorted(places) == [
        "base/dev.before_after.jsonl",
        "checkpoint-6/dev.before_after.jsonl",
        "checkpoint-6/dev.jsonl",
    ]


HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold]not markup[/bold] <script>\u202eright to left " + "x" * 500


def row(text, reason="eot"):
    return {"prompt_id": "1", "prompt": HOSTILE, "response": text, "finish_reason": reason, "tokens": 3,
            "sampling": {"max_new_tokens": 256}}  # fmt: skip


@pytest.mark.parametrize("width", [40, 79, 80, 200])
def test_what_a_model_wrote_is_shown_as_text(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    before_after.show([row(HOSTILE, "length")], [row("fine")])
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out and "\u202e" not in out
    assert "[bold]" in "".join(out.split("\n")).replace(" ", "") or width < 80
    assert all(cell_len(line) <= width for line in out.splitlines())


def test_the_summary_counts_eot_only():
    rows = [row("a", "eot"), row("b", "length"), row("c", "eos"), row("d", "eot")]
    said = before_after.summary([row("a", "length")] * 4, rows, [3.5, 2.25])
    assert "0 of 4 (0 %) → 2 of 4 (50 %)" in said and "3.500 → 2.250" in said


def test_the_markdown_renders_nothing_that_a_model_wrote():
    text = before_after.as_markdown("r", [row("# not a heading\n```\n<img src=x>")], [row("ok")], [])
    lines = [line for line in text.splitlines() if "heading" in line or "<img" in line]
    assert lines and all(line.startswith("    ") for line in lines)


def test_before_and_after_of_a_run_that_is_not_there():
    with pytest.raises(UserError, match="no run there"):
        before_after.main(["--run", "runs/none"])
