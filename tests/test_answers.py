"""Loading answers from wherever they lie, and matching two systems'."""

import json
import random

import pytest

from lima import UserError, runs
from lima.evaluate import answers


def row(prompt_id="p1", response="fine", prompt=None, **more):
    return {"prompt_id": prompt_id, "prompt": prompt or f"What of {prompt_id}?", "response": response, **more}


def jsonl(path, *rows):
    runs.write_jsonl(path, rows)
    return path


def alpaca(path, *rows, generator="gpt-4"):
    path.write_text(json.dumps([{"instruction": a, "output": b, "generator": generator} for a, b in rows]))
    return path


def run(folder, *steps, prompts="dev"):
    for step in steps:
        jsonl(folder / f"generations/checkpoint-{step}/{prompts}.jsonl", row(response=f"at {step}"))
    return folder


# ---- where they lie ----------------------------------------------------------------------------------------------------


def test_a_run_gives_its_newest_checkpoint_that_answered(tmp_path):
    folder = run(tmp_path / "7b", 64, 160, 96)
    run(folder, 320, prompts="test")
    jsonl(folder / "generations/base/dev.jsonl", row(response="the base"))
    jsonl(folder / "generations/checkpoint-999-old/dev.jsonl", row(response="an old one"))
    found = answers.load(folder)
    assert (found.name, found.rows[0]["response"]) == ("7b", "at 160")
    assert found.path == folder / "generations/checkpoint-160/dev.jsonl"
    assert answers.load(str(folder) + "/", "data/prompts/test.jsonl").rows[0]["response"] == "at 320"


def test_the_selected_checkpoint_goes_before_the_newest(tmp_path):
    folder = run(tmp_path / "7b", 64, 160)
    (folder / "selected.json").write_text(json.dumps({"checkpoint": "checkpoint-64", "epoch": 2}))
    assert answers.load(folder).rows[0]["response"] == "at 64"
    (folder / "selected.json").write_text(json.dumps({"checkpoint": "checkpoint-32"}))
    with pytest.raises(UserError, match=r"no answers to dev \(no .*checkpoint-32/dev.jsonl\)"):  # not another one's
        answers.load(folder)
    (folder / "checkpoint-32").mkdir()
    with pytest.raises(UserError, match=f"generate --run {folder}/checkpoint-32 --prompts dev$"):
        answers.load(folder)
    for broken in ("{", "[]", '{"epoch": 2}'):
        (folder / "selected.json").write_text(broken)
        with pytest.raises(UserError, match=r"selected\.json: expected an object with `checkpoint`"):
            answers.load(folder)


def test_a_checkpoint_is_named_after_its_run(tmp_path, monkeypatch):
    folder = run(tmp_path / "7b", 64, 160)
    jsonl(folder / "generations/base/dev.jsonl", row(response="the base"))
    assert answers.load(folder / "checkpoint-64")[0] == "7b-checkpoint-64"  # its weights may be gone
    assert answers.load(folder / "generations/checkpoint-64").rows[0]["response"] == "at 64"
    assert answers.load(folder / "generations/base").name == "7b-base"
    assert answers.load(folder / "generations/checkpoint-64/dev.jsonl").name == "7b-checkpoint-64"
    monkeypatch.chdir(folder)
    assert answers.load("checkpoint-160").name == "7b-checkpoint-160" and answers.load(".").name == "7b"


def test_a_prepared_base_and_another_models_folder(tmp_path):
    jsonl(tmp_path / "bases/smol/generations/smol/dev.jsonl", row(response="a base's"))
    assert answers.load(tmp_path / "bases/smol")[0] == "smol"
    jsonl(tmp_path / "answers/gpt-4.1/test.jsonl", row(response="another's"))
    for spec in ("answers/gpt-4.1", "answers/gpt-4.1/test.jsonl"):
        found = answers.load(tmp_path / spec, "test")
        assert (found.name, found.rows[0]["response"]) == ("gpt-4.1", "another's")


def test_what_is_not_there_is_one_line(tmp_path):
    folder = run(tmp_path / "7b", 64)
    (tmp_path / "answers/gpt").mkdir(parents=True)
    wrong = {
        tmp_path / "9b": "9b: no such file or folder; give a run such as runs/7b",
        tmp_path / "mine.jsonl": "mine.jsonl: no such file; give a run",
        tmp_path / "answers/gpt": "endpoint_answers --model gpt --prompts test$",
        folder: f"no answers to test .*generate --run {folder} --prompts test$",
        folder / "checkpoint-65": "checkpoint-65: no answers to test",
    }
    for spec, said in wrong.items():
        with pytest.raises(UserError, match=said) as error:
            answers.load(spec, "test")
        assert "\n" not in str(error.value)


