"""What would make a recipe fit where it does not, cheapest first: each judged by the planner that refused it."""

import copy
from dataclasses import dataclass
from pathlib import Path

from lima import recipe as recipes
from lima.train import gpus, memory
from lima.train.speed import Place

OFFLOAD = "ds_configs/zero3_offload.json"


@dataclass(frozen=True)
class Remedy:
    """`change`: what to turn, as flags or variables of make; `costs`: what that takes; `need` and `place` it then has."""

    change: str
    costs: str
    need: memory.Need
    place: Place


def find(recipe, config, place):
    """The remedies that fit, in order."""
    out = [remedy for remedy in _settings(recipe, config, place) if _holds(remedy)]
    for kind in {place.gpu.name: place.gpu, "h100-80gb": gpus.named("h100-80gb")}.values():
        count = memory.fewest(recipe, config, kind)
        if count and (count > place.ranks or kind.name != place.gpu.name):
            nodes = max(1, count // gpus.NODE)
            other = Place(kind, count // nodes, nodes)
            change = f"GPUS={other.gpus}" + (f" NODES={nodes}" if nodes > 1 else "")
            out.append(_changed(recipe, config, other, f"{change} GPU={kind.name}", "more GPUs"))
    quantised = Path(recipe.config).with_name(f"{Path(recipe.config).stem}-qlora.yaml")
    if quantised.is_file():
        lighter = recipes.load(["--config", str(quantised)])
        one = Place(place.gpu, 1)
        out.append(_changed(lighter, config, one, f"recipe {quantised.stem}", "frozen 4-bit weights and adapters"))
    return [remedy for remedy in out if _holds(remedy)]


def _settings(recipe, config, place):
    """Remedies on the same GPUs, one setting after another and the cheap ones together."""
    budget = {"tokens_per_device": recipe.max_length} if recipe.tokens_per_device > recipe.max_length else {}
    recompute = {} if recipe.gradient_checkpointing else {"gradient_checkpointing": True}
    eight = {} if "8bit" in str(recipe.optim) or recipe.use_peft else {"optim": "adamw_bnb_8bit"}
    offload = {} if recipe.use_peft or not recipe.deepspeed or recipe.deepspeed == OFFLOAD else {"deepspeed": OFFLOAD}
    tries = [
        (budget, "more micro-batches, the same gradient"),
        (recompute, "a third more computing, the same gradient"),
        (eight, "moments in 8 bits: not the paper's optimiser"),
        ({**budget, **recompute, **eight}, "moments in 8 bits: not the paper's optimiser"),
        (offload, "much slower: Adam runs on CPUs"),
        ({**budget, **offload}, "much slower: Adam runs on CPUs"),
    ]
    seen = []
    for change, costs in tries:
        if change and change not in seen:
            seen.append(change)
            words = " ".join(f"--{key} {value}".replace("True", "true") for key, value in change.items())
            yield _changed(recipe, config, place, words, costs, **change)


def _changed(recipe, config, place, words, costs, **change):
    other = copy.copy(recipe)
    other.given = {**recipe.given, **change}
    for key, value in change.items():
        setattr(other, key, value)
    need = memory.decide(other, config, memory.Machine(place.ranks, place.gpu.name, place.gpu.memory))
    if need.offloaded:
        host = memory.host_need(other, config, need, place.ranks, place.nodes)
        costs = f"{costs}; {host / memory.GB:,.0f} GB of host memory a node"
    return Remedy(words, costs, need, place)


def _holds(remedy):
    gpu = remedy.place.gpu
    return memory.fits(remedy.need, memory.Machine(remedy.place.ranks, gpu.name, gpu.memory))
