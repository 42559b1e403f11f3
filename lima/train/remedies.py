"""What would make a recipe fit where it does not, cheapest first: each judged by the planner that refused it."""

import copy
import itertools
import math
from dataclasses import dataclass
from pathlib import Path

from lima import recipe as recipes
from lima.train import batches, gpus, memory, plan, speed, zero
from lima.train.speed import Place

OFFLOAD, SHARE = "ds_configs/zero3_offload.json", "ds_configs/zero3.json"


@dataclass(frozen=True)
class Remedy:
    """`change`: what to turn, as flags or variables of make; `costs`: what that takes; `need`, `place` and `minutes` (as
    `speed.minutes` gives them) it then has."""

    change: str
    costs: str
    need: memory.Need
    place: Place
    minutes: tuple | None

    @property
    def price(self):
        """What orders remedies: time on all GPUs at the most, a GPU's minute worth its peak. No GPU, no price."""
        return self.place.ranks * self.minutes[1] * self.place.gpu.flops if self.minutes else 0


def find(recipe, config, place, tokens):
    """The remedies that fit, cheapest first; those of one price in the order of what they change. `tokens`: as `forecast.lengths`
    counts them."""
    found = [*_settings(recipe, config, place, tokens), *_machines(recipe, config, place, tokens)]
    quantised = Path(recipe.config).with_name(f"{Path(recipe.config).stem}-qlora.yaml")
    if quantised.is_file():
        lighter, one = _instead(quantised, recipe), Place(place.gpu, 1)
        found.append(
            _judged(lighter, config, one, tokens, f"recipe {quantised.stem}", "frozen 4-bit weights and adapters")
        )
    return sorted(filter(None, found), key=lambda remedy: remedy.price)


def _instead(path, recipe):
    """The recipe at `path`, with what the command line changed of `recipe`."""
    other, own = recipes.load(["--config", str(path)]), recipes.load(["--config", str(recipe.config)])
    for key, value in recipe.given.items():
        if value != own.given.get(key):
            other.given[key] = value
            setattr(other, key, getattr(recipe, key))
    return other


def _settings(recipe, config, place, tokens):
    """Remedies on the same GPUs: the settings that do it alone, then those that only do it together."""
    enough = []
    singles = _turns(recipe, config, place)
    for size in range(1, len(singles) + 1):
        for some in itertools.combinations(singles, size):
            change = {key: value for part, _ in some for key, value in part.items()}
            more = any(other.items() <= change.items() for other in enough)
            if more or len(change) < sum(len(part) for part, _ in some) or _clash(change):
                continue
            other = copy.copy(recipe)
            other.given = {**recipe.given, **change}
            vars(other).update(change)
            words = " ".join(f"--{key} {str(value).replace('True', 'true')}" for key, value in change.items())
            remedy = _judged(other, config, place, tokens, words, "; ".join(costs for _, costs in some))
            if remedy:
                enough.append(change)
                yield remedy


def _turns(recipe, config, place):
    """`[(settings to change, what that costs), …]`, what leaves the gradient alone first."""
    out = []
    if recipe.tokens_per_device > recipe.max_length:
        out.append(({"tokens_per_device": recipe.max_length}, "more micro-batches, the same gradient"))
    if not recipe.gradient_checkpointing:
        out.append(({"gradient_checkpointing": True}, "a third more computing, the same gradient"))
    if recipe.use_peft:
        return out
    ds, eight = zero.read(recipe, config), "8bit" in str(recipe.optim)
    if place.machine.gpu and place.ranks > 1 and (not ds or ds.stage < 3):
        out.append(({"deepspeed": SHARE}, "states shared over the GPUs"))
    if not eight:
        out.append(({"optim": "adamw_bnb_8bit"}, "moments in 8 bits: not the paper's optimiser"))
    if place.machine.gpu and ds and not ds.offload_optimizer:
        whole = {"optim": "adamw_torch_fused"} if eight else {}  # DeepSpeed's Adam on CPUs has no 8 bits
        out.append(({"deepspeed": OFFLOAD, **whole}, "Adam on CPUs"))
    return out


def _clash(change):
    return change.get("deepspeed") == OFFLOAD and "8bit" in change.get("optim", "")


def _machines(recipe, config, place, tokens):
    """Remedies on more GPUs of the kind, and on H100."""
    kinds = {place.gpu.name: place.gpu} if place.machine.gpu else {}
    for kind in {**kinds, "h100-80gb": gpus.named("h100-80gb")}.values():
        count = memory.fewest(recipe, config, kind)
        if count and (count > place.ranks or kind.name != place.gpu.name):
            nodes = max(1, count // gpus.NODE)
            other = Place(kind, count // nodes, nodes)
            change = f"GPUS={other.gpus}" + (f" NODES={nodes}" if nodes > 1 else "") + f" GPU={kind.name}"
            costs = "more GPUs" if kind.name == place.gpu.name else "other GPUs"
            yield _judged(copy.copy(recipe), config, other, tokens, change, costs)


def _judged(recipe, config, place, tokens, change, costs):
    """The `Remedy`, if it fits."""
    need = memory.decide(recipe, config, place.machine)
    if not memory.fits(need, place.machine):
        return None
    if need.offloaded:
        host = memory.host_need(recipe, config, need, place.ranks, place.nodes)
        costs = f"{costs}; {math.ceil(host / memory.GB):,} GB of host memory a node"
    shape, load = batches.lay_out(recipe, tokens, plan.work(config, tokens), place.ranks)
    minutes = speed.minutes(recipe, config, place, load, shape, plan.steps(len(tokens), recipe)[2])
    return Remedy(change, costs, need, place, minutes)
