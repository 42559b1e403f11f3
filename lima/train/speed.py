"""How long a run takes, saving aside: the larger of computing and of moving weights and gradients, which overlap.

Assumed, not measured: the share of a GPU's peak that training reaches (`MFU`) and the share of a link's rate (`REACHED`).
"""

from dataclasses import dataclass

from lima.train import gpus, memory, zero

MFU = (0.35, 0.50)  # of the dense bf16 peak
MFU_4BIT = (0.20, 0.35)  # weights are dequantised on the way
REACHED = 0.7  # of a link's rate by NCCL
PCIE = 32e9 * REACHED  # bytes a second between a GPU and host memory
HOST = 100e9  # bytes a second that a node's CPUs move while they run Adam
ADAM = 28  # bytes that Adam reads and writes a parameter


@dataclass(frozen=True)
class Place:
    """`gpus` of a kind on each of `nodes`. `rate`: bytes a second a GPU that replaces the table's slowest link."""

    gpu: object
    gpus: int
    nodes: int = 1
    rate: float | None = None

    @property
    def ranks(self):
        return self.gpus * self.nodes

    @property
    def machine(self):
        """What each of its ranks has."""
        name = None if self.gpu.name == gpus.CPU else self.gpu.name
        return memory.Machine(self.ranks, name, self.gpu.memory)

    def __str__(self):
        return f"{self.ranks} × {self.gpu.name}" + (f" ({self.nodes} nodes of {self.gpus})" if self.nodes > 1 else "")


def minutes(recipe, config, place, load, shape, steps):
    """`(least, most, what bounds them)` of a run whose `batches.Load` is `load`; None where the GPU's peak is not known."""
    if not place.gpu.flops:
        return None
    units = (2 if recipe.use_peft else 3) + (1 if recipe.gradient_checkpointing else 0)  # forward passes' worth
    work = load.spent * units / 3
    shares = MFU_4BIT if recipe.load_in_4bit else MFU
    computing = [work / (place.ranks * place.gpu.flops * share) for share in reversed(shares)]
    moving = traffic(recipe, config, place, shape.micro) * steps
    waiting = offloading(recipe, config, place, shape.micro) * steps
    bound = "traffic" if moving > computing[-1] else "computing" if moving < computing[0] else "both"
    least, most = (max(seconds, moving) + waiting for seconds in computing)
    return least / 60, most / 60, "offloading" if waiting > most / 2 else bound


def traffic(recipe, config, place, micro):
    """Seconds a step between GPUs: under ZeRO-3 the weights gathered twice and the gradients scattered, a micro-batch."""
    if place.ranks == 1:
        return 0
    ds, count = zero.read(recipe, config), memory.parameters(config)
    weights, gradients = _bytes(recipe, config, ds, count)
    if ds and ds.stage == 3:
        moved = micro * (2 * weights + gradients)
    elif ds and ds.stage == 2:
        moved = micro * gradients + weights
    else:
        moved = 2 * gradients  # DDP: a ring's all-reduce, on the last micro-batch
    moved *= (place.ranks - 1) / place.ranks  # by rings: what a GPU takes in, and all of a node's adapters together
    if place.nodes == 1:
        return moved / (place.rate or place.gpu.link) / REACHED
    return moved / min(place.gpu.link, (place.rate or place.gpu.net) * place.gpus) / REACHED


def _bytes(recipe, config, ds, count):
    """Of all weights and of all gradients, as they travel."""
    weight = 2 if memory.way(recipe, True, ds).bf16_weights else 4
    gradient = weight if ds else memory.gradient_bytes(recipe, ds)
    return weight * count, gradient * memory.trained(recipe, config)


def offloading(recipe, config, place, micro):
    """Seconds a step that host memory adds: weights to the GPUs for each pass, gradients back, and Adam on CPUs."""
    ds, count = zero.read(recipe, config), memory.parameters(config)
    if not ds or not (ds.offload_optimizer or ds.offload_param):
        return 0
    share = 2 * count / place.ranks
    weights = 2 * share * micro if ds.offload_param else share
    if not ds.offload_optimizer:
        return weights / PCIE
    return (weights + share * micro) / PCIE + ADAM * count / place.nodes / HOST
