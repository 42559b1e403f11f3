"""Residual dropout: the ramp, where it acts, when it is off, and that nothing of it is saved."""

import copy
import hashlib

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from lima import UserError
from lima.train.dropout import add_residual_dropout, probabilities

SIZE = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
FAMILIES = [(LlamaForCausalLM, LlamaConfig), (MistralForCausalLM, MistralConfig), (Qwen2ForCausalLM, Qwen2Config)]
IDS = torch.randint(0, 97, (3, 24), generator=torch.Generator().manual_seed(5))


def tiny(layers=4, family=FAMILIES[0]):
    torch.manual_seed(1)
    cls, config = family
    return cls(config(num_hidden_layers=layers, **SIZE)).train()


def lora(model):
    torch.manual_seed(2)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.enable_input_require_grads()
    return model.train()


def logits(model, seed=7):
    torch.manual_seed(seed)
    return model(input_ids=IDS).logits


def by_hand(model, ramp, seed=7):
    """The forward of LIMA's reading, from the parts of a model without hooks: drop each sublayer's output, then add."""
    torch.manual_seed(seed)
    decoder = model.model
    stream = decoder.embed_tokens(IDS)
    rotary = decoder.rotary_emb(stream, torch.arange(IDS.shape[1])[None])
    for layer, p in zip(decoder.layers, ramp, strict=True):
        normed = layer.input_layernorm(stream)
        attended, _ = layer.self_attn(hidden_states=normed, position_embeddings=rotary, attention_mask=None)
        stream = stream + (nn.functional.dropout(attended, p) if p else attended)
        fed = layer.mlp(layer.post_attention_layernorm(stream))
        stream = stream + (nn.functional.dropout(fed, p) if p else fed)
    return model.lm_head(decoder.norm(stream))


def step(model, seed=7):
    """Loss and gradients of one training step, from a fixed random state."""
    model.zero_grad()
    torch.manual_seed(seed)
    loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layers", [2, 3, 32, 80])
@pytest.mark.parametrize("p_max", [0.2, 0.3])
def test_the_ramp_is_linear_from_zero_to_p_max(layers, p_max):
    ramp = probabilities(layers, p_max)
    assert len(ramp) == layers and ramp[0] == 0.0
    assert ramp == pytest.approx([p_max * layer / (layers - 1) for layer in range(layers)], abs=1e-12)
    assert ramp[-1] == pytest.approx(p_max)


def test_a_single_layer_is_the_bottom_layer_and_drops_nothing():
    model = tiny(layers=1)
    assert add_residual_dropout(model, 0.3) == [0.0]
    assert torch.equal(logits(model), logits(model.eval()))


def test_the_returned_probabilities_are_those_of_the_models_layers():
    assert add_residual_dropout(tiny(layers=4), 0.3) == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_it_is_off_in_eval_bit_for_bit():
    model = tiny().eval()
    before = logits(model)
    add_residual_dropout(model, 0.3)
    assert torch.equal(logits(model), before)


def test_it_is_on_in_train_and_drawn_anew_every_time():
    model = tiny()
    before = logits(model)
    add_residual_dropout(model, 0.3)
    assert not torch.equal(logits(model), before)
    assert not torch.equal(logits(model, seed=8), logits(model, seed=9))
    assert torch.equal(logits(model, seed=8), logits(model, seed=8))


def test_eval_after_train_is_off_again():
    model = tiny()
    before = logits(model.eval())
    add_residual_dropout(model, 0.3)
    step(model.train())
    assert torch.equal(logits(model.eval()), before)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family[0].__name__)
