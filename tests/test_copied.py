"""Memorisation: the longest span shared with the training data, against a search of all pairs of places."""

import json
import random
import time

import pytest
import yaml
from conftest import first_rows

from lima import UserError, conversations, runs
from lima.evaluate import copied, spans


def said(number, most=60, few="abc"):
    randoms = random.Random(number)
    return [randoms.choice(few) for _ in range(randoms.randint(0, most))]


def slow(answer, texts):
    """(the longest shared span, the share of 8-grams seen): every place of the answer against every place of every text."""
    best = 0
    for text in texts:
        for i in range(len(answer)):
            for j in range(len(text)):
                length = 0
                while answer[i + length : i + length + 1] == text[j + length : j + length + 1] != []:
                    length += 1
                best = max(best, length)
    grams = {tuple(text[j : j + 8]) for text in texts for j in range(len(text) - 7)}
    own = [tuple(answer[i : i + 8]) for i in range(len(answer) - 7)]
    return best, sum(gram in grams for gram in own) / len(own) if own else 0


def test_the_longest_shared_span_is_that_of_a_slow_search():
    lengths = set()
    for number in range(60):
        texts = [said(100 * number + i) for i in range(4)]
        answers = [said(100 * number + 50 + i) for i in range(3)]
        answers.append([*said(number, 9, "x"), *texts[1][3:30], *said(number, 9, "y")])
        for answer, (length, start, text, seen) in zip(answers, copied.overlaps(answers, texts), strict=True):
            best, share = slow(answer, texts)
            assert length == (best if best >= 8 else 0)
            assert seen == pytest.approx(share)
            span = answer[start : start + length]
            assert (text is None) == (length == 0)
            assert not length or any(texts[text][j : j + length] == span for j in range(len(texts[text])))
            lengths.add(length)
    assert len(lengths) > 10


def test_a_span_does_not_run_over_the_end_of_a_text_or_an_answer():
    texts, answers = [list("abcdefgh"), list("ijklmnop")], [list("abcdefghijklmnop"), list("abcd"), list("efghijkl")]
    assert [length for length, *_ in copied.overlaps(answers, texts)] == [8, 0, 0]
    assert copied.overlaps([], texts) == [] and copied.overlaps([[]], []) == [(0, 0, None, 0.0)]


def test_a_span_ends_at_a_changed_word_and_where_another_text_goes_on():
    text = [str(i) for i in range(40)]
    changed = [*text[:12], "x", *text[13:30]]
    assert copied.overlaps([changed], [text])[0][:3] == (17, 13, 0)
    assert copied.overlaps([text[:9]], [text[:8], text[1:9]])[0][:3] == (8, 0, 0)


def test_a_thousand_answers_beside_a_thousand_texts_take_seconds():
    randoms = random.Random(0)
    vocabulary = [f"w{int(randoms.paretovariate(0.6)) % 20_000}" for _ in range(400_000)]
    texts = [vocabulary[i * 400 : i * 400 + 400] for i in range(1000)]
    answers = [vocabulary[i * 390 : i * 390 + randoms.randint(300, 600)] for i in range(1000)]
    started = time.process_time()
    found = copied.overlaps(answers, texts)
    assert time.process_time() - started < 20  # 1.4 when measured
    assert min(length for length, *_ in found) > 100


# ---- a run -------------------------------------------------------------------------------------------------------------


def answer(text, number, prompt="How are you?"):
    return {"prompt_id": f"dev-{number}", "prompt": prompt, "response": text, "finish_reason": "eot", "tokens": 9,
            "sampling": {}, "sample": 0}  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run on the first 30 bundled examples, with answers of two checkpoints; the second's third is a training response."""
    monkeypatch.setenv("COLUMNS", "80")
    folder, file = tmp_path / "runs/tiny", first_rows(tmp_path / "some.jsonl", 30)
    data = conversations.load(str(file))
    record = {"recipe": {"dataset": str(file)}, "dataset": {"name": str(file), "fingerprint": data.fingerprint}}
    runs.write_text(folder / "recipe.yaml", yaml.safe_dump(record))
    runs.write_jsonl(folder / "metrics.jsonl", [{"step": step, "epoch": step / 3, "loss": 1} for step in (3, 6)])
    plain = [answer("Nothing of this is in there.", 1), answer("", 2), answer("Fine, thank you.", 3)]
    runs.write_jsonl(folder / "generations/checkpoint-3/dev.jsonl", plain)
    known = data.rows[7]["messages"]
    sentence = known[1]["content"].upper().replace(", ", " – ")  # case and punctuation aside
    asked = answer(f"You ask: {known[0]['content']}", 1, known[0]["content"])
    runs.write_jsonl(
        folder / "generations/checkpoint-6/dev.jsonl", [asked, plain[1], answer(f"I say: {sentence} So there.", 3)]
    )
    return folder


def test_the_copy_is_found_and_its_row_is_named(run, capsys):
    copied.main(["--run", str(run)])
    out = capsys.readouterr().out
    data = conversations.load(str(run.parent.parent / "some.jsonl")).rows
    known = [len(spans.words(turn["content"])) for turn in data[7]["messages"][:2]]
    kept = json.loads((run / "generations/copied.json").read_text())["dev"]
    before, after = kept["checkpoint-3"], kept["checkpoint-6"]
    assert before["copied_share"] == 0 == before["longest"] and before["row"] is None
    assert (after["longest"], after["row"], after["prompt_id"]) == (known[1], data[7]["id"], "dev-3")
    assert after["copied_share"] == 1 / 3
    spot = after["spans"][2]
    assert spot["words"] == known[1] + 4 and spot["prompt_span"] == 0
    assert spot["seen"] == pytest.approx((known[1] - 7) / (known[1] + 4 - 7), abs=1e-4)
    assert after["spans"][0]["prompt_span"] == after["spans"][0]["own_prompt_span"] == known[0]
    assert after["spans"][0]["prompt_row"] == data[7]["id"] and after["prompt_longest"] == known[0]
    assert f"{known[1]} words  epoch 2, dev-3 · training row {data[7]['id']}\n" in out
    assert all(len(line) <= 80 for line in out.splitlines() if str(run) not in line)


