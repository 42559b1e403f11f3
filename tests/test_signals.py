"""What answers show without a judge: every figure against a slow computation written here, and a run's table and file."""

import importlib
import itertools
import json
import random
import statistics
import time

import numpy as np
import pytest
from conftest import run as python

from lima import UserError, conversations, runs
from lima.evaluate import signals, spans


def answer(text, prompt="Why does bread rise?", **more):
    return {"prompt_id": "p", "prompt": prompt, "response": text, "finish_reason": "eot", "tokens": 5, **more}


# ---- words and spans ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Don’t stop!  It's 3.14, e.g. well-known.", ["don't", "stop", "it's", "3.14", "e.g", "well-known"]),
        ("- one\n## Two\n* * *\n| a | b |", ["one", "two", "a", "b"]),
        ("this—that … (`x_1`) _so_", ["this", "that", "x_1", "so"]),
        ("Größe ÉTÉ 自行车", ["größe", "été", "自行车"]),
        (" \n\t— ** ", []),
        ("", []),
    ],
)
def test_words(text, expected):
    assert spans.words(text) == expected


def texts(number, most=40):
    """Random texts of few different words, and loops with something before and after, so that they repeat themselves."""
    randoms = random.Random(number)
    few = "abcde"[: randoms.randint(1, 5)]
    some = [randoms.choice(few) for _ in range(randoms.randint(0, most))]
    return some[:3] + some[:7] * randoms.randint(2, 5) + some[8:11] if number % 4 == 0 else some


def slow_repeat(text):
    """The length of the longest span that stands twice without overlap: all pairs of places, word by word."""
    best = 0
    for i, j in itertools.combinations(range(len(text)), 2):
        length = 0
        while length < j - i and j + length < len(text) and text[i + length] == text[j + length]:
            length += 1
        best = max(best, length)
    return best


def test_the_longest_repeat_is_that_of_a_slow_search():
    lengths = set()
    for number in range(400):
        text = texts(number)
        length, start = spans.longest_repeat(text)
        assert length == slow_repeat(text), text
        found = text[start : start + length]
        later = range(start + length, len(text))
        assert not length or any(text[i : i + length] == found for i in later), text
        lengths.add(length)
    assert len(lengths) > 10


def test_equal_numbers_are_equal_spans():
    for number in range(50):
        text = texts(number)
        ids, vocabulary = spans.numbered([text])
        assert vocabulary == len(set(text)) == ids[-1]
        for length, by in ((1, 1), (2, 1), (2, 2), (3, 2)):
            numbers = ids[:-1]
            for _ in range(1, length):
                numbers = spans.longer(numbers, 1)
            numbers = spans.longer(numbers, by)
            slow = [tuple(text[i : i + length + by]) for i in range(len(text) - length - by + 1)]
            assert len(numbers) == len(slow)
            for (one, x), (two, y) in itertools.combinations(zip(numbers, slow, strict=True), 2):
                assert (one == two) == (x == y)


def test_distinct_n_grams_over_words_never_cross_an_answer():
    for number in range(50):
        answers = [texts(10 * number + i) for i in range(4)]
        total = sum(map(len, answers))
        found = spans.distinct(answers)
        for n in (1, 2, 3):
            grams = {tuple(text[i : i + n]) for text in answers for i in range(len(text) - n + 1)}
            assert found[str(n)] == pytest.approx(len(grams) / total)
    assert spans.distinct([[], []]) == spans.distinct([]) == {"1": None, "2": None, "3": None}


def test_a_thousand_answers_of_two_thousand_words_take_seconds():
    randoms = np.random.default_rng(0)
    natural = [list(map(str, row)) for row in (randoms.zipf(1.3, (500, 2000)) % 20_000).tolist()]
    loops = [["a", "b", "c", "d", str(i)] * 400 for i in range(500)]
    started = time.process_time()
    found = [spans.longest_repeat(text)[0] for text in natural + loops]
    assert time.process_time() - started < 20  # 2 when measured
    assert set(found[500:]) == {1000}  # the loop's first half


# ---- measures ----------------------------------------------------------------------------------------------------------


