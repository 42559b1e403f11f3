"""Running ablations and the whole paper: what is planned, skipped, refused, resumed and shown."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT

from lima import UserError, recipe, runs
from lima.reproduce import ablation, arms, paper, progress, stages, status
from tests.test_arms import recipes  # noqa: F401  (a fixture)

WORK = """import os, sys, time
word, path = sys.argv[1:3]
print("began", flush=True)
if word == "kill":
    os.kill(os.getpid(), 9)
if word == "fail":
    print("error: the file is not there")
    sys.exit(2)
time.sleep(float(word))
open(path, "a").write("x")
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """`work(seconds or "fail", name)`: a stage whose command is a real program in an empty working folder."""
    (tmp_path / "work.py").write_text(WORK)
    monkeypatch.chdir(tmp_path)

    def make(word, name, run=None):
        made = tmp_path / name
        return stages.Stage(name, "work", ["work", word, made], tmp_path / f"{name}.log", run, done=made.exists)

    return make


# ---- stages ------------------------------------------------------------------------------------------------------------


def test_done_work_is_skipped_and_the_rest_is_done_in_order(work, tmp_path, capsys):
    (tmp_path / "a").write_text("x")
    stages.Runner().all([[work(0, "a"), work(0, "b"), work(0, "c")]])
    assert [(tmp_path / name).read_text() for name in "abc"] == ["x", "x", "x"] and not (tmp_path / "a.log").exists()
    said = capsys.readouterr().out
    assert re.findall(r"^  (\w) +work +0 s$", said, re.M) == ["b", "c"]
    stages.Runner().all([[work(0, "a"), work(0, "b"), work(0, "c")]])
    assert [(tmp_path / name).read_text() for name in "abc"] == ["x", "x", "x"]


def test_a_failure_is_said_in_its_own_words_and_stops_what_follows(work, tmp_path):
    with pytest.raises(stages.Failed) as failed:
        stages.Runner().all([[work("fail", "a"), work(0, "b")]])
    stage, code, said = failed.value.args
    assert (stage.label, code, said) == ("a", 2, "the file is not there") and not (tmp_path / "b").exists()
    with pytest.raises(stages.Failed, match="its result is not there"):
        stages.Runner().all([[work(0, "c")._replace(done=lambda: False)]])


def test_a_stage_is_done_again_when_its_words_or_what_it_reads_change(work, tmp_path):
    read, made = tmp_path / "read", tmp_path / "a"
    read.write_text("1")

    def run(*more, reads=read):
        stage = work(0, "a")._replace(done=None, files=lambda: ([reads], [made]))
        stage = stage._replace(words=[*stage.words, *more])
        stages.Runner().all([[stage]])
        assert stages.finished(stage)
        return len(made.read_text())

    assert [run(), run()] == [1, 1]
    read.write_text("22")
    assert [run(), run()] == [2, 2]
    assert [run("--price", "1,2"), run("--base_url", "http://x/v1")] == [2, 2]  # these change nothing that is made
    assert [run("--limit", "3"), run("--limit", "3"), run()] == [3, 3, 4]
    made.unlink()
    assert run() == 1
    (tmp_path / "a.done").write_text("{")
    assert run() == 2
    with pytest.raises(stages.Failed, match="its result is not there"):
        run(reads=tmp_path / "none")


def test_the_cause_of_a_failure_is_of_this_time(work, tmp_path):
    (tmp_path / "a.log").write_text("error: last week's\n")
    with pytest.raises(stages.Failed, match="ValueError: could not convert"):
        stages.Runner().all([[work("x", "a")]])
    killed = work("kill", "a")
    with pytest.raises(stages.Failed, match="ended by SIGKILL, as the system does when memory runs out"):
        stages.Runner().all([[killed]])


def test_ctrl_c_ends_the_waiting_for_another_trainer(work, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stages.runs, "trained_by", lambda run: "process 1 on x")
    runner = stages.Runner()
    threading.Timer(1.2, os.kill, [os.getpid(), signal.SIGTERM]).start()
    with pytest.raises(KeyboardInterrupt):
        runner.all([[work(0, "a", tmp_path / "run")]])
    assert capsys.readouterr().out.count("waits for process 1 on x") == 1 and not (tmp_path / "a").exists()


