"""Runs side by side: what differs in their recipes, what came of it; a table here and a page with the curves.

    python -m lima.evaluate.compare --runs runs/a runs/b           (make compare RUNS="runs/a runs/b")
    python -m lima.evaluate.compare --group 7b                     every run here of that recipe family
    python -m lima.evaluate.compare --project entity/project       from W&B, with --group those of one group

`--runs` also reads W&B's own folders, such as `runs/a/wandb/offline-run-…`. Only `--project` uses the network.
"""

import argparse
import math
import statistics
import sys
from pathlib import Path

from lima import UserError, exit_codes, runs
from lima.evaluate import compare_page, run_sources
from lima.evaluate.before_after import plain

NONE = "–"
NAMES = 18  # columns of a terminal that are kept for the names of runs
UNSAID = "(default)"  # a recipe that does not say a key
BOOKKEEPING = {"output_dir", "run_name", "logging_dir", "disable_tqdm", "dry_run", "overwrite", "resume", "ignore_fit"}
BESIDE = {  # what the record of a run says beside its recipe
    "config": "recipe",
    "dataset.rows": "dataset rows",
    "dataset.tokens": "dataset tokens",
    "dataset.fingerprint": "dataset fingerprint",
    "batches.ranks": "ranks",
    "hardware.gpu": "gpu",
    "commit": "commit",
}


# ---- what differs ------------------------------------------------------------------------------------------------------


def differences(found):
    """`[(key, [value of each run as text]), …]`: the lines of the recipes that are not the same in all runs, then what else
    makes them differ (data, ranks, commit, versions of libraries)."""
    flat = [_flat(run.record) for run in found]
    keys = dict.fromkeys(key for one in flat for key in one)
    recipe = [key for key in keys if key.startswith("recipe.") and key.split(".")[1] not in BOOKKEEPING]
    rows = [(key.removeprefix("recipe."), [_text(one.get(key, UNSAID)) for one in flat]) for key in sorted(recipe)]
    beside = BESIDE | {key: key.removeprefix("versions.") for key in keys if key.startswith("versions.")}
    rows += [(name, [_text(one.get(key, NONE)) for one in flat]) for key, name in beside.items()]
    return [(key, compare_page.shortened(texts)) for key, texts in rows if len(set(texts)) > 1]


def _flat(record, prefix=""):
    out = {}
    for key, value in record.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def _text(value):
    """A recipe's value as a recipe writes it: 8 and 8.0, which JSON does not tell apart, read the same."""
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return plain(compare_page.private(str(value)))


# ---- what came of it ---------------------------------------------------------------------------------------------------


def figures(found):
    """`[(name, short name or None, [figure of each run as text]), …]`; a figure that no run has is left out."""
    rows = [
        ("loss", "loss", [_last(run, "loss", "{:.3f}") for run in found]),
        *_best(found, "loss", "lowest", None, "{:.3f}"),
        ("held-out loss", "held-out", [_last(run, "eval_loss", "{:.3f}") for run in found]),
        *_best(found, "eval_loss", "lowest", "lowest", "{:.3f}"),
        ("ended by EOT", "EOT", [_last(run, "samples/eot_share", "{:.0%}") for run in found]),
        *_best(found, "samples/eot_share", "highest", None, "{:.0%}"),
        ("mean length, tokens", "tokens", [_last(run, "samples/mean_tokens", "{:.0f}") for run in found]),
        ("repeated 4-grams", None, [_last(run, "samples/repetition", "{:.0%}") for run in found]),
        ("tokens/s, median", "tok/s", [_median(run, "tokens_per_second") for run in found]),
        ("steps", "steps", [f"{max(row['step'] for row in run.rows):,}" for run in found]),
        ("epochs", None, [_last_epoch(run) for run in found]),
        ("minutes", "min", [_minutes(run) for run in found]),
    ]
    return [row for row in rows if set(row[2]) != {NONE}]


def _last(run, key, form):
    curve = run.curve(key)
    return _shown(form, curve[-1][1]) if curve else NONE


def _shown(form, value):
    return form.format(value).replace("%", " %")


def _best(found, key, name, short, form):
    """Two rows: the lowest or highest figure of each run, and the first epoch that had it."""
    sign, best = {"lowest": 1, "highest": -1}[name], []
    for run in found:
        curve = [(sign * value, epoch) for epoch, value in run.curve(key) if math.isfinite(value)]
        best.append(min(curve, default=None))
    return [
        (f"  {name}", short, [_shown(form, sign * pair[0]) if pair else NONE for pair in best]),
        ("  at epoch", None, [f"{pair[1]:.3g}" if pair else NONE for pair in best]),
    ]


def _median(run, key):
    values = [value for _, value in run.curve(key)]
    return f"{statistics.median(values):,.0f}" if values else NONE


