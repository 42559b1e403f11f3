"""The one-GPU recipes: a 4-bit base with LoRA trains its EOT row, and what it saves generates."""

from types import SimpleNamespace

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from conftest import train_qlora
from safetensors.torch import load_file
from transformers import AutoTokenizer

from lima import turns
from lima.evaluate import generate
from lima.train import trainer


@pytest.fixture(scope="module")
def run(smollm2_tokenizer, tmp_path_factory):
    """Three steps of 7b-qlora on a small untied Llama, in NF4 with double quantisation and paged 8-bit AdamW."""
    held, save = SimpleNamespace(), trainer.ExactTrainer.train

    def train(self, **kwargs):
        held.trainer = self
        return save(self, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.ExactTrainer, "train", train)
        trained = train_qlora(tmp_path_factory.mktemp("qlora"), smollm2_tokenizer, "--learning_rate", 1e-3, width=256)
    return SimpleNamespace(**vars(trained), trainer=held.trainer)


def test_the_eot_row_moves_in_embeddings_and_head(run):
    saved = load_file(run.checkpoint / "adapter_model.safetensors")
    before = load_file(run.base / "model.safetensors")
    eot = AutoTokenizer.from_pretrained(run.base).eos_token_id
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        after = saved[f"base_model.model.{name}"].float()
        assert not torch.equal(after[eot], before[name][eot].float().bfloat16().float()), name
    lora = [name for name in saved if "lora_B" in name]
    assert len(lora) == 2 * 7 and all(
        saved[name].abs().max() > 0 for name in lora
    )  # every linear layer, and they learn


def test_what_it_saves_generates_without_more_ado(run):
    model, tokenizer = generate.load_model(run.run)
    messages = [{"role": "user", "content": "Why does bread rise?"}]
    assert generate.generate(model, tokenizer, [messages], 4, 0)[0][1] in ("eot", "eos", "length")
    assert turns.encode(tokenizer, messages)[0][-1] == tokenizer.eos_token_id == model.generation_config.eos_token_id[0]


def test_linear_layers_have_4_bits_twice_quantised_and_the_head_and_embeddings_do_not(run):
    model = run.trainer.model.base_model.model
    quantised = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert len(quantised) == 2 * 7
    for module in quantised:
        state = module.weight.quant_state
        assert (state.quant_type, state.nested, module.weight.dtype) == ("nf4", True, torch.uint8)
    assert model.lm_head.modules_to_save["default"].weight.dtype.is_floating_point


def test_adams_moments_are_paged_and_have_8_bits(run):
    """But for the embeddings', which transformers keeps at 32 as bitsandbytes advises, and tensors under 4,096 elements."""
    optimiser = run.trainer.optimizer.optimizer
    assert optimiser.is_paged
    bits = {}
    for name, parameter in run.trainer.model.named_parameters():
        if parameter.requires_grad:
            state = optimiser.state[parameter]
            bits[name] = {state["state1"].dtype, state["state2"].dtype}
    assert len(bits) == 2 * 7 * 2 + 2
    assert {name for name, dtypes in bits.items() if dtypes != {torch.uint8}} == {
        name for name in bits if "embed_tokens" in name
    }