def test_runs_share_the_gpus_that_are_theirs(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    slots = stages.Runner(2, 2)._slots
    assert [slots.get(), slots.get()] == ["0,1", "2,3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    slots = stages.Runner(4, 1)._slots
    assert [slots.get() for _ in range(4)] == list("4567")
    assert stages.Runner(1, 8)._slots.get() is None  # the command says that there are fewer
    with pytest.raises(UserError, match="2 runs at a time on 4 GPUs each, but there are 4"):
        stages.Runner(2, 4)


def test_several_at_a_time(work):
    began = time.monotonic()
    stages.Runner(jobs=4).all([[work(1, f"r{n}")] for n in range(4)])
    assert time.monotonic() - began < 4  # one after another they would take more


def test_a_run_that_another_process_trains_is_waited_for(work, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stages.time, "sleep", lambda seconds: lock.terminate())
    program = "import sys, time\nfrom lima import runs\nwith runs.training(sys.argv[1]):\n print('in', flush=True); time.sleep(60)"
    words = [sys.executable, "-c", program, str(tmp_path / "run")]
    lock = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE)
    lock.stdout.readline()
    stages.Runner().all([[work(0, "a", tmp_path / "run")]])
    assert f"waits for process {lock.pid}" in capsys.readouterr().out and (tmp_path / "a").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_commands_end_with_the_runner(work, tmp_path, number):
    """No orphan goes on, and what was begun is done by the next start."""
    program = (
        "from lima.reproduce.stages import Runner, Stage; from pathlib import Path\n"
        "made = Path('slow'); Runner().all([[Stage('slow', 'work', ['work', '30', made], Path('slow.log'), done=made.exists)]])"
    )
    here = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    runner = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=here, start_new_session=True)
    while not (tmp_path / "slow.log").exists() or "began" not in (tmp_path / "slow.log").read_text():
        time.sleep(0.05)
    if number == signal.SIGINT:  # a terminal's Ctrl-C is for the whole group
        os.killpg(runner.pid, number)
    else:
        runner.send_signal(number)
    assert runner.wait(20) != 0
    time.sleep(0.3)
    left = subprocess.run(["pgrep", "-s", str(runner.pid)], capture_output=True, text=True).stdout.split()
    states = [Path(f"/proc/{pid}/stat").read_text().split()[2] for pid in left if Path(f"/proc/{pid}").exists()]
    assert not [state for state in states if state != "Z"] and not (tmp_path / "slow").exists()


# ---- how far a run is --------------------------------------------------------------------------------------------------

ARM = {"ablation": "open-questions", "arm": "no-ramp", "size": "135m", "seed": 1, "label": "no-ramp", "epochs": 3, "max_steps": -1,
       "prompts": "test", "asked": 2, "samples": 5, "kind": "grade", "judge": "m"}  # fmt: skip


def run_of(name="135m-no-ramp-s1", epoch=3.0, answers=10, graded=10, **more):
    """A run's folder as training, answering and grading leave it."""
    run = Path("runs") / name
    arm = {**ARM, **more}
    runs.write_text(run / "arm.json", json.dumps(arm))
    if epoch:
        (run / "checkpoint-9").mkdir(exist_ok=True)
        runs.write_marker(run / "checkpoint-9", {"step": 9, "epoch": epoch, "files": {}, "recipe": {}})
    if answers:
        rows = [{"prompt_id": f"p{n // 5}", "prompt": "q", "response": "r", "sample": n % 5} for n in range(answers)]
        runs.write_jsonl(run / "generations/checkpoint-9/test.jsonl", rows)
    if graded:
        rows = [{"prompt_id": f"p{n // 5}", "prompts": "test", "sample": n % 5, "system": name, "judge": "m", "n": 0, "grade": 4,
                 "raw": "4", "date": "", "digest": ""} for n in range(graded)]  # fmt: skip
        runs.write_jsonl(f"judgments/{name}.grade.jsonl", rows)
    return run, arm


