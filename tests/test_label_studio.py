"""A project for Label Studio and back: what annotators would see, and results in the forms of its documentation (a real
server was not at hand)."""

import json
import re
import xml.etree.ElementTree as ET
from argparse import Namespace
from pathlib import Path

import pytest

from lima import UserError, exit_codes, runs
from lima.evaluate import agreement, asking, judge, judgments, verdicts
from lima.studio import label_studio

PROJECT, RESULTS = Path("work/project"), Path("export.json")
FILE, GONE = Path("judgments/seven-vs-rival.jsonl"), Path("judgments/former/seven-vs-rival.jsonl")
SAME = "the same in both"
HOSTILE = [
    '<script>alert(1)</script><img src=x onerror="alert(2)">',
    "![seen](http://evil.example/x.png) [go](javascript:alert(3))",
    '</Text></View><Choices name="choice" toName="x"/> & ]]> &lt; "\'',
    "\u202eright to left\u202c \u2066isolated\u2069 \u2028 日本語",
    "  two  spaces\n\n    and $prompt $answer_b lines\t",
    "Verdict: A",
]
CLICK = {"a": "A is significantly better", "b": "B is significantly better", "tie": "Neither"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(left, right, prompts=None):
    """Answers of two systems, "seven" and "rival", to p0, p1, …"""
    for name, texts in (("seven", left), ("rival", right)):
        rows = [
            {"prompt_id": f"p{i}", "prompt": prompts[i] if prompts else f"question {i}?", "response": text, "sample": 0}
            for i, text in enumerate(texts)
        ]
        runs.write_jsonl(f"answers/{name}/mine.jsonl", rows)


def numbered(count):
    write([f"long answer {i}" for i in range(count)], [f"other answer {i}" for i in range(count)])


def export(*flags):
    words = ["export", "--a", "answers/seven", "--b", "answers/rival", "--prompts", "mine", "--out", PROJECT, *flags]
    label_studio.main([str(word) for word in words])


def bring(*flags):
    words = ["import", "--project", PROJECT, "--results", RESULTS, *flags]
    label_studio.main([str(word) for word in words])


def tasks(name="tasks.json"):
    return json.loads((PROJECT / name).read_text(encoding="utf-8"))


def key():
    return json.loads((PROJECT / "key.json").read_text(encoding="utf-8"))


def annotation(choice, by=1, **more):
    """An annotation as Label Studio's JSON export has it; choice None: the result is empty."""
    control = ET.parse(PROJECT / "config.xml").find(".//Choices").attrib
    result = {
        "id": "Dx_aB91ISN",
        "from_name": control["name"],
        "to_name": control["toName"],
        "type": "choices",
        "origin": "manual",
        "value": {"choices": [choice]},
    }
    return {
        "id": 1001,
        "completed_by": by,
        "result": [result] if choice else [],
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2026-11-26T09:00:00.728353Z",
        "updated_at": "2026-11-26T09:00:01.728378Z",
        "draft_created_at": "2026-11-26T08:59:00.000000Z",
        "lead_time": 12.3456,
        **more,
    }


def results(given):
    """Label Studio's JSON export of `[(task, [annotation, …]), …]`."""
    rows = [
        {"id": 70 + n, "data": task["data"], "annotations": found, "drafts": [], "predictions": [], "inner_id": n}
        for n, (task, found) in enumerate(given)
    ]
    RESULTS.write_text(json.dumps(rows), encoding="utf-8")


def prefers(task, system, sides):
    """What a person clicks who prefers the answer of `system`, found by its text, not by the key."""
    if system == "tie":
        return "Neither"
    return CLICK["a" if task["data"]["answer_a"] in sides[system] else "b"]


# ---- there and back ----------------------------------------------------------------------------------------------------


def test_hostile_texts_there_and_back(capsys):
    left, right = [f"L {text}" for text in HOSTILE], [f"R {text}" for text in HOSTILE]
    write([*left, SAME, ""], [*right, f" {SAME}\n", "an answer"], [*HOSTILE, "same?", "empty?"])
    export()
    assert "7; 1 pairs of the same text, which are ties, are left out" in capsys.readouterr().out
    found = tasks()
    assert len(found) == 7 and all(set(task["data"]) == {"item", "prompt", "answer_a", "answer_b"} for task in found)
    both = {frozenset((task["data"]["answer_a"], task["data"]["answer_b"])) for task in found}
    assert both == {*map(frozenset, zip(left, right, strict=True)), frozenset(("(no answer)", "an answer"))}

    sides = {"a": {*left, "(no answer)"}, "b": {*right, "an answer"}}
    wanted = dict(zip([*HOSTILE, "empty?"], ["a", "b", "tie", "a", "b", "tie", "b"], strict=True))
    results([(t, [annotation(prefers(t, wanted[t["data"]["prompt"]], sides))]) for t in found])
    bring("--annotator", "Anna B@example.org")
    rows = runs.read_jsonl(FILE)
    ids = {f"p{i}": prompt for i, prompt in enumerate([*HOSTILE, "same?", "empty?"])}
    assert {row["prompt_id"]: row["verdict"] for row in rows} == {
        name: wanted[p] for name, p in ids.items() if p in wanted
    }
    instruction = asking.read_instruction(asking.INSTRUCTIONS / "pair.txt", judge.HOLDERS)
    by_id = {row["prompt_id"]: row for row in rows}
    assert by_id["p0"] == {
        "prompt_id": "p0", "prompts": "mine", "sample": 0, "a": "seven", "b": "rival", "judge": "human:Anna-B",
        "order": key()["items"][next(t["data"]["item"] for t in found if t["data"]["prompt"] == HOSTILE[0])]["order"],
        "verdict": "a", "raw": "", "seconds": 12.3, "date": "2026-11-26T09:00:01Z",
        "digest": verdicts.digest(left[0], right[0], instruction),
    }  # fmt: skip
    assert by_id["p7"]["digest"] == verdicts.digest("", "an answer", instruction)
    assert "human:Anna-B       7: 2 a, 3 b, 2 tie" in capsys.readouterr().out


def test_orders_say_which_system_stood_first():
    numbered(60)
    export()
    for task in tasks():
        row = key()["items"][task["data"]["item"]]
        first = {"ab": "long", "ba": "other"}[row["order"]]
        assert task["data"]["answer_a"] == f"{first} answer {row['prompt_id'][1:]}"
        assert task["data"]["prompt"] == f"question {row['prompt_id'][1:]}?"


def test_a_judges_and_a_persons_verdicts_have_the_same_digest():
    """Then an answer that changes sends both to former/."""
    numbered(2)
    export()
    instruction = asking.read_instruction(asking.INSTRUCTIONS / "pair.txt", judge.HOLDERS)
    digests = {row["prompt_id"]: row["digest"] for row in key()["items"].values()}
    assert digests == {f"p{i}": verdicts.digest(f"long answer {i}", f"other answer {i}", instruction) for i in (0, 1)}


# ---- what annotators see -----------------------------------------------------------------------------------------------


def test_nothing_names_a_system():
    numbered(20)
    export("--annotators", "anna", "ben", "--shared", 5)
    for path in PROJECT.iterdir():
        text = path.read_text(encoding="utf-8")
        if path.name in ("config.xml", "tasks-anna.json", "tasks-ben.json"):
            assert not re.search(r"seven|rival|\bmine\b|answers/|jsonl|\bp\d+\b|\b(ab|ba)\b", text), path
    names = [task["data"]["item"] for task in tasks("tasks-anna.json")]
    assert all(re.fullmatch("[0-9a-f]{12}", name) for name in names) and len(set(names)) == len(names)


def test_config_is_text_and_three_choices():
    numbered(3)
    export()
    view = ET.parse(PROJECT / "config.xml").getroot()
    assert view.tag == "View" and {element.tag for element in view.iter()} == {
        "View", "Style", "Header", "Text", "Choices", "Choice"
    }  # fmt: skip
    shown = [(text.get("name"), text.get("value"), text.get("valueType")) for text in view.iter("Text")]
    assert shown == [(name, f"${name}", "text") for name in ("prompt", "answer_a", "answer_b")]
    variables = {
        found for element in view.iter() for value in element.attrib.values() for found in re.findall(r"\$(\w+)", value)
    }
    assert variables and all(variables <= set(task["data"]) for task in tasks())
    (question,) = view.iter("Choices")
    assert (question.get("choice"), question.get("required")) == ("single", "true")
    assert question.get("toName") in {text.get("name") for text in view.iter("Text")}
    assert question.get("name") not in tasks()[0]["data"]  # JSON_MIN lays both in one object
    assert [choice.get("value") for choice in question] == list(CLICK.values())
    (row,) = [one for one in view if one.tag == "View"]
    assert "flex" in row.get("style") and [half.find("Text").get("name") for half in row] == ["answer_a", "answer_b"]


def headers(project=PROJECT):
    """The lines of instruction that a config shows."""
    return [one.get("value") for one in ET.parse(project / "config.xml").getroot().findall("Header")][:-1]


def test_people_get_the_words_above_the_dashes():
    numbered(2)
    export()
    words = (asking.INSTRUCTIONS / "pair.txt").read_text(encoding="utf-8")
    above = "\n".join(line for line in words.split("\n---")[0].split("\n") if not line.startswith("#:"))
    assert " ".join(headers()).split() == above.split() and headers()[-1].startswith("neither: ")


def test_an_instruction_of_hostile_characters(tmp_path, monkeypatch):
    numbered(2)
    monkeypatch.setattr(asking, "INSTRUCTIONS", tmp_path)
    mean = '#: a note of ours\n<b>Choose</b> & "say" \x01why, for $5 or $prompt ]]>\nA: the first\n---\n'
    below = "{mark} {prompt} {answer_a} {answer_b}"
    (tmp_path / "pair.txt").write_text(mean + below, encoding="utf-8")
    export()
    first, second = headers()
    assert (
        first.replace("\u2060", "") == '<b>Choose</b> & "say" why, for $5 or $prompt ]]>' and second == "A: the first"
    )
    assert not re.search(r"\$[\w[\].{}]", first)  # what Label Studio would fill in
    text = (PROJECT / "config.xml").read_text(encoding="utf-8")
    assert "<b>" not in text and "a note" not in text and "mark" not in text
    (tmp_path / "pair.txt").write_text(below, encoding="utf-8")
    with pytest.raises(UserError, match=r"pair.txt: people get what stands above a line of dashes; put one in"):
        export("--out", "work/none")


def test_sides_are_balanced_and_hang_on_the_item():
    numbered(400)
    export()
    first = {row["prompt_id"]: row["order"] for row in key()["items"].values()}
    assert 160 <= sum(order == "ab" for order in first.values()) <= 240  # 4 standard deviations
    places = [int(key()["items"][task["data"]["item"]]["prompt_id"][1:]) for task in tasks()]
    assert sorted(places) == list(range(400)) and places != sorted(places)
    numbered(100)
    export("--out", "work/part")
    part = json.loads(Path("work/part/key.json").read_text())["items"].values()
    assert {row["prompt_id"]: row["order"] for row in part} == {f"p{i}": first[f"p{i}"] for i in range(100)}
    export("--out", "work/seed", "--seed", 1)
    other = json.loads(Path("work/seed/key.json").read_text())["items"].values()
    assert 25 <= sum(first[row["prompt_id"]] != row["order"] for row in other) <= 75


def test_annotators_share_some_and_divide_the_rest():
    numbered(100)
    export("--annotators", "anna", "ben@x.org", "Carl C.", "--shared", 10)
    assert sorted(path.name for path in PROJECT.iterdir()) == [
        "README.md", "config.xml", "key.json", "tasks-Carl-C.json", "tasks-anna.json", "tasks-ben.json"
    ]  # fmt: skip
    parts = [[task["data"]["item"] for task in tasks(f"tasks-{name}.json")] for name in ("anna", "ben", "Carl-C")]
    assert [len(part) for part in parts] == [40, 40, 40]
    assert parts[0][:10] == parts[1][:10] == parts[2][:10]
    rest = [name for part in parts for name in part[10:]]
    assert len(set(rest)) == len(rest) == 90 and {*rest, *parts[0][:10]} == key()["items"].keys()
    export("--out", "work/fifty", "--annotators", "anna", "ben")
    assert len(json.loads(Path("work/fifty/tasks-ben.json").read_text())) == 50 + 25
    export("--out", "work/all", "--annotators", "anna", "ben", "--shared", 1000)
    assert Path("work/all/tasks-ben.json").read_text() == Path("work/all/tasks-anna.json").read_text()


def test_the_same_export_again_does_nothing(capsys):
    numbered(30)
    export("--annotators", "anna", "ben")
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in PROJECT.iterdir()}
    export("--annotators", "anna", "ben")
    assert before == {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in PROJECT.iterdir()}
    assert "(as it was)" in capsys.readouterr().out
    (PROJECT / "tasks-ben.json").unlink()  # as after a death between two files
    export("--annotators", "anna", "ben")
    assert (PROJECT / "tasks-ben.json").read_bytes() == before["tasks-ben.json"][0]
    for flags in (["--annotators", "anna"], ["--seed", 1], ["--annotators", "anna", "ben", "--shared", 5]):
        with pytest.raises(
            UserError, match="holds a project of other answers, flags or instruction; name another folder"
        ):
            export(*flags)
    numbered(31)
    with pytest.raises(UserError, match="holds a project of other answers"):
        export("--annotators", "anna", "ben")
    assert (PROJECT / "key.json").read_bytes() == before["key.json"][0]