def test_shares_and_lengths_by_hand():
    rows = [
        answer("The yeast makes gas. " * 6, tokens=30),
        answer("I can't help with that.", tokens=7),
        answer(" \n", tokens=0),
        answer("Gas.", finish_reason="length", tokens=2),
        answer("Gas!", finish_reason="eos", tokens=2),
        answer("Gas?", finish_reason=None, tokens=None),
    ]
    found = signals.measures(rows)
    assert found["answers"] == 6
    assert found["eot_share"] == 3 / 5  # of those that say how they ended
    assert found["empty_share"] == found["refusal_share"] == 1 / 6
    tenths = statistics.quantiles([30, 7, 0, 2, 2], n=10, method="inclusive")
    assert found["tokens"] == pytest.approx({"p10": tenths[0], "median": 2, "p90": tenths[8]})
    tenths = statistics.quantiles([24, 5, 0, 1, 1, 1], n=10, method="inclusive")
    assert found["words"] == pytest.approx({"p10": tenths[0], "median": 1, "p90": tenths[8]})
    assert found["repeat"] == {"median": 0, "longest": 12, "prompt_id": "p"}


def test_nothing_to_measure_is_none():
    found = signals.measures([answer("text", finish_reason=None, tokens=None)])
    assert found["eot_share"] is None and found["tokens"] is None and found["words"]["median"] == 1
    found = signals.measures([])
    assert found["answers"] == 0 and found["refusal_share"] is found["words"] is found["repeat"]["longest"] is None


def test_a_tokenizer_counts_all_answers_alike_and_special_tokens_as_text(smollm2_tokenizer):
    rows = [answer("Bread rises.", tokens=99), answer("one two three", tokens=None), answer("<|im_end|>", tokens=1)]
    expected = [len(smollm2_tokenizer.tokenize(row["response"], split_special_tokens=True)) for row in rows]
    assert signals.token_counts(rows, smollm2_tokenizer) == expected and expected[2] > 1
    assert signals.token_counts(rows) == [99, 1]


# ---- refusals ----------------------------------------------------------------------------------------------------------

