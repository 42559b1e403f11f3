"""Pushing a run through a real Hub protocol on this machine, with the client as it is installed."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import conftest
import pytest
import yaml
from conftest import ROOT, first_rows
from safetensors import safe_open
from servers.hub import Hub

import lima_sft
from lima import UserError, runs
from lima.publish import card, push, verify
from lima.publish.revision import Revision
from lima.publish.secrets import refuse_secrets

MiB = 2**20
USEFUL = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
          "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
          "verification.json"}  # fmt: skip
MADE = {"README.md", "training_curve.svg"}
RECIPE = {"base": "huggyllama/llama-7b", "model_name_or_path": "bases/llama-7b", "dataset": "GAIR/lima", "num_train_epochs": 15,
          "global_batch_size": 64, "learning_rate": 1e-5, "residual_dropout": 0.2, "loss_on": "responses"}  # fmt: skip


def digest(content):
    return hashlib.sha256(content).hexdigest()


def write_checkpoint(folder, epoch, bytes=MiB + 1000, dataset="abc"):
    """A checkpoint as the trainer leaves it, of random weights, complete and verified."""
    folder.mkdir(parents=True)
    noise = random.Random(str(folder.name))
    names = [
        *USEFUL - {"verification.json"},
        "optimizer.pt",
        "rng_state.pth",
        "scheduler.pt",
        "trainer_state.json",
        "training_args.bin",
    ]
    for name in names:
        large = name.endswith((".safetensors", ".pt"))
        (folder / name).write_bytes(noise.randbytes(bytes) if large else json.dumps({name: noise.random()}).encode())
    marker = {
        "step": int(folder.name.split("-")[1]),
        "epoch": epoch,
        "ranks": 1,
        "recipe": {},
        "dataset": dataset,
        "files": {},
    }
    (folder / "complete.json").write_text(json.dumps(marker))
    seal(folder)
    return folder


def seal(folder):
    """What the trainer (complete.json) and `make verify` write for the files that are there now, made by hand."""
    rest = [p for p in sorted(folder.iterdir()) if p.name not in ("verification.json", "complete.json")]
    if marker := runs.marker(folder):
        marker["files"] = {p.name: {"bytes": p.stat().st_size, "sha256": digest(p.read_bytes())} for p in rest}
        (folder / "complete.json").write_text(json.dumps(marker))
        rest.append(folder / "complete.json")
    record = {"verified": True, "checks": [], "identity": verify._identity(marker)}
    record["files"] = {p.name: digest(p.read_bytes()) for p in rest}
    record["bytes"] = {p.name: p.stat().st_size for p in rest}
    (folder / "verification.json").write_text(json.dumps(record))


def write_run(folder, epochs=(5, 6), **how):
    """A finished run of 32 steps an epoch."""
    folder.mkdir(parents=True)
    dataset = {"name": "GAIR/lima", "revision": "main", "fingerprint": "abc", "rows": 1000, "sources": {"wikihow": 200}}
    record = {
        "config": "recipes/7b.yaml",
        "recipe": RECIPE,
        "dataset": dataset,
        "batches": {"ranks": 8},
        "commit": "0123",
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**record, "versions": {"torch": "2.13.0"}}))
    rows = [{"step": step, "epoch": step / 32, "loss": 2 - step / 400} for step in range(1, 32 * max(epochs) + 1)]
    rows += [{"step": 32 * epoch, "epoch": epoch, "eval_loss": 2 + epoch / 10} for epoch in epochs]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for epoch in epochs:
        write_checkpoint(folder / f"checkpoint-{32 * epoch}", float(epoch), **how)
    return folder


def select(run, step):
    (run / "selected.json").write_text(json.dumps({"checkpoint": f"checkpoint-{step}", "epoch": step / 32}))


def local(checkpoint):
    return {name: (checkpoint / name).read_bytes() for name in USEFUL}


def snapshot(run):
    return {p.relative_to(run): digest(p.read_bytes()) for p in run.rglob("*") if p.is_file()}


@pytest.fixture
def hub(tmp_path):
    with Hub(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def online(hub, monkeypatch):
    """This process's client, unmodified, talks to `hub`."""
    from huggingface_hub import close_session, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    yield hub
    close_session()


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "runs/7b")


