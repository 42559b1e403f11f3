"""The command lines that curation steps share; of the row-by-row ones also the plan, progress by bytes and counts by rule."""

import argparse
from contextlib import ExitStack
from pathlib import Path

from lima import UserError
from lima.curate import ledger, settings


def run(name, defaults, suffixes, work, doc, argv, more=()):
    """Parses `argv` and does `work(step, paths, settings, tick)`, unless what it would write stands already.

    `name`: the section of the data recipe, whose keys are `defaults`. `suffixes`: files that a folder given as --raw is
    searched for. `more`: further options that name files, such as "--comments"; `paths` is a dict, "raw" → files and one
    key an option. `tick(bytes)` moves the bar. Raises `UserError`.
    """
    parser = arguments(doc, f"files or folders: {', '.join(suffixes)}", nargs="+")
    for option in more:
        parser.add_argument(option, nargs="+", default=[], help="files or folders of the same kinds")
    args = vars(parser.parse_args(argv))
    rules = {**settings.section(args["config"], name, defaults), "seed": args["seed"]}
    paths = {key: files(args[key], suffixes) for key in ("raw", *(option.strip("-") for option in more))}
    inputs = [path for found in paths.values() for path in found]
    if ledger.done(args["out"], rules, inputs):
        print(f"{args['out']}: stands already, made from these inputs and settings; nothing to do")
        print(ledger.table(ledger.counts(args["out"])))
        return
    size = sum(path.stat().st_size for path in inputs)
    print(f"{name}: {len(inputs)} file{'s' * (len(inputs) != 1)}, {size / 1e6:,.1f} MB → {args['out']}")
    print("\n".join(f"  {key}: {value}" for key, value in rules.items()))
    with ExitStack() as stack:
        step = stack.enter_context(ledger.Step(args["out"], rules, inputs))
        work(step, paths, rules, stack.enter_context(_bar(size)).update)
    print(ledger.table(step.counts))
    for key, value in step.notes.items():
        print(f"  {key}: {value}")


def arguments(doc, raw, seed="what is chosen at random follows it (default: 0)", **more):
    """The flags of every step. `raw`, `seed`: what --help says of these two; `more`: what else argparse should know of --raw."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="the data recipe: recipes/data/NAME.yaml")
    parser.add_argument("--raw", required=True, help=raw, **more)
    parser.add_argument("--out", required=True, help="folder for candidates.parquet and ledger.parquet")
    parser.add_argument("--seed", type=int, default=0, help=seed)
    return parser


def run_sites(curate, parser, argv):
    """Parses the flags of a step that reads sites, calls `curate` with them, and prints the counts by rule."""
    parser.add_argument("--processes", type=int, default=1, help="sites that are read at the same time (default: 1)")
    parser.add_argument("--keep_truncated", action="store_true", help="keep what was read of a file that ends early")
    args = parser.parse_args(argv)
    if args.processes < 1:
        raise UserError("--processes: expected 1 or more")
    print(ledger.table(curate(**vars(args))))


def _bar(size):
    from tqdm import tqdm

    return tqdm(total=size, unit="B", unit_scale=True, disable=None, leave=False)  # none where stderr is not a terminal


def files(given, suffixes):
    """The files named, and those with one of `suffixes` under the folders named, sorted; `UserError` if there are none."""
    found = []
    for path in map(Path, given):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and p.name.lower().endswith(tuple(suffixes)))
            if not inside:
                raise UserError(f"{path}: no file there that ends in {', '.join(suffixes)}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"{path}: no such file or folder")
    return list(dict.fromkeys(found))


def meter(file, tick):
    """A function to call after each row read from the open binary `file`: it ticks by the bytes read since the last."""
    seen = 0

    def moved():
        nonlocal seen
        place = file.tell()
        tick(place - seen)
        seen = place

    return moved
