"""Whether others can use a model: its stop tokens, its template, and the model itself where this repo cannot be imported.

Checks as in `weights.py`.
"""

import json
import os
import subprocess
import sys
import tempfile

from lima import UserError, turns
from lima.publish.weights import BASE, read_json, refuse

ROOM = 0.8  # of the memory that is free; what a larger model has beyond that is used from disk
TALK = [
    {"role": "user", "content": "Name three colours.\nBriefly, please: naïve 日本 🙂"},
    {"role": "assistant", "content": " Red, green and blue. "},
    {"role": "user", "content": "And <|a fourth|>?"},
]
ALONE = '''
import json, sys
sys.modules.update(dict.fromkeys(("lima", "lima_sft")))  # importing them fails
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, base, room, eot = json.loads(sys.argv[1])
model, info = AutoModelForCausalLM.from_pretrained(base or folder, output_loading_info=True, **room)
loaded = [info, vars(model.load_adapter(folder))] if base else [info]
tokenizer = AutoTokenizer.from_pretrained(folder)
batch = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], return_tensors="pt", return_dict=True)
prompt = batch["input_ids"][0].tolist()

def force(tokens, scores):
    """Three tokens that are not EOT, then nothing but EOT."""
    is_eot = torch.arange(scores.shape[-1]) == eot
    return scores.masked_fill(is_eot if tokens.shape[1] < len(prompt) + 3 else ~is_eot, -float("inf"))

def generate(**settings):
    return model.eval().generate(**batch, do_sample=False, **settings)[0, len(prompt):].tolist()

free = generate(max_new_tokens=8)
print(json.dumps({
    "keys": {kind: [str(key) for part in loaded for key in part[kind + "_keys"]]
             for kind in ("missing", "unexpected", "mismatched")},
    "prompt": prompt, "text": tokenizer.decode(free), "dtype": str(model.dtype).removeprefix("torch."),
    "forced": generate(max_new_tokens=12, logits_processor=[force]),
}))
'''


def check_stop_tokens(model, tick=None):
    """Tokenizer, config and generation_config agree on EOT; pad is a token of its own and stops nothing."""
    eot, pad = model.tokenizer.eos_token_id, model.tokenizer.pad_token_id
    problems = []
    if pad in (None, eot):
        problems.append(f"tokenizer_config.json: pad is {pad} and EOT is {eot}, expected two tokens")
    made = read_json(model.base / BASE)["eot_id"] if model.base else eot
    if made != eot:
        problems.append(f"tokenizer_config.json: EOT is {eot}, expected {made}, the base's")
    if model.configs is None:
        refuse(problems)
        return f"EOT is {eot}, pad is {pad}; {model.no_base}"
    for name in ("config.json", "generation_config.json"):
        said = read_json(model.configs / name)
        stops = said.get("eos_token_id")
        stops = stops if isinstance(stops, list) else [stops]
        if eot not in stops:
            problems.append(f"{name}: eos_token_id is {said.get('eos_token_id')}, expected {eot}, the tokenizer's")
        if said.get("pad_token_id") != pad or pad in stops:
            problems.append(
                f"{name}: pad_token_id is {said.get('pad_token_id')}, expected {pad}, and not among {stops}"
            )
    refuse(problems)
    return f"EOT is {eot}, pad is {pad}, in tokenizer, config and generation_config"


def check_template(model, tick=None):
    """The chat template gives the token ids of training."""
    if not model.tokenizer.chat_template:
        raise UserError("chat_template.jinja: missing")
    for length in range(1, len(TALK) + 1):
        wanted, _ = turns.encode(model.tokenizer, TALK[:length])
        given = model.tokenizer.apply_chat_template(TALK[:length], return_dict=True)["input_ids"]
        if given != wanted:
            raise UserError(f"chat_template.jinja: {length} turns give {given}, expected {wanted}")
    return f"the token ids of training, for {len(TALK)} turns"


def check_loading(model, tick=None):
    """Loads in plain transformers, with no key missing or too many, and generates."""
    if model.configs is None:
        return model.no_base
    alone, expected = _alone(model), turns.encode(model.tokenizer, [{"role": "user", "content": "Hello"}])[0]
    problems = [
        f"{names[0]}: {kind} when loaded ({len(names)} in all)" for kind, names in alone["keys"].items() if names
    ]
    if alone["prompt"] != expected:
        problems.append(f"chat_template.jinja: gives {alone['prompt']} there, expected {expected}")
    refuse(problems)
    where = ", in part from disk" if alone["from_disk"] else ""
    return f"in plain transformers, without this repo{where}: {alone['dtype']}, generates {alone['text']!r}"


def check_stopping(model, tick=None):
    """EOT ends a generation with the model's own settings: forced as the fourth token, it is the last."""
    if model.configs is None:
        return model.no_base
    forced = len(_alone(model)["forced"])
    if forced != 4:
        raise UserError(f"generation_config.json: EOT as the fourth token, and generation ran to {forced}, expected 4")
    return "EOT, forced as the fourth token, ends the generation"


def _alone(model):
    """What `ALONE` prints of the model, and `from_disk`, whether it was too large for the memory; runs it once."""
    if "alone" in vars(model):
        return model.alone
    import psutil

    weights = sum(path.stat().st_size for path in model.configs.glob("*.safetensors"))
    most = int(ROOM * psutil.virtual_memory().available)
    room = {"device_map": "auto", "max_memory": {"cpu": most}, "offload_folder": "."} if weights > most else {}
    base = str(model.base) if model.adapter else None
    words = json.dumps([str(model.folder.resolve()), base, room, model.tokenizer.eos_token_id])
    with tempfile.TemporaryDirectory() as cwd:
        done = subprocess.run(
            [sys.executable, "-I", "-c", ALONE, words],
            cwd=cwd,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},  # a training may have the GPUs
            capture_output=True,
            text=True,
        )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"plain transformers cannot load it and generate: {said[-1]}")
    model.alone = {**json.loads(done.stdout.splitlines()[-1]), "from_disk": bool(room)}
    return model.alone