def pushed(run, *flags, to="org/lima-7b"):
    push.main(["--run", str(run), "--hub", to, *map(str, flags)])


def env_of(hub, home):
    """The environment of a process whose client talks to `hub`."""
    return {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HOME": str(home)}  # fmt: skip


def sent_twice(hub):
    """What the Hub had acknowledged and got again."""
    seen, again = set(), []
    for line in hub.log:
        for what in line.get("brought") or []:
            (again.append if what in seen else seen.add)(what)
    return again


# ---- what is pushed --------------------------------------------------------------------------------------------------


def test_every_epoch_is_a_revision_and_main_is_the_selected_one(online, run, tmp_path, capsys):
    select(run, 160)
    pushed(run, "--private")
    said = capsys.readouterr().out
    assert set(online.repos["models/org/lima-7b"]["branches"]) == {"main", "epoch-05", "epoch-06"}
    assert online.repos["models/org/lima-7b"]["private"]
    for revision, step in (("epoch-05", 160), ("epoch-06", 192), ("main", 160)):
        found = online.files("org/lima-7b", revision)
        assert set(found) - {".gitattributes"} == USEFUL | MADE  # no optimiser, no pickle, no marker
        assert {name: found[name] for name in USEFUL} == local(run / f"checkpoint-{step}")
        assert f"checkpoint-{step}, epoch {step // 32}" in said
    assert sent_twice(online) == []  # main's weights went up with epoch-05's


def test_what_comes_back_through_the_client_is_what_was_pushed(online, run, tmp_path):
    from huggingface_hub import snapshot_download

    pushed(run)
    folder = Path(snapshot_download("org/lima-7b", revision="epoch-06", cache_dir=tmp_path / "cache"))
    assert {name: (folder / name).read_bytes() for name in USEFUL} == local(run / "checkpoint-192")


def test_main_is_the_newest_epoch_where_none_is_selected(online, run):
    write_checkpoint(run / "checkpoint-200", 6.25, bytes=100)  # saved amid an epoch, before the machine was taken away
    pushed(run)
    assert online.files("org/lima-7b")["config.json"] == (run / "checkpoint-192/config.json").read_bytes()
    assert set(online.repos["models/org/lima-7b"]["branches"]) == {"main", "epoch-05", "epoch-06"}


def test_only_the_epochs_that_were_asked_for(online, run):
    pushed(run, "--epochs", "6-10")
    assert set(online.repos["models/org/lima-7b"]["branches"]) == {"main", "epoch-06"}


def test_the_plan_comes_first_and_counts_shared_weights_once(online, run, capsys):
    online.fail("create", 403)
    with pytest.raises(UserError):
        pushed(run)
    said = capsys.readouterr().out
    assert said.count("sends") == 3 and "in all     4.22 MB" in said and online.repos == {}
    # two checkpoints of two files of 1 MiB are 4.19 MB, and the small ones


def test_a_second_push_sends_nothing(online, run):
    pushed(run)
    before = len(online.log)
    pushed(run)
    assert {line["kind"] for line in online.log[before:]} <= {"whoami", "info", "refs", "tree", "resolve", "unknown"}


def test_what_is_new_is_sent_alone_and_what_is_gone_is_removed(online, run):
    pushed(run)
    gone = run / "checkpoint-192/model-00002-of-00002.safetensors"
    gone.unlink()
    seal(run / "checkpoint-192")
    before = len(online.log)
    pushed(run)
    assert "model-00002-of-00002.safetensors" not in online.files("org/lima-7b")
    assert "model-00002-of-00002.safetensors" in online.files("org/lima-7b", "epoch-05")
    assert not [line for line in online.log[before:] if line["kind"] == "put"]
    assert {what.split(":")[1] for line in online.log[before:] for what in line.get("brought") or []} == {
        "verification.json"
    }


def test_a_file_that_a_person_added_there_stays_and_stays_alone(online, run):
    from huggingface_hub import HfApi

    pushed(run, "--epochs", "5")
    HfApi().upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id="org/lima-7b")
    gone = run / "checkpoint-192/model-00002-of-00002.safetensors"
    gone.unlink()
    seal(run / "checkpoint-192")
    pushed(run)
    assert online.files("org/lima-7b")["notes.txt"] == b"mine"
    assert "notes.txt" not in online.files("org/lima-7b", "epoch-06")  # a new revision starts empty, not from main


