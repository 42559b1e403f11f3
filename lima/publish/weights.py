"""What a checkpoint or a merged model consists of, and whether its tensors are all there, sound and trained.

A check returns a line that says what it found, and raises `UserError` with one that says what is wrong.
"""

import json
import math
from functools import cached_property
from pathlib import Path

import yaml

from lima import UserError

ADAPTER, MERGED, BASE = "adapter_config.json", "lima_merge.json", "lima_base.json"
INDEX = "model.safetensors.index.json"
TABLES = ("embed_tokens.weight", "lm_head.weight")
CHUNK = 2**24  # values in memory at a time


class Model:
    """A checkpoint, or a model that `make merge` made, in `folder`, and the prepared base that it was trained from.

    `base`: the base's folder, None where it is not on this machine. `configs`: where config.json and generation_config.json
    lie: an adapter has only its base's, or None.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.adapter, self.merged = (self.folder / ADAPTER).is_file(), (self.folder / MERGED).is_file()
        base = self._base()
        self.base = Path(base).resolve() if base and (Path(base) / BASE).is_file() else None
        self.configs = self.base if self.adapter else self.folder
        # The base's name, not its path: what is said here is published.
        self.no_base = f"not checked: its base ({Path(base).name if base else 'recipe.yaml names none'}) is not here"

    def _base(self):
        try:
            if self.merged:
                return read_json(self.folder / MERGED)["base"]
            if self.adapter:
                return read_json(self.folder / ADAPTER)["base_model_name_or_path"]
            record = yaml.safe_load((self.folder.parent / "recipe.yaml").read_text(encoding="utf-8"))
            return record["recipe"]["model_name_or_path"]
        except (UserError, OSError, yaml.YAMLError, KeyError, TypeError):
            return None

    @cached_property
    def tokenizer(self):
        from transformers import AutoTokenizer

        if not (self.folder / "tokenizer.json").is_file():  # transformers would make up an empty one
            raise UserError("tokenizer.json: missing")
        return AutoTokenizer.from_pretrained(self.folder)


def read_json(path):
    """The JSON object in a file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.name}: missing") from None
    except ValueError as error:
        raise UserError(f"{path.name}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path.name}: expected an object, found {type(content).__name__}")
    return content


