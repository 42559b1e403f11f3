"""Folds a run's adapter into its base: plain bfloat16 weights that load without PEFT, and follow the adapted model.

    python -m lima.train.merge --run runs/7b-qlora [--out runs/7b-qlora/merged]

A 4-bit base is folded as the adapter saw it in training: quantised as the run did it, then dequantised. (PEFT's own merge
would quantise the sum again.) Every sum is rounded once. It works on CPU. Memory: about 2.2 bytes a parameter for it to
be fast (estimated), 140 GB for 65B. Of these it cannot do without a third: 1.2B parameters took 2.3 GB of its own
(measured, 0.8 GB of it embeddings and head); the rest is weight files that it reads in place.
"""

import argparse
import contextlib
import gc
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import yaml

from lima import UserError, conversations, exit_codes, recipe, runs, turns

RECORD = "lima_merge.json"
ADAPTER = "adapter_config.json"
ROUNDING = 0.03  # of the logits' spread: bfloat16 alone costs 0.010 (2 layers) to 0.024 (SmolLM2-135M, 30 layers)
PROMPTS = "data/prompts/dev.jsonl"
SHARD = "5GB"


def merge(run, out=None, prompts=PROMPTS, limit=8):
    """Writes the merged model to `out` (`merged` beside the checkpoint), complete or not at all, and returns its record.

    Reads the run's newest checkpoint. An `out` made from the same adapter is left as it is. Raises `UserError` where there
    is nothing to merge, where `out` holds something else, and where the merged logits do not follow the adapted ones.
    """
    folder = Path(run) if (Path(run) / ADAPTER).is_file() else runs.newest_checkpoint(run)
    source = _source(folder)
    out = Path(out or folder.parent / "merged")
    if out.exists():
        return _made_before(out, source)
    tokenizer = turns.load_tokenizer(folder)
    batch = _batch(tokenizer, conversations.load_prompts(prompts, "test")[:limit])
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    adapted = _load_adapted(folder, source)
    with runs.full_disk_said(partial):
        _write(adapted, tokenizer, partial)
    wanted, without = _logits(adapted, batch), _logits(adapted, batch, adapter=False)
    del adapted
    gc.collect()  # PEFT's wrappers refer to each other
    record = {**source, "out": str(out), **compare(_logits(_load(partial), batch), wanted, without)}
    if record["apart"] > tolerance(record):
        raise UserError(
            f"{folder}: the merged model does not follow the adapted one: their logits lie {record['apart']:.1%} of their spread "
            f"apart, where {tolerance(record):.1%} is tolerated; it was left in {partial}"
        )
    runs.write_text(partial / RECORD, json.dumps(record, indent=1))
    partial.rename(out)
    return record


def compare(merged, adapted, base):
    """How far merged logits lie from the adapted model's, and the base's without adapter: `[positions, vocabulary]` each.

    `apart`: the root mean square difference at the median position, as a share of the adapted logits' standard deviation
    there; what is common to all tokens does not count, as softmax takes it out. `apart_without_adapter` is the base's.
    `largest`: the largest difference, in logits. `top1`: share of positions whose likeliest token is the same.
    """

    def apart(logits):
        return ((logits - adapted).std(-1) / adapted.std(-1)).median().item()

    return {
        "positions": len(adapted),
        "apart": apart(merged),
        "apart_without_adapter": apart(base),
        "largest": (merged - adapted).abs().max().item(),
        "top1": (merged.argmax(-1) == adapted.argmax(-1)).float().mean().item(),
    }


def tolerance(record):
    """Most that `apart` may be: 10 %, less where the adapter changes so little that losing it would pass, at least rounding."""
    return min(0.10, max(ROUNDING, record["apart_without_adapter"] / 2))


def fold(model, name):
    """Parameter `name` of the plain model, as the adapted `model` (a `PeftModel`) computes with it; bfloat16.

    LoRA: W + scaling · B·A (arXiv 2106.09685, section 4.1), summed in float32. Raises `UserError` for adapters that are
    more than this.
    """
    from peft.tuners.lora import Linear, LoraLayer
    from peft.tuners.lora.bnb import Linear4bit, Linear8bitLt
    from peft.utils import ModulesToSaveWrapper

    path, leaf = name.rsplit(".", 1)
    module = model.base_model.model.get_submodule(path)
    if isinstance(module, ModulesToSaveWrapper):
        return getattr(module.modules_to_save["default"], leaf).detach().bfloat16()
    if not isinstance(module, LoraLayer):
        return _dequantised(module, leaf).bfloat16()
    if (
        not isinstance(module, Linear | Linear4bit | Linear8bitLt)
        or module.lora_variant
        or any(module.lora_bias.values())
    ):
        raise UserError(f"{path}: its adapter is more than LoRA on a linear layer; this cannot merge it")
    weight = _dequantised(module.get_base_layer(), leaf)
    if leaf == "weight" and "default" in module.lora_A:
        a, b = module.lora_A["default"].weight.float(), module.lora_B["default"].weight.float()
        weight = torch.addmm(weight.float(), b, a, alpha=module.scaling["default"])
    return weight.bfloat16()


def _dequantised(module, leaf):
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    return dequantize_bnb_weight(getattr(module, leaf), getattr(module, "state", None)).detach()