USED = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model, info = AutoModelForCausalLM.from_pretrained("org/tiny", revision=sys.argv[1], output_loading_info=True)
assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
tokenizer = AutoTokenizer.from_pretrained("org/tiny", revision=sys.argv[1])
assert tokenizer.eos_token_id in model.generation_config.eos_token_id and tokenizer.chat_template
print(model.lm_head.weight[tokenizer.eos_token_id].double().sum().item())
"""


@pytest.mark.slow
def test_a_real_model_is_trained_verified_pushed_and_used_from_the_hub(hub, tiny_base, tmp_path):
    """Two epochs of a tiny Llama; transformers loads either revision by its name, and gets that epoch's weights."""
    trained = tmp_path / "runs/tiny"
    lima_sft.main(["--config", "recipes/135m.yaml", "--model_name_or_path", str(tiny_base), "--output_dir", str(trained),
                   "--dataset", str(first_rows(tmp_path / "mine.jsonl", 6)), "--num_train_epochs", "2", "--heldout", "None",
                   "--keep_epochs", "all", "--report_to", "none", "--max_length", "256", "--learning_rate", "1e-3"])  # fmt: skip
    folders = runs.checkpoints(trained)
    assert [runs.marker(folder)["epoch"] for folder in folders] == [1.0, 2.0]
    verify.main(["--run", str(trained)])
    env = env_of(hub, tmp_path / "home")
    done = conftest.run("-m", "lima.publish.push", "--run", trained, "--hub", "org/tiny", **env)
    assert done.returncode == 0, done.stderr
    eot = json.loads((tiny_base / "lima_base.json").read_text())["eot_id"]
    for revision, folder in (("epoch-01", folders[0]), ("main", folders[1])):
        used = conftest.run("-c", USED, revision, **env)
        with safe_open(folder / "model.safetensors", "pt") as weights:
            here = weights.get_tensor("lm_head.weight")[eot].double().sum().item()
        assert float(used.stdout) == pytest.approx(here, rel=1e-9), used.stderr


# ---- to a folder -----------------------------------------------------------------------------------------------------


def test_a_folder_gets_the_same_tree(online, run, tmp_path):
    pushed(run)
    pushed(run, to=f"dir:{tmp_path / 'out'}")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"main", "epoch-05", "epoch-06"}
    for revision in ("main", "epoch-05", "epoch-06"):
        there = {p.name: p.read_bytes() for p in (tmp_path / "out" / revision).iterdir()}
        on_hub = online.files("org/lima-7b", revision)
        assert set(there) == USEFUL | MADE
        assert {n: c for n, c in there.items() if n != "README.md"} == {n: on_hub[n] for n in there if n != "README.md"}


def test_a_folder_keeps_what_others_put_there_and_refuses_what_is_not_its_own(run, tmp_path):
    out = tmp_path / "out"
    (out / "main").mkdir(parents=True)
    (out / "main/config.json").write_text("theirs")
    with pytest.raises(UserError, match="exists and is not of this push"):
        pushed(run, to=f"dir:{out}")
    pushed(run, "--force", to=f"dir:{out}")
    (out / "main/notes.txt").write_text("mine")
    (run / "checkpoint-192/config.json").write_text("{}")
    seal(run / "checkpoint-192")
    pushed(run, to=f"dir:{out}")
    assert (out / "main/config.json").read_text() == "{}" and (out / "main/notes.txt").read_text() == "mine"
    assert not list(out.glob("*.partial"))


def test_a_copy_that_was_cut_off_goes_on_and_nothing_is_seen_half(run, tmp_path, monkeypatch):
    import shutil

    copied, copy = [], shutil.copyfile

    def dying(source, target):
        if len(copied) == 3:
            raise KeyboardInterrupt
        copied.append(Path(source).name)
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", dying)
    with pytest.raises(KeyboardInterrupt):
        pushed(run, "--epochs", "5", to=f"dir:{tmp_path / 'out'}")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"epoch-05.partial"}
    first, copied[:] = list(copied), []
    monkeypatch.setattr(
        shutil, "copyfile", lambda source, target: (copied.append(Path(source).name), copy(source, target))
    )
    pushed(run, "--epochs", "5", to=f"dir:{tmp_path / 'out'}")
    assert not set(first) & set(copied[: len(USEFUL) - 3])
    assert {name: (tmp_path / "out/epoch-05" / name).read_bytes() for name in USEFUL} == local(run / "checkpoint-160")


