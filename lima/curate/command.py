"""The command line that the row-by-row curation steps share: plan, progress by bytes, counts by rule."""

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
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="the data recipe: recipes/data/NAME.yaml")
    parser.add_argument("--raw", required=True, nargs="+", help=f"files or folders: {', '.join(suffixes)}")
    for option in more:
        parser.add_argument(option, nargs="+", default=[], help="files or folders of the same kinds")
    parser.add_argument("--out", required=True, help="folder for candidates.parquet and ledger.parquet")
    parser.add_argument("--seed", type=int, default=0, help="what is chosen at random follows it (default: 0)")
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
