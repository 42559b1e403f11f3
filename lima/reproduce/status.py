"""How far the runs of all ablations are, from their files: `make status`.

python -m lima.reproduce.status [--runs runs]
"""

import argparse
import sys
from pathlib import Path

from lima import exit_codes
from lima.reproduce import progress

HEAD = ("ablation", "run", "train", "answer", "judge")


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="runs", type=Path, help="their folder [%(default)s]")
    args = parser.parse_args(argv)
    rows = table(args.runs)
    if not rows:
        print(f"{args.runs}: no run of an ablation there; start one with `make ablation-open-questions SIZE=135m`")
        return
    widths = [max(len(row[column]) for row in [HEAD, *rows]) for column in range(len(HEAD))]
    for row in [HEAD, *rows]:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    open_ = sum(row[2:4] != ("done", "done") for row in rows)
    print(f"\n{len(rows) - open_} of {len(rows)} runs have been trained and have answered")


def table(folder):
    """A row a run, in the order of `HEAD`."""
    rows = []
    for path in sorted(folder.glob(f"*/{progress.ARM}")):
        arm = progress.read(path.parent)
        cells = progress.cells(path.parent, arm)
        rows.append((arm["ablation"], path.parent.name, *(cells[name] for name in HEAD[2:])))
    return sorted(rows)


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
