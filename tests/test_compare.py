"""Runs compared: what differs, what came of it, and that `runs/NAME`, W&B's folders and a W&B server say the same."""

import json
import os
import shutil
import socket
import statistics

import pytest
import yaml
from conftest import first_rows, run
from servers.wandb import Wandb

import lima_sft
from lima import UserError, runs
from lima.evaluate import compare, run_sources

RATES = {"low": 1e-3, "high": 3e-3}
PROMPTS = ["Can I dry wool mittens\non a hot radiator?", "</script><b>Hello</b> & goodbye"]


def train(base, folder, name, rate):
    """A training of six steps (three epochs) of the tiny base, logged to files and to an offline W&B run."""
    words = ["--config", "recipes/135m.yaml", "--model_name_or_path", base, "--dataset", folder / "rows.jsonl",
             "--heldout", folder / "held.jsonl", "--output_dir", folder / "runs" / name, "--run_name", name,
             "--learning_rate", rate, "--global_batch_size", 4, "--num_train_epochs", 3, "--logging_steps", 1,
             "--residual_dropout", 0, "--disable_tqdm", "true"]  # fmt: skip
    lima_sft.main([str(word) for word in words])


@pytest.fixture(scope="module")
def trained(tiny_base, tmp_path_factory):
    """The folder of two trained runs that differ in learning rate."""
    folder = tmp_path_factory.mktemp("compared")
    first_rows(folder / "rows.jsonl", 8)
    first_rows(folder / "held.jsonl", 2)
    before = os.getcwd()
    os.chdir(run_sources.__file__.rsplit("/", 3)[0])  # the fixture that does it for tests is a function's
    for name, rate in RATES.items():
        train(tiny_base, folder, name, rate)
    os.chdir(before)
    return folder


@pytest.fixture
def server():
    with Wandb() as server:
        yield server


def written(folder, name, rows, recipe=(), **record):
    """A run made by hand in `folder/runs`."""
    made = folder / "runs" / name
    runs.write_text(
        made / "recipe.yaml", yaml.safe_dump({"config": "recipes/7b.yaml", "recipe": dict(recipe), **record})
    )
    runs.write_jsonl(made / "metrics.jsonl", rows)
    return made


def compared(*words, out, **env):
    """What `python -m lima.evaluate.compare` prints, in a process of its own."""
    return run("-m", "lima.evaluate.compare", *words, "--out", out, COLUMNS="80", **env)


def table_of(text):
    return text[: text.index("wrote  ")]


# ---- one run, three places ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_files_offline_folders_and_a_server_give_the_same_comparison(trained, server, tmp_path):
    paths = [trained / "runs" / name for name in RATES]
    logs = [next(path.glob("wandb/offline-run-*")) for path in paths]
    copies = [shutil.copytree(log, tmp_path / log.name) for log in logs]
    for copy in copies:  # a project lists its runs in the order that it got them
        sent = run("-m", "wandb", "beta", "sync", copy, WANDB_DIR=str(tmp_path), **server.env)
        assert sent.returncode == 0, sent.stdout + sent.stderr
    local = compared("--runs", *paths, out=tmp_path / "local.html")
    assert local.returncode == 0, local.stderr
    shown = table_of(local.stdout)
    assert "learning_rate" in shown and "0.003" in shown
    by_source = {
        "offline": compared("--runs", *logs, out=tmp_path / "offline.html"),
        "folder of one": compared("--runs", *(path / "wandb" for path in paths), out=tmp_path / "folder.html"),
        "server": compared("--project", "tester/lima", out=tmp_path / "server.html", **server.env),
        "group": compared(
            "--project",
            "tester/lima",
            "--group",
            "135m",
            out=tmp_path / "group.html",
            **server.env | {"WANDB_MODE": "offline"},
        ),
    }
    curves = data_of(tmp_path / "local.html")["charts"]
    assert [chart["title"] for chart in curves][:2] == ["Loss", "Held-out loss"]
    assert [len(curve) for curve in curves[0]["curves"]] == [6, 6]
    for name, done in by_source.items():
        assert done.returncode == 0, (name, done.stderr)
        assert table_of(done.stdout).split() == shown.split(), name
    answers = data_of(tmp_path / "local.html")["prompts"]
    assert [len(given) for given in answers[0]["answers"]] == [3, 3]
    for page in tmp_path.glob("*.html"):
        assert (data_of(page)["charts"], data_of(page)["prompts"]) == (curves, answers), page