def _source(folder):
    """What is merged: checkpoint, adapter (by size and time), base, and the run's dtype and quantisation."""
    if not (folder / ADAPTER).is_file():
        raise UserError(f"{folder}: no adapter in it (its weights are whole); there is nothing to merge")
    config = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
    weights = folder / "adapter_model.safetensors"
    if config.get("peft_type") != "LORA" or not weights.is_file():
        raise UserError(f"{folder}: expected a LoRA adapter with adapter_model.safetensors")
    record = next((p for p in (folder / "recipe.yaml", folder.parent / "recipe.yaml") if p.is_file()), None)
    if record is None:
        raise UserError(f"{folder.parent}/recipe.yaml: missing; it says how the base was quantised under the adapter")
    record = yaml.safe_load(record.read_text(encoding="utf-8"))
    base = config["base_model_name_or_path"]
    if not (Path(base) / "config.json").is_file():
        raise UserError(
            f"{base}: the adapter's base is not there; prepare it with `{recipe.base_command(record['config'])}`"
        )
    stat = weights.stat()
    keys = ("dtype", "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "use_bnb_nested_quant")
    return {
        "checkpoint": str(folder),
        "adapter": f"{stat.st_size} bytes, {stat.st_mtime_ns}",
        "base": base,
        "loaded_as": {key: record["recipe"][key] for key in keys if record["recipe"].get(key)},
    }


def _made_before(out, source):
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{out}: exists, but was not made by `make merge`; give another OUT=") from None
    if {key: record.get(key) for key in source} != source:
        raise UserError(
            f"{out}: merged from {record.get('checkpoint')}, and that or its adapter is another by now; remove it first: "
            f"rm -r {out}, or give another OUT="
        )
    return record


def _load_adapted(folder, source):
    """The base as the run loaded it, with its adapter: a `PeftModel` on CPU."""
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM
    from trl import ModelConfig, get_quantization_config

    loaded_as = source["loaded_as"]
    config = recipe.build(SimpleNamespace(config=source["checkpoint"], **loaded_as), ModelConfig)
    dtype = getattr(torch, str(loaded_as.get("dtype")), None) or AutoConfig.from_pretrained(source["base"]).dtype
    if dtype == torch.float16:
        dtype = torch.float32  # float16 overflows on CPU, bfloat16 would round before the sum
    print(f"loading   {source['base']}{', 4-bit' if config.load_in_4bit else ''}, with {folder.name}", flush=True)
    base = AutoModelForCausalLM.from_pretrained(
        source["base"], dtype=dtype, device_map="cpu", quantization_config=get_quantization_config(config)
    )
    return PeftModel.from_pretrained(base, folder).eval()


def _write(adapted, tokenizer, folder):
    """The merged model's files, a shard at a time, so that no second copy of it is ever in memory."""
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file
    from tqdm import tqdm
    from transformers import AutoModelForCausalLM

    config = adapted.config.__class__.from_dict(adapted.config.to_dict())
    config.dtype = torch.bfloat16
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.tie_word_embeddings = config.tie_word_embeddings and _tied(adapted)
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    names = dict(plain.named_parameters())  # one name for tied ones
    split = split_torch_state_dict_into_shards(
        names, filename_pattern="model{suffix}.safetensors", max_shard_size=SHARD
    )
    with tqdm(total=len(names), desc="folding", unit="tensor") as bar:
        for file, members in split.filename_to_tensors.items():
            shard = {}
            for name in members:
                shard[name] = fold(adapted, name).contiguous()
                bar.update()
            save_file(shard, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        runs.write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=1))
    config.save_pretrained(folder)
    adapted.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tied(adapted):
    """Whether embeddings and head are still one after training: an adapter that trains them holds a copy of each."""
    base = adapted.base_model.model
    table, head = base.get_input_embeddings(), base.get_output_embeddings()
    both = [getattr(module, "modules_to_save", {"default": module})["default"].weight for module in (table, head)]
    return torch.equal(*both)


def _load(folder):
    from transformers import AutoModelForCausalLM

    print("checking  the merged model's logits against the adapted one's", flush=True)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()


def _batch(tokenizer, prompts):
    rows = [{"input_ids": turns.encode(tokenizer, prompt["messages"])[0]} for prompt in prompts]
    return tokenizer.pad(rows, padding_side="left", return_tensors="pt")


def _logits(model, batch, adapter=True):
    """Logits at the batch's tokens, padding aside: float32 `[positions, vocabulary]`."""
    with torch.inference_mode(), contextlib.nullcontext() if adapter else model.disable_adapter():
        return model(**batch).logits[batch["attention_mask"].bool()].float()


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a run (runs/NAME), or a checkpoint of it")
    parser.add_argument("--out", help="folder of the merged model [RUN/merged]")
    args = parser.parse_args(argv)
    record = merge(args.run, args.out)
    print(
        f"\nmerged · {record['out']}\n"
        f"  from      {record['checkpoint']} on {record['base']}\n"
        f"  logits    {record['apart']:.1%} of their spread from the adapted model's "
        f"({record['apart_without_adapter']:.1%} without the adapter); largest difference {record['largest']:.3f}\n"
        f"  top-1     the same at {record['top1']:.1%} of {record['positions']} positions"
    )


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