# ---- what goes wrong at the Hub --------------------------------------------------------------------------------------

STAGES = [("whoami", 500), ("info", 500), ("create", 500), ("create", "cut"), ("commits", 400), ("branch", 500),
          ("preupload", 400), ("batch", 400), ("put", 400), ("yaml", "cut"), ("commit", 500), ("commit", "cut"),
          ("tree", 400)]  # fmt: skip


@pytest.mark.parametrize(("kind", "how"), STAGES, ids=[f"{kind}-{how}" for kind, how in STAGES])
def test_a_failure_at_any_stage_leaves_the_run_whole_and_says_how_to_go_on(online, run, kind, how):
    before = snapshot(run)
    online.fail(kind, how, times=20)
    with pytest.raises(UserError) as said:
        pushed(run, "--epochs", "5-6", "--private")
    assert "\n" not in str(said.value)
    assert str(said.value).endswith(f"go on with: make push RUN={run} HUB=org/lima-7b EPOCHS=5-6 PRIVATE=1")
    assert snapshot(run) == before
    online.faults.clear()
    pushed(run, "--epochs", "5-6", "--private")
    assert {n: online.files("org/lima-7b")[n] for n in USEFUL} == local(run / "checkpoint-192")
    assert sent_twice(online) == []


@pytest.mark.parametrize(("kind", "how"), [("put", 500), ("put", "cut"), ("preupload", 500), ("batch", "cut")])
def test_what_passes_by_itself_is_waited_for(online, run, kind, how):
    online.fail(kind, how, at=2)
    pushed(run)
    assert {n: online.files("org/lima-7b")[n] for n in USEFUL} == local(run / "checkpoint-192")
    assert sent_twice(online) == []


def test_a_slow_hub_is_waited_for(online, run):
    online.fail("commit", 1.5)
    pushed(run)
    assert {n: online.files("org/lima-7b")[n] for n in USEFUL} == local(run / "checkpoint-192")


def test_a_push_killed_ten_times_completes_and_sends_nothing_twice(hub, tmp_path):
    """SIGKILL at random moments, a byte count of the Hub or a time; every file that the Hub acknowledged comes once."""
    run, epochs = (
        write_run(tmp_path / "runs/7b", epochs=(5,), bytes=4 * MiB),
        [5],
    )  # more than the sockets' buffers hold
    chance, kills = random.Random(7), 0
    command = [sys.executable, "-m", "lima.publish.push", "--run", str(run), "--hub", "org/lima-7b"]
    env = env_of(hub, tmp_path / "home")
    hub.slow = 0.003  # a file takes a second
    while kills < 10:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        asked, received, moment = len(hub.log), hub.received, chance.choice(["bytes", "time"])
        while process.poll() is None and len(hub.log) == asked:
            time.sleep(0.005)
        until, time_left = received + chance.randrange(6 * MiB), time.monotonic() + 1.5 * chance.random()
        while process.poll() is None and (hub.received < until if moment == "bytes" else time.monotonic() < time_left):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        said = process.communicate()[1].decode()
        if process.returncode == 0:  # it was done: there is another epoch to push
            epochs.append(epochs[-1] + 1)
            write_checkpoint(run / f"checkpoint-{32 * epochs[-1]}", float(epochs[-1]), bytes=4 * MiB)
            continue
        assert process.returncode == -signal.SIGKILL, said
        kills += 1
    before = snapshot(run)
    assert subprocess.run(command, cwd=ROOT, env=env, capture_output=True, timeout=120).returncode == 0
    for revision, epoch in [(f"epoch-{epoch:02}", epoch) for epoch in epochs] + [("main", epochs[-1])]:
        found = hub.files("org/lima-7b", revision)
        assert {name: found[name] for name in USEFUL} == local(run / f"checkpoint-{32 * epoch}")
        assert set(found) - {".gitattributes"} == USEFUL | MADE
    assert sent_twice(hub) == [] and snapshot(run) == before
    broken = sum(line["kind"] == "put" and line["status"] is None for line in hub.log)
    print(f"{kills} kills, {broken} of them into an upload; {len(epochs) + 1} revisions")
    assert broken