def data_of(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(text.split('id="data">')[1].split("</script>")[0])


LOGS_ANSWERS = """
import sys, wandb
run = wandb.init(project="lima", name="answers", dir=sys.argv[1], config={"config": "recipes/7b.yaml", "recipe": {"seed": 1}})
for step, reason in ((4, "length"), (8, "eot")):
    row = [step, step / 4, "dev-1", sys.argv[2], f"answer {step} <b>", reason, 10 * step]
    table = wandb.Table(["step", "epoch", "prompt_id", "prompt", "response", "finish_reason", "tokens"], [row])
    run.log({"train/loss": 3 / step, "train/epoch": step / 4, "train/global_step": step, "samples/answers": table,
             "samples/eot_share": float(reason == "eot")})
run.finish()
"""


def test_answers_in_wandb_tables_are_those_of_the_file(server, tmp_path):
    answers = [
        {"step": step, "epoch": step / 4, "prompt_id": "dev-1", "prompt": PROMPTS[0], "response": f"answer {step} <b>",
         "finish_reason": reason, "tokens": 10 * step}
        for step, reason in ((4, "length"), (8, "eot"))
    ]  # fmt: skip
    local = written(tmp_path, "answers", [{"step": 4, "epoch": 1.0, "loss": 0.75}])
    runs.write_jsonl(local / "samples.jsonl", answers)
    (tmp_path / "log.py").write_text(LOGS_ANSWERS)
    logged = run(tmp_path / "log.py", tmp_path, PROMPTS[0], WANDB_SILENT="true")
    assert logged.returncode == 0, logged.stderr
    folder = next(tmp_path.glob("wandb/offline-run-*"))
    (offline,) = run_sources.read(tmp_path / "wandb")
    assert run_sources.read(local)[0].samples == answers == offline.samples
    assert offline.curve("samples/eot_share") == [(1.0, 0.0), (2.0, 1.0)]

    assert run("-m", "wandb", "beta", "sync", folder, WANDB_DIR=str(tmp_path), **server.env).returncode == 0
    for name, words in {"local": ["--runs", local], "server": ["--project", "tester/lima"]}.items():
        done = compared(*words, out=tmp_path / f"{name}.html", **server.env)
        assert done.returncode == 0, done.stderr
    assert data_of(tmp_path / "local.html")["prompts"] == data_of(tmp_path / "server.html")["prompts"]
    assert data_of(tmp_path / "server.html")["prompts"][0]["answers"][0][1]["text"] == "answer 8 <b>"

    outside = tmp_path / "secret.json"  # a table's path, as a server names it, does not lead out of the run's folder
    outside.write_text('{"columns": ["prompt_id", "prompt", "response"], "data": [["1", "2", "3"]]}')
    for path in ("../../../secret.json", str(outside)):
        assert run_sources._answers(path, lambda path: (folder / "files" / path).read_bytes()) == []


# ---- what is shown -----------------------------------------------------------------------------------------------------


def test_figures_are_those_of_the_trainers_own_log(trained):
    found, notes = compare.collect([trained / "runs" / name for name in RATES])
    figures = [(name, texts) for name, _, texts in compare.figures(found)]
    assert notes == []
    for number, one in enumerate(found):
        state = json.loads((trained / "runs" / one.name / "checkpoint-6/trainer_state.json").read_text())["log_history"]
        losses = [row["loss"] for row in state if "loss" in row]
        held = [(row["eval_loss"], row["epoch"]) for row in state if "eval_loss" in row]
        logged = runs.read_jsonl(trained / "runs" / one.name / "metrics.jsonl")
        speeds = [row["tokens_per_second"] for row in logged if "tokens_per_second" in row]
        assert [texts[number] for _, texts in figures[:6]] == [
            f"{losses[-1]:.3f}", f"{min(losses):.3f}", figures[2][1][number],
            f"{held[-1][0]:.3f}", f"{min(held)[0]:.3f}", f"{min(held)[1]:.3g}",
        ]  # fmt: skip
        rest = {name: texts[number] for name, texts in figures[6:]}
        assert rest["tokens/s, median"] == f"{statistics.median(speeds):,.0f}"
        assert (rest["steps"], rest["epochs"]) == ("6", "3")
        assert float(rest["minutes"]) > 0


def test_only_what_differs_is_listed(trained, tmp_path):
    found, _ = compare.collect([trained / "runs" / name for name in RATES])
    assert compare.differences(found) == [("learning_rate", ["0.001", "0.003"])]
    rows = [{"step": 1, "epoch": 1, "loss": 2.0}]
    same = {"num_train_epochs": 15, "lr_scheduler_kwargs": {"lr_end": 1e-6}, "output_dir": "runs/a"}
    other = {"num_train_epochs": 15.0, "lr_scheduler_kwargs": {"lr_end": 1e-7}, "output_dir": "runs/b", "bf16": True}
    written(
        tmp_path,
        "a",
        rows,
        same | {"dataset": "/data/long/name/a/x.jsonl"},
        dataset={"rows": 1000},
        versions={"trl": "1"},
    )
    written(
        tmp_path,
        "b",
        rows,
        other | {"dataset": "/data/long/name/b/x.jsonl"},
        dataset={"rows": 900},
        versions={"trl": "2"},
    )
    found, _ = compare.collect([tmp_path / "runs/a", tmp_path / "runs/b"])
    assert compare.differences(found) == [
        ("bf16", ["(default)", "true"]),
        ("dataset", ["…/a/x.jsonl", "…/b/x.jsonl"]),
        ("lr_scheduler_kwargs.lr_end", ["1e-06", "1e-07"]),
        ("dataset rows", ["1000", "900"]),
        ("trl", ["1", "2"]),
    ]


def test_a_resumed_run_counts_a_step_once_and_nan_is_a_figure(tmp_path):
    rows = [{"step": step, "epoch": step / 4, "loss": 9.0 - step} for step in (1, 2, 3, 4)]
    again = [{"step": step, "epoch": step / 4, "loss": 5.0 - step} for step in (3, 4)]  # killed at 4, resumed from 2
    made = written(tmp_path, "resumed", [*rows, *again, {"step": 5, "epoch": 1.25, "loss": float("nan")}])
    (one,) = run_sources.read(made)
    assert one.curve("loss")[:4] == [(0.25, 8.0), (0.5, 7.0), (0.75, 2.0), (1.0, 1.0)]
    assert [texts for _, _, texts in compare.figures([one])][:3] == [["nan"], ["1.000"], ["1"]]


def test_a_run_resumed_offline_is_one_run(tmp_path):
    script = tmp_path / "log.py"
    script.write_text(
        "import sys, wandb\n"
        "run = wandb.init(project='lima', name='again', id='same0001', dir=sys.argv[1], resume='allow')\n"
        "for step in map(int, sys.argv[2:]):\n"
        "    run.log({'train/loss': 10 - step + float(sys.argv[2]), 'train/epoch': step / 2, 'train/global_step': step})\n"
        "run.finish()\n"
    )
    for steps in ("12345", "456"):
        assert run(script, tmp_path, *steps, WANDB_SILENT="true", WANDB_RUN_GROUP="x").returncode == 0
    (one,) = run_sources.read(tmp_path / "wandb")
    assert one.name == "again"
    assert [value for _, value in one.curve("loss")] == [10.0, 9.0, 8.0, 10.0, 9.0, 8.0]


@pytest.mark.parametrize("count", [1, 2, 4, 14])
def test_the_table_fits_80_columns(tmp_path, capsys, count):
    for n in range(count):
        rows = [{"step": 480, "epoch": 15.0, "loss": 1.5 + n / 100, "tokens_per_second": 21000.0, "train_runtime": 8000.0},
                {"step": 480, "epoch": 15.0, "eval_loss": 2.25 + n / 100, "samples/eot_share": 0.9,
                 "samples/mean_tokens": 180.0}]  # fmt: skip
        recipe = {
            "learning_rate": [1e-5, 2e-5][n % 2],
            "dataset": f"/home/somewhere/curated/ablation-{n % 3}/train.jsonl",
        }
        written(tmp_path, f"7b-an-ablation-with-a-long-name-{n}", rows, recipe)
    found, _ = compare.collect(sorted((tmp_path / "runs").iterdir(), key=lambda path: (len(path.name), path.name)))
    for width in (80, 60):
        compare.show(found, width=width)
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= width
        text = "\n".join(lines)
        assert all(f"{1.5 + n / 100:.3f}" in text and f"{2.25 + n / 100:.3f}" in text for n in range(count))
        assert "90 %" in text and (("21,000" in text and "133.3" in text) or width < 80)
    if count > 4:
        assert "learning_rate  1e-05 in 1 3 5" in text


def test_names_are_told_apart_and_cannot_write_to_the_terminal(tmp_path, capsys):
    rows = [{"step": 1, "epoch": 1, "loss": 2.0}]
    paths = [written(tmp_path / where, "same", rows, {"seed": f"\x1b[2J[red]{where}"}) for where in "ab"]
    found, _ = compare.collect([*paths, paths[0]])
    assert [one.name for one in found] == [str(path) for path in paths]
    compare.show(found)
    out = capsys.readouterr().out
    assert "\x1b" not in out and "[red]a" in out and "[red]b" in out


# ---- what goes wrong ---------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_left_out_and_said(tmp_path):
    made = written(tmp_path, "killed", [{"step": 1, "epoch": 1, "loss": 2.0}])
    with (made / "metrics.jsonl").open("a") as file:
        file.write(
            '{"step": 2, "lo{"step": 2, "epoch": 2, "loss": 1.5}\n[3]\n{"step": 3, "epoch": 3, "loss": 1.0}\n{"step": 4, "l'
        )
    found, notes = compare.collect([made])
    assert found[0].curve("loss") == [(1, 2.0), (3, 1.0)]
    assert notes == [f"{made}/metrics.jsonl, line {n}: not a JSON row with step; left out" for n in (2, 3)]


def test_a_group_is_the_runs_of_a_recipe_family(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"step": 1, "epoch": 1, "loss": 2.0}]
    written(tmp_path, "a", rows)
    written(tmp_path, "b", rows)
    written(tmp_path, "ablated", rows, config="recipes/ablations/quality.yaml")
    written(tmp_path, "started", [])
    runs.write_text("runs/broken/recipe.yaml", "a: [")
    found, notes = compare.collect(group="7b")
    assert [one.name for one in found] == ["a", "b"]
    assert len(notes) == 2 and "runs/broken/recipe.yaml" in notes[0] and "runs/started" in notes[1]
    assert [one.name for one in compare.collect(group="ablations")[0]] == ["ablated"]
    with pytest.raises(UserError, match=r"no run of 65b in runs/; the recipe families there: 7b, ablations"):
        compare.collect(group="65b")


