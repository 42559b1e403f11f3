"""`varlen` attention on real models: examples end to end are each example alone under plain attention, and see no other."""

import json

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    StaticCache,
)
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from lima import UserError
from lima.train import varlen

SIZE = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LENGTHS = [5, 24, 1, 2, 17]


@pytest.fixture(autouse=True, scope="module")
def registered(one_thread):
    varlen.register()


def examples(lengths=LENGTHS, seed=3):
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.randint(0, 97, (length,), generator=draw).tolist() for length in lengths]
    return [{"input_ids": ids, "labels": [-100] * (len(ids) // 3) + ids[len(ids) // 3 :]} for ids in rows]


def end_to_end(rows, device="cpu"):
    """What TRL gives a model for a micro-batch: one row, with positions and boundaries."""
    batch = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(rows)
    assert batch["input_ids"].shape == (1, sum(len(row["input_ids"]) for row in rows))
    return {key: value.to(device) if torch.is_tensor(value) else value for key, value in batch.items()}


def tiny(attention, cls=LlamaForCausalLM, config=LlamaConfig, **more):
    torch.manual_seed(1)
    return cls._from_config(config(**{**SIZE, **more}), attn_implementation=attention).train()


def lora(model):
    torch.manual_seed(2)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.enable_input_require_grads()
    return model.train()


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def step_alone(model, rows):
    """Each example by itself: logits end to end, and the gradients of the mean over all labelled tokens."""
    model.zero_grad()
    count = sum(label != -100 for row in rows for label in row["labels"][1:])
    seen = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]], device=model.device)).logits[0]
        labels = torch.tensor(row["labels"][1:], dtype=torch.long, device=model.device)
        (F.cross_entropy(logits[:-1].float(), labels, reduction="sum") / count).backward()
        seen.append(logits.detach())
    return torch.cat(seen), gradients(model)


def step_end_to_end(model, rows):
    model.zero_grad()
    output = model(**end_to_end(rows, model.device), use_cache=False)
    output.loss.backward()
    return output.logits[0].detach(), gradients(model)


def assert_close(got, want, tolerance):
    """Logits and every gradient within `tolerance` of their size."""
    (logits, grads), (logits_alone, grads_alone) = got, want
    assert grads.keys() == grads_alone.keys() != set()
    pairs = [("logits", logits, logits_alone), *[(name, grads[name], grads_alone[name]) for name in grads]]
    for name, a, b in pairs:
        apart = (a.float() - b.float()).norm() / b.float().norm()
        assert apart < tolerance, f"{name}: {apart:.1e} apart"


# ---- the same numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda model: model, lora], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_examples_end_to_end_are_each_example_alone(wrap, checkpointing):
    want = step_alone(wrap(tiny("eager")), examples())
    model = wrap(tiny("varlen"))
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert model.is_gradient_checkpointing == checkpointing
    got = step_end_to_end(model, examples())
    assert_close(got, want, 1e-5)
    with pytest.raises(AssertionError, match="apart"):  # the measure can fail
        assert_close(step_end_to_end(model, examples()[::-1]), want, 0.1)


def test_a_prepared_base_gives_the_same_too(tiny_base):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    texts = ["Less is more.", "What does a lighthouse keeper do all night long?", "Bread: flour, water, salt, time."]
    rows = [{"input_ids": ids, "labels": ids} for ids in tokenizer(texts)["input_ids"]]
    plain = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32, attn_implementation="eager")
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32, attn_implementation="varlen")
    assert model.config._attn_implementation == "varlen"
    assert_close(step_end_to_end(model, rows), step_alone(plain, rows), 1e-5)


DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: PyTorch's flash kernel")
    ),
]  # on a CPU the comparison is proved, and the fallback


def step_watched(model, rows):
    """The step end to end, and whether PyTorch's varlen kernel ran in it."""
    with torch.profiler.profile(acc_events=True) as profile:
        got = step_end_to_end(model, rows)
    return got, any("_varlen_attn" in event.key for event in profile.key_averages())


