"""A dataset in any form becomes the same checked conversations; what cannot be used is named, all of it at once."""

import json
from collections import Counter

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from lima import UserError, conversations

GOOD = {"prompt": "Why is the sky blue?", "response": "Air scatters blue light most."}
LAST = {"prompt": "And at dusk?", "response": "The light has lost its blue on the way."}
TURNS = ["Name a river.", "The Oder.", "Another?", "The Neisse."]
CHECKED = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(TURNS)]


def turns(*pairs):
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


def numbered(count):
    return [{"id": f"n-{i}", "source": "s", "conversations": [f"question {i}", f"answer {i}"]} for i in range(count)]


def write(folder, rows, name="rows.jsonl"):
    """`rows` as the file `name`; a text stands as it is on a line of its own."""
    path = folder / name
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n", encoding="utf-8")
    return str(path)


def refused(path, **arguments):
    """The message with which `load` refuses `path`."""
    with pytest.raises(UserError) as caught:
        conversations.load(path, **arguments)
    return str(caught.value)


# ---- forms of a row --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": CHECKED}, CHECKED),
        ({"conversations": TURNS}, CHECKED),
        ({"prompt": TURNS[0], "response": TURNS[1]}, CHECKED[:2]),
        ({"messages": None, "conversations": TURNS, "prompt": None, "response": None}, CHECKED),
        ({"messages": [{**turn, "name": "x", "weight": 1} for turn in CHECKED]}, CHECKED),
    ],
    ids=["messages", "conversations", "prompt-response", "columns-left-empty", "extra-keys-of-a-turn"],
)
def test_every_form_of_a_row_becomes_messages(tmp_path, row, expected):
    (loaded,) = conversations.load(write(tmp_path, [row])).rows
    assert loaded["messages"] == expected


def test_a_row_keeps_its_id_and_source_and_gets_its_number(tmp_path):
    rows = conversations.load(write(tmp_path, [{**GOOD, "id": 7, "source": "wikihow"}, LAST])).rows
    assert [(r["id"], r["source"], r["row"]) for r in rows] == [("7", "wikihow", 0), ("1", "unknown", 1)]


def test_text_is_kept_character_by_character(tmp_path):
    text = "  two  spaces\n\ttab, trailing \n\u2028 line separator, café, 日本, 😀 \u0085 end "
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": text, "response": text}, ensure_ascii=False) + "\n", encoding="utf-8")
    (row,) = conversations.load(str(path)).rows
    assert [m["content"] for m in row["messages"]] == [text, text]


def test_an_escaped_surrogate_pair_is_one_character(tmp_path):
    (row,) = conversations.load(write(tmp_path, ['{"prompt": "smile \\ud83d\\ude00", "response": "ok"}'])).rows
    assert row["messages"][0]["content"] == "smile 😀"


# ---- forms of a file -------------------------------------------------------------------------------------------------


def store(form, rows, folder):
    """`rows` in one of the forms that a dataset can have; returns what to load."""
    target = folder / form.replace("/", "-")
    if form.startswith("."):
        return write(folder, rows, f"rows{form}")
    if form == "save_to_disk":
        datasets.Dataset.from_list(rows).save_to_disk(target)
    elif form == "save_to_disk/splits":
        other = datasets.Dataset.from_list(numbered(3))
        datasets.DatasetDict(train=datasets.Dataset.from_list(rows), test=other).save_to_disk(target)
    elif form == "folder/jsonl":
        target.mkdir()
        write(target, rows, "train.jsonl")
        write(target, numbered(3), "test.jsonl")
    else:  # as `Dataset.push_to_hub` lays it out
        (target / "data").mkdir(parents=True)
        for shard, part in enumerate((rows[:2], rows[2:])):
            write(target / "data", part, f"train-0000{shard}-of-00002.parquet")
    return str(target)


