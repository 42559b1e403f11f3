"""What a model's card says of its evaluation: the figures that `make report` has left in report/figures.json."""

import json
from pathlib import Path

from lima import UserError
from lima.publish.card import text

FILE = Path("report/figures.json")
TITLES = {
    "pair": "against {against}",
    "grade": "helpfulness, 1 to 6",
    "level": "excellent, pass, fail",
    "safety": "safe",
}


def read(run):
    """The figures on answers of `run`, by its folder's name; none where nothing was judged, or no report was made."""
    if not FILE.is_file():
        return []
    try:
        rows = json.loads(FILE.read_text(encoding="utf-8"))
        return [row for row in rows if row["system"] == Path(run).resolve().name and row["values"]]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{FILE}: not what `make report` writes; make it again") from None


def section(rows):
    """The card's part on evaluation; "" where there is none."""
    if not rows:
        return ""
    lines = ["| | result (95 %, by prompt) | judge | prompts | date |", "|---|---|---|---|---|"]
    for row in rows:
        title = TITLES[row["kind"]].format(against=row["against"])
        cells = [title, said(row), row["judge"], f"{row['of']} of {row['prompts']}", row["date"]]
        lines.append(f"| {' | '.join(text(cell) for cell in cells)} |")
    return "## Evaluation\n\nBoth orders were asked of each pair; a disagreement is a tie.\n\n" + "\n".join(lines)


def said(row):
    """ "win 54 % (48–60), tie …", or "4.12 (3.90–4.31)"."""
    if row["kind"] == "grade":
        return "{:.2f} ({:.2f}–{:.2f})".format(*row["values"]["grade"])
    shares = {name: [f"{100 * number:.0f}" for number in found] for name, found in row["values"].items()}
    return ", ".join(f"{name} {mean} % ({low}–{high})" for name, (mean, low, high) in shares.items())


def metadata(rows):
    """The same as the Hub's `model-index` knows it; a part of a prompt set is left out."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=row["prompts"],
            dataset_name=f"{row['prompts']} prompts",
            metric_type=f"{row['kind']}_{name}",
            metric_name=f"{name}, {TITLES[row['kind']].format(against=row['against'])}, judged by {row['judge']}",
            metric_value=round(found[0], 4),
        )
        for row in rows
        if not row["of"].startswith("partial")
        for name, found in row["values"].items()
    ]
