"""DeepSpeed on real processes: every config trains, what ZeRO-3 saves and loads, and what a config may not say."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, assert_runs_alone, distance, first_rows, losses, prepared_llama, untouched
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lima import UserError, conversations, recipe, runs, turns
from lima.train import base, zero

VENV = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])  # ninja is there
CONFIGS = sorted(path.name for path in (ROOT / "ds_configs").glob("*.json"))
SIZE, STEPS, RATE, FLOOR, SEED = 4, 4, 1e-3, 1e-6, 42
FLAGS = ["--eval_on_start", "false", "--report_to", "none", "--heldout", "None", "--disable_tqdm", "true", "--learning_rate",
         RATE, "--global_batch_size", SIZE, "--max_steps", STEPS, "--residual_dropout", 0, "--tokens_per_device", 2560,
         "--seed", SEED]  # fmt: skip

# The trainer, with the anonymous memory of each rank sampled while it loads the model.
WATCHED = """
import json, os, re, sys, threading
sys.path.insert(0, {root!r})
import lima_sft

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

def load_model(*args, load=lima_sft.load_model):
    before, peak, done = anonymous(), [0], threading.Event()
    def watch():
        while not done.wait(0.002):
            peak[0] = max(peak[0], anonymous())
    watcher = threading.Thread(target=watch)
    watcher.start()
    model = load(*args)
    done.set()
    watcher.join()
    numbers = dict(peak=peak[0] - before, after=anonymous() - before)
    open({out!r} + "/memory-" + os.environ["RANK"], "w").write(json.dumps(numbers))
    return model

lima_sft.load_model = load_model
lima_sft.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return first_rows(tmp_path_factory.mktemp("data") / "six.jsonl", 6)


def train(processes, config, base, dataset, out, *flags, name="135m", script="lima_sft.py", **env):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", script]
    words = ["--config", f"recipes/{name}.yaml", "--model_name_or_path", base, "--dataset", dataset, "--output_dir", out,
             "--exclude_sources", "None", "--deepspeed", config, *FLAGS, *flags]  # fmt: skip
    command, env = [*torchrun, *map(str, words)], {**os.environ, **env}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return runs.newest_checkpoint(out)


