"""Verification of really trained tiny runs, and of every fault that it is there to find."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, first_rows, prepared_llama, train_qlora
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import lima_sft
from lima import UserError, runs
from lima.publish import alone, verify, weights
from lima.train import merge

SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture(scope="module")
def trained(tiny_base, tmp_path_factory):
    """A run of two epochs on a tiny Llama."""
    folder = tmp_path_factory.mktemp("verify")
    words = ["--config", "recipes/quickstart.yaml", "--model_name_or_path", tiny_base, "--heldout", "None", "--dataset",
             first_rows(folder / "eight.jsonl", 8), "--output_dir", folder / "run", "--over_length", "trim",
             "--keep_epochs", "all", "--report_to", "none"]  # fmt: skip
    lima_sft.main([str(word) for word in words])
    return folder / "run"


@pytest.fixture(scope="module")
def sharded(trained, tmp_path_factory):
    """Its last checkpoint, with weights in three files, as a large model's are."""
    run = tmp_path_factory.mktemp("sharded") / "run"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("checkpoint-1", verify.RECORD))
    model = AutoModelForCausalLM.from_pretrained(run / "checkpoint-2")
    (run / "checkpoint-2/model.safetensors").unlink()
    model.save_pretrained(run / "checkpoint-2", max_shard_size="12MB")
    assert (run / "checkpoint-2" / SHARD).is_file()
    mark(run / "checkpoint-2")
    return run


@pytest.fixture
def checkpoint(sharded, tmp_path):
    """A copy of it to break."""
    shutil.copytree(sharded, tmp_path / "run")
    return tmp_path / "run/checkpoint-2"


@pytest.fixture(scope="module")
def qlora(smollm2_tokenizer, tmp_path_factory):
    return train_qlora(tmp_path_factory.mktemp("qlora"), smollm2_tokenizer)


def mark(folder):
    """Lets complete.json say what the files are now, as if the run had written them so."""
    marker = runs.marker(folder) or {"step": 2, "epoch": 2.0, "ranks": 1, "recipe": {}, "dataset": ""}
    present = verify.listed(folder)
    present.pop(runs.MARKER, None)
    files = {name: {"bytes": path.stat().st_size, "sha256": runs.sha256(path)} for name, path in present.items()}
    runs.write_text(folder / runs.MARKER, json.dumps({**marker, "files": files}, indent=1))


def check(name, folder):
    """What one check says; the part before the colon names file or tensor."""
    return verify.CHECKS[name](weights.Model(folder), lambda size: None)


def edit_tensors(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    mark(path.parent)


def edit_json(path, **keys):
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))
    mark(path.parent)


def holding(folder, name):
    """The weight file of a tensor."""
    return folder / weights.headers(folder)[name][0]


def flip_a_bit(path, at=-5):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_trained_run_is_verified_once_and_says_so(trained, capsys):
    verify.main(["--run", str(trained), "--epochs", "2"])
    out = capsys.readouterr().out
    assert out.count("  ok ") == len(verify.CHECKS) and "WRONG" not in out and "plain transformers" in out
    checkpoint = trained / "checkpoint-2"
    record = json.loads((checkpoint / verify.RECORD).read_text())
    assert record["verified"] is True and [c["name"] for c in record["checks"]] == list(verify.CHECKS)
    digests = subprocess.run(["sha256sum", *record["files"]], cwd=checkpoint, capture_output=True, text=True).stdout
    assert dict(line.split()[::-1] for line in digests.splitlines()) == record["files"]
    assert record["files"].keys() == {path.name for path in checkpoint.iterdir()} - {verify.RECORD}
    assert verify.why_not(checkpoint, deep=True) is None and "not verified yet" in verify.why_not(
        trained / "checkpoint-1"
    )
    written = (checkpoint / verify.RECORD).stat().st_mtime_ns
    verify.main(["--run", str(trained), "--epochs", "2"])
    assert "verified before, and every file is as it was" in capsys.readouterr().out
    assert (checkpoint / verify.RECORD).stat().st_mtime_ns == written


