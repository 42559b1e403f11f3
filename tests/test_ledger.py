"""What a step of the curation leaves: all of it or nothing, and whether it stands for these settings and inputs."""

import os

import pytest

from lima.curate import ledger

ROW = {"id": "a/1", "source": "wikihow", "url": "", "author": "", "license": "", "score": None, "group": "g", "created": "",
       "title": "T", "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A" * 400}]}  # fmt: skip


def write(folder, settings=None, inputs=()):
    with ledger.Step(folder, settings, inputs) as step:
        step.keep(ROW)
        step.drop("a/2", "g", "too_short", "12 characters", "x" * 400)
        step.drop_all(("a/", [3, 4]), "g", "answer_score", ("score ", [-1, 0]), ["", "x"])


def test_rows_and_lines_come_back_and_counts_add_up(tmp_path):
    write(tmp_path)
    assert list(ledger.candidates(tmp_path)) == [ROW]
    assert ledger.counts(tmp_path) == {"": 1, "too_short": 1, "answer_score": 2}
    lines = {line["id"]: line for line in ledger.lines(tmp_path)}
    assert lines["a/3"]["detail"] == "score -1" and lines["a/4"]["excerpt"] == "x"
    assert len(lines["a/2"]["excerpt"]) == 300 == len(lines["a/1"]["excerpt"]) and set(lines) == {
        "a/1",
        "a/2",
        "a/3",
        "a/4",
    }


def test_a_step_that_fails_leaves_what_stood_and_no_more(tmp_path):
    write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RuntimeError), ledger.Step(tmp_path) as step:
        step.keep({**ROW, "id": "b/1"})
        raise RuntimeError
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_candidate_without_a_column_is_refused(tmp_path):
    with pytest.raises(ValueError, match="columns"), ledger.Step(tmp_path) as step:
        step.keep({"id": "a"})


def test_done_means_these_settings_and_these_inputs(tmp_path):
    raw, out = tmp_path / "raw.xml", tmp_path / "out"
    raw.write_text("one")
    assert not ledger.done(out, {"a": 1}, [raw])
    write(out, {"a": 1}, [raw])
    assert ledger.done(out, {"a": 1}, [raw]) and not ledger.done(out, {"a": 2}, [raw])
    raw.write_text("other")
    os.utime(raw, (1, 1))
    assert not ledger.done(out, {"a": 1}, [raw])


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name)
    for name in (ledger.CANDIDATES, ledger.LEDGER):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