def by_hand(folder, dataset):
    """Plain PyTorch in fp32: AdamW with the paper's betas and decay, the polynomial schedule, one example at a time.

    Returns the losses and the weights after the last step.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = turns.encode_all(tokenizer, conversations.load(dataset).rows, 2048).rows
    groups = [[p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim == 1]]
    optimiser = torch.optim.AdamW([{"params": groups[0], "weight_decay": 0.1}, {"params": groups[1], "weight_decay": 0}],
                                  betas=(0.9, 0.95))  # fmt: skip
    losses, batches = [], []
    for epoch in range(2):
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED + epoch)).tolist()
        batches += [order[:SIZE], order[SIZE:]]
    for step, batch in enumerate(batches):
        count = sum(label != -100 for i in batch for label in rows[i]["labels"][1:])
        losses.append(0.0)
        for i in batch:
            logits = model(torch.tensor([rows[i]["input_ids"]])).logits[0, :-1]
            loss = F.cross_entropy(logits, torch.tensor(rows[i]["labels"][1:]), reduction="sum") / count
            loss.backward()
            losses[-1] += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = FLOOR + (RATE - FLOOR) * (1 - step / STEPS)
        optimiser.step()
        optimiser.zero_grad()
    return losses, {name: tensor.detach() for name, tensor in model.named_parameters()}


# ---- the configs themselves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_deepspeed_takes_every_config(name):
    zero.check_config(f"ds_configs/{name}")


def test_every_recipe_names_a_config_that_exists():
    named = set()
    for path in sorted((ROOT / "recipes").rglob("*.yaml")):
        if path.name != "lima.yaml":
            keys = {}
            for _, layer in recipe.read_chain(path):
                keys.update(layer)
            named.add(keys.get("deepspeed"))
    assert {None, "ds_configs/zero3.json"} <= named
    assert all(name is None or (ROOT / name).is_file() for name in named)


def edited(tmp_path, **changes):
    """zero3.json with top-level keys changed, and `zero` inside zero_optimization; None removes."""
    content = json.loads((ROOT / "ds_configs/zero3.json").read_text())
    content["zero_optimization"].update(changes.pop("zero", {}))
    content.update(changes)
    content = {key: value for key, value in content.items() if value is not None}
    (tmp_path / "edited.json").write_text(json.dumps(content))
    return str(tmp_path / "edited.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zero": {"reduce_bucket_sise": 5}}, "zero_optimization.reduce_bucket_sise: unknown .* mean reduce_bucket_size?"),
        ({"zero": {"stage3_prefetch_bucket_sizes": 5}}, "did you mean stage3_prefetch_bucket_size?"),
        ({"zero": {"stage": 4}}, "zero_optimization.stage: .*found 4"),
        ({"zero": {"offload_param": {"device": "cpuu"}}}, "zero_optimization.offload_param.device: .*'nvme', found 'cpuu'"),
        ({"zero": {"stage3_gather_16bit_weights_on_model_save": False}}, "expected true; checkpoints would hold no whole"),
        ({"gradient_cliping": 1.0}, "unknown key gradient_cliping; did you mean gradient_clipping?"),
        ({"bf16": {"enable": True}}, "bf16.enable: unknown key"),
        ({"fp16": {"enabled": True}}, "bfloat16 and fp16 modes cannot"),
        ({"zero_optimization": None}, "zero_optimization: expected an object with a stage"),
        ({"gradient_accumulation_steps": 7}, 'gradient_accumulation_steps: expected "auto", found 7'),
        ({"gradient_clipping": None}, 'gradient_clipping: expected "auto", found null'),
        ({"optimizer": {"type": "AdamW"}}, "optimizer: remove it; the recipe says it"),
    ],
)  # fmt: skip
def test_a_slip_in_a_config_is_one_line(changes, message, tmp_path):
    with pytest.raises(UserError, match=message.replace("?", r"\?")) as raised:
        zero.check_config(edited(tmp_path, **changes))
    assert str(raised.value).startswith(f"{tmp_path}/edited.json: ") and "\n" not in str(raised.value)


def test_keys_that_deepspeed_knows_pass(tmp_path):
    zero.check_config(edited(tmp_path, steps_per_print=10, wall_clock_breakdown=True, data_types={"grad_accum_dtype": "fp32"},
                             communication_data_type="fp32", zero={"overlap_comm": "auto"}))  # fmt: skip
    zero.check_config(json.loads((ROOT / "ds_configs/zero2.json").read_text()))


def test_a_config_that_is_no_json_or_not_there(tmp_path):
    (tmp_path / "a.json").write_text('{"bf16": {"enabled": true}\n "fp16": 1}')
    with pytest.raises(UserError, match=r"a.json: not valid JSON .*line 2"):
        zero.check_config(str(tmp_path / "a.json"))
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(UserError, match="expected a JSON object, found list"):
        zero.check_config(str(tmp_path / "b.json"))
    with pytest.raises(UserError, match=r"none.json: .*No such file.*there are .*ds_configs/zero3.json"):
        zero.check_config("ds_configs/none.json")


# ---- the base ---------------------------------------------------------------------------------------------------------


def cut(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def lose(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def quantise(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "gptq", "bits": 4}})
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "model.safetensors: broken"),
        (lose, r"lacks 1 tensors, such as model.layers.2.mlp.up_proj.weight; prepare the base again"),
        (quantise, r"quantised already \(gptq\)"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
    ],
)
def test_a_half_written_or_quantised_base_is_one_line(spoil, message, tiny_base, tmp_path):
    args = SimpleNamespace(
        model_name_or_path=str(tiny_base), load_in_4bit=False, deepspeed=None, config="recipes/7b.yaml"
    )
    base.check_base(args)
    shutil.copytree(tiny_base, tmp_path / "base")
    spoil(tmp_path / "base")
    args.model_name_or_path = str(tmp_path / "base")
    with pytest.raises(UserError, match=message):
        base.check_base(args)


def test_4_bit_weights_do_not_go_with_deepspeed(tiny_base):
    args = SimpleNamespace(
        model_name_or_path=str(tiny_base), load_in_4bit=True, deepspeed="x", config="recipes/7b.yaml"
    )
    with pytest.raises(UserError, match=r"recipes/7b.yaml: load_in_4bit does not go with deepspeed"):
        base.check_base(args)


# ---- training on real processes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zero3(smollm2_tokenizer, dataset, tmp_path_factory):
    """Two ranks under zero3.json as it is, on 316 MB of bf16 weights; memory watched while they load."""
    folder = tmp_path_factory.mktemp("zero3")
    plain = untouched(smollm2_tokenizer)
    wide = LlamaConfig(vocab_size=len(plain), hidden_size=512, intermediate_size=8192, num_hidden_layers=8,
                       num_attention_heads=8, num_key_value_heads=2)  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(wide).bfloat16()
    torch.manual_seed(0)
    weights = {name: (0.02 * torch.randn(p.shape)).bfloat16() if p.ndim > 1 else torch.ones(p.shape).bfloat16()
               for name, p in model.named_parameters()}  # fmt: skip
    model.load_state_dict(weights, assign=True)
    model.save_pretrained(folder / "source")
    plain.save_pretrained(folder / "source")
    made = folder / "base"
    base.prepare(folder / "source", made)
    script = folder / "watched.py"
    script.write_text(WATCHED.format(root=str(ROOT), out=str(folder)))
    # glibc gives blocks of this size back at once, as it always does with a 65B's tensors of 360 MB
    checkpoint = train(2, "ds_configs/zero3.json", made, dataset, folder / "run", "--save_only_model", "true", "--max_steps", 2,
                       script=script, MALLOC_MMAP_THRESHOLD_="1000000")  # fmt: skip
    memory = [json.loads((folder / f"memory-{rank}").read_text()) for rank in range(2)]
    return SimpleNamespace(base=made, checkpoint=checkpoint, memory=memory)


@pytest.mark.slow
def test_a_rank_loads_its_share_and_no_more(zero3):
    """Half the weights stay; on the way come the largest tensor gathered, and its copy to hand out, and no more."""
    weights = load_file(zero3.base / "model.safetensors").values()
    share, largest = sum(w.nbytes for w in weights) / 2, max(w.nbytes for w in weights)
    for rank in zero3.memory:
        assert 0.9 * share < rank["after"] < share + 20e6
        assert rank["peak"] < share + 2 * largest + 20e6 < 2 * share


@pytest.mark.slow
def test_what_zero3_saves_runs_without_this_repo_and_deepspeed(zero3, tmp_path):
    assert_runs_alone(zero3.checkpoint, tmp_path / "plain.py", "deepspeed", "lima", "trl")
    before, after = load_file(zero3.base / "model.safetensors"), load_file(zero3.checkpoint / "model.safetensors")
    assert before.keys() == after.keys()
    for name in before:
        assert after[name].shape == before[name].shape
        assert name.endswith("norm.weight") or not torch.equal(after[name], before[name]), name


def close_to(checkpoint, expected, weights, folder, loss, way):
    """Asserts that a training followed the one by hand: its losses to `loss`, its weights to a share `way` of how far they went."""
    assert losses(checkpoint.parent) == pytest.approx(expected, rel=loss)
    assert distance(load_file(checkpoint / "model.safetensors"), weights, load_file(folder / "model.safetensors")) < way


@pytest.mark.parametrize(
    "config",
    ["zero2", "zero3", "zero3_offload"],
)
@pytest.mark.slow
def test_two_ranks_train_as_plain_adamw_does(config, tiny_base, dataset, tmp_path):
    """As the configs are, in bf16. Offloading compiles DeepSpeed's CPU Adam the first time, in 50 s, with a C++ compiler."""
    if config == "zero3_offload" and not (shutil.which("c++") and shutil.which("ninja", path=VENV)):
        pytest.skip("no C++ compiler or ninja for DeepSpeed's CPU Adam")
    checkpoint = train(2, f"ds_configs/{config}.json", tiny_base, dataset, tmp_path / "run", PATH=VENV)
    expected, weights = by_hand(tiny_base, dataset)
    close_to(checkpoint, expected, weights, tiny_base, loss=0.01, way=0.08)


