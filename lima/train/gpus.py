"""Kinds of GPU: memory as PyTorch reports it, dense bf16 peak, and what joins them.

`gpus.json`: `mib` is `total_memory` as seen in the field (the least where reports differ); `tflops` (dense, fp32 accumulation),
and `link`, GB/s a GPU and direction within a node (NVLink, or PCIe ×16 where there is none), are the vendor's. `net`, GB/s
a GPU between nodes, is an assumption: a 400 Gb/s adapter each for H100 and newer, 200 for A100, 200 a node for the others.
"""

import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from lima import UserError

TABLE = json.loads(Path(__file__).with_name("gpus.json").read_text())
NODE = 8  # GPUs of a full node
CPU = "cpu"


@dataclass(frozen=True)
class Gpu:
    """`memory` in bytes, `flops` a second (dense bf16), `link` and `net` in bytes a second; what is not known is None."""

    name: str
    memory: int
    flops: float | None
    link: float | None
    net: float | None


def named(name):
    """The `Gpu` of that name. Raises `UserError` for another one, naming those that are known."""
    kind = TABLE.get(name.lower())
    if kind is None:
        near = difflib.get_close_matches(name.lower(), TABLE, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? known: " if near else "expected one of "
        raise UserError(f"GPU {name}: unknown; {hint}{', '.join(TABLE)}, or cpu for none")
    return Gpu(name.lower(), kind["mib"] * 2**20, kind["tflops"] * 1e12, kind["link"] * 1e9, kind["net"] * 1e9)


def present():
    """`(Gpu, how many)` of this machine; None without. A kind that the table lacks has its memory only."""
    import torch

    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    for name, kind in TABLE.items():
        if re.search(kind["device"], found.name):
            known = named(name)
            return Gpu(name, found.total_memory, known.flops, known.link, known.net), torch.cuda.device_count()
    return Gpu(found.name, found.total_memory, None, None, None), torch.cuda.device_count()
