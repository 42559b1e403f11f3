"""Gives a base model its EOT and pad rows: shard by shard, once, on CPU, before any distributed job.

Only the safetensors shards that hold the embeddings and the head are rewritten; the others are hard-linked (copied
across file systems). Tokens that the base's vocabulary already has keep their rows, unless pretraining left them untrained.
"""

import json
import math
import os
import shutil
import sys
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lima import UserError, exit_codes, hub, recipe, runs, turns

EMBEDDINGS, HEAD = "embed_tokens.weight", "lm_head.weight"
RECORD = "lima_base.json"
OWN_EOS = "base-eos"  # as EOT: the ablation's arm, which has no token of its own
UNTRAINED = 0.01  # of the median norm: a reserved row that pretraining never touched, as Llama 3's are
# Section 4.1; top_k 0, because transformers would cut to 50 tokens otherwise.
GENERATION = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0, "max_new_tokens": 2048}
WEIGHTS = ["*.safetensors", "*.safetensors.index.json"]
TEXT = ["*.json", "*.model", "*.txt", "*.jinja", "LICENSE*"]


def prepare(source, target, eot_token="<|eot|>", pad_token="<|pad|>", eot_init="eos", revision=None):
    """Writes the prepared base to `target`, a folder that loads with `from_pretrained`, and returns its record.

    `source`: a folder, a Hub id, or PACKAGE:FILE.gguf. Memory stays near the largest rewritten shard. Complete or absent:
    it is written to `target.partial` and renamed. A `target` made from the same settings is left as it is; one that another
    process is making is waited for.
    """
    target = Path(target)
    settings = _settings(source, eot_token, pad_token, eot_init, revision)
    if record := _standing(target, settings):
        return record
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        return _standing(target, settings) or _made(target, settings)


def stands(recipe):
    """Whether the base that a recipe trains is prepared. Raises `UserError` for one that was prepared otherwise."""
    if recipe.base is None:
        return (Path(recipe.model_name_or_path) / RECORD).exists()
    asked = (recipe.base, recipe.eot_token, recipe.padding_token, recipe.eot_init, recipe.base_revision)
    return _standing(Path(recipe.model_name_or_path), _settings(*asked)) is not None


def _settings(source, eot_token, pad_token, eot_init, revision):
    tokens = {"eot_token": eot_token, "padding_token": pad_token}
    return {"source": str(source), "revision": revision, **tokens, "eot_init": eot_init}


def _standing(target, settings):
    """The record of a base that was made from the same settings, or None where `target` is free."""
    if (target / RECORD).exists():
        record = json.loads((target / RECORD).read_text())
        if {key: record.get(key) for key in settings} != settings:
            changed = ", ".join(key for key in settings if record.get(key) != settings[key])
            raise UserError(f"{target}: prepared with another {changed}; remove it first: rm -r {target}")
        return record
    if target.exists():
        raise UserError(
            f"{target}: exists, but was not made by `make base-NAME`; move it away, or set another model_name_or_path"
        )
    return None


def _made(target, settings):
    """Makes the base, beside `target` first; returns its record."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    folder = _fetch(settings["source"], settings["revision"], partial)
    shards = _shards(folder)
    tokenizer, base_eos, new = _tokenizer(folder, settings["eot_token"], settings["padding_token"])
    rows = _rewrite(folder, partial, shards, tokenizer, new, base_eos, settings["eot_init"])
    _configs(folder, partial, tokenizer, base_eos, rows["vocab_size"])
    record = {**settings, "eot_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id, "new_tokens": new, **rows}
    runs.write_text(partial / RECORD, json.dumps(record, indent=1))
    shutil.rmtree(partial / ".source", ignore_errors=True)
    os.replace(partial, target)
    return record


def check_base(recipe):
    """Raises `UserError` for a local base that is half-written, lacks tensors, or is quantised already; reads headers only.

    Tensors that are absent would start at random with no more than a warning.
    """
    folder = Path(recipe.model_name_or_path)
    if not folder.is_dir():
        return
    config = _json(folder / "config.json")
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method:
        raise UserError(
            f"{folder}: its weights are quantised already ({method}); train from the original weights, in 4 bit with "
            "load_in_4bit: true if need be"
        )
    if recipe.load_in_4bit and recipe.deepspeed:
        raise UserError(f"{recipe.config}: load_in_4bit does not go with deepspeed; set deepspeed: null")
    names = {name for names in _shards(folder).values() for name in names}
    missing = sorted(_needed(folder) - names)
    if missing:
        raise UserError(f"{folder}: lacks {len(missing)} tensors, such as {missing[0]}; prepare the base again")


def _needed(folder):
    """The names of the weights that a model of that config cannot do without."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    return dict(model.named_parameters()).keys()  # a tied head has one name