FORMS = [".json", ".parquet", "save_to_disk", "save_to_disk/splits", "folder/jsonl", "folder/shards"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["messages", "conversations", "prompt-response"])
def test_every_form_of_a_file_gives_the_rows_of_the_jsonl(tmp_path, form, kind):
    rows = []
    for i, turn in enumerate(TURNS):
        texts = [f"{turn} ({i})", "Yes, café 😀."]
        row = {
            "messages": turns(("user", texts[0]), ("assistant", texts[1])),
            "conversations": {"conversations": texts},
            "prompt-response": {"prompt": texts[0], "response": texts[1]},
        }[kind]
        rows.append({"id": f"t-{i}", "source": "river", **row})
    plain = conversations.load(write(tmp_path, rows))
    other = conversations.load(store(form, rows, tmp_path))
    assert len(plain.rows) == 4
    assert other.rows == plain.rows
    assert other.fingerprint == plain.fingerprint


def test_a_null_id_or_source_counts_as_none_given(tmp_path):
    """Parquet and Arrow fill a column's gaps with null, where .jsonl leaves the key out."""
    rows = [{**GOOD, "id": "a", "source": "s"}, LAST]
    plain = conversations.load(write(tmp_path, rows))
    assert [r["id"] for r in plain.rows] == ["a", "1"]
    table = [{**LAST, "id": None, "source": None, **row} for row in rows]
    assert conversations.load(write(tmp_path, table, "rows.parquet")).rows == plain.rows


def test_the_split_is_read(tmp_path):
    path = store("folder/jsonl", [GOOD], tmp_path)
    assert len(conversations.load(path).rows) == 1
    assert len(conversations.load(path, split="test").rows) == 3


def test_a_folder_that_changed_is_read_anew(tmp_path):
    path = store("folder/shards", numbered(4), tmp_path)
    before = conversations.load(path)
    write(tmp_path / "folder-shards/data", numbered(1), "train-00001-of-00002.parquet")
    with pytest.raises(UserError, match=r"row 2: .*same conversation as row 0"):
        conversations.load(path)
    write(tmp_path / "folder-shards/data", numbered(9)[4:], "train-00001-of-00002.parquet")
    assert len(before.rows) == 4
    assert len(conversations.load(path).rows) == 7


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[::-1],
        lambda rows: rows[:-1],
        lambda rows: [{**rows[0], "response": GOOD["response"] + " "}, rows[1]],
        lambda rows: [{"prompt": GOOD["prompt"] + GOOD["response"][0], "response": GOOD["response"][1:]}, rows[1]],
    ],
    ids=["order", "fewer", "one-space", "boundary-moved"],
)
def test_the_fingerprint_changes_with_the_text(tmp_path, change):
    rows = [GOOD, LAST]
    one = conversations.load(write(tmp_path, rows, "a.jsonl")).fingerprint
    assert conversations.load(write(tmp_path, change(rows), "b.jsonl")).fingerprint != one


def test_the_fingerprint_ignores_all_but_the_text(tmp_path):
    plain = conversations.load(write(tmp_path, [GOOD, LAST], "a.jsonl")).fingerprint
    told = [
        {**GOOD, "id": "z", "source": "s", "url": "u"},
        turns(("user", LAST["prompt"]), ("assistant", LAST["response"])),
    ]
    assert conversations.load(write(tmp_path, told, "b.jsonl")).fingerprint == plain
    assert len(plain) == 16 and set(plain) <= set("0123456789abcdef")


# ---- bad rows --------------------------------------------------------------------------------------------------------

