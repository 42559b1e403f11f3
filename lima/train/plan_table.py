"""Every recipe on common machines, as one Markdown table: memory a GPU and time, estimated. `make plan`.

python -m lima.train.plan_table [--write]      --write puts it into README.md, between its marks
"""

import copy
import re
import sys
from pathlib import Path

from lima import UserError, exit_codes, recipe, runs
from lima.train import forecast, gpus
from lima.train.memory import GB
from lima.train.speed import Place

MACHINES = (
    ("rtx4090-24gb", 1, 1),
    ("h100-80gb", 1, 1),
    ("a100-40gb", 8, 1),
    ("a100-80gb", 8, 1),
    ("h100-80gb", 8, 1),
    ("h200-141gb", 8, 1),
    ("h100-80gb", 8, 2),
    ("h100-80gb", 8, 4),
)  # (kind, GPUs a node, nodes)
MARKS = "<!-- make plan -->", "<!-- end of make plan -->"
README = Path("README.md")


def names():
    """The recipes for GPUs, smaller bases first."""
    found = [path.stem for path in Path("recipes").glob("*.yaml") if path.stem not in ("lima", "quickstart")]
    return sorted(found, key=lambda name: (_size(name), name))


def _size(name):
    size = re.match(r"(\d+)([bm])", name)
    return int(size[1]) * {"b": 1e9, "m": 1e6}[size[2]] if size else 0


def cell(args, config, place, tokens):
    """What a recipe takes on a `Place`, `GB a GPU · minutes`, or why it does not run there."""
    try:
        found = forecast.judge(copy.copy(args), config, place, tokens)
    except UserError:
        return "too many"  # more ranks than a step has examples
    if not found.fits:
        return "–"
    low, high, _ = found.minutes
    return f"{found.need.peak / GB:.0f} · {'< 1' if high < 1 else forecast.span(low, high)}"


def table(chosen=None, tick=lambda: None):
    """The table's lines in Markdown, for the recipes `chosen` (names) or all; `tick` is called after every cell."""
    places = [Place(gpus.named(kind), each, nodes) for kind, each, nodes in MACHINES]
    heads = [" × ".join([*([str(p.nodes)] if p.nodes > 1 else []), str(p.gpus), _short(p.gpu.name)]) for p in places]
    lines = ["| | " + " | ".join(heads) + " |", "|---" + "|---:" * len(heads) + "|"]
    for name in chosen or names():
        args = recipe.load(["--config", f"recipes/{name}.yaml"])
        config = forecast.dimensions(args)
        tokens, _ = forecast.lengths(args)
        cells = []
        for place in places:
            cells.append(cell(args, config, place, tokens))
            tick()
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return lines


def _short(kind):
    """`h100-80gb` → `H100 80`: its memory only where a kind comes with several."""
    name, memory = kind.removesuffix("gb").split("-")
    several = sum(other.startswith(f"{name}-") for other in gpus.TABLE) > 1
    return f"{name.upper()} {memory} GB" if several else name.upper().replace("RTX", "RTX ")


def write(lines):
    """Puts the table between README's marks. Raises `UserError` where they are gone."""
    text = README.read_text(encoding="utf-8")
    before, mark, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not mark or not end:
        raise UserError(f"{README}: expected the marks {MARKS[0]} and {MARKS[1]}, for the table to go between")
    runs.write_text(README, f"{before}{mark}\n" + "\n".join(lines) + f"\n{end}{after}")


def main(argv):
    if set(argv) - {"--write"}:
        return print(__doc__)
    from tqdm import tqdm

    with tqdm(total=len(names()) * len(MACHINES), desc="planning", unit="cell", leave=False) as bar:
        lines = table(tick=bar.update)
    print("\n".join(lines))
    print("\nGB a GPU at the peak · minutes, saving aside; – does not fit. Estimated; `make plan-NAME` says how.")
    if "--write" in argv:
        write(lines)
        print(f"written into {README}")


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