def test_the_eot_row_moved_by_what_it_says(trained, tiny_base):
    """Against the rows as transformers loads them."""
    rows = [AutoModelForCausalLM.from_pretrained(path).lm_head.weight for path in (tiny_base, trained / "checkpoint-2")]
    eot = AutoTokenizer.from_pretrained(tiny_base).eos_token_id
    moved = ((rows[1][eot] - rows[0][eot]).norm() / rows[0][eot].norm()).item()
    assert f"row {eot} moved: " in (said := check("EOT row", trained / "checkpoint-2"))
    assert f"lm_head by {100 * moved:.2g} %" in said and 0.001 < moved < 0.5


def test_any_later_change_makes_it_unverified(sharded, tmp_path, monkeypatch):
    """Sizes and small files always; what is large and as long as before, with deep only."""
    checkpoint = shutil.copytree(sharded / "checkpoint-2", tmp_path / "checkpoint-2")
    monkeypatch.setattr(verify, "CHECKS", {"files": verify.check_files})  # the others are other tests' concern
    verify.main(["--run", str(checkpoint)])
    assert verify.why_not(checkpoint, deep=True) is None
    for name, change, deep, word in (
        ("config.json", flip_a_bit, False, "changed"),
        (
            runs.MARKER,
            lambda path: path.write_text(path.read_text().replace('"epoch": 2.0', '"epoch": 9.0')),
            False,
            "changed",
        ),
        (SHARD, lambda path: os.truncate(path, path.stat().st_size - 1), False, "changed"),
        (SHARD, flip_a_bit, True, "changed"),
        (SHARD, Path.unlink, False, "gone"),
        ("pytorch_model.bin", lambda path: path.write_text("x"), False, "added"),
        (verify.RECORD, lambda path: path.write_text("{}"), False, "cannot be read"),
    ):
        broken = shutil.copytree(checkpoint, tmp_path / "broken")
        change(broken / name)
        assert verify.why_not(broken, deep=True).startswith(f"{broken / name}: {word}")
        assert (verify.why_not(broken) is None) == deep
        if name == SHARD:  # a second run finds it too
            with pytest.raises(UserError, match="not verified: broken"):
                verify.main(["--run", str(broken)])
        shutil.rmtree(broken)
    (checkpoint / verify.RECORD).unlink()
    assert verify.why_not(checkpoint).startswith(f"{checkpoint}: not verified yet; run `make verify")


def test_state_that_the_run_lets_go_of_is_no_change(checkpoint, monkeypatch):
    (checkpoint / "optimizer.pt").write_bytes(b"state")
    mark(checkpoint)
    monkeypatch.setattr(verify, "CHECKS", {"files": verify.check_files})
    verify.main(["--run", str(checkpoint)])
    (checkpoint / "optimizer.pt").unlink()
    assert f"{checkpoint / 'optimizer.pt'}: gone" in verify.why_not(checkpoint)
    mark(checkpoint)  # as lima/train/checkpoints.py does, before it
    assert verify.why_not(checkpoint, deep=True) is None