def test_how_far_a_run_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, arm = run_of(epoch=0, answers=0, graded=0)
    assert progress.cells(run, arm) == {"train": "–", "answer": "–", "judge": "–"}
    runs.write_jsonl(run / "metrics.jsonl", [{"epoch": 0.5}, {"epoch": 1.5}])
    assert progress.cells(run, arm)["train"] == "50%" and not progress.trained(run, arm)
    run, arm = run_of(answers=0, graded=0)
    assert progress.trained(run, arm)
    part = [{"prompt_id": "p0", "sample": n} for n in range(3)]
    runs.write_jsonl(run / "generations/checkpoint-9/.test.partial.jsonl", part)
    assert progress.cells(run, arm) == {"train": "done", "answer": "3 of 10", "judge": "–"}
    run, arm = run_of(graded=7)
    assert progress.cells(run, arm) == {"train": "done", "answer": "done", "judge": "7 of 10"}
    run, arm = run_of()
    assert progress.cells(run, arm)["judge"] == "done" and progress.cells(run, {**arm, "judge": None})["judge"] == "–"
    assert progress.cells(run, {**arm, "judge": "other"})["judge"] == "–"
    path = Path("judgments/135m-no-ramp-s1.grade.jsonl")
    rows = runs.read_jsonl(path)
    rows[0] |= {"grade": None, "raw": "no number"}  # the judge has spoken
    rows[1] |= {"grade": None, "raw": None}  # no reply came
    runs.write_jsonl(path, [*rows, {**rows[2], "judge": "human:anna"}])
    assert progress.cells(run, arm)["judge"] == "9 of 10" and progress.judges(run, arm) == {"m"}
    assert not progress.trained(run, {**arm, "max_steps": 10}) and progress.trained(run, {**arm, "max_steps": 9})


def test_status_is_a_table_of_all_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status.main([])
    assert "no run of an ablation there" in capsys.readouterr().out
    for seed in range(1, 51):
        run_of(f"135m-no-ramp-s{seed}", seed=seed)
        run_of(f"135m-baseline-s{seed}", seed=seed, arm="baseline", answers=0, graded=0)
    status.main([])
    head, *rows, _, last, _ = capsys.readouterr().out.split("\n")
    assert head.split() == ["ablation", "run", "train", "answer", "judge"] and len(rows) == 100
    assert rows[0].split() == ["open-questions", "135m-baseline-s1", "done", "–", "–"]
    assert last == "50 of 100 runs have been trained and have answered"
    (tmp_path / "runs/135m-baseline-s1/arm.json").write_text("{")
    with pytest.raises(UserError, match=r"135m-baseline-s1/arm.json: cannot be read"):
        status.main([])
    (tmp_path / "runs/135m-baseline-s1/arm.json").write_text('{"ablation": "quality", "arm": "x", "seed": 1}')
    with pytest.raises(UserError, match=r"arm.json: lacks size, label, epochs, "):
        status.main([])


# ---- an ablation's plan and refusals -----------------------------------------------------------------------------------


@pytest.fixture
def here(recipes):  # noqa: F811
    """A working folder with recipes, prompts and the bundled data, no base."""
    for name in ("data", "ds_configs", "lima_sft.py"):
        (recipes.parent / name).symlink_to(ROOT / name)
    return recipes.parent


def dry(*words):
    return ablation.main(["open-questions", "--size", "135m", "--dry_run", *map(str, words)])


def test_the_plan_counts_runs_answers_and_what_the_judge_costs(here, capsys):
    assert dry("--seeds", 3, "--judge", "gpt", "--price", "1,10") == 0
    said = capsys.readouterr().out
    assert "6 arms × 3 seeds on 135m: 18, 0 of them trained already" in said
    assert "18 × 100 (test) × 5 = 9,000" in said
    assert (
        "gpt: 9,000 calls, about 8.1 million tokens, about $35.10 (estimated)" in said
    )  # 9000 × (900 × 1 + 300 × 10) / 10^6
    assert "epochs, not tokens" in said and "135m-eot-vs-eos-s1   eot_token base-eos" in said
    assert not (here / "runs").exists()
    dry("--gpu", "rtx4090-24gb")
    assert "train    6 runs, less than 0.1 GPU hours on 1 × rtx4090-24gb (estimated)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seeds", 0], "--seeds, --jobs, --gpus, --limit and --samples: expected 1 or more"),
        (["--seed", 3], "--seed: arms have their own; SIZE= and SEEDS= say which"),
        (["--output_dir=x"], "--output_dir: arms have their own"),
        (["--gpu", "h100"], "GPU h100: unknown; did you mean h100-80gb?"),
        (["--only", "x"], "--only x: no run of open-questions has that name"),
        (["--learning_rat", 1], "unknown key learning_rat; did you mean learning_rate"),
    ],
)
def test_what_an_ablation_refuses(here, words, said):
    with pytest.raises(UserError, match=re.escape(said)):
        dry(*words)


