"""The planner: what a recipe would need and take on machines that need not be here. `make plan-NAME`."""

import argparse
import copy
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from lima import UserError, hub, recipe, turns
from lima.train import gpus, memory, plan, speed, zero
from lima.train.memory import GB
from lima.train.speed import Place

LIMA = Path(__file__).parents[2] / "benchmarks/lima_lengths.json"
ABOUT = """usage: python -m lima.train.plan --config recipes/NAME.yaml [--gpu KIND] [--gpus N] [--nodes N]
                                [--price DOLLARS] [--interconnect GB/s] [--key value ...]

Prints what a recipe needs of memory, by part, and what it takes of time and money, on GPUs that
need not be here. Downloads no weights and starts nothing. If it does not fit, says what would,
cheapest first: by GPU time, each kind's valued at its peak rate.

  --gpu KIND           {kinds},
                       or cpu for this machine without one [the GPUs here; h100-80gb without any]
  --gpus N             GPUs a node [those here; else the fewest that hold the recipe]
  --nodes N            nodes [1]
  --price DOLLARS      a GPU and hour
  --interconnect GB/s  a GPU and direction, between nodes, or within the only one [the vendor's]
  --key value          any line of the recipe, such as --tokens_per_device 2048

  python -m lima.train.plan --config recipes/65b.yaml                         the fewest H100 that hold LIMA
  python -m lima.train.plan --config recipes/65b.yaml --nodes 4 --gpus 8 --price 2.5
  python -m lima.train.plan --config recipes/7b.yaml --gpu rtx4090-24gb --gpus 1

Through make: make plan-65b GPU=h100-80gb GPUS=8 NODES=4 PRICE=2.5

Memory is that of a full micro-batch. Weights, gradients and optimiser are counted as DeepSpeed holds
them, activations measured on fake tensors. Time is computing at {low:.0%} to {high:.0%} of the
GPU's bf16 peak, or traffic at {reached:.0%} of the links' rate where that is more: assumed, not measured.
"""


@dataclass(frozen=True)
class Forecast:
    """One recipe on one `Place`, judged: `shape` and `load` are what `batches.lay_out` made of it, `minutes` what
    `speed.minutes` gave."""

    place: Place
    need: memory.Need
    fits: bool
    host: float
    disk: float
    shape: object
    load: object
    steps: int
    minutes: tuple | None