# ---- results -----------------------------------------------------------------------------------------------------------


def test_imported_twice_is_imported_once(capsys):
    numbered(10)
    export()
    results([(task, [annotation("Neither")]) for task in tasks()])
    bring()
    before = FILE.read_bytes()
    bring()
    assert FILE.read_bytes() == before and not GONE.exists()
    assert len(runs.read_jsonl(FILE)) == 10 and {row["judge"] for row in runs.read_jsonl(FILE)} == {"human:user-1"}


def test_several_people_and_what_does_not_count(capsys):
    numbered(4)
    export()
    one, two, three, four = tasks()
    anna, ben = {"id": 3, "email": "anna@example.org", "first_name": "A"}, "ben+x@example.org"
    results([
        (one, [annotation(CLICK["a"], anna), annotation(CLICK["b"], ben), annotation("Neither", 7, lead_time=None)]),
        (two, [annotation(CLICK["a"], anna, was_cancelled=True), annotation(None, ben, was_cancelled=True)]),
        (three, [annotation("Neither", anna, updated_at="2026-11-26T12:00:00+01:00"),
                 annotation(CLICK["a"], anna, updated_at="2026-11-26T10:00:00Z")]),
        (four, []),
    ])  # fmt: skip
    found = json.loads(RESULTS.read_text())
    found[3]["drafts"] = [{"id": 5, "user": "anna@example.org", "result": annotation(CLICK["a"])["result"]}]
    found[3]["predictions"] = [annotation(CLICK["b"])]
    RESULTS.write_text(json.dumps(found))
    bring()
    items = key()["items"]
    rows = {(row["judge"], row["prompt_id"]): row for row in runs.read_jsonl(FILE)}
    first, third = items[one["data"]["item"]], items[three["data"]["item"]]
    at = first["prompt_id"]
    assert {place: row["verdict"] for place, row in rows.items()} == {
        ("human:anna", at): first["order"][0],
        ("human:ben-x", at): first["order"][1],
        ("human:user-7", at): "tie",
        ("human:anna", third["prompt_id"]): "tie",  # the later of two, whatever their time zones
    }
    assert rows["human:user-7", at]["seconds"] is None
    assert rows["human:anna", third["prompt_id"]]["date"] == "2026-11-26T11:00:00Z"
    assert b"example" not in FILE.read_bytes()
    assert "skipped 2, without annotation 1" in capsys.readouterr().out