# ---- what a user gets wrong ------------------------------------------------------------------------------------------


def refused(run, *flags, to="org/lima-7b"):
    with pytest.raises(UserError) as said:
        pushed(run, *flags, to=to)
    assert "\n" not in str(said.value)
    return str(said.value)


def test_a_wrong_token(online, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrongwrongwrongwrongwrong")
    assert refused(run).startswith("the Hub does not accept this token (HF_TOKEN counts before `hf auth login`)")
    assert "wrongwrong" not in refused(run)


def test_no_token(online, run, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert refused(run).startswith("org/lima-7b: no Hub token here; `hf auth login` or HF_TOKEN=…")


def test_no_right_to_the_organisation(online, run):
    assert refused(run, to="google/lima-7b").startswith(
        "google/lima-7b: somebody has no right to create or write there"
    )
    assert online.asked("create") == []


def test_a_repository_that_one_may_see_but_not_write(online, run):
    online.create("google/lima-7b")
    assert refused(run, to="google/lima-7b").startswith(
        "google/lima-7b: somebody has no right to create or write there"
    )


def test_a_name_that_exists_as_something_else(online, run):
    from huggingface_hub import HfApi

    HfApi().create_repo("org/lima-7b")
    HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="org/lima-7b")
    said = refused(run)
    assert said.startswith(
        "org/lima-7b: exists and its main holds somebody else's files; choose another name, or FORCE=1"
    )
    assert online.files("org/lima-7b")["config.json"] == b"{}"
    pushed(run, "--force")
    assert online.files("org/lima-7b")["config.json"] == (run / "checkpoint-192/config.json").read_bytes()


def test_a_name_that_another_run_has(online, run, tmp_path):
    pushed(write_run(tmp_path / "runs/other", bytes=100))
    assert "exists and its epoch-05 holds run other; choose another name" in refused(run)


def test_private_asked_where_it_is_public(online, run):
    pushed(run, "--epochs", "5")
    assert refused(run, "--private").startswith("org/lima-7b: exists and is public; make it private in its settings")


def test_a_run_that_still_trains(run, tmp_path):
    with runs.training(run):
        assert refused(run, to=f"dir:{tmp_path / 'out'}").startswith(f"{run}: still trains (process {os.getpid()} on ")
    pushed(run, to=f"dir:{tmp_path / 'out'}")


def test_a_checkpoint_of_another_run(run, tmp_path):
    write_checkpoint(run / "checkpoint-224", 7.0, bytes=100, dataset="fed")
    said = refused(run, to=f"dir:{tmp_path / 'out'}")
    assert said.startswith(f"{run}/checkpoint-224: was trained on other data (fed) than {run}/recipe.yaml says (abc)")


def test_a_checkpoint_of_another_repo(tmp_path):
    theirs = tmp_path / "theirs"
    write_checkpoint(theirs / "checkpoint-10", 1.0, bytes=100)
    to = f"dir:{tmp_path / 'out'}"
    assert refused(theirs, to=to).startswith(f"{theirs}: no recipe.yaml there, so not a run of this repo")
    run = write_run(tmp_path / "runs/7b", bytes=100)
    for folder in run.glob("checkpoint-*"):
        (folder / "complete.json").unlink()
    assert "no complete checkpoint (checkpoint-192 has no complete.json: half-written, or of another repo)" in refused(
        run, to=to
    )


def test_a_checkpoint_that_was_not_verified_or_changed_since(run, tmp_path):
    to = f"dir:{tmp_path / 'out'}"
    (run / "checkpoint-160/verification.json").unlink()
    assert "checkpoint-160: not verified yet; run `make verify" in refused(run, to=to)
    pushed(run, "--force", to=to)
    seal(run / "checkpoint-160")
    (run / "checkpoint-160/config.json").write_text("{}")
    assert "since it was verified" in refused(run, to=to)
    pushed(run, "--force", to=to)
    assert (tmp_path / "out/epoch-05/config.json").read_text() == "{}"


def test_weights_that_changed_since_they_were_verified_are_not_sent(online, run):
    weights = run / "checkpoint-160/model-00001-of-00002.safetensors"
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.write_bytes(content)
    assert refused(run).startswith(f"{weights}: is not what was verified")
    assert digest(content) not in str(online.log)


@pytest.mark.parametrize(
    ("flags", "to", "said"),
    [
        (["--epochs", "12"], "org/x", "no checkpoint of EPOCHS=12; its whole epochs: 5, 6"),
        (["--epochs", "x"], "org/x", "EPOCHS: expected epochs such as 5-10"),
        ([], "x", "HUB: expected org/name or dir:PATH, found 'x'"),
        ([], "org/a b", "HUB: "),
        ([], "dir:", "HUB: dir: needs a path"),
        (["--private"], "dir:x", "PRIVATE is for the Hub"),
    ],
)
def test_values_that_cannot_be_read(online, run, flags, to, said):
    assert said in refused(run, *flags, to=to)


def test_a_selection_that_is_not_there(run, tmp_path):
    select(run, 99)
    assert f"{run}/selected.json: names checkpoint-99, which is not among" in refused(run, to=f"dir:{tmp_path / 'out'}")


def test_adapters_are_merged_first(run, tmp_path):
    (run / "checkpoint-192/adapter_config.json").write_text("{}")
    seal(run / "checkpoint-192")
    assert f"`make merge RUN={run}`, verify and push RUN={run}/merged" in refused(run, to=f"dir:{tmp_path / 'out'}")


def test_a_merged_model_is_pushed_as_main(run, tmp_path):
    merged = write_checkpoint(run / "merged-0", 1.0, bytes=100).rename(run / "merged")
    (merged / "complete.json").unlink()
    (merged / "lima_merge.json").write_text(json.dumps({"checkpoint": str(run / "checkpoint-160")}))
    seal(merged)
    pushed(merged, to=f"dir:{tmp_path / 'out'}")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"main"}
    assert "| **main** (this one) | 5 | 160 |" in (tmp_path / "out/main/README.md").read_text()