def test_without_any_answers_the_newest_checkpoint_is_named(tmp_path):
    folder = tmp_path / "runs/tiny"
    for step in (3, 12):
        runs.write_marker(folder / f"checkpoint-{step}", {"step": step, "epoch": step / 3, "files": {}})
    said = f"no {folder}/generations/checkpoint-12/test.jsonl.*generate --run {folder}/checkpoint-12 --prompts test$"
    with pytest.raises(UserError, match=said):
        answers.load(folder, "test")
    with pytest.raises(UserError, match="the name of the answers is empty; give a run such as"):
        answers.load("")


# ---- what they hold ----------------------------------------------------------------------------------------------------


def test_rows_of_ours(tmp_path):
    sampling = {"temperature": 0.7}
    first = row(finish_reason="eot", tokens=3, sampling=sampling, sample=1)
    found = answers.load(jsonl(tmp_path / "mine.jsonl", first, row(7, "", note="other keys are left out")))
    assert found.name == "mine"
    assert found.rows[0] == first
    bare = {"finish_reason": None, "tokens": None, "sampling": None, "sample": 0}
    assert found.rows[1] == {"prompt_id": "7", "prompt": "What of 7?", "response": "", **bare}


def test_alpaca_eval_gives_its_generators_name_as_part_of_a_files(tmp_path):
    path = alpaca(
        tmp_path / "model_outputs.json", ("Why?", "Because."), ("How?", ""), generator="meta-llama/Llama 2 (7B)"
    )
    found = answers.load(path)
    assert found.name == "meta-llama-Llama-2-7B"
    assert [(r["prompt"], r["response"], r["sample"]) for r in found.rows] == [("Why?", "Because.", 0), ("How?", "", 0)]
    assert answers.file_name("../..") == "answers" and answers.file_name("../etc/passwd") == "etc-passwd"
    path.write_text(json.dumps([{"instruction": "Why?", "output": "Because."}]))
    assert answers.load(path).name == "model_outputs"


def test_an_instruction_that_comes_again_is_an_item_of_its_own(tmp_path):
    path = alpaca(tmp_path / "a.json", ("Why?", "one"), ("How?", "two"), ("Why? ", "three"))
    ids = [r["prompt_id"] for r in answers.load(path).rows]
    assert ids[2] == ids[0] + "-2" and len(set(ids)) == 3
    other = answers.load(alpaca(tmp_path / "b.json", ("Why?", "ONE"), ("Why?", "THREE"), ("How?", "TWO")))
    assert [(p[3], p[4]) for p in answers.pair(answers.load(path), other)] == [
        ("one", "ONE"),
        ("two", "TWO"),
        ("three", "THREE"),
    ]
    ours = jsonl(tmp_path / "c.jsonl", row("x", "1", "Why?"), row("y", "3", "Why?"), row("z", "2", "How?"))
    assert [(p[0], p[3], p[4]) for p in answers.pair(answers.load(path), answers.load(ours))] == [
        ("x", "one", "1"),
        ("z", "two", "2"),
        ("y", "three", "3"),
    ]


