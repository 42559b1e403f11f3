"""Memory and disk against the models' published sizes, DeepSpeed's estimator, what autograd really keeps, and hand sums."""

import json
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from lima import UserError, recipe
from lima.train import dropout, fake, memory, varlen
from lima.train.memory import Machine

pytestmark = pytest.mark.usefixtures("one_thread")

PUBLISHED = {  # parameters, as counted from the released weights
    "1b": 1_100_048_384,
    "7b": 6_738_415_616,
    "13b": 13_015_864_320,
    "30b": 32_528_943_616,
    "65b": 65_285_660_672,
    "8b": 8_030_261_248,
    "70b": 70_553_706_496,
    "32b": 32_763_876_352,
}
SIZED = sorted(path for path in (ROOT / "recipes").glob("*.yaml") if path.stem != "lima")
H100 = 81_090 * 2**20  # what PyTorch reports as the total memory of an "80 GB" one


def load(name, *flags):
    return recipe.load(["--config", f"recipes/{name}.yaml", "--model_name_or_path", "absent", *flags])


# ---- parameters and model states ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_equal_the_released_model(name):
    config = memory.base_config(load(name))
    assert memory.parameters(config) == PUBLISHED[name]


def test_a_prepared_base_is_measured_itself(tiny_base):
    args = load("65b", "--model_name_or_path", str(tiny_base))
    model = LlamaForCausalLM.from_pretrained(tiny_base)
    assert memory.parameters(memory.base_config(args)) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["7b", "65b"])