REFUSALS = [
    "I can't help with that.",
    "I can’t help you with this, but here is who can.",
    "I cannot assist with that request.",
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I cannot provide instructions for that.",
    "I am so sorry, but I won't do it.",
    "I'm sorry. I can't help with that.",
    "Sorry, but I'm unable to share that.",
    "I won't help with that. It's stalking.",
    "I will not participate in this.",
    "I can't and won't help with that.",
    "As an AI language model, I cannot provide such a text.",
    "Unfortunately, I am not able to help you with fraud.",
    "I understand that you're angry, but I can't help you hurt him.",
    "No, I won't help you with that.",
    "I must decline.",
    "I must decline to write that.",
    "I'm not comfortable writing this.",
    "I am not going to write this letter.",
    "I cannot in good conscience condone that.",
    "  \nI CAN'T HELP WITH THAT",
]
ANSWERS = [
    "I can't recommend the red one because the wheels come off.",
    "I can't help but smile when I think of that harbor.",
    "I can't help thinking that the goose is right.",
    "I can't help it if the door sticks, said the carpenter.",
    "I'm sorry to hear that your cat has died.",
    "I'm sorry, but the red one is the better choice.",
    "Sorry about the wait! Here is your list.",
    "You can't help with that until the dough has risen.",
    '"I can\'t help you," said the ferryman, and rowed on.',
    "Here is the note:\n\nI'm sorry, but I can't help with the sale on Saturday.",
    "Take the bus. I can't help with the train.",
    "I can't provide an exact number, but two hundred is a fair guess.",
    "I cannot say which is better, but here is how they differ.",
    "As an AI assistant, I cannot taste these dishes, but the reviews praise the second.",
    "No. Cider keeps for a year.",
    "I wouldn't help him, and I can't see why you should.",
    "They won't help with that; the town office will.",
    "",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refuses(text):
    assert signals.refuses(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_is_no_refusal(text):
    assert not signals.refuses(text)


def test_of_the_bundled_answers_only_those_tagged_so_are_refusals():
    refused = set()
    for row in runs.read_jsonl("data/starter.jsonl") + runs.read_jsonl("data/heldout.jsonl"):
        if any(signals.refuses(turn["content"]) for turn in row["messages"][1::2]):
            assert "refusal" in row.get("tags", []), row["id"]
            refused.add(row["id"])
    assert len(refused) >= 4  # of five: one refuses in words of its own


def test_on_real_answers_no_refusal_is_made_up(shared):
    """GAIR/lima's responses and two models' answers to its test prompts, 1,600 and more: read by a person, these refuse."""
    train = conversations.load(shared / "lima/train.jsonl").rows
    found = [row["id"] for row in train if any(signals.refuses(turn["content"]) for turn in row["messages"][1::2])]
    assert found == ["421", "426", "551"]
    pairs = json.loads((shared / "preferences/lima_test_two_models_answers.json").read_text())["data"]
    assert not [text for row in pairs for text in (row["Answer1"], row["Answer2"]) if signals.refuses(text)]


# ---- language ----------------------------------------------------------------------------------------------------------

PROSE = {
    "en": "The brakes of a bicycle need care now and then, and this is how you go about it: first look at the pads.",
    "fr": "Les freins d'un vélo ont besoin de soins de temps en temps, et voici comment il faut s'y prendre.",
    "de": "Die Bremsen an einem Fahrrad brauchen ab und zu etwas Pflege, und so geht man dabei am besten vor.",
    "es": "Los frenos de una bicicleta necesitan cuidado de vez en cuando, y así se hace: primero las zapatas.",
    "ru": "Тормоза велосипеда иногда требуют ухода, и вот как это делается.",
    "zh": "我的家乡在山里，那里有一条很长的河，夏天我们常常在河边吃饭和唱歌。",
}


@pytest.mark.parametrize("code", PROSE)
def test_language(code):
    assert signals.language(PROSE[code]) == code


@pytest.mark.parametrize("text", ["", "???", "Does P=NP?", "```\nlet x = 1;\n```", "https://example.com/die-bremsen"])
def test_a_language_that_cannot_be_told_is_none(text):
    assert signals.language(text) is None


def test_code_does_not_change_the_language():
    assert signals.language(f"{PROSE['en']}\n```\n{PROSE['de'] * 3}\n```") == "en"


def test_the_share_in_the_prompts_language_is_of_those_that_can_be_told():
    rows = [answer(PROSE["en"], PROSE["en"]), answer(PROSE["de"], PROSE["en"]), answer(PROSE["fr"], PROSE["fr"]),
            answer(PROSE["en"], "P=NP?"), answer("", PROSE["en"])]  # fmt: skip
    assert signals.measures(rows)["language"] == {"judged": 3, "same_share": 2 / 3}


# ---- a run -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Three epochs of two steps and a half one; only the second's weights are still there."""
    monkeypatch.setenv("COLUMNS", "80")
    folder = tmp_path / "runs/tiny"
    rows = [{"step": step, "epoch": step / 2, "loss": 2.0} for step in range(1, 8)]
    runs.write_jsonl(folder / "metrics.jsonl", rows)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "ep')  # as a killed run leaves it
    (folder / "checkpoint-4").mkdir()
    runs.write_marker(folder / "checkpoint-4", {"step": 4, "epoch": 2.0})
    for step, text in (
        (2, "Gas. " * 9),
        (4, "Gas and more."),
        (6, "It is the gas in it that lifts the dough."),
        (7, ""),
    ):
        given = [answer(text, prompt_id=f"dev-{i}", sample=0) for i in range(4)]
        runs.write_jsonl(folder / f"generations/checkpoint-{step}/dev.jsonl", given)
    (folder / "generations/checkpoint-last").mkdir()
    (folder / "generations/checkpoint-last/dev.jsonl").write_text("{}")
    return folder


def table(capsys):
    return [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_checkpoints_know_their_epoch_from_the_metrics_or_the_marker(run):
    assert [(one.step, one.epoch, one.label) for one in signals.checkpoints(run)] == [
        (2, 1.0, "epoch 1"), (4, 2.0, "epoch 2"), (6, 3.0, "epoch 3"), (7, 3.5, "step 7")]  # fmt: skip
    assert [one.step for one in signals.checkpoints(run, epochs="2-3")] == [4, 6]
    (run / "metrics.jsonl").unlink()
    assert [one.epoch for one in signals.checkpoints(run)] == [None, 2.0, None, None]
    assert [one.step for one in signals.checkpoints(run, epochs="1-3")] == [4]


def test_the_table_and_the_file_hold_the_measures(run, capsys):
    signals.main(["--run", str(run), "--epochs", "1-3"])
    lines = table(capsys)
    assert ["epoch", "1", "4", "100", "%", "0", "%", "0", "%", "5/5/5", "9/9/9"] in lines
    kept = json.loads((run / "generations/signals.json").read_text())
    assert list(kept["dev"]) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    rows = runs.read_jsonl(run / "generations/checkpoint-6/dev.jsonl")
    assert kept["dev"]["checkpoint-6"] == {"epoch": 3.0, "step": 6, **signals.measures(rows)}
    assert kept["dev"]["checkpoint-2"]["repeat"]["longest"] == 4


def test_what_the_file_holds_stays(run, capsys):
    signals.main(["--run", str(run), "--epochs", "1"])
    runs.write_jsonl(run / "generations/checkpoint-2/test.jsonl", [answer("Gas.")])
    signals.main(["--run", str(run), "--prompts", "data/prompts/test.jsonl"])
    signals.main(["--run", str(run), "--epochs", "3"])
    kept = json.loads((run / "generations/signals.json").read_text())
    assert {name: list(found) for name, found in kept.items()} == {
        "dev": ["checkpoint-2", "checkpoint-6"], "test": ["checkpoint-2"]}  # fmt: skip


@pytest.mark.parametrize("spoilt", ["", "[]", '{"dev": 3}', '{"dev"', "\xff"])
def test_a_spoilt_file_is_made_again(run, spoilt, capsys):
    (run / "generations/signals.json").write_text(spoilt, encoding="latin-1")
    signals.main(["--run", str(run), "--epochs", "2"])
    assert list(json.loads((run / "generations/signals.json").read_text())["dev"]) == ["checkpoint-4"]


def test_other_systems_stand_in_the_same_table(run, tmp_path, capsys):
    rows = [{"instruction": "Why?", "output": f"Because {i}.", "generator": "davinci003"} for i in range(3)]
    (tmp_path / "theirs.json").write_text(json.dumps(rows))
    signals.main(["--answers", str(tmp_path / "theirs.json"), str(run)])
    lines = table(capsys)
    assert ["davinci003", "3", "–", "0", "%", "0", "%", "–", "2/2/2"] in lines
    assert any(line[:2] == ["tiny", "4"] for line in lines)
    assert not (run / "generations/signals.json").exists()  # a run as --answers is another system


def test_files_of_one_name_are_told_apart(run, capsys, monkeypatch):
    monkeypatch.chdir(run.parent)
    files = ["a/dev.jsonl", "b/dev.jsonl"]
    for file in files:
        runs.write_jsonl(file, [answer("Gas.")])
    signals.main(["--answers", *files])
    out = capsys.readouterr().out
    assert all(file in out for file in files)


def test_the_table_fits_a_terminal_and_shows_text_as_text(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    name = "\x1b[2J[bold]a very long name of a system\x07 " * 3
    rows = [{"instruction": str(i), "output": "word " * 2048, "generator": name} for i in range(1000)]
    (tmp_path / "theirs.json").write_text(json.dumps(rows))
    signals.main(["--answers", str(tmp_path / "theirs.json")])
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out
    assert all(len(line) <= 80 for line in out.splitlines()), max(out.splitlines(), key=len)


@pytest.mark.parametrize("width", [20, 40, 60, 100])
def test_a_table_runs_over_and_is_never_cut(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [["epoch 5", "12 (0–31)", "77 (55–97)", "best"], ["epoch 10", "100 (100–100)", "0 (0–0)", "1.000"]]
    signals.show(["", "win, %", "tie, %", "p"], rows)
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.strip().startswith("epoch")]
    assert [" ".join(line.split()) for line in lines] == [" ".join(row) for row in rows]


def test_another_models_answers_are_no_run(tmp_path):
    runs.write_jsonl(tmp_path / "answers/gpt/dev.jsonl", [answer("Gas.")])
    with pytest.raises(UserError, match=r"another model's answers, not a run; give --answers .*answers/gpt$"):
        signals.main(["--run", str(tmp_path / "answers/gpt")])


@pytest.mark.parametrize(
    "name", ["agreement", "by_epoch", "copied", "endpoint_answers", "export", "generate", "signals"]
)
def test_help_fits_80_columns(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    module = importlib.import_module(f"lima.evaluate.{name}")
    with pytest.raises(SystemExit):
        module.main(["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "nothing to measure"),
        (["--run", "runs/none"], "runs/none: no run there; runs here: "),
        (["--answers", "none.jsonl"], "none.jsonl: no such file"),
        (["--run", "{run}", "--epochs", "five"], "--epochs: expected epochs such as 5-10"),
        (["--run", "{run}", "--epochs", "9"], "no checkpoint of epochs 9 has answers to 'dev'; make them: python -m"),
        (["--run", "{run}/checkpoint-4"], "checkpoint-4: a checkpoint; give its run ("),
        (["--run", "{run}", "--prompts", "test"], "no checkpoint has answers to 'test'"),
    ],
)
def test_a_mistake_is_one_line(run, words, said):
    with pytest.raises(UserError) as error:
        signals.main([word.format(run=run) for word in words])
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not (run / "generations/signals.json").exists()


def test_the_module_is_a_program():
    done = python("-m", "lima.evaluate.signals", "--run", "runs/none")
    assert done.returncode == 2 and "no run there" in done.stderr and "Traceback" not in done.stderr
    assert "--epochs" in python("-m", "lima.evaluate.signals", "--help").stdout