def refuse(problems):
    """Raises `UserError` with the first of them, if there are any."""
    if problems:
        raise UserError("; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else ""))


def opened(folder):
    """Every safetensors file of a folder: `(path, open file)`; its tensors are not read yet."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                yield path, file
        except SafetensorError as error:
            raise UserError(f"{path.name}: broken ({error})") from None


def headers(folder):
    """Tensor name → `(file name, shape, dtype)`, as the files' headers have them."""
    found = {}
    for path, file in opened(folder):
        for name in file.keys():  # noqa: SIM118
            part = file.get_slice(name)
            found[name] = (path.name, list(part.get_shape()), part.get_dtype())
    return found


def check_tensors(model, tick=None):
    """Every tensor that the architecture asks for, with its shape and dtype, and no other."""
    if model.configs is None:
        return model.no_base
    found, problems, asked = headers(model.folder), [], set()
    for names, shape, dtype in _expected_adapter(model, found) if model.adapter else _expected(model):
        asked.update(names)
        there = [name for name in names if name in found]
        if not there:
            problems.append(f"{names[0]}: missing, expected {dtype} {shape}")
        for name in there:
            file, *has = found[name]
            if has != [shape, dtype]:
                problems.append(f"{file}: {name} is {has[1]} {has[0]}, expected {dtype} {shape}")
    problems += [f"{found[name][0]}: {name} is not in the architecture" for name in sorted(found.keys() - asked)]
    index = read_json(model.folder / INDEX)["weight_map"] if (model.folder / INDEX).is_file() else {}
    for file in sorted(set(index.values())):
        if not (model.folder / file).is_file():
            problems.insert(0, f"{file}: missing, expected {list(index.values()).count(file)} tensors in it")
    here = {name: file for name, (file, _, _) in found.items()}
    problems += [
        f"{INDEX}: puts {name} elsewhere than {here[name]}" for name in here if index and index.get(name) != here[name]
    ]
    refuse(problems)
    dtypes = sorted({dtype for _, _, dtype in found.values()})
    return f"{len(found)} tensors with the shapes of the architecture, {' and '.join(dtypes)}"


def _expected(model):
    """`[(names of one tensor, shape, dtype)]` of a whole model; a tied tensor has several names, and needs one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model.folder))
    tied = {}
    for name, tensor in built.state_dict(keep_vars=True).items():
        tied.setdefault(id(tensor), ([], tensor))[0].append(name)
    return [(names, list(tensor.shape), _dtype(tensor)) for names, tensor in tied.values()]


def _expected_adapter(model, found):
    """The same of an adapter; no config states its dtype, so all of it must have one, bfloat16 or float32."""
    import torch
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model.base))
        adapted = get_peft_model(base, PeftConfig.from_pretrained(model.folder))
    dtype = "BF16" if {dtype for _, _, dtype in found.values()} == {"BF16"} else "F32"
    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return [([name], list(tensor.shape), dtype) for name, tensor in tensors.items()]


def _dtype(tensor):
    """A tensor's dtype as safetensors names it, such as BF16."""
    return str(tensor.dtype).removeprefix("torch.").upper().replace("FLOAT", "F").replace("INT", "I")


def check_finite(model, tick):
    """No NaN and no infinity; `tick(bytes)` is called as tensors are read."""
    problems, values = [], 0
    for path, file in opened(model.folder):
        for name in file.keys():  # noqa: SIM118
            wrong = 0
            for part in _pieces(file, name):
                values += part.numel()
                wrong += _not_finite(part)
                tick(part.nbytes)
            if wrong:
                problems.append(f"{path.name}: {name} holds {wrong:,} NaN or infinite values, expected none")
    refuse(problems)
    if not values:
        raise UserError("*.safetensors: missing, expected weights")
    return f"{values:,} values, each finite"


def _pieces(file, name):
    """A tensor, some rows at a time."""
    part = file.get_slice(name)
    shape = part.get_shape()
    if not shape:
        yield file.get_tensor(name)
        return
    rows = max(1, CHUNK // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], rows):
        yield part[start : start + rows]


def _not_finite(part):
    """How many values are not finite. `aminmax`, which passes NaN on, reads a sound tensor once and copies nothing."""
    import torch

    if not part.numel() or all(torch.isfinite(bound) for bound in torch.aminmax(part)):
        return 0
    return int((~torch.isfinite(part)).sum())


def check_eot_row(model, tick=None):
    """The rows of EOT in embeddings and head are no longer the base's."""
    if model.base is None:
        return model.no_base
    eot = read_json(model.base / BASE)["eot_id"]
    rows, before = _rows(model.folder, eot), _rows(model.base, eot)
    if not rows:
        raise UserError(f"no {' or '.join(TABLES)} in it: EOT, row {eot}, was never trained")
    moved = {}
    for name, row in rows.items():
        start = before.get(name, next(iter(before.values()))).to(row.dtype).double()  # a tied base has one table
        moved[name] = ((row.double() - start).norm() / start.norm()).item()
    refuse(
        [f"{name}: row {eot}, EOT, is the base's still, expected it to have moved" for name in moved if not moved[name]]
    )
    return f"row {eot} moved: " + ", ".join(
        f"{name.split('.')[-2]} by {100 * far:.2g} %" for name, far in moved.items()
    )


def _rows(folder, number):
    """Name, without PEFT's prefix, → row `number`, of the embeddings and the head in a folder."""
    rows = {}
    for path, file in opened(folder):
        for name in file.keys():  # noqa: SIM118
            if name.endswith(TABLES):
                part = file.get_slice(name)
                if part.get_shape()[0] <= number:
                    raise UserError(
                        f"{path.name}: {name} has {part.get_shape()[0]} rows, expected a row {number} for EOT"
                    )
                rows[name.removeprefix("base_model.model.")] = part[number : number + 1][0]
    return rows