def test_a_broken_one_is_said_check_by_check_and_exits_with_2(checkpoint):
    """In a process of its own: a flipped bit, and EOT gone from generation_config."""
    flip_a_bit(checkpoint / SHARD)
    generation = checkpoint / "generation_config.json"
    generation.write_text(json.dumps({**json.loads(generation.read_text()), "eos_token_id": [7]}))
    command = [sys.executable, "-m", "lima.publish.verify", "--run", str(checkpoint.parent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.rstrip().splitlines()[-1].startswith(f"error: {checkpoint.parent}: not verified: checkpoint-2;")
    lines = {
        line[9:22].strip(): line for line in done.stdout.splitlines() if line.startswith("  ok ") or "WRONG" in line
    }
    assert list(lines) == list(verify.CHECKS)
    assert {name for name, line in lines.items() if "WRONG" in line} == {"files", "stop tokens", "stops"}
    digest, expected = runs.sha256(checkpoint / SHARD), runs.marker(checkpoint)["files"][SHARD]["sha256"]
    assert f"{SHARD}: SHA-256 is {digest[:12]}…, expected {expected[:12]}…" in lines["files"]
    assert "generation_config.json: eos_token_id is [7], expected 49152" in lines["stop tokens"]
    assert "ran to 12, expected 4" in lines["stops"]
    record = (checkpoint / verify.RECORD).read_text()
    assert json.loads(record)["verified"] is False and "failed its verification" in verify.why_not(checkpoint)
    assert str(checkpoint.parent) not in record and str(Path.home()) + "/" not in record


def test_whatever_a_check_meets_the_others_run_and_no_path_is_published(checkpoint, monkeypatch, capsys):
    def broken(model, tick):
        raise RuntimeError(f"{checkpoint}/a, {checkpoint.resolve()}/b,\n{Path.home()}/c")

    monkeypatch.setattr(
        verify, "CHECKS", {"files": verify.check_files, "broken": broken, "last": lambda model, tick: "ran"}
    )
    with pytest.raises(UserError, match="not verified: checkpoint-2"):
        verify.main(["--run", str(checkpoint)])
    checks = json.loads((checkpoint / verify.RECORD).read_text())["checks"]
    assert [c["detail"] for c in checks[1:]] == ["RuntimeError: a, b, c", "ran"]
    assert "WRONG  broken       RuntimeError: a, b, c\n" in capsys.readouterr().out


def test_files(checkpoint):
    os.truncate(checkpoint / "tokenizer.json", 100)
    (checkpoint / SHARD).unlink()
    (checkpoint / "notes.txt").write_text("mine")
    with pytest.raises(UserError) as said:
        check("files", checkpoint)
    assert f"{SHARD}: missing, expected 12,5" in str(said.value) and "tokenizer.json: 100 bytes, expected" in str(
        said.value
    )
    assert "notes.txt: not in complete.json" in str(said.value)


def test_a_missing_shard(checkpoint):
    (checkpoint / SHARD).unlink()
    mark(checkpoint)
    with pytest.raises(UserError, match=rf"^{SHARD}: missing, expected \d+ tensors in it; .* missing, expected F32"):
        check("tensors", checkpoint)
    with pytest.raises(UserError, match=rf"plain transformers cannot load it and generate: .*{SHARD}"):
        check("loads", checkpoint)


def test_an_index_that_disagrees(checkpoint):
    index = checkpoint / weights.INDEX
    content = json.loads(index.read_text())
    content["weight_map"]["model.norm.weight"] = SHARD
    edit_json(index, **content)
    last = SHARD.replace("00002", "00003")
    with pytest.raises(UserError, match=rf"^{weights.INDEX}: puts model.norm.weight elsewhere than {last}$"):
        check("tensors", checkpoint)


def test_tied_weights_need_one_name(smollm2_tokenizer, tmp_path):
    tied = prepared_llama(tmp_path, smollm2_tokenizer, tied=True, layers=1)
    assert "lm_head.weight" not in weights.headers(tied)
    assert check("tensors", tied).startswith("11 tensors with the shapes of the architecture, F32")


def test_this_repo_cannot_be_imported_where_the_model_is_loaded(checkpoint, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(alone, "ALONE", alone.ALONE.split("import torch")[0] + "import lima")
    with pytest.raises(UserError, match="ModuleNotFoundError: import of lima halted"):
        check("loads", checkpoint)


def test_a_shard_that_ends_too_early(checkpoint):
    os.truncate(checkpoint / SHARD, 2**20)
    for name in ("tensors", "finite", "EOT row"):
        with pytest.raises(UserError, match=f"^{SHARD}: broken"):
            check(name, checkpoint)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t, name: t.update({name: t[name].bfloat16()}), r"{name} is BF16 \[64\], expected F32 \[64\]"),
        (lambda t, name: t.update({name: t[name][:32].clone()}), r"{name} is F32 \[32\], expected F32 \[64\]"),
        (lambda t, name: t.update({name: t[name][:0].clone()}), r"{name} is F32 \[0\], expected F32 \[64\]"),
        (lambda t, name: t.pop(name), r"{name}: missing, expected F32 \[64\]"),
        (lambda t, name: t.update(stranger=torch.ones(3)), r"stranger is not in the architecture"),
    ],
    ids=["dtype", "shape", "empty", "missing", "stranger"],
)
def test_a_wrong_tensor(checkpoint, change, said):
    name = "model.layers.1.input_layernorm.weight"
    edit_tensors(holding(checkpoint, name), lambda tensors: change(tensors, name))
    assert check("files", checkpoint)
    with pytest.raises(UserError, match=said.format(name=name)):
        check("tensors", checkpoint)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite(checkpoint, value, monkeypatch):
    monkeypatch.setattr(weights, "CHUNK", 1000)  # values: the tensor is read in several pieces
    name = "model.layers.2.mlp.up_proj.weight"
    file = holding(checkpoint, name)
    edit_tensors(file, lambda tensors: tensors[name].view(-1)[-2:].fill_(value))
    assert check("files", checkpoint) and check("tensors", checkpoint)
    with pytest.raises(UserError, match=rf"^{file.name}: {name} holds 2 NaN or infinite values, expected none$"):
        check("finite", checkpoint)