def test_each_mistake_is_one_line(tmp_path, monkeypatch, capsys):
    written(tmp_path, "empty", [])
    written(tmp_path, "fine", [{"step": 1, "epoch": 1, "loss": 2.0}])
    (tmp_path / "runs/bare").mkdir()
    (tmp_path / "runs/log/wandb/offline-run-1-x").mkdir(parents=True)
    (tmp_path / "runs/log/wandb/offline-run-1-x/run-x.wandb").write_bytes(b"not a log")
    monkeypatch.chdir(tmp_path)
    for words, said in {
        ("--runs", "runs/none"): r"runs/none: no run there; runs here: bare, empty, fine, log",
        ("--runs", "runs/fine", "runs/bare"): r"runs/bare: not a run \(no recipe.yaml\)",
        ("--runs", "runs/empty"): r"runs/empty: no numbers in it yet",
        ("--runs", "runs/log"): r"runs/log/wandb/offline-run-1-x: W&B's log there cannot be read",
        (): r"nothing to compare; name runs",
        ("--project", "a/b", "--runs", "runs/fine"): r"give one",
        ("--project", "lima"): r"lima: expected a W&B project as entity/project",
    }.items():
        with pytest.raises(UserError, match=said) as error:
            compare.main(list(words))
        assert "\n" not in str(error.value)
    assert not (tmp_path / "report").exists()
    compare.main(["--runs", "runs/fine"])  # one run has figures, and nothing to differ from
    assert "2.000" in capsys.readouterr().out and (tmp_path / "report/compare.html").exists()