@pytest.mark.parametrize("device", DEVICES)
def test_under_autocast_it_stays_close_to_eager_in_fp32(device):
    rows = examples()
    want = step_alone(tiny("eager").to(device), rows)
    with torch.autocast(device, torch.bfloat16):
        got, kernel = step_watched(tiny("varlen").to(device), rows)
    assert kernel == (device == "cuda")
    assert_close(got, want, 0.03)
    with pytest.raises(AssertionError, match="apart"):
        assert_close(got, want, 1e-4)  # it was bf16


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_in_bf16_it_stays_close_to_eager_in_fp32(device, kv_heads):
    shape = {"hidden_size": 256, "num_key_value_heads": kv_heads}  # heads of 64
    rows = examples([300, 5, 1, 129, 64])
    want = step_alone(tiny("eager", **shape).to(device), rows)
    got, kernel = step_watched(tiny("varlen", **shape).to(device, torch.bfloat16), rows)
    assert kernel == (device == "cuda")
    assert_close(got, want, 0.05)


# ---- and no other example -------------------------------------------------------------------------------------------


def test_an_example_sees_nothing_of_those_before_it():
    model = tiny("varlen").eval()
    rows = examples([12, 20])
    other = [{"input_ids": [(i + 1) % 97 for i in rows[0]["input_ids"]], "labels": rows[0]["labels"]}, rows[1]]
    with torch.no_grad():
        before, after = (model(**end_to_end(batch)).logits[0] for batch in (rows, other))
        hidden = {"input_ids": end_to_end(rows)["input_ids"]}, {"input_ids": end_to_end(other)["input_ids"]}
        merged, changed = (model(**batch).logits[0] for batch in hidden)
    assert torch.equal(before[12:], after[12:]) and not torch.equal(before[:12], after[:12])
    assert not torch.equal(merged[12:], changed[12:])  # as one text it does see them


def test_a_token_sees_nothing_after_it():
    model = tiny("varlen").eval()
    rows = examples([12, 20])
    other = [rows[0], {**rows[1], "input_ids": [*rows[1]["input_ids"][:15], 1, 2, 3, 4, 5]}]
    with torch.no_grad():
        before, after = (model(**end_to_end(batch)).logits[0] for batch in (rows, other))
    assert torch.equal(before[:27], after[:27]) and not torch.equal(before[27:], after[27:])


def test_no_mask_over_all_pairs_of_tokens_is_built():
    largest = {}
    for name in ("varlen", "sdpa"):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, to=sizes: to.append(t.numel()) or t, lambda t: t):
            tiny(name)(**end_to_end(examples([100] * 20)), use_cache=False)
        largest[name] = max(sizes)
    assert largest["varlen"] == 2000 * 97 < 2000**2 == largest["sdpa"]  # the logits; the mask


@pytest.mark.parametrize("implementation", ["varlen", "sdpa"])
def test_positions_that_restart_without_boundaries_are_refused(implementation):
    """Where varlen would let the examples see each other; sdpa finds the boundaries in the positions."""
    batch = end_to_end(examples([12, 20]))
    batch = {key: batch[key] for key in ("input_ids", "position_ids")}
    model = tiny(implementation)
    if implementation == "sdpa":
        model(**batch, use_cache=False)
        return
    with pytest.raises(RuntimeError, match="boundaries"):
        model(**batch, use_cache=False)
    model(input_ids=batch["input_ids"], use_cache=False)  # one text


# ---- where examples do not lie end to end ---------------------------------------------------------------------------


def test_padded_batches_give_sdpas_logits():
    ids = torch.randint(0, 97, (3, 16), generator=torch.Generator().manual_seed(5))
    keep = torch.ones_like(ids)
    keep[1, 9:] = keep[2, :4] = 0
    got, want = (tiny(name)(input_ids=ids, attention_mask=keep).logits for name in ("varlen", "sdpa"))
    torch.testing.assert_close(got[keep == 1], want[keep == 1])
    unmasked = tiny("varlen")(input_ids=ids).logits
    assert not torch.allclose(unmasked[2, 4:], want[2, 4:])