@pytest.mark.slow
def test_8_bit_adam_on_one_gpu_trains_as_adamw_does(smollm2_tokenizer, dataset, tmp_path):
    """7b-1gpu's optimiser under ZeRO-3 in several sub-groups; fp32, so that only the moments' bits differ."""
    prepared_llama(tmp_path, smollm2_tokenizer, layers=2, width=128)
    content = json.loads((ROOT / "ds_configs/zero3_cpu.json").read_text())
    content["zero_optimization"]["sub_group_size"] = 1_000_000
    (tmp_path / "groups.json").write_text(json.dumps(content))
    flags = ["--bf16", "false", "--lr_scheduler_kwargs", json.dumps({"lr_end": FLOOR, "power": 1.0})]
    checkpoint = train(
        1, tmp_path / "groups.json", tmp_path / "base", dataset, tmp_path / "run", *flags, name="7b-1gpu"
    )
    expected, weights = by_hand(tmp_path / "base", dataset)
    close_to(checkpoint, expected, weights, tmp_path / "base", loss=0.01, way=0.05)
    saved = torch.load(next(checkpoint.glob("global_step*/*optim_states.pt")), weights_only=False)[
        "optimizer_state_dict"
    ]
    states = [state["__bnb_optimizer_quant_state__"] for state in saved["optimizer_state_dict"]["state"].values()]
    moments = [state[key] for state in states for key in ("state1", "state2")]
    assert {moment.dtype for moment in moments if moment.numel() >= 4096} == {torch.uint8}
    assert sum(moment.numel() for moment in moments) > 2 * 12e6  # both moments of every weight
    assert {flat.dtype for flat in saved["fp32_flat_groups"]} == {torch.float32}  # the master weights


@pytest.mark.slow
def test_lora_trains_under_zero3_and_its_adapter_loads(tiny_base, dataset, tmp_path):
    flags = ["--use_peft", "true", "--lora_target_modules", "q_proj", "up_proj", "--lora_modules_to_save", "lm_head",
             "--gradient_checkpointing", "true"]  # fmt: skip
    checkpoint = train(2, "ds_configs/zero3_cpu.json", tiny_base, dataset, tmp_path / "run", *flags)
    adapter = load_file(checkpoint / "adapter_model.safetensors")
    assert len(adapter) == 4 * 2 * 2 + 1 and all(t.numel() and t.float().abs().max() > 0 for t in adapter.values())
    went = losses(checkpoint.parent)
    assert went[-1] < went[0]
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    loaded = dict(model.named_parameters())
    assert torch.equal(loaded["model.layers.3.mlp.up_proj.lora_B.default.weight"],
                       adapter["base_model.model.model.layers.3.mlp.up_proj.lora_B.weight"].float())  # fmt: skip