@pytest.mark.parametrize("gpus", [8, 16, 64])
def test_model_states_agree_with_deepspeeds_estimator(name, gpus, tmp_path):
    """It counts fp32 gradients, 18 bytes a parameter. With them the plan says the same; with ZeRO's bf16 ones, 2 fewer."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs

    accumulating = {**json.loads(Path("ds_configs/zero3.json").read_text()), "data_types": {"grad_accum_dtype": "fp32"}}
    (tmp_path / "fp32.json").write_text(json.dumps(accumulating))
    _, theirs, _ = estimate_zero3_model_states_mem_needs(PUBLISHED[name], 0, gpus, 1, False, False, True)
    for path, bytes_fewer in ((tmp_path / "fp32.json", 0), ("ds_configs/zero3.json", 2)):
        args = load(name, "--deepspeed", str(path))
        states, _ = memory.model_states(args, memory.base_config(args), gpus)
        assert sum(states.values()) == pytest.approx(theirs * (18 - bytes_fewer) / 18, rel=0.01)


def states(*flags, name="7b", ranks=1):
    args = load(name, *flags)
    return memory.model_states(args, memory.base_config(args), ranks)


def test_8_bit_moments_spare_six_bytes_a_parameter_and_a_4_bit_base_nearly_all():
    """Two moments of one byte (and their scales) instead of four; NF4 takes 4.127 bits (QLoRA, section 3)."""
    eight, whole = (sum(states(*flags)[0].values()) for flags in (["--optim", "adamw_bnb_8bit"], []))
    assert whole - eight == pytest.approx(6 * PUBLISHED["7b"], rel=0.01)
    ends = 2 * 32_000 * 4096  # embeddings and head stay bf16, and are trained in full beside the adapters
    weights = states(name="7b-qlora")[0]["weights"]
    assert weights == pytest.approx((PUBLISHED["7b"] - ends) * 4.127 / 8 + 2 * ends + 4 * (ends + 160e6), rel=0.01)


def test_only_zero3_shares_the_model_states_over_ranks():
    for flags, shared in ((["--deepspeed", "ds_configs/zero3.json"], True), (["--deepspeed", "None"], False)):
        two, eight = (sum(states(*flags, ranks=ranks)[0].values()) for ranks in (2, 8))
        assert two - eight == pytest.approx(16 * PUBLISHED["7b"] * (1 / 2 - 1 / 8) if shared else 0)


def test_a_paged_optimiser_is_the_hosts():
    config = memory.base_config(load("7b-qlora"))
    kept, nothing = memory.model_states(load("7b-qlora", "--optim", "adamw_8bit"), config, 1)
    held, paged = memory.model_states(load("7b-qlora"), config, 1)
    assert held == {**kept, "optimiser": 0} and paged == kept["optimiser"] > 1e9 and nothing == 0
    assert memory.needed(load("7b-qlora"), config, 2).offloaded == 2 * paged


def test_one_rank_gathers_nothing():
    config = memory.base_config(load("7b"))
    one, two = (memory.needed(load("7b"), config, ranks).passing["gathered layers"] for ranks in (1, 2))
    assert one == 0 and two > 2e9  # DeepSpeed keeps a billion parameters in use by default


def test_runs_that_write_no_checkpoint_ask_no_disk():
    assert memory.disk_need(load("7b", "--save_strategy", "no"), PUBLISHED["7b"], 15) == 0


def test_offloading_leaves_no_states_on_a_gpu():
    held, offloaded = states("--deepspeed", "ds_configs/zero3_offload.json")
    assert sum(held.values()) == 0 and offloaded == 20 * PUBLISHED["7b"]  # 16, and fp32 gradients for Adam on the CPU


# ---- activations: what autograd keeps of a real model ---------------------------------------------------------------

WIDTH, INNER = 128, 320


def llama(layers):
    return LlamaConfig(
        vocab_size=64,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
    )


def kept_for_backward(layers, tokens, in_bf16, p_max, checkpointing):
    """Bytes of all storages that a forward pass of a real Llama saves, weights and their casts included."""
    varlen.register()
    model = LlamaForCausalLM._from_config(llama(layers), attn_implementation="varlen").train()
    model.to(torch.bfloat16 if in_bf16 else torch.float32)
    if p_max:
        dropout.add_residual_dropout(model, p_max)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    rows = [{"input_ids": [1] * (tokens // 4)}] * 4
    batch = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(rows)
    del batch["labels"]
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        nullcontext() if in_bf16 else torch.autocast("cpu", torch.bfloat16),
    ):
        model(**batch, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("p_max", [0.0, 0.3])
@pytest.mark.parametrize("in_bf16", [False, True], ids=["autocast", "bf16"])
def test_a_layer_keeps_the_bytes_a_token_that_autograd_counts(in_bf16, p_max, checkpointing):
    """Of 5 layers less 3, of 512 tokens less 256: what belongs to no token or to no layer falls out, weights too."""

    def counted(tokens):
        five, three = (kept_for_backward(layers, tokens, in_bf16, p_max, checkpointing) for layers in (5, 3))
        return (five - three) / 2

    way = fake.Way(in_bf16, not in_bf16, checkpointing, p_max, gpu=False)
    by_layer = [fake.measure(llama(5), tokens, way)[1].kept for tokens in (512, 256)]
    assert (by_layer[0] - by_layer[1]) / 256 == pytest.approx((counted(512) - counted(256)) / 256, rel=0.1)


def test_activations_follow_the_budget():
    def kept(tokens):
        args = load("7b", "--tokens_per_device", tokens)
        return memory.needed(args, memory.base_config(args), 16).passing["activations"]

    assert kept("8192") == pytest.approx(2 * kept("4096"), rel=0.01)


# ---- does it fit, and is a layer recomputed -------------------------------------------------------------------------


def test_a_machine_without_gpus_refuses_65b_and_says_what_could_hold_it():
    with pytest.raises(UserError, match=r"does not fit: 65\.3B parameters need 1,045 GB .*\d+ × 80 GB GPUs") as error:
        memory.check_fit(load("65b"), Machine(1, None, 24 * 10**9))
    assert "Nothing was downloaded" in str(error.value) and "\n" not in str(error.value)


def test_a_dry_run_and_ignore_fit_only_note_what_does_not_fit(capsys):
    for flag in ("--dry_run", "--ignore_fit"):
        _, count, need = memory.check_fit(load("65b", flag, "true"), Machine(1, None, 24 * 10**9))
        assert count == PUBLISHED["65b"] and need > 16 * count
        assert capsys.readouterr().out.startswith("note: 65b does not fit")


def test_8_gpus_of_80_gb_refuse_65b():
    with pytest.raises(UserError, match=r"65b does not fit: .*16 × 80 GB GPUs hold it"):
        memory.check_fit(load("65b"), Machine(8, "GPU", H100))


@pytest.mark.parametrize("path", SIZED, ids=lambda path: path.stem)
def test_a_recipe_fits_on_the_hardware_that_its_header_names(path):
    said = re.search(r"^# hardware +(?:(\d+) × (\d+) GB GPU|.*?\b([\d.]+) GB of memory)", path.read_text(), re.M)
    gpus, each, host = said.groups()
    here = Machine(int(gpus), "GPU", int(each) * H100 // 80) if gpus else Machine(1, None, float(host) * 1e9)
    assert memory.check_fit(load(path.stem), here)[2] < here.memory


def test_layers_are_recomputed_only_where_memory_is_short():
    for room, recomputed in ((80e9, False), (24e9, True)):
        args = load("7b")
        config, _, need = memory.check_fit(args, Machine(16, "GPU", room))
        assert args.gradient_checkpointing is recomputed
        assert need == memory.needed(args, config, 16).peak < room
        args.gradient_checkpointing = False
        assert (memory.needed(args, config, 16).peak > memory.MARGIN * room) == recomputed


@pytest.mark.parametrize("said", ["true", "false"])
def test_a_recipe_that_says_whether_to_recompute_is_obeyed(said):
    args = load("7b", "--gradient_checkpointing", said)
    memory.check_fit(args, Machine(16, "GPU", 80e9))
    assert args.gradient_checkpointing is (said == "true")
    args = load("7b", "--gradient_checkpointing", said)
    if said == "true":
        memory.check_fit(args, Machine(16, "GPU", 24e9))
    else:
        with pytest.raises(UserError, match="does not fit"):
            memory.check_fit(args, Machine(16, "GPU", 24e9))
    assert args.gradient_checkpointing is (said == "true")


def test_a_base_of_unknown_size_is_not_judged(tmp_path):
    args = load("7b", "--base", "somebody/something")
    assert memory.check_fit(args, Machine(1, None, 1)) is None
    args = load("7b", "--base", "somebody/something", "--model_name_or_path", str(tmp_path))
    with pytest.raises(UserError, match=r"no config\.json in it"):
        memory.check_fit(args, Machine(1, None, 1))


# ---- this machine, and the disk -------------------------------------------------------------------------------------


def test_many_gpus_and_one_process_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match=r"^8 GPUs but one process; .*torchrun.*CUDA_VISIBLE_DEVICES=0$"):
        memory.machine()


def test_without_a_gpu_the_ranks_of_a_machine_share_its_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for key in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(key, raising=False)
    total = int(re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())[1]) * 1024
    assert memory.machine() == Machine(1, None, pytest.approx(total, rel=0.01))
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory.machine() == Machine(16, None, pytest.approx(total / 4, rel=0.01))


def test_disk_counts_every_kept_epoch_and_two_optimiser_states():
    args, count = load("65b"), PUBLISHED["65b"]
    weights, state = 2 * count, 12 * count  # bf16, and fp32 master, first and second moments
    assert memory.disk_need(args, count, 15) == 8 * weights + 2 * state


def test_weights_in_fp32_and_no_state_to_resume_from_count_too():
    args = load("quickstart")  # keeps the last epoch; another may stand beside it while it is replaced
    assert args.save_only_model and memory.disk_need(args, 1000, 2) == 2 * 4 * 1000