def test_text_that_no_file_can_hold_gets_a_mark(tmp_path):
    (tmp_path / "a.json").write_text('[{"instruction": "Why?", "output": "cut \\ud83d, whole \\ud83d\\ude00"}]')
    assert answers.load(tmp_path / "a.json").rows[0]["response"] == "cut \ufffd, whole 😀"


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "no answer in it"),
        ("\n\n", "no answer in it"),
        ('{"prompt": "a"}', r"row 0 \(from 0\): `response` is missing; a row has prompt and response, or"),
        ('{"response": "a"}', "`prompt` is missing"),
        ('{"instruction": "a", "response": "b"}', "`output` is missing"),
        ('{"prompt": "a", "response": null}', "`response` is NoneType, expected text"),
        ('{"prompt": ["a"], "response": "b"}', "`prompt` is list, expected text"),
        ('{"prompt": "a", "response": "b"}\n{"prompt"', r"row 1 \(from 0\): not valid JSON"),
        ('{"prompt": "a", "response": "b"}\n[1]', r"row 1 \(from 0\): expected an object, found list"),
        ('{"prompt": "a", "response": "b", "sample": -1}', "`sample` is -1, expected 0, 1"),
        ('{"prompt": "a", "response": "b", "sample": "0"}', "`sample` is '0', expected 0, 1"),
        (
            '{"prompt": "a", "response": "b", "prompt_id": 1}\n{"prompt": "c", "response": "d"}',
            "row 1 .*no `prompt_id`, which",
        ),
        (
            '{"prompt": "a", "response": "b", "prompt_id": 1}\n{"prompt": "a", "response": "c", "prompt_id": "1"}',
            r"row 1 \(from 0\): prompt 1, sample 0 stands in row 0 too; leave one out",
        ),
        (
            '{"prompt": "a", "response": "b"}\n{"prompt": "a ", "response": "c"}',
            r"row 1 .* sample 0 stands in row 0 too",
        ),
        (
            '{"instruction": "a", "output": "b", "generator": "x"}\n{"instruction": "c", "output": "d", "generator": "y"}',
            "answers of x, y; give each system a file of its own",
        ),
    ],
)
def test_a_row_that_is_none_is_named(text, said, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        answers.load(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


# ---- two systems' ------------------------------------------------------------------------------------------------------


def two(tmp_path, left, right):
    return answers.load(jsonl(tmp_path / "a.jsonl", *left)), answers.load(jsonl(tmp_path / "b.jsonl", *right))


def test_pairs_are_by_id_and_sample_in_the_order_of_the_first(tmp_path):
    left = [row(f"p{n}", f"left {n} {sample}", sample=sample) for n in range(20) for sample in range(2)]
    right = [row(f"p{n}", f"right {n} {sample}", sample=sample) for n in range(20) for sample in range(2)]
    random.Random(0).shuffle(right)
    assert answers.pair(*two(tmp_path, left, right)) == [
        (f"p{n}", sample, f"What of p{n}?", f"left {n} {sample}", f"right {n} {sample}")
        for n in range(20)
        for sample in range(2)
    ]


def test_pairs_are_by_text_where_one_side_has_no_ids(tmp_path):
    ours = answers.load(jsonl(tmp_path / "a.jsonl", row("dev-1", "A", "Why\n  so?"), row("dev-2", "B", "How?")))
    theirs = answers.load(alpaca(tmp_path / "b.json", ("How?", "b"), ("Why so?", "a")))
    assert answers.pair(ours, theirs) == [("dev-1", 0, "Why\n  so?", "A", "a"), ("dev-2", 0, "How?", "B", "b")]
    assert answers.pair(theirs, ours) == [("dev-2", 0, "How?", "b", "B"), ("dev-1", 0, "Why so?", "a", "A")]
    again = answers.pair(theirs, answers.load(alpaca(tmp_path / "c.json", ("Why so?", "x"), ("How?", "y"))))
    assert [(p[2], p[3], p[4]) for p in again] == [("How?", "b", "y"), ("Why so?", "a", "x")]


def test_what_only_one_side_has_is_named_unless_parts_are_enough(tmp_path):
    left = [row(f"p{n}") for n in range(10)] + [row("p1", sample=1)]
    right = [row(f"p{n}") for n in range(3, 11)]
    a, b = two(tmp_path, left, right)
    with pytest.raises(UserError) as error:
        answers.pair(a, b)
    assert f"{a.path} has no answer to p10; {b.path} has no answer to p0, p1, p2, p1 (sample 1); " in str(error.value)
    assert [p[0] for p in answers.pair(a, b, partial=True)] == [f"p{n}" for n in range(3, 10)]
    a, b = two(tmp_path, [row(f"p{n}") for n in range(9)], [row("p8")])
    with pytest.raises(UserError, match="has no answer to p0, p1, p2, p3, p4 and 3 more; answer them, or compare only"):
        answers.pair(a, b)
    with pytest.raises(UserError, match="has no answer to"):  # nothing in common is no comparison
        answers.pair(*two(tmp_path, [row("p1")], [row("p2")]), partial=True)


@pytest.mark.parametrize("partial", [False, True])
def test_one_id_with_two_prompts_is_refused(partial, tmp_path):
    a, b = two(tmp_path, [row("p1"), row("p2")], [row("p1"), row("p2", prompt="Another?")])
    with pytest.raises(UserError, match="p2 is another prompt in each; they answer different prompt sets"):
        answers.pair(a, b, partial)


def test_real_answers_of_two_models_pair_by_their_prompts(shared, tmp_path):
    data = json.loads((shared / "preferences/lima_test_two_models_answers.json").read_text(encoding="utf-8"))["data"]
    first = alpaca(tmp_path / "a.json", *((item["conversations"], item["Answer1"]) for item in data), generator="one")
    second = [row(f"test-{n}", item["Answer2"], item["conversations"]) for n, item in enumerate(data)]
    random.Random(1).shuffle(second)
    pairs = answers.pair(answers.load(first), answers.load(jsonl(tmp_path / "b.jsonl", *second)))
    assert pairs == [
        (f"test-{n}", 0, item["conversations"], item["Answer1"], item["Answer2"]) for n, item in enumerate(data)
    ]
    assert len(pairs) == 300


def test_a_bases_answers_lie_beside_it(tmp_path):
    (tmp_path / "bases/small").mkdir(parents=True)
    runs.write_jsonl(
        tmp_path / "bases/generations/small/dev.jsonl", [{"prompt_id": "d", "prompt": "q", "response": "r"}]
    )
    found = answers.load(tmp_path / "bases/small", "dev")
    assert (found.name, found.path.parent.name, len(found.rows)) == ("small", "small", 1)