def test_json_min():
    """A row an annotation, the choice bare, the annotator a number or an address; without annotation there is no id."""
    numbered(4)
    export()
    minimal = [
        {**task["data"], "id": n, "choice": chosen, "annotator": by, "annotation_id": n, "lead_time": 3,
         "created_at": "2026-11-26T09:00:00Z", "updated_at": "2026-11-26T09:00:00Z"}
        for n, (task, chosen, by) in enumerate(
            zip(tasks(), [CLICK["a"], CLICK["b"], "Neither"], [4, "4", "anna@x.org"], strict=False))
    ]  # fmt: skip
    minimal.append({**tasks()[3]["data"], "id": 9, "annotator": "{}", "annotation_id": None, "lead_time": None})
    RESULTS.write_text(json.dumps(minimal))
    bring()
    orders = [key()["items"][task["data"]["item"]]["order"] for task in tasks()]
    assert [(row["judge"], row["verdict"], row["seconds"]) for row in runs.read_jsonl(FILE)] == [
        ("human:anna", "tie", 3), ("human:user-4", orders[0][0], 3), ("human:user-4", orders[1][1], 3)
    ]  # fmt: skip


def test_agreement_reads_it(capsys):
    numbered(40)
    export()
    results([(t, [annotation("Neither", "anna"), annotation("Neither" if n % 4 else CLICK["a"], "ben")])
             for n, t in enumerate(tasks())])  # fmt: skip
    bring()
    agreement.main([str(FILE), "--authors", "ben"])
    said = capsys.readouterr().out
    assert re.search(r"human:anna \(crowd\) +40  0 a, 0 b, 40 tie", said)
    assert re.search(r"crowd – author +40  87.5 ", said)  # 10 of 40 are half agreed