def test_each_failure_of_a_server_is_one_line(server, tmp_path):
    home = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    for words, env, said in [
        ("tester/none", {}, "error: tester/none: cannot be read from W&B: Could not find project none"),
        ("tester/none", {"WANDB_API_KEY": ""}, "error: no W&B key; `wandb login`, or set WANDB_API_KEY"),
        (
            "tester/none",
            {"WANDB_API_KEY": "f" * 40},
            "error: tester/none: cannot be read from W&B: Failed to authenticate",
        ),
    ]:
        done = compared("--project", words, out=tmp_path / "no.html", **server.env | home | env)
        assert done.returncode == 2 and done.stdout == "", (done.stdout, done.stderr)
        assert done.stderr.strip().startswith(said) and done.stderr.strip().count("\n") == 0
        assert server.key not in done.stderr and "f" * 40 not in done.stderr


def test_local_runs_use_no_network_and_no_wandb(tmp_path, monkeypatch):
    made = written(tmp_path, "alone", [{"step": 1, "epoch": 1, "loss": 2.0}])
    code = (
        "import socket, sys; socket.socket = None\n"
        "from lima.evaluate import compare\n"
        f"compare.main(['--runs', {str(made)!r}, '--out', {str(tmp_path / 'page.html')!r}])\n"
        "assert not {'wandb', 'torch', 'transformers'} & set(sys.modules)"
    )
    assert socket.socket and run("-c", code).returncode == 0