def _fetch(source, revision, partial):
    """`source` as a local folder of safetensors; nothing pickled is ever read."""
    if Path(source).is_dir():
        return Path(source)
    if str(source).endswith(".gguf"):
        from lima.train.embedded import unpack

        return unpack(source, partial / ".source")
    from huggingface_hub import snapshot_download

    with hub.reading(source, "model", "give a local folder: ARGS='--base path/to/model'"):
        unused = ["*/*", "consolidated*"]  # other formats of the same weights
        return Path(snapshot_download(source, revision=revision, allow_patterns=WEIGHTS + TEXT, ignore_patterns=unused))


def _tokenizer(folder, eot_token, pad_token):
    """The base's tokenizer with our stop, pad and template, the id of its own EOS, and the tokens that were added."""
    from transformers import AutoTokenizer

    from lima.train import sentencepiece_merges

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: no tokenizer that transformers can load ({' '.join(str(error).split())[:200]})"
        ) from None
    base_eos = tokenizer.eos_token_id
    if len(tokenizer) < 256:  # what transformers builds where a vocabulary is missing
        raise UserError(
            f"{folder}: its tokenizer has {len(tokenizer)} tokens; its vocabulary is missing, fetch the base again"
        )
    if base_eos is None:
        raise UserError(f"{folder}: its tokenizer has no EOS token")
    if eot_token == OWN_EOS:
        eot_token = tokenizer.eos_token
    if pad_token in (eot_token, tokenizer.eos_token):
        raise UserError(f"pad_token {pad_token!r} must be neither EOT nor EOS: a masked pad is a stop never trained")
    new = [token for token in (eot_token, pad_token) if token not in tokenizer.get_vocab()]
    sentencepiece_merges.mend(tokenizer.backend_tokenizer, folder)
    tokenizer.add_special_tokens({"eos_token": eot_token, "pad_token": pad_token})
    tokenizer.chat_template = turns.TEMPLATE.read_text(encoding="utf-8")
    tokenizer.padding_side = "left"
    return tokenizer, base_eos, new