def _last_epoch(run):
    return f"{max(row.get('epoch', 0) for row in run.rows):.3g}"


def _minutes(run):
    curve = run.curve("train_runtime")
    return f"{curve[-1][1] / 60:.1f}" if curve else NONE


# ---- the terminal ------------------------------------------------------------------------------------------------------


def show(found, width=None):
    """Prints the comparison within the terminal: runs as columns where they fit, else as numbered rows."""
    from rich.console import Console

    console = Console(width=width, highlight=False)
    changed, came = differences(found), figures(found)
    label = max((len(name) for name, _ in [*changed, *((row[0], 0) for row in came)]), default=0)
    if label + 15 * len(found) <= console.width:
        console.print(_by_column(found, changed, came))
    else:
        console.print(_by_row(found, came, console.width))
        for name, texts in changed:
            console.print(_grouped(name, texts))
    if len(found) > 1 and not changed:
        console.print("the recipes are the same")


def _names(found):
    return compare_page.shortened([plain(run.name) for run in found])


def _by_column(found, changed, came):
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("", no_wrap=True)
    for name in _names(found):
        table.add_column(Text(name), justify="right", overflow="fold")
    for name, texts in changed:
        table.add_row(Text(name), *map(Text, texts))
    if changed:
        table.add_section()
    for name, _, texts in came:
        table.add_row(Text(name), *map(Text, texts))
    return table


def _by_row(found, came, width):
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", justify="right")
    table.add_column("run", overflow="fold", ratio=1)
    shown = [(short, texts) for _, short, texts in came if short]
    while sum(2 + max(map(len, [short, *texts])) for short, texts in shown) > width - NAMES:
        shown.pop()
    for short, _ in shown:
        table.add_column(short, justify="right", no_wrap=True)
    for number, name in enumerate(_names(found)):
        table.add_row(str(number + 1), Text(name), *(Text(texts[number]) for _, texts in shown))
    return table


def _grouped(name, texts):
    """`learning_rate  1e-05 in 1 2 · 2e-05 in 3`: a value and the numbers of the runs that have it."""
    from rich.text import Text

    where = {}
    for number, text in enumerate(texts, 1):
        where.setdefault(text, []).append(str(number))
    line = Text(f"{name}  ", "bold")
    for i, (text, numbers) in enumerate(where.items()):
        line.append(" · " if i else "", "dim").append(text, "default not bold")
        line.append(f" in {' '.join(numbers)}", "dim not bold")
    return line


# ---- which runs --------------------------------------------------------------------------------------------------------


def collect(paths=(), group=None, project=None):
    """The runs to compare, names made unique, and notes on what was left out. Raises `UserError` if there is none."""
    notes = []
    if project:
        found = [run for run in run_sources.read_project(project, group) if _ours(run, notes)]
        if not found:
            raise UserError(
                f"{project}: no run of this repo with numbers in it" + (f" in group {group}" if group else "")
            )
    else:
        found = [run for path in paths for run in run_sources.read(path)]
        found += _group(group, notes) if group else []
    found = list({run.source: run for run in found}.values())
    names = [run.name for run in found]
    for run in found:
        notes += run.notes
        if names.count(run.name) > 1:
            run.name = run.source
    return found, notes


def _ours(run, notes):
    if isinstance(run.record.get("recipe"), dict) and run.rows:
        return True
    notes.append(f"{run.source} ({plain(run.name)}): no recipe or no numbers in it; left out")
    return False


def _group(group, notes):
    found, families = [], set()
    for path in sorted(Path("runs").glob("*/recipe.yaml")):
        try:
            family = run_sources.read_local(path.parent).family
            families.add(family)
            found += run_sources.read(path.parent) if family == group else []
        except UserError as error:
            notes.append(f"{error}; left out")
    if not found:
        raise UserError(
            f"no run of {group} in runs/; the recipe families there: {', '.join(sorted(families)) or 'none'}"
        )
    return found


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", default=[], metavar="PATH", help="runs/NAME, or W&B folders")
    parser.add_argument("--group", help="a recipe family, such as 7b for recipes/7b.yaml")
    parser.add_argument("--project", help="a W&B project as entity/project")
    parser.add_argument("--out", default="report/compare.html", help="the page [%(default)s]")
    args = parser.parse_args(argv)
    if not (args.runs or args.group or args.project):
        raise UserError(
            'nothing to compare; name runs: make compare RUNS="runs/a runs/b", GROUP=7b or PROJECT=entity/project'
        )
    if args.project and args.runs:
        raise UserError("--project and --runs are two places; give one")
    found, notes = collect(args.runs, args.group, args.project)
    runs.write_text(
        args.out, compare_page.page(found, differences(found), figures(found))
    )  # `| head` ends the printing
    show(found)
    for note in notes:
        print(f"warning: {note}")
    print(f"wrote  {args.out}  the curves and answers, in any browser")


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