def test_what_stands_is_kept(capsys):
    """Other judges, other items, later verdicts; a verdict on other answers goes to former/, unless the old one comes later."""
    numbered(3)
    export()
    results([(task, [annotation(CLICK["a"], "anna")]) for task in tasks()])
    model = {**dict.fromkeys(("prompt_id", "digest"), "p0"), "prompts": "mine", "sample": 0, "a": "seven", "b": "rival",
             "judge": "gpt", "order": "ab", "verdict": "a", "raw": "Verdict: A", "date": ""}  # fmt: skip
    local = {**model, "judge": "human:anna", "prompt_id": "p9", "raw": ""}
    old = {**local, "prompt_id": "p1", "date": "2026-11-25", "digest": "other"}
    late = {**local, "prompt_id": "p2", "date": "2026-11-27", "digest": "newer"}
    runs.write_jsonl(FILE, [model, local, old, late])
    bring()
    rows = runs.read_jsonl(FILE)
    assert [row for row in rows if row in (model, local, old, late)] == [model, local, late]
    assert sorted(row["prompt_id"] for row in rows) == ["p0", "p0", "p1", "p2", "p9"]
    assert runs.read_jsonl(GONE) == [old]
    said = capsys.readouterr().out
    assert "not taken: 1 where a later verdict" in said and f"moved to {GONE}: 1 on other answers" in said


