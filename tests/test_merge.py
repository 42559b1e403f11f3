"""Merging an adapter: against W + (alpha / r) · B · A in float64, with W as the run had it in training."""

import json
import shutil

import bitsandbytes.functional as bnb
import pytest
import torch
from conftest import assert_runs_alone, train_qlora
from safetensors.torch import load_file

from lima import UserError
from lima.train import merge

HALF_A_STEP = 2**-8  # of a number: what rounding to bfloat16 may cost


@pytest.fixture(scope="module")
def train(smollm2_tokenizer, tmp_path_factory):
    """Trains 7b-qlora on a small Llama, so far that its adapter matters."""

    def train(*flags, **shape):
        rest = ["--learning_rate", 1e-2, "--save_only_model", "true", *flags]
        return train_qlora(tmp_path_factory.mktemp("merge"), smollm2_tokenizer, *rest, **shape)

    return train


@pytest.fixture(scope="module")
def in_4_bit(train):
    trained = train(width=256)
    trained.record = merge.merge(trained.run)
    return trained


def summed(trained, quantised):
    """Every weight of the merged model in float64, from the files of base and adapter alone."""
    adapter = load_file(trained.checkpoint / "adapter_model.safetensors")
    said = json.loads((trained.checkpoint / "adapter_config.json").read_text())
    out = {}
    for name, weight in load_file(trained.base / "model.safetensors").items():
        ours = f"base_model.model.{name}"
        a = adapter.get(ours.replace(".weight", ".lora_A.weight"))
        if ours in adapter:
            weight = adapter[ours]
        elif a is not None:
            if quantised:
                packed = bnb.quantize_4bit(weight.bfloat16(), quant_type="nf4", compress_statistics=True)
                weight = bnb.dequantize_4bit(*packed)
            b = adapter[ours.replace(".weight", ".lora_B.weight")]
            assert b.abs().max() > 0
            weight = weight.double() + said["lora_alpha"] / said["r"] * (b.double() @ a.double())
        out[name] = weight.double()
    return out


def assert_rounded_once(merged, expected, names):
    for name in names:
        apart = (merged[name].double() - expected[name]).abs()
        assert (apart <= HALF_A_STEP * expected[name].abs() + 1e-9).all(), name


def test_a_4_bit_run_is_merged_onto_its_dequantised_base(in_4_bit):
    merged = load_file(in_4_bit.run / "merged/model.safetensors")
    expected, unquantised = summed(in_4_bit, quantised=True), summed(in_4_bit, quantised=False)
    assert merged.keys() == expected.keys() and {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    assert_rounded_once(merged, expected, expected)
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(AssertionError):  # the base before quantisation is another model
        assert_rounded_once(merged, unquantised, [name])
    with pytest.raises(AssertionError):  # and so is the base without its adapter
        assert_rounded_once(merged, load_file(in_4_bit.base / "model.safetensors"), ["lm_head.weight"])


def test_it_follows_the_adapted_model_which_the_base_does_not(in_4_bit):
    record = in_4_bit.record
    assert record["apart"] < merge.ROUNDING < 0.1 < record["apart_without_adapter"]
    assert record["top1"] > 0.9 and record["positions"] > 100


def test_it_runs_without_peft_bitsandbytes_and_this_repo(in_4_bit, tmp_path):
    assert_runs_alone(in_4_bit.run / "merged", tmp_path / "plain.py", "peft", "bitsandbytes", "lima")


def test_done_once_it_does_nothing_and_says_so_about_another(in_4_bit, tmp_path):
    weights = in_4_bit.run / "merged/model.safetensors"
    written = weights.stat().st_mtime_ns
    assert merge.merge(in_4_bit.checkpoint) == in_4_bit.record  # a checkpoint instead of its run
    assert weights.stat().st_mtime_ns == written and not (in_4_bit.run / "merged.partial").exists()
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"other: exists, but was not made by"):
        merge.merge(in_4_bit.run, tmp_path / "other")
    again = tmp_path / "checkpoint-3"
    shutil.copytree(in_4_bit.checkpoint, again)
    shutil.copy(in_4_bit.run / "recipe.yaml", again)
    with pytest.raises(UserError, match=r"merged from .*checkpoint-3, .*rm -r"):
        merge.merge(again, in_4_bit.run / "merged")


def test_what_cannot_be_merged_is_said_before_anything_is_loaded(in_4_bit, tmp_path):
    with pytest.raises(UserError, match="no adapter in it"):
        merge.merge(in_4_bit.base)
    with pytest.raises(UserError, match="no checkpoint there"):
        merge.merge(tmp_path)
    again = tmp_path / "checkpoint-3"
    shutil.copytree(in_4_bit.checkpoint, again)
    with pytest.raises(UserError, match=r"recipe.yaml: missing"):
        merge.merge(again)
    shutil.copy(in_4_bit.run / "recipe.yaml", again)
    said = json.loads((again / "adapter_config.json").read_text())
    (again / "adapter_config.json").write_text(json.dumps({**said, "base_model_name_or_path": "bases/gone"}))
    with pytest.raises(
        UserError, match="bases/gone: the adapter's base is not there; prepare it with `make base-7b-qlora`"
    ):
        merge.merge(again)


def test_a_merge_that_loses_the_adapter_is_refused(in_4_bit, tmp_path, monkeypatch):
    plain = load_file(in_4_bit.base / "model.safetensors")
    monkeypatch.setattr(merge, "fold", lambda model, name: plain[name].bfloat16())
    with pytest.raises(UserError, match="does not follow the adapted one"):
        merge.merge(in_4_bit.run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_plain_lora_on_a_base_whose_head_was_tied(train):
    """Training embeddings and head parts them: the merged model has both."""
    trained = train("--load_in_4bit", "false", "--optim", "adamw_torch", "--dtype", "float32", width=64, tied=True)
    merge.merge(trained.run)
    merged, expected = load_file(trained.run / "merged/model.safetensors"), summed(trained, quantised=False)
    assert_rounded_once(merged, expected, expected)
    assert not torch.equal(merged["lm_head.weight"], merged["model.embed_tokens.weight"])
    head = load_file(trained.checkpoint / "adapter_model.safetensors")["base_model.model.lm_head.weight"]
    assert_rounded_once(merged, {"lm_head.weight": head.double()}, ["lm_head.weight"])