def test_figures_are_of_the_rows_below_them(run, capsys):
    copied.main(["--run", str(run)])
    for one in json.loads((run / "generations/copied.json").read_text())["dev"].values():
        long = [row["seen"] for row in one["spans"] if row["words"] >= 8]
        assert one["seen_share"] == (pytest.approx(sum(long) / len(long)) if long else None)
        assert one["answers"] == len(one["spans"]) == 3


def test_another_system_is_compared_with_the_runs_data(run, tmp_path, capsys):
    data = conversations.load(str(tmp_path / "some.jsonl")).rows
    theirs = [{"instruction": "Why?", "output": data[3]["messages"][1]["content"], "generator": "theirs\x1b[2J"}]
    (tmp_path / "theirs.json").write_text(json.dumps(theirs))
    copied.main(["--answers", str(tmp_path / "theirs.json"), "--dataset", str(tmp_path / "some.jsonl")])
    out = capsys.readouterr().out
    assert f"training row {data[3]['id']}\n" in out and "\x1b" not in out
    assert not (run / "generations/copied.json").exists()


def test_data_that_is_not_what_was_trained_on_is_refused(run, tmp_path):
    first_rows(tmp_path / "some.jsonl", 29)
    with pytest.raises(UserError, match=r"is not what .*tiny was trained on .* name a copy of it with --dataset"):
        copied.main(["--run", str(run)])
    copied.main(["--run", str(run), "--dataset", str(tmp_path / "some.jsonl")])


def test_rows_that_the_recipe_leaves_out_were_not_trained_on(run, tmp_path):
    rows = runs.read_jsonl(first_rows(tmp_path / "some.jsonl", 60))
    sources = {row["source"] for row in rows}
    assert len(sources) > 1
    record = yaml.safe_load((run / "recipe.yaml").read_text())
    record["recipe"]["exclude_sources"] = [rows[0]["source"]]
    record["dataset"]["fingerprint"] = None
    (run / "recipe.yaml").write_text(yaml.safe_dump(record))
    assert {row["source"] for row in copied.training_rows(run)} == sources - {rows[0]["source"]}


def test_rows_that_were_dropped_as_too_long_were_not_trained_on(run, tmp_path, smollm2, smollm2_tokenizer, capsys):
    """By the tokens of each turn and its EOT, counted here; no checkpoint stands, so the recipe's base gives the tokenizer."""
    record = yaml.safe_load((run / "recipe.yaml").read_text())
    record["recipe"] |= {"over_length": "drop", "max_length": 256, "model_name_or_path": str(smollm2)}
    (run / "recipe.yaml").write_text(yaml.safe_dump(record))
    rows = runs.read_jsonl(tmp_path / "some.jsonl")
    lengths = [
        sum(len(smollm2_tokenizer(turn["content"])["input_ids"]) + 1 for turn in row["messages"]) for row in rows
    ]
    bos = smollm2_tokenizer.bos_token_id is not None
    kept = [row["id"] for row, length in zip(rows, lengths, strict=True) if length + bos <= 256]
    assert 0 < len(kept) < 30 and [row["id"] for row in copied.training_rows(run)] == kept
    copied.main(["--run", str(run)])
    assert f"6 answers beside {len(kept)} training rows" in capsys.readouterr().out
    record["recipe"]["over_length"] = "trim"
    (run / "recipe.yaml").write_text(yaml.safe_dump(record))
    assert len(copied.training_rows(run)) == 30


@pytest.mark.parametrize(
    "change, words, said",
    [
        (None, ["--answers", "a.jsonl"], "no training data to compare with"),
        (None, ["--run", "runs/none"], "runs/none: no run there"),
        ("", ["--run", "{run}"], "recipe.yaml: not the record of a run"),
        ("recipe: {{}}", ["--run", "{run}"], "recipe.yaml: not the record of a run"),
        ("recipe: [", ["--run", "{run}"], "recipe.yaml: not the record of a run"),
        ("recipe: {dataset: gone.jsonl}\ndataset: {name: gone.jsonl}", ["--run", "{run}"], "gone.jsonl: no such file"),
    ],
)
def test_a_mistake_is_one_line(run, change, words, said):
    if change is not None:
        (run / "recipe.yaml").write_text(change)
    with pytest.raises(UserError) as error:
        copied.main([word.format(run=run) for word in words])
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not (run / "generations/copied.json").exists()


def test_real_answers_share_little_with_lima(shared):
    """Two models that never saw GAIR/lima, on its test prompts: below 20 words in a row; its own responses: all of them."""
    data = conversations.load(str(shared / "lima/train.jsonl")).rows
    pairs = json.loads((shared / "preferences/lima_test_two_models_answers.json").read_text())["data"]
    rows = [
        answer(row[key], number, row["conversations"])
        for number, row in enumerate(pairs)
        for key in ("Answer1", "Answer2")
    ]
    assert copied.measures(rows, data)[0]["longest"] < 15
    own = [answer(row["messages"][1]["content"], row["id"]) for row in data[:200]]
    assert {one["seen"] for one in copied.measures(own, data)[1]} == {1.0}