def test_every_value_is_read_once(checkpoint, monkeypatch):
    monkeypatch.setattr(weights, "CHUNK", 1000)
    read = []
    counted = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(checkpoint).parameters())
    assert weights.check_finite(weights.Model(checkpoint), read.append) == f"{counted:,} values, each finite"
    assert sum(read) == 4 * counted


def test_an_eot_row_that_is_the_base_s(checkpoint, tiny_base):
    before = load_file(tiny_base / "model.safetensors")["lm_head.weight"]
    eot = AutoTokenizer.from_pretrained(tiny_base).eos_token_id
    file = holding(checkpoint, "lm_head.weight")
    edit_tensors(file, lambda tensors: tensors["lm_head.weight"][eot].copy_(before[eot]))
    with pytest.raises(UserError, match=f"^lm_head.weight: row {eot}, EOT, is the base's still"):
        check("EOT row", checkpoint)


def test_without_its_base_it_says_what_it_cannot_check(checkpoint):
    record = checkpoint.parent / "recipe.yaml"
    record.write_text("recipe: {model_name_or_path: /nowhere/llama-7b}\n")
    assert check("EOT row", checkpoint) == "not checked: its base (llama-7b) is not here"
    assert "EOT is 49152" in check("stop tokens", checkpoint)
    record.unlink()
    assert check("EOT row", checkpoint) == "not checked: its base (recipe.yaml names none) is not here"


def test_tokens_that_disagree(checkpoint):
    edit_json(checkpoint / "config.json", eos_token_id=0)
    edit_json(checkpoint / "generation_config.json", pad_token_id=49152)
    with pytest.raises(UserError) as said:
        check("stop tokens", checkpoint)
    assert "config.json: eos_token_id is 0, expected 49152" in str(said.value)
    assert "generation_config.json: pad_token_id is 49152, expected 49153" in str(said.value)
    edit_json(checkpoint / "tokenizer_config.json", pad_token="<|eot|>")
    with pytest.raises(UserError, match="pad is 49152 and EOT is 49152, expected two tokens"):
        check("stop tokens", checkpoint)
    edit_json(checkpoint / "tokenizer_config.json", eos_token="<|endoftext|>")
    with pytest.raises(UserError, match="EOT is 0, expected 49152, the base's"):
        check("stop tokens", checkpoint)