def test_a_person_has_one_verdict_on_an_item(capsys):
    """Exported again with other sides, or labelled in the page of this repo first."""
    numbered(1)
    export()
    task, given = tasks()[0], key()["items"]
    swapped = {**next(iter(given.values())), "prompts": "mine", "a": "seven", "b": "rival", "judge": "human:anna",
               "order": given[task["data"]["item"]]["order"][::-1], "verdict": "tie", "raw": "", "date": "2026-11-20"}  # fmt: skip
    runs.write_jsonl(FILE, [swapped])
    results([(task, [annotation(CLICK["a"], "anna")])])
    bring()
    assert runs.read_jsonl(FILE) == [swapped] and "not taken: 1" in capsys.readouterr().out
    assert list(
        judgments.standing(FILE, {("p0", 0): swapped["digest"]}, Namespace(judge="human:anna", prompts="mine"))
    ) == [("p0", 0, swapped["order"])]


# ---- mistakes ----------------------------------------------------------------------------------------------------------


def refused(act, *flags, match):
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=match) as error:
        act(*flags)
    assert "\n" not in str(error.value)
    assert before == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_exports_that_are_refused():
    refused(export, match="answers/seven: no such file or folder; give a run")
    numbered(3)
    refused(export, "--b", "answers/seven", match="a and b are both named seven")
    refused(export, "--shared", 5, match="--shared: expected a number from 0, and --annotators, among whom")
    refused(export, "--annotators", "anna", "--shared", -1, match="--shared: expected a number from 0")
    refused(
        export, "--annotators", "anna", "Anna@x.org", match="--annotators anna Anna@x.org: expected a name of its own"
    )
    refused(
        export, "--annotators", "日本", match="--annotators 日本: expected a name of its own, with letters, for each"
    )
    refused(
        export, "--out", "answers/seven/mine.jsonl", match="--out answers/seven/mine.jsonl: is a file; name a folder"
    )
    refused(export, "--out", "answers", match="--out answers: holds other files and no key.json; name a new folder")
    runs.write_jsonl(
        "data/prompts/mine.jsonl", [{"id": "x", "messages": [{"role": "user", "content": "something else"}]}]
    )
    refused(export, match="no prompt of data/prompts/mine.jsonl is answered here")
    Path("data/prompts/mine.jsonl").unlink()
    write(["x", "more"], ["x", "of it"])
    rows = runs.read_jsonl("answers/seven/mine.jsonl")
    runs.write_jsonl("answers/seven/mine.jsonl", rows[:1])
    refused(export, match="has no answer to p1; answer them, or compare only what both have answered")
    refused(export, "--partial", match="all answers are the same texts; there is nothing to ask")