@pytest.mark.parametrize("p_max", [0.3, 0.0])
def test_each_sublayers_output_is_dropped_before_the_add(family, p_max):
    model = tiny(family=family)
    unhooked = copy.deepcopy(model)
    add_residual_dropout(model, p_max)
    want = by_hand(unhooked, [p_max * layer / 3 for layer in range(4)])
    torch.testing.assert_close(logits(model), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sublayer", ["self_attn", "mlp"])
def test_single_elements_are_dropped_and_the_rest_scaled(sublayer):
    model = tiny(layers=3)
    whole, dropped = {}, {}

    def keep(into, number):
        def hook(module, inputs, output):
            into[number] = output[0] if isinstance(output, tuple) else output

        return hook

    for number, layer in enumerate(model.model.layers):
        getattr(layer, sublayer).register_forward_hook(keep(whole, number))
    add_residual_dropout(model, 0.5)
    for number, layer in enumerate(model.model.layers):
        getattr(layer, sublayer).register_forward_hook(keep(dropped, number))
    logits(model)
    for number, p in enumerate([0.0, 0.25, 0.5]):
        gone = dropped[number] == 0
        share, count = gone.float().mean().item(), gone.numel()
        assert abs(share - p) <= 4 * (p * (1 - p) / count) ** 0.5, f"layer {number}: {share:.3f} dropped, not {p}"
        torch.testing.assert_close(dropped[number][~gone], whole[number][~gone] / (1 - p))
        if p:
            assert gone.float().mean(dim=-1).min() > 0 and gone.float().mean(dim=-1).max() < 1, "not whole positions"


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(reentrant):
    model = tiny()
    add_residual_dropout(model, 0.3)
    loss, gradients = step(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    again, recomputed = step(model)
    assert model.is_gradient_checkpointing and torch.equal(loss, again)
    assert gradients.keys() == recomputed.keys() == dict(model.named_parameters()).keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, recomputed[name]), name


def test_gradients_pass_through_the_same_masks():
    model = tiny()
    unhooked = copy.deepcopy(model)
    ramp = add_residual_dropout(model, 0.3)
    nn.functional.cross_entropy(logits(model).flatten(0, 1), IDS.flatten()).backward()
    nn.functional.cross_entropy(by_hand(unhooked, ramp).flatten(0, 1), IDS.flatten()).backward()
    for (name, got), want in zip(model.named_parameters(), unhooked.parameters(), strict=True):
        torch.testing.assert_close(
            got.grad, want.grad, rtol=1e-4, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("wrap_first", [True, False], ids=["hooks on PEFT's model", "hooks before PEFT"])
def test_it_acts_inside_a_lora_model(wrap_first):
    model = tiny()
    unhooked = lora(copy.deepcopy(model))
    if wrap_first:
        model = lora(model)
        ramp = add_residual_dropout(model, 0.3)
    else:
        ramp = add_residual_dropout(model, 0.3)
        model = lora(model)
    assert ramp == pytest.approx([0.0, 0.1, 0.2, 0.3])
    torch.testing.assert_close(logits(model), by_hand(unhooked.base_model.model, ramp), rtol=0, atol=1e-6)
    assert torch.equal(logits(model.eval()), logits(unhooked.eval()))


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_lora_models_gradients_survive_checkpointing(reentrant):
    model = lora(tiny())
    add_residual_dropout(model, 0.3)
    loss, gradients = step(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    again, recomputed = step(model)
    assert torch.equal(loss, again)
    assert gradients and all("lora_" in name for name in gradients)
    for name, gradient in gradients.items():
        assert torch.equal(gradient, recomputed[name]), name


@pytest.mark.parametrize("wrap", [lambda model: model, lora], ids=["full", "lora"])
def test_nothing_of_it_is_saved(wrap, tmp_path):
    saved = {}
    for name, p_max in (("without", None), ("with", 0.3)):
        model = wrap(tiny())
        if p_max:
            add_residual_dropout(model, p_max)
            step(model)
        model.save_pretrained(tmp_path / name)
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / name).iterdir()}
        saved[name] = (list(model.state_dict()), model.config.to_dict(), files)
    assert saved["with"] == saved["without"]
    assert any(name.endswith(".safetensors") for name in saved["with"][2])


@pytest.mark.parametrize(
    "build",
    [
        lambda: GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=2)),
        lambda: nn.Sequential(nn.Linear(4, 4)),
    ],
    ids=["GPT-2", "no decoder"],
)
def test_a_model_without_such_layers_is_a_clear_error(build):
    with pytest.raises(UserError) as error:
        add_residual_dropout(build(), 0.3)
    assert "residual_dropout" in str(error.value) and "0.0" in str(error.value) and "\n" not in str(error.value)


def test_where_a_norm_follows_a_block_the_dropout_follows_the_norm():
    from transformers import Olmo2Config, Olmo2ForCausalLM

    config = Olmo2Config(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0
    )
    model = Olmo2ForCausalLM(config).train()
    add_residual_dropout(model, 0.5)
    seen = []
    model.model.layers[1].post_feedforward_layernorm.register_forward_hook(lambda m, i, out: seen.append(out))
    model(torch.randint(0, 64, (1, 50)))
    assert 0.3 < (seen[0] == 0).float().mean() < 0.7