def test_no_tokenizer_no_template_another_template(checkpoint):
    template = checkpoint / "chat_template.jinja"
    template.write_text(template.read_text().replace("message['content'] -}}", "message['content'] + '\\n' -}}", 1))
    with pytest.raises(UserError, match=r"^chat_template.jinja: 2 turns give \[.*\], expected \["):
        check("template", checkpoint)
    template.unlink()
    with pytest.raises(UserError, match=r"^chat_template.jinja: missing"):
        check("template", checkpoint)
    (checkpoint / "tokenizer.json").unlink()
    for name in ("stop tokens", "template", "loads", "stops"):
        with pytest.raises(UserError, match=r"^tokenizer.json: missing$"):
            check(name, checkpoint)


@pytest.mark.slow
def test_a_model_larger_than_the_memory_is_used_from_disk(checkpoint, monkeypatch):
    import psutil

    monkeypatch.setattr(alone, "ROOM", 13e6 / psutil.virtual_memory().available)  # of 26 MB
    assert ", in part from disk: float32" in check("loads", checkpoint)


@pytest.mark.slow
def test_an_adapter_with_and_without_its_base(qlora, tmp_path, capsys):
    verify.main(["--run", str(qlora.checkpoint)])
    assert capsys.readouterr().out.count("  ok ") == len(verify.CHECKS)
    broken = shutil.copytree(qlora.checkpoint, tmp_path / "checkpoint-3")
    file, name = broken / "adapter_model.safetensors", "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
    rows = load_file(qlora.base / "model.safetensors")
    edit_tensors(
        file,
        lambda tensors: (tensors.pop(name), tensors["base_model.model.lm_head.weight"].copy_(rows["lm_head.weight"])),
    )
    with pytest.raises(UserError, match=rf"^{name}: missing, expected F32 \[128, 64\]$"):
        check("tensors", broken)
    with pytest.raises(UserError, match=r"lora_B.*: missing when loaded \(1 in all\)"):
        check("loads", broken)
    with pytest.raises(UserError, match=r"^lm_head.weight: row 49152, EOT, is the base's still"):
        check("EOT row", broken)
    edit_json(broken / "adapter_config.json", base_model_name_or_path="bases/elsewhere")
    for name in ("tensors", "EOT row", "loads", "stops"):
        assert check(name, broken) == "not checked: its base (elsewhere) is not here"
    assert check("finite", broken) and check("stop tokens", broken) and check("template", broken)


def test_a_merged_model(qlora, capsys):
    merge.merge(qlora.run)
    verify.main(["--run", str(qlora.run / "merged")])
    assert capsys.readouterr().out.count("  ok ") == len(verify.CHECKS)
    assert verify.why_not(qlora.run / "merged", deep=True) is None


def test_bad_input_is_one_line(checkpoint, tmp_path):
    run = checkpoint.parent
    (run / "checkpoint-1").mkdir()
    assert verify.chosen(run) == [checkpoint] == verify.chosen(checkpoint)  # and passes over what is not complete
    with pytest.raises(UserError, match="no checkpoint of epochs 5-10; it has 2"):
        verify.chosen(run, "5-10")
    with pytest.raises(UserError, match="--epochs: expected epochs such as"):
        verify.chosen(run, "five")
    (checkpoint / runs.MARKER).unlink()
    for given in (run, checkpoint):
        with pytest.raises(
            UserError, match=r"no complete\.json in .*: another program wrote it, or its save was cut off"
        ):
            verify.chosen(given)
    shutil.rmtree(checkpoint)
    shutil.rmtree(run / "checkpoint-1")
    with pytest.raises(UserError, match="has no checkpoint yet"):
        verify.chosen(run)
    (run / "recipe.yaml").unlink()
    with pytest.raises(UserError, match="not a run"):
        verify.chosen(run)
    with pytest.raises(UserError, match="no such folder; runs here: "):
        verify.chosen(tmp_path / "nowhere")