def test_it_is_one_line_and_exit_code_2_at_the_command_line(hub, run, tmp_path):
    command = [sys.executable, "-m", "lima.publish.push", "--run", str(run), "--hub", "google/x"]
    done = subprocess.run(command, cwd=ROOT, env=env_of(hub, tmp_path / "home"), capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.strip().startswith("error: google/x: somebody has no right")
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1


# ---- secrets ---------------------------------------------------------------------------------------------------------


def test_no_token_key_or_home_path_is_published_or_printed(online, tmp_path, monkeypatch, capfd):
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    run = write_run(home / "runs/7b", bytes=1000)
    record = yaml.safe_load((run / "recipe.yaml").read_text())
    record["recipe"] |= {
        "model_name_or_path": f"{home}/bases/llama-7b",
        "dataset": f"{home}/data/mine.jsonl",
        "output_dir": str(run),
    }
    record["dataset"]["name"] = f"{home}/data/mine.jsonl"
    record["config"] = f"{home}/recipes/7b.yaml"
    (run / "recipe.yaml").write_text(yaml.safe_dump(record))
    pushed(run)
    said = capfd.readouterr()
    everything = b"".join(c for r in ("main", "epoch-05", "epoch-06") for c in online.files("org/lima-7b", r).values())
    everything += (said.out + said.err).replace(f"{run} is as it was", "").encode() + json.dumps(online.log).encode()
    for secret in (online.token, "0123456789" * 4, str(home)):
        assert secret.encode() not in everything


@pytest.mark.parametrize("secret", ["hf_" + "a" * 34, "k" * 40, "HOME/bases/llama"])
def test_a_file_that_holds_a_secret_stops_the_push(monkeypatch, tmp_path, secret):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SOME_API_KEY", "k" * 40)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"x": secret.replace("HOME", str(tmp_path))}))
    with pytest.raises(UserError, match=r"config.json: holds (a token or key|this machine's home path)"):
        refuse_secrets([Revision("main", {"config.json": path})])
    path.write_text("{}")
    refuse_secrets([Revision("main", {"config.json": path})])


def test_the_card_on_a_revision_says_which_it_is(online, run):
    pushed(run)
    readme = online.files("org/lima-7b", "epoch-05")["README.md"].decode()
    assert 'revision="epoch-05"' in readme and "| **epoch-05** (this one) | 5 | 160 | 2.500 |" in readme
    assert 'revision="' not in online.files("org/lima-7b")["README.md"].decode()
    assert card.mark("run", "7b") in readme