@pytest.mark.parametrize(("text", "match"), [
    ("[", r"export.json: is not JSON; in Label Studio choose Export → JSON"),
    ("\x00\udcff", "export.json: is not JSON"),
    ("{}", "export.json: expected a list of tasks"),
    ("[3]", r"export.json, task 0 \(from 0\): is not a task with its annotations"),
    ('[{"prompt": "x"}]', r"task 0 \(from 0\): is not a task with its annotations"),
    ('[{"data": {"item": "x"}, "annotations": [7]}]', "is not a task with its annotations"),
    ('[{"data": {"item": "0123456789ab"}, "annotations": []}]', "item '0123456789ab' is not of work/project; these are the res"),
    ('[{"data": {"text": "hello"}, "annotations": []}]', "item None is not of work/project"),
    ('[{"data": {"item": ["x"]}, "annotations": []}]', "is not of work/project; these are the results of another project"),
    ("[]", r"export.json: no annotation that was submitted \(0 skipped\); annotate first"),
])  # fmt: skip
def test_files_that_are_no_results(text, match):
    numbered(2)
    export()
    RESULTS.write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(bring, match=match)


def test_annotations_that_are_refused():
    numbered(2)
    export()
    one, two = tasks()
    results([(one, [annotation(CLICK["a"])]), (two, [annotation(None)])])
    refused(
        bring, match=r"task 1 \(from 0\): an annotation without a choice; was it made with config.xml of this project"
    )
    results([(one, [annotation("C is")])])
    refused(bring, match=r"task 0 \(from 0\): expected one of A is significantly better, .*Neither; found .*C is")
    double = annotation("Neither")
    double["result"][0]["value"]["choices"].append(CLICK["a"])
    for value in (double["result"][0]["value"], {"choices": "Neither"}, {"rating": 3}, "choices", None):
        double["result"][0]["value"] = value
        results([(one, [double])])
        refused(bring, match="expected one of A is significantly better")
    for by in (None, {}, "日本", ""):
        results([(one, [annotation("Neither", by)])])
        refused(bring, match="completed_by .* gives no name of letters or digits; give --annotator NAME")
    results([(one, [annotation("Neither", "anna@x.org"), annotation("Neither", "anna@y.org")])])
    refused(bring, match="two annotators would be called anna; in the file give one another name")
    refused(bring, "--annotator", "anna", match="--annotator anna: the results are of 2 people; leave it out")
    results([(one, [annotation("Neither", was_cancelled=True)])])
    refused(bring, match=r"no annotation that was submitted \(1 skipped\)")
    FILE.parent.mkdir()
    FILE.write_text("no row\n")
    results([(one, [annotation("Neither")])])
    refused(bring, match="judgments/seven-vs-rival.jsonl: line 1 is not a row of judgments")


def test_projects_that_are_refused(capsys):
    refused(bring, match="work/project/key.json: no such file; --project is the folder that export wrote")
    numbered(2)
    export()
    refused(bring, match=r"export.json: cannot be read \(No such file or directory\); --results is what Label Studio")
    text = (PROJECT / "key.json").read_text()
    changed = (text.replace('"seven"', '"../seven"'), text.replace('"sample": 0', '"sample": "0"'), text[:-9], "[]",
               re.sub('"order": "[ab]*"', '"order": "a"', text), text.replace('"items"', '"item"'))  # fmt: skip
    for one in changed:
        (PROJECT / "key.json").write_text(one)
        refused(bring, match="work/project/key.json: is not the key of a project, or was changed; export again")
    with pytest.raises(SystemExit) as stop, exit_codes():
        bring()
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 2


def test_help_fits_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for words in ([], ["export"], ["import"]):
        with pytest.raises(SystemExit):
            label_studio.main([*words, "--help"])
    said = capsys.readouterr().out
    assert max(map(len, said.split("\n"))) <= 80 and "tasks.json" in said


def test_the_readme_gives_the_command():
    numbered(2)
    export()
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert (
        "import --project work/project --results FILE" in text
        and "`tasks.json`" in text
        and f"agreement {FILE}`" in text
    )