def test_missing_data_is_one_message(here):
    with pytest.raises(
        UserError, match=r"quality: data is missing; make it first:\n  data/se-filtered-2k: make curate-"
    ):
        ablation.main(["quality", "--size", "135m", "--dry_run"])


def test_a_judge_that_changes_between_arms_is_refused(here):
    run_of("135m-baseline-s1", epoch=0, answers=0)
    with pytest.raises(
        UserError, match="135m-baseline-s1: graded by m; arms are compared by one judge: go on with JUDGE=m"
    ):
        dry("--judge", "other")
    assert dry("--judge", "m") == dry("--judge", "other", "--another_judge") == dry() == 0


def test_a_run_of_another_recipe_is_refused(here):
    run, _ = run_of("135m-no-ramp-s1")
    given = recipe.load(arms.words("no-ramp", "135m", 1)).given
    runs.write_marker(run / "checkpoint-9", {"step": 9, "epoch": 15, "files": {}, "recipe": given})
    assert dry() == 0
    with pytest.raises(UserError, match=r"135m-no-ramp-s1: trained with learning_rate=1e-05, and now it is 2e-05"):
        dry("--learning_rate", "2e-5")
    with pytest.raises(UserError, match=r"trained with dataset=data/starter.jsonl, and now it is data/heldout.jsonl"):
        dry("--dataset", "data/heldout.jsonl")
    run.rename("runs/135m")
    with pytest.raises(UserError, match=r"runs/135m: trained with .+; change it back, or move runs/135m away"):
        paper.main(["--size", "135m", "--dry_run"])


def test_a_run_of_two_ablations_is_noted_for_the_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Path("runs/7b-quality-filtered-s1")
    first = {**ARM, "ablation": "quality", "arm": "quality-filtered", "label": "quality-filtered", "judge": None}
    ablation.note(run, first)
    ablation.note(run, {**first, "ablation": "quantity", "arm": "quantity-2k", "label": "quantity-2k", "judge": "m"})
    assert progress.read(run) == {**first, "judge": "m"}


def test_slurm_gets_a_job_for_each_run_that_is_not_done(here, monkeypatch, capsys):
    tool = here / "bin/sbatch"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >> "$0.log"\necho "Submitted batch job 7"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    run_of("135m-baseline-s1", epoch=15, answers=500, asked=100)
    words = ["open-questions", "--size", "135m", "--slurm", "--gres=gpu:2 -t 60", "--learning_rate", "1e-5"]
    monkeypatch.setattr(progress, "same", lambda *_: None)
    monkeypatch.setattr(ablation, "finished", lambda stage: stage.run.name == "135m-baseline-s1")
    assert ablation.main(words) == 0
    lines = (here / "bin/sbatch.log").read_text().split("\n")
    names = [line.removeprefix("--job-name=") for line in lines if line.startswith("--job-name=")]
    assert names == [f"135m-{arm}-s1" for arm in ("loss-on-all", "no-ramp", "eot-vs-eos", "packing", "epochs")]
    assert lines.count("--gres=gpu:2") == 5 == lines.count("-t")
    commands = [line for line in lines if "lima.reproduce.ablation" in line]
    assert commands[0].endswith("--only 135m-loss-on-all-s1 open-questions --size 135m --learning_rate 1e-5")
    assert "Submitted batch job 7" in capsys.readouterr().out
    (here / "bin/sbatch.log").unlink()
    assert ablation.main([*words[:3], "--slurm=--gres=gpu:2", *words[5:], "--hostfile", "hosts", "--gpus", "8"]) == 0
    lines = (here / "bin/sbatch.log").read_text().split("\n")
    assert lines.count("--gres=gpu:2") == 5
    (command, *_) = [line for line in lines if "lima.reproduce.ablation" in line]
    assert command.endswith("--size 135m --learning_rate 1e-5 --hostfile hosts --gpus 8")
    queue = here / "bin/squeue"
    queue.write_text("#!/bin/sh\necho 135m-no-ramp-s1\n")
    queue.chmod(0o755)
    (here / "bin/sbatch.log").unlink()
    ablation.main(words)
    assert "135m-no-ramp-s1              is queued or running already" in capsys.readouterr().out
    assert (here / "bin/sbatch.log").read_text().count("--job-name=") == 4
    tool.write_text("#!/bin/sh\necho 'no such partition' >&2; exit 1\n")
    with pytest.raises(UserError, match="sbatch refused 135m-loss-on-all-s1: no such partition"):
        ablation.main(words)