def test_generation_from_left_padded_prompts_is_sdpas(tiny_base):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base, padding_side="left")
    prompts = ["Hi", "Tell me about the sea, and the ships on it, please.", "A loaf of bread"]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    assert (batch["attention_mask"] == 0).any()
    said = {}
    for name in ("varlen", "sdpa"):
        model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32, attn_implementation=name)
        said[name] = model.generate(**batch, do_sample=False, max_new_tokens=20)
        bare = model.generate(input_ids=batch["input_ids"], attention_mask=torch.ones_like(batch["input_ids"]),
                              do_sample=False, max_new_tokens=20)  # fmt: skip
    assert torch.equal(said["varlen"], said["sdpa"])
    assert not torch.equal(said["sdpa"], bare)


def test_decoding_with_a_static_cache_sees_only_what_was_written():
    """One token at a time without a mask from outside: the cache's empty places must stay unseen."""
    ids = torch.randint(0, 97, (1, 11), generator=torch.Generator().manual_seed(5))
    model = tiny("varlen").eval()
    with torch.no_grad():
        cache = StaticCache(config=model.config, max_cache_len=32)
        model(input_ids=ids[:, :10], past_key_values=cache)
        last = model(input_ids=ids[:, 10:], past_key_values=cache, position_ids=torch.tensor([[10]])).logits[0, -1]
        torch.testing.assert_close(last, tiny("eager").eval()(input_ids=ids).logits[0, -1], rtol=1e-4, atol=1e-5)


# ---- models whose attention is another ------------------------------------------------------------------------------


def test_a_sliding_window_is_refused_once_an_example_outgrows_it():
    shape = {"cls": MistralForCausalLM, "config": MistralConfig, "sliding_window": 24}
    want = step_alone(tiny("eager", **shape), examples())
    assert_close(step_end_to_end(tiny("varlen", **shape), examples()), want, 1e-5)
    with pytest.raises(UserError, match="sees 24 tokens back, an example has 25; use sdpa"):
        tiny("varlen", **shape)(**end_to_end(examples([5, 25])), use_cache=False)


@pytest.mark.parametrize(
    ("cls", "config", "more", "feature"),
    [
        (Gemma2ForCausalLM, Gemma2Config, {"head_dim": 16, "attn_logit_softcapping": 50.0}, "softcap"),
        (GptOssForCausalLM, GptOssConfig, {"head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1}, "s_aux"),
    ],
    ids=["Gemma 2", "gpt-oss"],
)
def test_softcapping_and_sinks_are_refused(cls, config, more, feature):
    model = tiny("varlen", cls=cls, config=config, **more)
    with pytest.raises(UserError, match=f"this model's attention has {feature}; use eager or sdpa") as error:
        model(**end_to_end(examples()), use_cache=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("implementation", "padding_free", "fine"),
    [
        ("varlen", True, True),
        ("sdpa", True, True),
        ("flash_attention_2", True, True),
        (None, True, True),
        ("paged|sdpa", True, False),
        ("my_attention", True, False),
        ("my_attention", False, True),
    ],
)
def test_an_unknown_attention_is_refused_only_for_examples_end_to_end(implementation, padding_free, fine):
    if fine:
        return varlen.check(implementation, padding_free)
    with pytest.raises(UserError, match=r"^attn_implementation .*padding_free: false$"):
        varlen.check(implementation, padding_free)


def test_nothing_of_it_is_saved(tmp_path):
    for name in ("varlen", "sdpa"):
        model = tiny(name)
        step_end_to_end(model, examples())
        model.save_pretrained(tmp_path / name)
    saved = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("varlen", "sdpa")]
    assert saved[0] == saved[1] and "varlen" not in str(saved[0])
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "varlen")
    assert loaded.config._attn_implementation == "sdpa"
