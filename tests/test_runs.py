"""Where a run keeps what: whole files or none, epochs, checkpoints, the commit; and how every program ends."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from lima import UserError, exit_codes, runs

# ---- files -----------------------------------------------------------------------------------------------------------


def test_write_text_makes_the_folder_and_replaces_what_stood_there(tmp_path):
    path = tmp_path / "a/b/file.txt"
    runs.write_text(path, "old, and longer than the new")
    runs.write_text(path, "é 漢\n😀")
    assert path.read_bytes() == "é 漢\n😀".encode()
    assert os.listdir(path.parent) == ["file.txt"]


WRITER = """
import sys
from lima import runs
while True:
    for letter in "ab":
        runs.write_text(sys.argv[1], letter * 4_000_000)
"""


def test_no_reader_sees_half_a_file_and_a_killed_writer_leaves_none(tmp_path):
    path = tmp_path / "file.txt"
    whole, reads = {letter * 4_000_000 for letter in "ab"}, 0
    runs.write_text(path, "a" * 4_000_000)
    for seconds in (0.5, 0.61, 0.73):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert path.read_text() in whole
            reads += 1
        writer.kill()
        assert writer.wait() == -9  # it was still writing
        assert path.read_text() in whole
    assert reads > 20


def test_text_that_cannot_be_encoded_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    runs.write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        runs.write_text(path, "x" * 100_000 + "\ud800")
    assert path.read_text() == "old"


FULL = """
import sys
from lima import runs
runs.write_text(sys.argv[1], "new" * 1_000_000)
"""


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    runs.write_text(path, "old")

    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], cwd=ROOT, preexec_fn=small_disk, capture_output=True, text=True
    )
    assert done.returncode == 1 and "File too large" in done.stderr
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "two\nlines\r\n",
        "é 漢 😀",
        '"quoted" \\',
        "a\u2028b\u2029c",
        "next\x85line",
        "\x0b\x0c\x1c\x1d\x1e",
        "",
    ],
    ids=ascii,
)
def test_rows_come_back_from_jsonl_as_they_went(tmp_path, text):
    rows = [{"id": 1, "text": text}, {"id": 2, "text": "after"}]
    runs.write_jsonl(tmp_path / "rows.jsonl", rows)
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == rows and lines[-1] == ""
    assert runs.read_jsonl(tmp_path / "rows.jsonl") == rows


def test_rows_that_cannot_be_written_leave_the_old_rows(tmp_path):
    runs.write_jsonl(tmp_path / "rows.jsonl", [{"id": 1}])
    with pytest.raises(TypeError):
        runs.write_jsonl(tmp_path / "rows.jsonl", [{"id": 2}, {"id": {1, 2}}])
    assert runs.read_jsonl(tmp_path / "rows.jsonl") == [{"id": 1}]


# ---- epochs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, epochs",
    [
        ("5-10", [5, 6, 7, 8, 9, 10]),
        ("3", [3]),
        ("12", [12]),
        ("1,4-6", [1, 4, 5, 6]),
        ("4-6,1,5-7", [1, 4, 5, 6, 7]),
        ("2-2", [2]),
        ("none", []),
        ("all", list(range(1, 16))),
    ],
)
def test_epochs_that_are_kept(text, epochs):
    keep = runs.parse_epochs(text)
    assert [epoch for epoch in range(1, 16) if keep(epoch)] == epochs


@pytest.mark.parametrize(
    "text",
    ["", "5-", "-5", "a", "last", "5..10", "5-10-12", "1,,2", ",1", "1,", "1.5", "5–10", "5-10\n", "ALL", "10-5"],
)
def test_bad_epochs_say_what_was_found_and_what_is_expected(text):
    with pytest.raises(UserError) as caught:
        runs.parse_epochs(text)
    assert repr(text) in str(caught.value) and "such as 5-10" in str(caught.value)
    assert "keep_epochs" in str(caught.value)


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def checkpoint(run, step, complete=True):
    """What counts as a checkpoint is its marker (tests/test_checkpoints.py)."""
    folder = Path(run) / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    if complete:
        runs.write_marker(folder, {"step": step, "files": {}})
    return folder


def test_checkpoints_are_in_the_order_of_steps_not_of_letters(tmp_path):
    expected = [checkpoint(tmp_path, step) for step in (9, 10, 100)]
    assert runs.checkpoints(tmp_path) == expected


def test_a_checkpoint_without_a_marker_is_not_one(tmp_path):
    whole = [checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)]
    checkpoint(tmp_path, 11, complete=False)
    assert runs.checkpoints(tmp_path) == whole
    assert runs.newest_checkpoint(tmp_path) == whole[-1]


@pytest.mark.parametrize("name", ["checkpoint-best", "checkpoint-12.partial", "old-checkpoint-12", "checkpoint-"])
def test_a_folder_of_another_name_is_no_checkpoint(tmp_path, name):
    only = checkpoint(tmp_path, 9)
    checkpoint(tmp_path, 12).rename(tmp_path / name)
    assert runs.checkpoints(tmp_path) == [only]


def test_newest_checkpoint_is_that_of_the_last_step_as_text_too(tmp_path):
    for step in (9, 10):
        checkpoint(tmp_path, step)
    assert runs.newest_checkpoint(str(tmp_path)) == tmp_path / "checkpoint-10"


def test_newest_checkpoint_takes_a_folder_with_a_model_as_it_is(tmp_path):
    folder = checkpoint(tmp_path, 7)
    assert runs.newest_checkpoint(folder) == folder


def test_a_missing_run_is_named_beside_those_that_are_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "7b"):
        checkpoint(f"runs/{name}", 1)
    with pytest.raises(UserError) as caught:
        runs.newest_checkpoint("runs/quikstart")
    message = str(caught.value)
    assert message.startswith("runs/quikstart: ") and "7b, quickstart" in message and "make sft-" in message


def test_a_run_without_checkpoints_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match=r"mine: no checkpoint there; runs here: none yet"):
        runs.newest_checkpoint("mine")


HOLDER = """
import sys, time
from lima import runs
with runs.training(sys.argv[1]):
    print("holds", flush=True)
    time.sleep(60)