def lengths(args):
    """`(tokens of every example, where they are from)`, without asking the network. Raises `UserError` for a file not there.

    Of a local file with the base's tokenizer; of GAIR/lima as listed in benchmarks/; of a local file without a tokenizer a
    token per four characters; of anything else LIMA's.
    """
    from lima import conversations

    listed = [min(total, args.max_length) for total, _ in json.loads(LIMA.read_text())["lengths"]]
    if args.dataset == "GAIR/lima":
        more = "" if args.exclude_sources else ", without its 30 dialogues"
        return listed, f"{args.dataset}: lengths as listed, in LLaMA's tokens{more}"
    if not Path(args.dataset).exists() and not args.dataset.endswith(conversations.SUFFIXES):
        return listed, f"{args.dataset}: not here; LIMA's lengths instead"
    data = conversations.of_recipe(args)
    if (Path(args.model_name_or_path) / "tokenizer.json").is_file():
        tokenizer = turns.load_tokenizer(args.model_name_or_path, recipe.base_command(args.config))
        found = turns.encode_all(tokenizer, data.rows, args.max_length, args.loss_on, args.over_length).lengths
        return found, data.name
    counts = [sum(len(message["content"]) // 4 + 1 for message in row["messages"]) + 1 for row in data.rows]
    kept = [min(n, args.max_length) for n in counts if n <= args.max_length or args.over_length != "drop"]
    return kept, f"{data.name}: no tokenizer yet, so about four characters a token"


def dimensions(args):
    """The base's transformers config. Raises `UserError` where neither this repo nor the Hub can say."""
    config = memory.base_config(args)
    if config is not None:
        return config
    from huggingface_hub import hf_hub_download
    from transformers import AutoConfig

    name = _base(args)
    if not hub.is_name(name):
        raise UserError(f"{name}: no config.json there, and its dimensions are not in lima/train/shapes.json")
    with hub.reading(name, "model", "add its dimensions to lima/train/shapes.json"):
        path = hf_hub_download(name, "config.json", revision=args.base_revision)
    try:
        return AutoConfig.from_pretrained(path)
    except ValueError as error:
        raise UserError(f"{name}: its config.json cannot be read ({str(error).splitlines()[0]})") from None


def _base(args):
    return args.base or args.model_name_or_path


def judge(args, config, place, tokens):
    """The `Forecast` of a recipe on a `Place`. Raises `UserError` where its ranks cannot share the examples of a step."""
    from lima.train import batches

    args.gradient_checkpointing = args.given.get("gradient_checkpointing")
    here = place.machine
    if place.ranks > args.global_batch_size:
        raise UserError(
            f"{place} are {place.ranks} ranks, and a step has {args.global_batch_size} examples (global_batch_size): use "
            f"{args.global_batch_size} GPUs at most"
        )
    need = memory.decide(args, config, here)
    batches.packed(args, tokens)
    shape, load = batches.lay_out(args, tokens, plan.work(config, tokens), place.ranks)
    each, _, total = plan.steps(len(tokens), args)
    host = memory.host_need(args, config, need, place.ranks, place.nodes) if here.gpu else need.peak * place.gpus
    disk = memory.disk_need(args, memory.parameters(config), math.ceil(total / each))
    time = speed.minutes(args, config, place, load, shape, total)
    return Forecast(place, need, memory.fits(need, here), host, disk, shape, load, total, time)


def choose(options, args, config):
    """`(Place, why it)`: what the command line names, else the GPUs here, else the fewest H100 that hold the recipe."""
    rate = options.interconnect * 1e9 if options.interconnect else None
    if options.gpu == gpus.CPU:
        ranks = options.gpus or 1
        return Place(_host(ranks), ranks, options.nodes or 1), "no GPU, as asked"
    found = None if options.gpu else gpus.present()
    if found:
        return Place(found[0], options.gpus or found[1], options.nodes or 1, rate), "the GPUs here"
    if not (options.gpu or options.gpus or options.nodes or args.deepspeed or args.use_peft):
        one = Place(_host(1), 1)
        if memory.fits(memory.decide(copy.copy(args), config, one.machine), one.machine):
            return one, "this machine; it has no GPU"
    kind = gpus.named(options.gpu or "h100-80gb")
    absent = "" if options.gpu else "no GPU here: "
    if options.gpus or options.nodes:
        return Place(kind, options.gpus or gpus.NODE, options.nodes or 1, rate), f"{absent}as asked"
    count = memory.fewest(args, config, kind)
    if count is None:
        count = args.global_batch_size // gpus.NODE * gpus.NODE or args.global_batch_size
        nodes = max(1, count // gpus.NODE)
        return Place(kind, count // nodes, nodes, rate), f"{absent}as many as a step has examples"
    nodes = max(1, count // gpus.NODE)
    return Place(kind, count // nodes, nodes, rate), f"{absent}the fewest that hold it"


def _host(ranks):
    """This machine without a GPU, its memory shared by `ranks`."""
    return gpus.Gpu(gpus.CPU, memory.host_memory() // ranks, None, None, None)


def show(args, config, found, why, tokens, source, price):
    """Prints a `Forecast` within the terminal's width."""
    place, need, shape = found.place, found.need, found.shape
    unit = "GPU" if place.machine.gpu else "rank"
    each, last, total = plan.steps(len(tokens), args)
    plan.show(
        f"{args.run_name} on {place}",
        [
            ("machine", why),
            ("base", f"{_base(args)} · {memory.parameters(config):,} parameters"),
            ("data", source),
            ("tokens", f"{sum(tokens):,} an epoch of {len(tokens):,} examples · longest {max(tokens):,}, median "
             f"{statistics.median(tokens):,.0f}"),
            ("batch", f"{shape.size} examples a step = {plan.many(place.ranks, 'rank')} × "
             f"{plan.many(shape.micro, 'micro-batch', 'es')} of at most {shape.budget:,} tokens · balance "
             f"{found.load.balance:.3f} (max/mean)"),
            ("steps", f"{each:,} an epoch, the last with {last} · {total:,} in all over {args.num_train_epochs:g} epochs"),
        ],
    )  # fmt: skip
    print("\n".join(table(args, config, found, unit)))
    room = place.gpu.memory * memory.MARGIN
    within = f"{memory.LIBRARIES / GB:.0f} a rank, and what is offloaded or gathered to be saved"
    within = within if place.machine.gpu else "all of its ranks' together"
    lines = [
        ("", f"{'fits' if found.fits else 'DOES NOT FIT'}: {need.peak / GB:,.1f} of {room / GB:,.1f} GB, {memory.MARGIN:.0%} of "
         f"the {place.gpu.memory / GB:,.1f} that a {unit} has"),
        ("host", f"{found.host / GB:,.0f} GB of memory a node, at least: {within}"),
        ("disk", f"{found.disk / GB:,.1f} GB at most, beside the base"),
        ("time", _time(found)),
    ]  # fmt: skip
    if price and found.minutes:
        low, high = (minutes / 60 * place.ranks * price for minutes in found.minutes[:2])
        lines.append(("cost", f"{span(low, high)} dollars at {price:g} a GPU and hour, loading and saving aside"))
    plan.show_lines(lines)


def table(args, config, found, unit):
    """The parts of memory as lines of text, with what each is."""
    need, ds = found.need, zero.read(args, config)
    ranks = found.place.ranks
    half = "bf16" if memory.way(args, True, ds).bf16_weights else "fp32"
    weights = "4-bit, rest bf16" if args.load_in_4bit else half
    owner = f"ZeRO-{ds.stage} over {ranks}" if ds and ds.stage else "whole on every rank" if ranks > 1 else ""
    said = {
        "weights": ", ".join(filter(None, (weights, owner if not ds or ds.stage == 3 else ""))),
        "gradients": f"{8 * memory.gradient_bytes(args, ds)} bits" + (", of what is trained" if args.use_peft else ""),
        "optimiser": getattr(args.optim, "value", str(args.optim)) + (", with fp32 weights" if ds and ds.half else ""),
        "buffers": "gradients on their way between ranks" if ranks > 1 or ds else "" if unit == "GPU" else "PyTorch's own",
        "activations": f"{args.tokens_per_device:,} tokens, layers {'recomputed' if args.gradient_checkpointing else 'kept'}",
        "loss and temporaries": "a tile of logits, a gradient at a time",
        "gathered layers": f"{half} weights in use" if ranks > 1 else "one rank holds them whole",
    }  # fmt: skip
    if ds and ds.offload_optimizer:
        said["gradients"] = said["optimiser"] = "in host memory"
    elif need.offloaded:
        said["optimiser"] += f", {need.offloaded / ranks / GB:.1f} on the host"  # where room is short
    if ds and ds.offload_param:
        said["weights"] = "in host memory"
    sizes = {**need.states, "buffers": need.buffers, **need.passing}
    lines = [f"  memory   GB a {unit}, estimated"]
    lines += [_row(name, size, said[name]) for name, size in sizes.items() if size or said[name]]
    if need.stepping:
        lines.append(_row("the optimiser's step", need.stepping, "instead of the pass; fp32 gradients"))
    return [*lines, _row("peak", need.peak)]


def _row(name, size, said=""):
    return f"           {name:<20}{size / GB:8,.1f}   {said}".rstrip()  # within 80 columns


def _time(found):
    if not found.minutes:
        return "not estimated: the peak rate of this device is not known"
    return f"{_duration(found.minutes)}, loading and saving aside (estimated; bound by {found.minutes[2]})"


def _duration(minutes):
    low, high, _ = minutes
    scale, unit = (60, "hours") if low >= 90 else (1, "minutes")
    return f"{span(low / scale, high / scale)} {unit}"


def span(low, high):
    digits = 0 if high >= 10 else 1
    low, high = f"{low:,.{digits}f}", f"{high:,.{digits}f}"
    return low if low == high else f"{low}–{high}"


def main(argv):
    if {"-h", "--help"} & set(argv):
        kinds = ", ".join(gpus.TABLE).replace(" a6000", "\n                       a6000")
        return print(ABOUT.format(kinds=kinds, low=speed.MFU[0], high=speed.MFU[1], reached=speed.REACHED))
    from lima.train import remedies

    options, words = _options(argv)
    args = recipe.load(words)
    config = dimensions(args)
    zero.read(args, config)
    if options.gpu and options.gpu != gpus.CPU:
        gpus.named(options.gpu)
    place, why = choose(options, args, config)
    tokens, source = lengths(args)
    found = judge(args, config, place, tokens)
    show(args, config, found, why, tokens, source, options.price)
    if not found.fits:
        _say_remedies(remedies.find(args, config, place, tokens))


def _options(argv):
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--gpu")
    for name in ("--gpus", "--nodes"):
        parser.add_argument(name, type=int)
    for name in ("--price", "--interconnect"):
        parser.add_argument(name, type=float)
    try:
        options, words = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"{error.argument_name}: {error.message}") from None
    for name in ("gpus", "nodes", "price", "interconnect"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name} {value:g}: must be a number above 0")
    return options, words


def _say_remedies(found):
    if not found:
        return print("  Nothing that this planner knows would make it fit; a smaller model would.\n")
    print("  What would fit, cheapest first (a GPU's time valued at its peak rate):")
    lines = []
    for number, remedy in enumerate(found, 1):
        unit = "GPU" if remedy.place.machine.gpu else "rank"
        time = f" · {_duration(remedy.minutes)}" if remedy.minutes else ""
        size = f"{remedy.need.peak / GB:,.1f} GB a {unit}"
        lines.append((f"      {number}", f"{remedy.change} · {size} on {remedy.place}{time} · {remedy.costs}"))
    plan.show_lines(lines)