BAD = {
    "system": (
        turns(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello")),
        ["system turn", "first user turn"],
    ),
    "system-later": (turns(("user", "Hi"), ("system", "Be kind."), ("assistant", "Hello")), ["system turn"]),
    "wrong-role": (turns(("user", "Hi"), ("tool", "Hello")), ["turn 1", "'tool'", "user or assistant"]),
    "no-role": ({"messages": [{"content": "Hi"}]}, ["turn 0", "None", "user or assistant"]),
    "other-keys": ({"messages": [{"from": "human", "value": "Hi"}]}, ["turn 0", "user or assistant"]),
    "not-alternating": (
        turns(("user", "Hi"), ("user", "Hello?"), ("assistant", "Yes")),
        ["turn 1 is user", "expected assistant", "alternating"],
    ),
    "assistant-first": (turns(("assistant", "Hello"), ("user", "Hi")), ["turn 0 is assistant", "user first"]),
    "empty": (turns(("user", "Hi"), ("assistant", "")), ["turn 1 is empty"]),
    "white-space": ({"conversations": [" \n\t", "Hello"]}, ["turn 0 is empty"]),
    "number": ({"conversations": ["Hi", 3]}, ["turn 1 is int", "expected text"]),
    "null": ({"prompt": "Hi", "response": None}, ["turn 1 is NoneType", "expected text"]),
    "parts": (
        turns(("user", [{"type": "text", "text": "Hi"}]), ("assistant", "x")),
        ["turn 0 is list", "expected text"],
    ),
    "no-turns": ({"messages": []}, ["no turns"]),
    "one-string": ({"conversations": "Hi"}, ["`conversations`", "list of strings"]),
    "strings-as-messages": ({"messages": ["Hi", "Hello"]}, ["`messages`", "{role, content}"]),
    "messages-object": ({"messages": {"role": "user", "content": "Hi"}}, ["`messages`", "{role, content}"]),
    "prompt-turn-only": (turns(("user", "Hi")), ["prompt but no response"]),
    "prompt-column-only": ({"prompt": "Hi"}, ["`messages`", "`conversations`", "`response`", "it has prompt"]),
    "unknown-columns": ({"question": "Hi", "answer": "Hello"}, ["`messages`", "it has question, answer"]),
    "nothing": ({}, ["`messages`", "it has nothing"]),
    "list": (["Hi", "Hello"], ["expected an object", "list"]),
    "lone-null": (None, ["expected an object", "NoneType"]),
    "lone-surrogate": ('{"prompt": "half \\ud83d", "response": "x"}', ["turn 0", "surrogate"]),
    "lone-low-surrogate": ('{"prompt": "Hi", "response": "\\ude00 half"}', ["turn 1", "surrogate"]),
    "duplicate": ({"conversations": [GOOD["prompt"], GOOD["response"]]}, ["same conversation as row 0"]),
    "bad-json": ('{"prompt": "Hi", ', ["not valid JSON"]),
    "number-too-long": ("1" * 5000, []),  # json raises a plain ValueError
    "nested-too-deep": ("[" * 100_000, []),  # json raises a RecursionError
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_named_with_its_file_and_its_reason(tmp_path, kind):
    row, words = BAD[kind]
    message = refused(write(tmp_path, [GOOD, row, LAST]))
    head, line = message.split("\n")
    assert head.startswith(f"{tmp_path}/rows.jsonl: 1 row ")
    assert line.strip().startswith("row 1: ")
    assert not [word for word in words if word not in line]


def test_all_bad_rows_are_reported_at_once(tmp_path):
    kinds = [kind for kind in BAD if kind not in ("bad-json", "number-too-long", "nested-too-deep")][:20]
    message = refused(write(tmp_path, [GOOD] + [BAD[kind][0] for kind in kinds] + [LAST]))
    head, *lines = message.split("\n")
    assert f"{len(kinds)} rows" in head
    assert [line.split(":")[0].strip() for line in lines] == [f"row {i}" for i in range(1, len(kinds) + 1)]
    for kind, line in zip(kinds, lines, strict=True):
        assert BAD[kind][1][0] in line


def test_bad_json_lines_are_reported_with_the_other_bad_rows(tmp_path):
    rows = [GOOD, "{", BAD["system"][0], "nonsense", BAD["empty"][0]]
    lines = refused(write(tmp_path, rows)).split("\n")[1:]
    assert [line.split(":")[0].strip() for line in lines] == ["row 1", "row 2", "row 3", "row 4"]


@pytest.mark.parametrize("bad", [turns(("assistant", "x")), "{"], ids=["bad-row", "bad-json"])
@pytest.mark.parametrize(("count", "more"), [(20, None), (21, "1 more"), (33, "13 more")])
def test_at_most_20_bad_rows_are_shown_and_the_rest_counted(tmp_path, bad, count, more):
    head, *lines = refused(write(tmp_path, [GOOD] + [bad] * count)).split("\n")
    assert f"{count} rows" in head
    assert [line.split(":")[0].strip() for line in lines[:20]] == [f"row {i}" for i in range(1, 21)]
    assert [more in line for line in lines[20:]] == ([True] if more else [])


def test_a_blank_line_does_not_make_two_numberings(tmp_path):
    """The same line of the same file has one row number, whatever is wrong with it."""
    numbers = {
        refused(write(tmp_path, [GOOD, "", bad])).split("\n")[1].split(":")[0]
        for bad in ("{", turns(("assistant", "x")))
    }
    assert len(numbers) == 1


def test_a_duplicate_is_found_after_its_open_user_turn_is_cut(tmp_path):
    rows = [{"conversations": TURNS[:2]}, {"conversations": TURNS[:3]}]
    assert "row 1: is the same conversation as row 0" in refused(write(tmp_path, rows))


def test_the_same_prompt_with_another_response_is_kept_and_noted(tmp_path):
    again = {"prompt": GOOD["prompt"].upper(), "response": "Ask Rayleigh."}
    found = conversations.load(write(tmp_path, [GOOD, LAST, again]))
    assert len(found.rows) == 3
    assert found.notes == ["row 2 has the prompt of row 0"]


# ---- bad files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_byte_order_mark_is_no_text(tmp_path, name):
    path = write(tmp_path, [GOOD], name)
    plain = conversations.load(path).rows
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    assert conversations.load(path).rows == plain


def test_windows_line_ends_are_fine(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\r\n".join(json.dumps(row).encode() for row in (GOOD, LAST)) + b"\r\n")
    assert len(conversations.load(str(path)).rows) == 2


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_file_that_is_not_utf8_is_refused_with_the_byte(tmp_path, name):
    start = b'{"prompt": "caf'
    (tmp_path / name).write_bytes(start + 'é", "response": "x"}\n'.encode("latin-1"))
    message = refused(str(tmp_path / name))
    assert message.startswith(str(tmp_path / name))
    assert "UTF-8" in message and f"byte {len(start)}" in message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rows.json", '{"data": []}', ["expected a list of rows", "dict"]),
        ("rows.json", '[\n{"prompt": }]', ["line 2", "not valid JSON"]),
        ("rows.json", "", ["not valid JSON"]),
        ("rows.json", "[]", ["no conversation in it", "`messages`"]),
        ("rows.jsonl", "", ["no conversation in it", "`messages`"]),
        ("rows.jsonl", "\n \n", ["no conversation in it", "`messages`"]),
        ("rows.parquet", "not parquet at all", []),
        ("rows.parquet", "", []),
        ("rows.csv", "prompt,response\n", [".jsonl, .json or .parquet"]),
    ],
)
def test_a_file_of_no_use_is_refused_by_name(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    message = refused(str(tmp_path / name))
    assert str(tmp_path / name) in message
    assert not [word for word in words if word not in message]


@pytest.mark.parametrize("name", ["gone.jsonl", "gone.json", "gone.parquet", "gone"])
def test_a_missing_file_is_named_with_what_is_expected(tmp_path, name):
    message = refused(str(tmp_path / name))
    assert str(tmp_path / name) in message and ".jsonl, .json or .parquet" in message


def test_a_folder_without_data_is_refused_by_name(tmp_path):
    (tmp_path / "README.md").write_text("nothing here")
    message = refused(str(tmp_path))
    assert str(tmp_path) in message and "'train'" in message


@pytest.mark.parametrize("form", ["save_to_disk/splits", "folder/shards"])
def test_a_split_that_is_not_there_is_refused_by_name(tmp_path, form):
    message = refused(store(form, numbered(4), tmp_path), split="validation")
    assert str(tmp_path) in message and "'validation'" in message


def test_without_the_hub_a_local_copy_is_asked_for():
    message = refused("GAIR/lima")  # conftest.py sets HF_HUB_OFFLINE
    assert message.startswith("GAIR/lima: the Hub cannot be reached") and "--dataset train.jsonl" in message


# ---- what is left out ------------------------------------------------------------------------------------------------


def test_a_conversation_that_ends_on_a_user_turn_is_cut_and_counted(tmp_path):
    found = conversations.load(write(tmp_path, [GOOD, {"conversations": TURNS[:3]}, LAST]))
    assert found.rows[1]["messages"] == CHECKED[:2]
    assert (len(found.rows), found.cut) == (3, [1])
    assert found.notes == ["row 1 ended on a user turn, which was left out"]


def test_many_cut_rows_are_summed_up(tmp_path):
    found = conversations.load(write(tmp_path, [{"conversations": [str(i), "a", "b"]} for i in range(8)]))
    assert found.cut == list(range(8))
    assert found.notes == ["rows 0, 1, 2, 3, 4 and 3 more ended on a user turn, which was left out"]


SOURCES = [
    {"conversations": ["a", "1"], "source": "x"},
    {"conversations": ["b", "2"], "source": "y"},
    {"conversations": ["c", "3"]},
    {"conversations": ["d", "4"], "source": "x"},
]


@pytest.mark.parametrize(
    ("exclude", "kept"),
    [((), [0, 1, 2, 3]), (None, [0, 1, 2, 3]), (["x"], [1, 2]), (["x", "y"], [2]), (["unknown"], [0, 1, 3])],
)
def test_excluded_sources_are_left_out_and_counted(tmp_path, exclude, kept):
    found = conversations.load(write(tmp_path, SOURCES), exclude_sources=exclude)
    assert [row["row"] for row in found.rows] == kept
    assert found.excluded == 4 - len(kept)


def test_an_unknown_source_to_exclude_is_refused_with_those_there(tmp_path):
    message = refused(write(tmp_path, SOURCES[:2]), exclude_sources=["x", "wikihow"])
    assert "rows.jsonl" in message and "exclude_sources names 'wikihow'" in message and message.endswith("x, y")


def test_excluding_every_source_says_so(tmp_path):
    message = refused(write(tmp_path, SOURCES[:2]), exclude_sources=["x", "y"])
    assert "rows.jsonl" in message and "exclude_sources" in message


@pytest.mark.parametrize("source", [["a", "b"], {"name": "a"}, 3])
def test_a_source_that_is_not_text_is_read_or_refused_but_never_a_crash(tmp_path, source):
    try:
        (row,) = conversations.load(write(tmp_path, [{**GOOD, "source": source}])).rows
    except UserError as error:
        assert "row 0" in str(error) and "source" in str(error)
    else:
        assert isinstance(row["source"], str)


# ---- prompts and contamination ---------------------------------------------------------------------------------------


def test_prompts_end_on_a_user_turn_and_keep_what_they_carry(tmp_path):
    rows = [
        {"conversations": TURNS[:1], "id": "p", "tags": ["t"]},
        {"conversations": TURNS[:3]},
        {"conversations": TURNS},
    ]
    prompts = conversations.load_prompts(write(tmp_path, rows))
    assert [p["messages"] for p in prompts] == [CHECKED[:1], CHECKED[:3], CHECKED[:3]]
    assert [(p["id"], p["row"], p.get("tags")) for p in prompts] == [("p", 0, ["t"]), ("1", 1, None), ("2", 2, None)]


@pytest.mark.parametrize(
    "kind", ["system", "wrong-role", "assistant-first", "empty", "number", "lone-surrogate", "nothing"]
)
def test_a_bad_prompt_is_named_like_a_bad_row(tmp_path, kind):
    row, words = BAD[kind]
    path = write(tmp_path, [{"conversations": ["Hi"]}, row, row])
    with pytest.raises(UserError) as caught:
        conversations.load_prompts(path)
    head, *lines = str(caught.value).split("\n")
    assert head.startswith(f"{path}: 2 rows ")
    assert [line.split(":")[0].strip() for line in lines] == ["row 1", "row 2"]
    assert not [word for word in words if word not in lines[0]]


def test_an_empty_prompt_file_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"rows\.jsonl: no prompt in it; .*`messages`"):
        conversations.load_prompts(write(tmp_path, []))


def test_contamination_is_found_in_any_user_turn_white_space_and_case_aside(tmp_path):
    train = [GOOD, {"conversations": TURNS}, LAST, {**GOOD, "response": "Another answer."}]
    asked = ["Who?", "why  is THE\nsky blue? ", "ANOTHER?", "The Oder.", "Why is the sky blue"]
    prompts = conversations.load_prompts(write(tmp_path, [{"conversations": [text]} for text in asked], "p.jsonl"))
    rows = conversations.load(write(tmp_path, train)).rows
    # 3 is an assistant's turn and 4 lacks the question mark: neither is trained on as a prompt.
    assert conversations.contaminated(rows, prompts) == [(1, 0), (2, 1)]


def test_a_prompt_of_several_turns_is_compared_by_its_last(tmp_path):
    prompts = conversations.load_prompts(
        write(tmp_path, [{"conversations": ["Hi", "Hello", LAST["prompt"]]}], "p.jsonl")
    )
    rows = conversations.load(write(tmp_path, [GOOD, {**LAST, "id": "x"}])).rows
    assert conversations.contaminated(rows, prompts) == [(0, 1)]


# ---- the real data ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lima(shared):
    return conversations.load(str(shared / "lima/train.jsonl"))


def raw_lines(path):
    return [json.loads(line) for line in path.read_bytes().decode().split("\n") if line]


def test_lima_has_1030_rows_and_one_is_cut(lima, shared):
    raw = raw_lines(shared / "lima/train.jsonl")
    assert len(lima.rows) == len(raw) == 1030
    assert lima.cut == [i for i, row in enumerate(raw) if len(row["conversations"]) % 2] == [1021]
    assert "row 1021 ended on a user turn, which was left out" in lima.notes


def test_lima_is_read_text_by_text(lima, shared):
    for number, (row, raw) in enumerate(zip(lima.rows, raw_lines(shared / "lima/train.jsonl"), strict=True)):
        texts = raw["conversations"][: -1 if number == 1021 else None]
        assert [m["content"] for m in row["messages"]] == texts
        assert [m["role"] for m in row["messages"]] == ["user", "assistant"] * (len(texts) // 2)
        assert (row["row"], row["id"], row["source"]) == (number, str(number), raw["source"])


def test_lima_sources_are_those_of_the_paper(lima):
    assert Counter(row["source"] for row in lima.rows) == {
        "stackexchange": 400,
        "authors": 200,
        "wikihow": 200,
        "writingprompts": 150,
        "nlp": 50,
        "multi_turn": 30,
    }


def test_lima_without_its_dialogues_is_the_1000_examples_of_the_paper(lima, shared):
    found = conversations.load(str(shared / "lima/train.jsonl"), exclude_sources=["multi_turn"])
    assert (len(found.rows), found.excluded, found.cut) == (1000, 30, [])
    assert {len(row["messages"]) for row in found.rows} == {2}
    assert found.fingerprint != lima.fingerprint


def test_lima_test_prompt_83_is_training_row_547_and_no_other(lima, shared):
    prompts = conversations.load_prompts(str(shared / "lima/test.jsonl"), "test")
    assert len(prompts) == 300
    assert conversations.contaminated(lima.rows, prompts) == [(83, 547)]


def test_lima_folder_is_read_by_split(lima, shared):
    assert conversations.load(str(shared / "lima")).fingerprint == lima.fingerprint
    assert len(conversations.load_prompts(str(shared / "lima"), "test")) == 300


def test_lima_survives_the_way_through_parquet(lima, shared, tmp_path):
    path = write(tmp_path, raw_lines(shared / "lima/train.jsonl"), "train.parquet")
    found = conversations.load(path)
    assert found.rows == lima.rows
    assert found.fingerprint == lima.fingerprint