# ---- the whole paper ---------------------------------------------------------------------------------------------------


def test_the_papers_stages_with_and_without_a_judge(here, capsys):
    paper.main(["--size", "135m", "--dry_run"])
    said = capsys.readouterr().out
    names = re.findall(r"^  \S+ {2,}(\S.*?) {2,}–$", said, re.M)
    assert names == ["base", "train", "dev answers", "test answers", "safety answers", "structure answers", "signals",
                     "copied", "constraints", "dialogue", "ablation", "report"]  # fmt: skip
    assert "left out: quality, diversity, quantity: data/se-filtered-2k: make curate-stackexchange" in said
    assert "left out: dialogue, structure: GAIR/lima: the Hub cannot be reached" in said
    paper.main(["--size", "135m", "--judge", "m", "--against", "answers/x", "--dry_run", "--ablations"])
    names = re.findall(r"^  \S+ {2,}(\S.*?) {2,}–$", capsys.readouterr().out, re.M)
    measured = ["signals", "copied", "constraints"]
    asked = ["test answers", "against x", "rate test", "safety answers", "rate safety", "structure answers", *measured]
    assert names == ["base", "train", "dev answers", "select", *asked, "dialogue", "rate dialogue", "report"]


def test_where_training_runs_is_passed_on(here):
    args = paper.parser().parse_args(["--size", "135m", "--gpus", "8", "--hostfile", "hosts"])
    resolved = recipe.load(["--config", "recipes/135m.yaml"])
    (train,) = [one for one in paper.of_model(args, resolved, Path("runs/x"), []) if one.name == "train"]
    assert train.words[:7] == ["lima.train.launch", "--resume", "auto", "--gpus", "8", "--hostfile", "hosts"]
    (open_questions,) = paper.of_ablations(args, [])
    words = list(map(str, open_questions.words[1:]))
    args, given = ablation.parser().parse_known_args(words)
    (train, *_) = ablation.stages(
        args, Path("runs/x"), {"prompts": "test", "samples": 1, "kind": None}, (resolved, given)
    )
    assert train.words[3:7] == ["--gpus", "8", "--hostfile", "hosts"]


def test_the_status_page_says_what_runs_and_escapes_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    todo = [stages.Stage(f"<b>{n}", "train", [], Path("x")) for n in range(3)]
    paper.write_status(paper.parser().parse_args(["--size", "7b"]), todo, todo[1], {id(todo[0]): 125})
    page = (tmp_path / "report/status.html").read_text(encoding="utf-8")
    assert "1 of 3 stages" in page and "done, 2 min 5 s" in page and page.count("running") == 1
    assert "<b>" not in page and "&lt;b&gt;0" in page


@pytest.mark.slow
def test_every_stage_of_the_paper_with_real_parts(tmp_path):
    """And again: nothing is done twice, and nothing differs."""
    command = [sys.executable, "-m", "benchmarks.reproduce_smoke", "--folder", str(tmp_path)]
    stamps = []
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        weights = tmp_path.glob("runs/*/checkpoint-*/model.safetensors")
        stamps.append({path: path.stat().st_mtime_ns for path in weights})
    assert len(stamps[0]) >= 18 and stamps[0] == stamps[1]
    page = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    for words in ("quality-unfiltered", "quantity-32k", "dialogue-with", "no-ramp"):
        assert words in page