def _json(path, *keys):
    """A JSON file of the base, with `keys` in it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [content[key] for key in keys] if keys else content
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}: {error}); fetch the base again") from None


def _shards(folder):
    """Weight file → its tensor names; every file is opened once, so that a broken one is found before any is written."""
    _json(folder / "config.json")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = {}
        for name, file in _json(index, "weight_map")[0].items():
            shards.setdefault(file, []).append(name)
    elif (folder / "model.safetensors").exists():
        shards = {"model.safetensors": []}
    else:
        raise UserError(f"{folder}: no model.safetensors; pickled weights (.bin) are not read, convert them first")
    missing = [file for file in shards if not (folder / file).exists()]
    if missing:
        raise UserError(f"{folder}: {len(missing)} of {len(shards)} weight files are missing, such as {missing[0]}")
    for file, names in shards.items():
        try:
            with safe_open(folder / file, "pt") as weights:
                present = set(weights.keys())
        except SafetensorError as error:
            raise UserError(f"{folder / file}: broken ({error}); fetch the base again") from None
        absent = set(names) - present
        if absent:
            raise UserError(f"{folder / file}: lacks {min(absent)}, which the index puts there; fetch the base again")
        shards[file] = sorted(present)
    if sum(name.endswith(EMBEDDINGS) for names in shards.values() for name in names) != 1:
        raise UserError(f"{folder}: expected one tensor named …{EMBEDDINGS}; this architecture is not supported")
    return shards


def _rewrite(folder, partial, shards, tokenizer, new, base_eos, eot_init):
    """Writes the shards whose rows change, links the rest, and returns what was done."""
    out = {"vocab_size": None, "rewritten": [], "linked": 0, "initialised": {}}
    for file, names in shards.items():
        edited = {name for name in names if name.endswith((EMBEDDINGS, HEAD))}
        tensors = None
        if edited:
            with safe_open(folder / file, "pt") as weights:
                tensors = {name: weights.get_tensor(name) for name in names}
                metadata = weights.metadata()
        changed = False
        for name in edited:
            tensors[name], done = _with_rows(tensors[name], tokenizer, new, base_eos, eot_init)
            out["vocab_size"], changed = len(tensors[name]), changed or bool(done)
            out["initialised"][name] = done
        if changed:
            save_file(tensors, partial / file, metadata=metadata or {"format": "pt"})
            shutil.copymode(folder / file, partial / file)
            out["rewritten"].append(file)
        else:
            _link(folder / file, partial / file)
            out["linked"] += 1
        del tensors
    index = folder / "model.safetensors.index.json"
    if index.exists():
        content = _json(index)
        counts = [_sizes(partial / file) for file in shards]
        total = {"total_size": sum(size for size, _ in counts), "total_parameters": sum(n for _, n in counts)}
        content["metadata"] = {**content.get("metadata", {}), **total}
        runs.write_text(partial / index.name, json.dumps(content, indent=1))
    return out


def _sizes(file):
    """`(bytes, elements)` of the tensors in a safetensors file, from its header."""
    with safe_open(file, "pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    with file.open("rb") as raw:
        header = int.from_bytes(raw.read(8), "little")
    return file.stat().st_size - 8 - header, sum(math.prod(shape) for shape in shapes)


def _with_rows(table, tokenizer, new, base_eos, eot_init):
    """`table` [vocab, width] with rows for EOT and pad, and which of them were set: `{token: start}`.

    A token that the vocabulary had keeps its row if pretraining touched it. A new token's row may be a spare one (Qwen's
    tables are longer than their vocabularies).
    """
    norms = table.float().norm(dim=1)
    starts = {"mean": table.float().mean(0), "eos": table[base_eos].float()}
    untrained = norms < UNTRAINED * norms.median()
    done = {}
    size = max(len(table), tokenizer.eos_token_id + 1, tokenizer.pad_token_id + 1)
    grown = torch.cat([table, starts["mean"].to(table.dtype).repeat(size - len(table), 1)])
    for token, start in ((tokenizer.eos_token, eot_init), (tokenizer.pad_token, "mean")):
        row = tokenizer.convert_tokens_to_ids(token)
        if token not in new and row < len(table) and not untrained[row]:
            continue
        grown[row] = starts[start].to(table.dtype)
        done[token] = start
    return (grown if done else table), done


def _link(source, target):
    source = Path(os.path.realpath(source))  # a Hub snapshot's files are links to its blobs
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _configs(folder, partial, tokenizer, base_eos, vocab_size):
    """config, generation_config and tokenizer agree: generation ends on EOT, and on the base's own EOS."""
    config = _json(folder / "config.json")
    for part in (config, config.get("text_config", {})):
        if part:
            part.update(vocab_size=vocab_size, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    config.pop("auto_map", None)  # no code from a model's repository
    runs.write_text(partial / "config.json", json.dumps(config, indent=2))
    stops = list(dict.fromkeys([tokenizer.eos_token_id, base_eos]))
    generation = {**GENERATION, "eos_token_id": stops, "pad_token_id": tokenizer.pad_token_id}
    if tokenizer.bos_token_id is not None:
        generation["bos_token_id"] = tokenizer.bos_token_id
    runs.write_text(partial / "generation_config.json", json.dumps(generation, indent=2))
    tokenizer.save_pretrained(partial)
    turns.mend_saved_tokenizer(partial)
    for licence in folder.glob("LICENSE*"):
        shutil.copyfile(licence, partial / licence.name)


def main(argv):
    if "-h" in argv or "--help" in argv:
        return print(__doc__ + "\nusage: make base-NAME  (python -m lima.train.base --config recipes/NAME.yaml)")
    args = recipe.load(argv)
    if not args.base:
        raise UserError(f"{args.config}: base is missing; it names the untouched model that make base-NAME prepares")
    there = (Path(args.model_name_or_path) / RECORD).exists()
    if not there:
        print(f"preparing {args.base} → {args.model_name_or_path}", flush=True)
    record = prepare(
        args.base, args.model_name_or_path, args.eot_token, args.padding_token, args.eot_init, args.base_revision
    )
    if there:
        return print(f"{args.model_name_or_path}: prepared already")
    started = {token: start for done in record["initialised"].values() for token, start in done.items()}
    rows = ", ".join(f"{token} from the {'mean' if s == 'mean' else 'EOS row'}" for token, s in started.items())
    print(
        f"  EOT {args.eot_token} is row {record['eot_id']}, pad {args.padding_token} is row {record['pad_id']}\n"
        f"  rows started: {rows or 'none, the base has both'}\n"
        f"  weight files: {len(record['rewritten'])} rewritten, {record['linked']} linked"
    )


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
