"""Fake passes against real ones: what autograd keeps, what the allocator holds at its peak, what PEFT trains.

`test_memory.py` has what a layer of a plain model keeps; here are adapters, 4-bit layers and peaks.
"""

import re
from contextlib import nullcontext
from pathlib import Path

import bitsandbytes
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM
from trl.kernels import chunked_logprob
from trl.trainer.utils import add_fused_lm_head

from lima.train import dropout, fake, varlen

pytestmark = pytest.mark.usefixtures("one_thread")

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
IN_FULL = ("embed_tokens", "lm_head")


def llama(layers, width=128, vocabulary=64, kv_heads=4):
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 5 // 2,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
    )


def real(config, bf16):
    varlen.register()
    model = LlamaForCausalLM._from_config(config, attn_implementation="varlen")
    return model.to(torch.bfloat16 if bf16 else torch.float32).train()


def one_example(tokens):
    """A batch of one example, in the keywords that TRL's collator gives."""
    bounds = torch.tensor([0, tokens], dtype=torch.int32)
    return {
        "input_ids": torch.zeros(1, tokens, dtype=torch.long),
        "position_ids": torch.arange(tokens)[None],
        **dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), bounds),
        **dict.fromkeys(("max_length_q", "max_length_k"), tokens),
    }


def autocast(on):
    return torch.autocast("cpu", torch.bfloat16) if on else nullcontext()


def recompute(model):
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()


# ---- the peak: every byte that PyTorch's allocator hands out --------------------------------------------------------


def allocated(config, tokens, way):
    """The most bytes that a real forward and backward pass holds beside weights, as the profiler saw them come and go."""
    model = real(config, way.bf16_weights)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))
    if way.checkpointing:
        recompute(model)
    batch = {**one_example(tokens), "labels": torch.zeros(1, tokens, dtype=torch.long)}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        with autocast(way.autocast):
            loss = model(**batch, use_cache=False, fused_lm_head=True, num_items_in_batch=tokens).loss
        loss.backward()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("precision", ["fp32", "autocast", "bf16"])
def test_the_peak_is_what_the_allocator_reaches(precision, checkpointing, kv_heads):
    """Of six layers, where the fake passes ran two and three."""
    config = llama(6, width=256, vocabulary=2000, kv_heads=kv_heads)
    way = fake.Way(precision == "bf16", precision == "autocast", checkpointing, 0.0, gpu=False)
    assert fake.measure(config, 512, way)[0].peak == pytest.approx(allocated(config, 512, way), rel=0.02)


# ---- adapters -------------------------------------------------------------------------------------------------------


def in_4_bits(model):
    for name, layer in list(model.model.named_modules()):
        if isinstance(layer, torch.nn.Linear):
            small = bitsandbytes.nn.Linear4bit(
                layer.in_features, layer.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
            )
            small.load_state_dict({"weight": layer.weight.data})
            parent, _, own = name.rpartition(".")
            setattr(model.model.get_submodule(parent), own, small.to("cpu"))
    model.is_loaded_in_4bit = True


def adapted(model, rank=16):
    lora = LoraConfig(r=rank, target_modules=list(TARGETS), modules_to_save=list(IN_FULL), task_type="CAUSAL_LM")
    return get_peft_model(model, lora, autocast_adapter_dtype=False)


def kept_for_backward(layers, tokens, way):
    """Bytes of all storages that a forward pass of a real adapted Llama saves, weights and their casts included."""
    model = real(llama(layers), True)
    if way.four_bit:
        in_4_bits(model)
    model = adapted(model)
    for parameter in model.parameters() if way.autocast else ():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # as `lima_sft.py` has them, but under DeepSpeed
    if way.checkpointing:
        recompute(model)
    if way.dropout:
        dropout.add_residual_dropout(model, way.dropout)
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(way.autocast):
        model(**one_example(tokens), use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize(("kind", "checkpointing"), [("deepspeed", False), ("qlora", False), ("qlora", True)])
def test_a_layer_with_adapters_keeps_the_bytes_a_token_that_autograd_counts(kind, checkpointing):
    """Of 3 layers less 2, of 512 tokens less 256: what belongs to no token or to no layer falls out, weights too."""
    alone = kind != "deepspeed"
    way = fake.Way(True, alone, checkpointing, 0.3, False, (16, 0.0, TARGETS, IN_FULL), kind == "qlora")

    def counted(tokens):
        return kept_for_backward(3, tokens, way) - kept_for_backward(2, tokens, way)

    ours = [fake.measure(llama(3), tokens, way)[1].kept for tokens in (512, 256)]
    assert (ours[0] - ours[1]) / 256 == pytest.approx((counted(512) - counted(256)) / 256, rel=0.02)


@pytest.mark.parametrize("in_full", [(), ("embed_tokens", "lm_head")])
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), TARGETS])
def test_as_many_parameters_are_trained_as_peft_says(targets, in_full):
    lora = LoraConfig(r=8, target_modules=list(targets), modules_to_save=list(in_full) or None, task_type="CAUSAL_LM")
    trained, _ = get_peft_model(LlamaForCausalLM(llama(7, kv_heads=2)), lora).get_nb_trainable_parameters()
    assert fake.adapters(llama(7, kv_heads=2), (8, 0.0, targets, in_full)) == trained


def test_every_linear_layer_means_all_seven():
    named = fake.adapters(llama(4), (8, 0.0, TARGETS, ()))
    assert fake.adapters(llama(4), (8, 0.0, ("all-linear",), ())) == named


# ---- what a measurement leaves behind, and what it takes ------------------------------------------------------------


def test_the_same_question_has_the_same_answer_and_leaves_nothing_behind():
    way = fake.Way(True, False, True, 0.3, gpu=True)
    kernels = [getattr(chunked_logprob, name) for name in ("_forward_tile", "_backward_tile", "_addmm_fp32")]
    drawn = torch.random.get_rng_state()
    answers = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        fake._run.cache_clear()
        answers.append(fake.measure(llama(5), 300, way))
    assert answers[0] == answers[1]
    assert [getattr(chunked_logprob, name) for name in ("_forward_tile", "_backward_tile", "_addmm_fp32")] == kernels
    assert torch.get_default_dtype() == torch.float32
    assert type(torch.zeros(1)) is torch.Tensor
    torch.random.set_rng_state(drawn)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_each_layer_adds_the_same(checkpointing):
    """So that two and three layers speak for eighty."""
    shape, way = fake.as_json(llama(5)), fake.Way(True, False, checkpointing, 0.3, gpu=True)
    total, _ = fake.measure(llama(5), 256, way)
    assert total.kept == fake._run(shape, 5, 256, way).kept
    assert total.peak == pytest.approx(fake._run(shape, 5, 256, way).peak, rel=0.01)


def most_resident():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def test_65b_is_measured_without_its_memory():
    """Its two layers alone would weigh 3 GB in bf16. Recomputed, a layer keeps its input: 3,072 tokens of 8,192 bf16 numbers."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    except OSError:
        pytest.skip("this system does not say how much memory a process has held")
    before = most_resident()
    config = LlamaConfig(
        vocab_size=32_000, hidden_size=8192, intermediate_size=22_016, num_hidden_layers=80, num_attention_heads=64
    )
    fake._run.cache_clear()
    _, layer = fake.measure(config, 3072, fake.Way(True, False, True, 0.3, gpu=True))
    assert layer.kept == 3072 * 8192 * 2
    assert most_resident() - before < 300e6
