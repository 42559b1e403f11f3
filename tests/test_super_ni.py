"""Super-Natural Instructions: both schemas, one seeded instance a task, every rule."""

import json
import random

import pytest

from lima import runs
from lima.curate import command, ledger, super_ni

RECIPE = "recipes/data/lima-open.yaml"
OLD = {"Definition": "Say it in other words. ", "Categories": ["Text Modification -> Paraphrasing"],
       "Contributors": ["Ada", "Bo"], "Instances": [
           {"input": f"Sentence {n} is here.", "output": [f"Here is sentence number {n}.", f"Number {n} is the sentence."]}
           for n in range(40)]}  # fmt: skip
NEW = {"Definition": ["Give a title."], "Categories": ["Title Generation"], "Input_language": ["English"],
       "Output_language": ["English"], "Instance License": ["CC BY 4.0"], "Contributors": ["Cy"],
       "Instances": [{"id": "task9-x", "input": "A long text.", "output": ["The title of a long text"]}]}  # fmt: skip


def curate(folder, tasks, *flags, config=RECIPE):
    (folder / "tasks").mkdir(exist_ok=True)
    for name, task in tasks.items():
        text = task if isinstance(task, str) else json.dumps(task)
        (folder / f"tasks/{name}.json").write_text(text, encoding="utf-8")
    words = ["--config", config, "--raw", folder / "tasks", "--out", folder / "out", *flags]
    command.run("super_ni", super_ni.DEFAULTS, (".json",), super_ni.curate, "", list(map(str, words)))
    return list(ledger.candidates(folder / "out")), {line["id"]: line for line in ledger.lines(folder / "out")}


def test_both_schemas(tmp_path):
    (old, new), _ = curate(tmp_path, {"task1": OLD, "task9": NEW})
    assert new == {
        "id": "super_ni/task9", "source": "nlp", "group": "Title Generation", "title": "task9", "license": "CC BY 4.0",
        "author": "Cy", "score": None, "created": "", "messages": [
            {"role": "user", "content": "Give a title.\n\nA long text."},
            {"role": "assistant", "content": "The title of a long text"}],
        "url": "https://github.com/allenai/natural-instructions/blob/master/tasks/task9.json",
    }  # fmt: skip
    prompt, response = (message["content"] for message in old["messages"])
    number = prompt.removeprefix("Say it in other words.\n\nSentence ").removesuffix(" is here.")
    assert response in (f"Here is sentence number {number}.", f"Number {number} is the sentence.")
    assert old["group"] == "Paraphrasing" and old["license"] == "" and old["author"] == "Ada, Bo"


def test_one_instance_a_task_by_seed_and_name_alone(tmp_path):
    tasks = {f"task{n}": OLD for n in range(30)}
    first, lines = curate(tmp_path, tasks)
    assert len(first) == len(lines) == 30 and len({one["messages"][0]["content"] for one in first}) > 10
    (tmp_path / "fewer").mkdir()
    fewer, _ = curate(tmp_path / "fewer", {"task7": OLD})
    assert fewer == [one for one in first if one["title"] == "task7"]
    chance = random.Random("0/task7")  # independently
    instance = chance.choice(OLD["Instances"])
    assert fewer[0]["messages"][0]["content"].endswith(instance["input"])
    assert fewer[0]["messages"][1]["content"] == chance.choice(instance["output"])
    other, _ = curate(tmp_path, tasks, "--seed", "1")
    assert sum(one != two for one, two in zip(first, other, strict=True)) > 20


@pytest.mark.parametrize(
    ("task", "rule"),
    [
        ("", "not_json"),
        ("{", "not_json"),
        ('{"Definition": "half \\ud83d"}', "not_json"),
        ("[]", "not_a_task"),
        ({**OLD, "Definition": [" "]}, "not_a_task"),
        ({**OLD, "Categories": []}, "not_a_task"),
        ({**OLD, "Instances": None}, "not_a_task"),
        ({**OLD, "Categories": ["Text Classification"]}, "not_generation"),
        ({**NEW, "Output_language": ["Hindi"]}, "other_language"),
        ({**OLD, "Instances": [{"input": "Yes?", "output": "yes"}, {"input": " ", "output": ["x" * 30]}, 3]}, "no_instance"),
        ({**OLD, "Instances": [{"input": "x" * 6001, "output": ["x" * 30]}]}, "no_instance"),
    ],
)  # fmt: skip
def test_every_rule(tmp_path, task, rule):
    kept, lines = curate(tmp_path, {"task1": task, "task2": NEW})
    assert [one["id"] for one in kept] == ["super_ni/task2"]
    assert lines["super_ni/task1"]["rule"] == rule and ledger.counts(tmp_path / "out") == {"": 1, rule: 1}


def test_not_utf8_is_counted(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/bad.json").write_bytes(b'{"a": "\xff"}')
    curate(tmp_path, {"task2": NEW})
    assert ledger.counts(tmp_path / "out") == {"": 1, "not_json": 1}


def test_real_task(shared, tmp_path):
    (path,) = (shared / "natural_instructions").glob("*.json")
    (one,), _ = curate(tmp_path, {path.stem: path.read_text(encoding="utf-8")})
    task = json.loads(path.read_text(encoding="utf-8"))
    prompt, response = (message["content"] for message in one["messages"])
    assert [
        i["input"]
        for i in task["Instances"]
        if prompt == f"{task['Definition']}\n\n{i['input']}" and response in i["output"]
    ]
    theirs = [row["conversations"] for row in runs.read_jsonl(shared / "lima/train.jsonl") if row["source"] == "nlp"]
    assert (
        len(prompt) <= max(len(p) for p, _ in theirs) and sum("\n\n" in p for p, _ in theirs) > 25
    )  # instruction, input