"""


def test_a_run_is_one_process_at_a_time_and_free_when_that_dies(tmp_path):
    assert runs.trained_by(tmp_path / "run") is None
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], cwd=ROOT, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"holds\n"
    assert runs.trained_by(tmp_path / "run").startswith(f"process {holder.pid} on ")
    with (
        pytest.raises(UserError, match=rf"process {holder.pid} on .* trains it; .*--run_name"),
        runs.training(tmp_path / "run"),
    ):
        pass
    holder.kill()
    holder.wait()
    assert runs.trained_by(tmp_path / "run") is None
    for _ in range(2):
        with runs.training(tmp_path / "run"):
            assert runs.trained_by(tmp_path / "run").startswith(f"process {os.getpid()} on ")


# ---- what a run records ----------------------------------------------------------------------------------------------


def test_versions_are_those_of_the_requirements():
    pins = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    found = {name: version.split("+")[0] for name, version in runs.versions().items()}  # torch's may end in +cpu
    assert found and found == {name: pins[name] for name in found}
    assert {"torch", "transformers", "trl", "datasets"} <= set(found)


@pytest.fixture
def copy(tmp_path):
    """A copy of the package outside any checkout, with `git(*words)` and `commit_said()` in it."""

    class Copy:
        root = tmp_path / "copy"
        env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")} | {
            "GIT_CEILING_DIRECTORIES": str(tmp_path),
            "GIT_CONFIG_GLOBAL": os.devnull,
        }

        def git(self, *words):
            who = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
            done = subprocess.run(
                ["git", *who, *words], cwd=self.root, env=self.env, capture_output=True, text=True, check=True
            )
            return done.stdout.strip()

        def commit_said(self, **env):
            code = "from lima import runs; print(runs.git_commit())"
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=self.root, env=self.env | env, capture_output=True, text=True
            )
            assert (done.returncode, done.stderr) == (0, "")
            return done.stdout.strip()

    (Copy.root / "lima").mkdir(parents=True)
    for name in ("__init__.py", "runs.py"):
        shutil.copy(ROOT / "lima" / name, Copy.root / "lima" / name)
    return Copy()


@pytest.fixture
def checkout(copy):
    copy.git("init", "--quiet")
    copy.git("add", "lima/__init__.py", "lima/runs.py")
    copy.git("commit", "--quiet", "--message", "first")
    return copy


def test_commit_of_a_clean_checkout(checkout):
    assert checkout.commit_said() == checkout.git("rev-parse", "HEAD")[:12]


def test_commit_of_a_changed_checkout_ends_in_plus(checkout):
    with (checkout.root / "lima/runs.py").open("a") as file:
        file.write("# changed\n")
    assert checkout.commit_said() == checkout.git("rev-parse", "HEAD")[:12] + "+"


def test_commit_is_the_codes_own_wherever_the_program_was_started(checkout, tmp_path):
    elsewhere = {"PYTHONPATH": str(checkout.root)}
    code = "import os; os.chdir('/'); from lima import runs; print(runs.git_commit())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=checkout.env | elsewhere, capture_output=True, text=True
    )
    assert done.stdout.strip() == checkout.git("rev-parse", "HEAD")[:12]


def test_outside_a_checkout_there_is_no_commit(copy):
    assert copy.commit_said() == "None"


def test_before_the_first_commit_there_is_none(copy):
    copy.git("init", "--quiet")
    assert copy.commit_said() == "None"


def test_without_git_there_is_no_commit(checkout, tmp_path):
    assert checkout.commit_said(PATH=str(tmp_path)) == "None"


# ---- how a program ends ----------------------------------------------------------------------------------------------


def ended(error):
    with pytest.raises(SystemExit) as caught, exit_codes():
        raise error
    return caught.value.code


def test_user_error_ends_with_2_and_its_message_alone(capsys):
    assert ended(UserError("file.yaml: say what")) == 2
    assert capsys.readouterr().err.strip() == "error: file.yaml: say what"


def test_ctrl_c_ends_with_130_and_no_traceback(capsys):
    assert ended(KeyboardInterrupt()) == 130
    said = capsys.readouterr().err
    assert "Ctrl-C" in said and "Traceback" not in said


@pytest.mark.parametrize("error", [ValueError("what"), RuntimeError("what"), OSError("what")])
def test_anything_else_ends_with_1_and_a_traceback(capsys, error):
    assert ended(error) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and f"{type(error).__name__}: what" in said


def test_success_does_not_end_the_program():
    with exit_codes():
        value = "done"
    assert value == "done"


def test_a_user_error_is_a_value_error():
    assert issubclass(UserError, ValueError)


@pytest.mark.parametrize("count", [1, 1_000_000], ids=["in-the-buffer", "beyond-it"])
def test_a_closed_pipe_ends_without_a_word(count):
    read, write = os.pipe()
    os.close(read)  # as `| head` does
    code = f"from lima import exit_codes\nwith exit_codes():\n    print('x' * {count})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert done.stderr == "" and done.returncode != 0


def test_what_the_user_set_in_the_environment_stands():
    names = {"DS_ACCELERATOR": "theirs", "TOKENIZERS_PARALLELISM": "true"}
    code = f"import os, lima; print(all(os.environ[k] == v for k, v in {names!r}.items()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | names, capture_output=True, text=True
    )
    assert done.stdout.strip() == "True", done.stderr
