"""The trainer end to end, on a tiny Llama with a real tokenizer: what it trains, keeps, refuses and says."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
import yaml
from conftest import run
from transformers import AutoModelForCausalLM, AutoTokenizer

import lima_sft
from lima import UserError, conversations, turns

FP32 = ["--bf16", "false", "--report_to", "none", "--gradient_checkpointing", "false", "--eval_on_start", "false"]


@pytest.fixture
def sft(tiny_base, tmp_path):
    """Runs `lima_sft.main` on the tiny base; returns the run's folder."""

    def run_sft(*flags, rows=12, name="run", data="data/starter.jsonl"):
        short = tmp_path / f"{rows}.jsonl"
        lines = open(data, encoding="utf-8").read().splitlines()
        short.write_text("\n".join(lines[:: len(lines) // rows][:rows]), encoding="utf-8")
        words = ["--config", "recipes/135m.yaml", "--model_name_or_path", tiny_base, "--dataset", short]
        words += ["--output_dir", tmp_path / name, "--dataloader_pin_memory", "false", *flags]
        lima_sft.main([str(word) for word in words])
        return tmp_path / name

    return run_sft


def metrics(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def sgd_step(model, rows, rate):
    """One plain PyTorch step: the mean over all supervised tokens of the batch, no padding, one row at a time."""
    count = sum(label != -100 for row in rows for label in row["labels"][1:])
    model.zero_grad()
    for row in rows:
        logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
        (F.cross_entropy(logits, torch.tensor(row["labels"][1:]), reduction="sum") / count).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= rate * parameter.grad


@pytest.mark.parametrize("budget", [pytest.param(1024, marks=pytest.mark.slow), 512])
def test_the_gradient_is_that_of_the_whole_global_batch(sft, tiny_base, tmp_path, budget):
    """Four rows, then a partial batch of one: the same weights as plain PyTorch, whatever the micro-batches."""
    run_dir = sft(*FP32, "--optim", "sgd", "--learning_rate", 0.5, "--lr_scheduler_type", "constant", "--weight_decay", 0,
                  "--max_grad_norm", 0, "--num_train_epochs", 1, "--global_batch_size", 4, "--residual_dropout", 0,
                  "--lr_scheduler_kwargs", "{}", "--tokens_per_device", budget, rows=5)  # fmt: skip
    trained = weights(next(run_dir.glob("checkpoint-2")))
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    rows = turns.encode_all(tokenizer, conversations.load(tmp_path / "5.jsonl").rows, 2048).rows
    differences = []
    for last in range(5):  # the shuffle decides which row is the partial batch
        model = weights(tiny_base)
        sgd_step(model, rows[:last] + rows[last + 1 :], 0.5)
        sgd_step(model, [rows[last]], 0.5)
        pairs = zip(model.parameters(), trained.parameters(), strict=True)
        differences.append(max((a - b).abs().max().item() for a, b in pairs))
    assert min(differences) < 2e-6
    assert sorted(differences)[1] > 1e-4  # the others do differ: the comparison can fail


def test_schedule_optimiser_and_epochs_are_the_papers(sft):
    run_dir = sft(*FP32, "--num_train_epochs", 5, "--global_batch_size", 8, "--keep_epochs", "2-3", rows=12)
    logged = [row for row in metrics(run_dir) if "loss" in row]
    assert len(logged) == 10  # 12 rows at 8 a step: 2 steps an epoch, the last with 4
    for step, row in enumerate(logged):
        assert row["learning_rate"] == pytest.approx(1e-6 + 9e-6 * (1 - step / 10), rel=1e-6)
    kept = sorted(p.name for p in run_dir.glob("checkpoint-*"))
    assert kept == ["checkpoint-10", "checkpoint-4", "checkpoint-6"]
    state = torch.load(run_dir / "checkpoint-10/optimizer.pt", weights_only=True)
    for group, decay in zip(state["param_groups"], (0.1, 0.0), strict=True):  # norms do not decay
        assert group["betas"] == (0.9, 0.95) and group["weight_decay"] == decay
    assert not (run_dir / "checkpoint-4/optimizer.pt").exists()
    record = yaml.safe_load((run_dir / "recipe.yaml").read_text())
    assert record["dataset"]["rows"] == 12 and record["versions"]["trl"]
    assert record["recipe"]["learning_rate"] == 1e-5
    held = [row["eval_loss"] for row in metrics(run_dir) if "eval_loss" in row]
    assert len(held) == 5


def test_heldout_loss_is_the_mean_over_examples(sft):
    """Against plain PyTorch on the last checkpoint; a mean of padded batches would differ."""
    run_dir = sft(*FP32, "--num_train_epochs", 1, "--learning_rate", 1e-3, rows=4)
    checkpoint = next(run_dir.glob("checkpoint-*"))
    model, tokenizer = weights(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    rows = turns.encode_all(tokenizer, conversations.load("data/heldout.jsonl").rows, 2048).rows
    with torch.no_grad():
        losses = [F.cross_entropy(model(torch.tensor([r["input_ids"]])).logits[0, :-1], torch.tensor(r["labels"][1:]))
                  for r in rows]  # fmt: skip
    assert metrics(run_dir)[-2]["eval_loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)


def test_a_checkpoint_works_without_this_repo_and_stops_at_eot(sft, tmp_path):
    """Plain transformers in a process that cannot import `lima`: pipeline, template, generation config."""
    checkpoint = next(sft("--num_train_epochs", 1, "--report_to", "none", rows=4).glob("checkpoint-*"))
    script = tmp_path / "plain.py"
    script.write_text(f"""
import json
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
try:
    import lima
    raise SystemExit("lima can be imported")
except ImportError:
    pass
tokenizer = AutoTokenizer.from_pretrained({str(checkpoint)!r})
model = AutoModelForCausalLM.from_pretrained({str(checkpoint)!r})
eot = tokenizer.eos_token_id
model.get_input_embeddings().weight.data[eot] *= 0  # then make EOT the only likely token: generation must stop at once
model.get_output_embeddings().weight.data[eot] += 50 * model.model.norm.weight.data.sign()
chat = [{{"role": "user", "content": "Hello"}}]
out = pipeline("text-generation", model=model, tokenizer=tokenizer)(chat, max_new_tokens=5)
g = model.generation_config
print(json.dumps(dict(ids=tokenizer.apply_chat_template(chat)["input_ids"], eot=eot, stops=g.eos_token_id, t=g.temperature,
    p=g.top_p, penalty=g.repetition_penalty, config=model.config.eos_token_id, pad=tokenizer.pad_token_id,
    roles=[m["role"] for m in out[0]["generated_text"]], bos=tokenizer.bos_token_id)))
""")
    done = run(script)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["ids"][0] == said["bos"] and said["ids"][-1] == said["eot"]
    assert said["stops"][0] == said["config"] == said["eot"] != said["pad"]
    assert (said["t"], said["p"], said["penalty"]) == (0.7, 0.9, None) or said["penalty"] == 1.0
    assert said["roles"] == ["user", "assistant"]


def test_the_plan_is_printed_and_a_dry_run_leaves_nothing(sft, tmp_path, capsys):
    run_dir = sft("--dry_run", "true", rows=12)
    said = " ".join(capsys.readouterr().out.split())
    assert not run_dir.exists()
    for part in ("12 examples", "64 examples a step = 1 rank", "1.00e-05 →", "0.00 at the first layer → 0.20 at the last",
                 "weights of epoch 5, 6, 7, 8, 9, 10, 15", "GB free", "(estimated)"):  # fmt: skip
        assert part in said


def test_an_earlier_run_is_never_lost_by_accident(sft):
    run_dir = sft(*FP32, "--num_train_epochs", 1, rows=4)
    (run_dir / "generations/checkpoint-1").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds 1 checkpoint of an earlier run.*--overwrite"):
        sft(*FP32, "--num_train_epochs", 1, rows=4)
    sft(*FP32, "--num_train_epochs", 1, "--overwrite", "true", rows=4)
    assert (run_dir / "checkpoint-1").exists() and not (run_dir / "generations/checkpoint-1").exists()


def test_a_checkpoints_tokenizer_is_saved_as_the_bases(sft, tiny_base):
    """By a class that transformers 4 knows too, padded on the side that generation needs."""
    run_dir = sft(*FP32, "--num_train_epochs", 1, rows=4)
    ours, theirs = (
        json.loads((folder / "tokenizer_config.json").read_text()) for folder in (run_dir / "checkpoint-1", tiny_base)
    )
    for key in ("tokenizer_class", "padding_side", "eos_token", "pad_token"):
        assert ours[key] == theirs[key]


def test_wandb_runs_offline_without_a_key(sft):
    run_dir = sft("--num_train_epochs", 1, rows=4)
    files = list(run_dir.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 1
    log = files[0].read_bytes()  # blocks of 32 KiB, each behind 7 bytes of its own, which may part a word
    content = b"".join(log[at + 7 : at + 2**15] for at in range(0, len(log), 2**15))
    for part in (b"fingerprint", b"tokens_per_second", b"eval/loss"):
        assert part in content


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model_name_or_path", "bases/none"], "prepare it with `make base-135m`"),
        pytest.param(["--dataset", "data/none.jsonl"], "data/none.jsonl: no such file", marks=pytest.mark.slow),
        pytest.param(["--output_dir", "/proc/nowhere"], "/proc", marks=pytest.mark.slow),
        (["--max_length", "20"], "fills max_length 20"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(tiny_base, flags, message):
    words = ["--model_name_or_path", tiny_base, "--report_to", "none", *flags]
    done = run("lima_sft.py", "--config", "recipes/135m.yaml", *words)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_unprepared_base_names_its_target(tiny_base):
    done = run("lima_sft.py", "--config", "recipes/135m.yaml", "--model_name_or_path", tiny_base.parent / "source")
    assert done.returncode == 2 and "make base-135m" in done.stderr


@pytest.mark.slow
def test_65b_is_refused_at_once_and_offline():
    done = run("lima_sft.py", "--config", "recipes/65b.yaml", timeout=60)
    assert done.returncode == 2 and "does not fit" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_all_of_lima_trains_for_an_epoch_with_llamas_tokenizer(shared, llama_tokenizer, tmp_path):
    from conftest import write_llama

    from lima.train import base

    source = write_llama(tmp_path / "source", llama_tokenizer, layers=1, width=16)
    base.prepare(source, tmp_path / "base")
    lima_sft.main(["--config", "recipes/65b-dialogue.yaml", "--model_name_or_path", str(tmp_path / "base"), "--dataset",
                   str(shared / "lima/train.jsonl"), "--output_dir", str(tmp_path / "run"), "--num_train_epochs", "1",
                   "--report_to", "none", "--deepspeed", "None", "--gradient_checkpointing", "false"])  # fmt: skip
    logged = [row for row in metrics(tmp_path / "run") if "loss" in row]
    assert len(logged) == math.ceil(1030 / 32)
    record = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    assert (record["dataset"]["rows"], record["dataset"]["trimmed"]) == (1030, 69)
    assert logged[-1]["loss"] < logged[0]["loss"]
