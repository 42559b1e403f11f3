"""The page of a comparison: one HTML file with its data, styles and script in it, nothing fetched from anywhere.

The table is written here; `compare.html` draws the curves and the answers from the data. Every name and text in it came from
a model, a dataset or a server: here it is escaped, there it only ever becomes text.
"""

import html
import json
import math
import os
import re
from pathlib import Path

CHARTS = [  # key, title, how a value is shown (see `show` in compare.html)
    ("loss", "Loss", "loss"),
    ("eval_loss", "Held-out loss", "loss"),
    ("samples/eot_share", "Answers ended by EOT", "share"),
    ("samples/mean_tokens", "Mean length of an answer, tokens", "count"),
    ("tokens_per_second", "Tokens per second", "count"),
]
COLOURS = 8  # in compare.html; beyond them, lines are dashed
ACROSS = 6  # runs that fit as columns
NOISY = 100  # points from which on a curve is also drawn as a moving mean


def page(found, changed, came):
    """The page, from runs, `compare.differences` and `compare.figures` of them."""
    data = {
        "runs": [
            {"name": run.name, "short": short, "source": private(run.source)}
            for run, short in zip(found, shortened([run.name for run in found]), strict=True)
        ],
        "charts": [chart for chart in (_chart(found, *spec) for spec in CHARTS) if chart],
        "prompts": _prompts(found),
    }
    template = (Path(__file__).parent / "compare.html").read_text(encoding="utf-8")
    count = f"{len(found)} run{'s' if len(found) > 1 else ''} compared"
    fills = {"COUNT": count, "TABLE": table(found, changed, came), "DATA": as_script(data)}
    filled = re.sub(r"<!--([A-Z]+)-->", lambda place: fills[place[1]], template)
    return filled.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair in an answer is not UTF-8


def as_script(data):
    """JSON that can stand in `<script type="application/json">`, whatever text is in it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def private(text):
    """`~` for the home folder, as W&B has it: a page may be shown to others."""
    home = str(Path.home())
    return text if home == "/" else re.sub(rf"{re.escape(home)}(?=/|$)", "~", text)


def shortened(texts):
    """Names or paths without the words that all of them begin with: `…lr1-seed0`, `…/b/train.jsonl`."""
    shared = re.match(r"(.*/|.*[_-])?", os.path.commonprefix(texts))[0]  # noqa: RUF071  any text, not only paths
    slash = shared.endswith("/")
    return [f"…{text[len(shared) - slash :]}" for text in texts] if len(shared) > 8 and len(texts) > 1 else texts


# ---- the table ---------------------------------------------------------------------------------------------------------


def table(found, changed, came):
    """Recipe differences and figures as HTML: runs as columns where they fit, else as rows, with the main figures only."""
    rows = [("recipe", name, texts) for name, texts in changed]
    if len(found) <= ACROSS:
        rows += [("of" if name.startswith(" ") else "figure", name.strip(), texts) for name, _, texts in came]
        first = next((i for i, row in enumerate(rows) if row[0] != "recipe"), None)
        body = [
            f'<tr class="{kind}{" first" if i == first else ""}">{_head(html.escape(name))}{"".join(map(_cell, texts))}</tr>'
            for i, (kind, name, texts) in enumerate(rows)
        ]
        heads = [_head(_run(number, run), "col") for number, run in enumerate(found)]
    else:
        rows += [("figure", short, texts) for _, short, texts in came if short]
        body = [
            f"<tr>{_head(_run(number, run))}{''.join(_cell(texts[number]) for _, _, texts in rows)}</tr>"
            for number, run in enumerate(found)
        ]
        heads = [_head(html.escape(name), "col", kind) for kind, name, _ in rows]
    return "\n".join([f"<thead><tr><td></td>{''.join(heads)}</tr></thead>", *body])


def _head(safe, scope="row", kind=""):
    return f'<th scope="{scope}" class="{kind}">{safe}</th>'


def _run(number, run):
    key = f'<i class="key c{number % COLOURS}{" square" * (number >= COLOURS)}"></i>'
    return f'<span class="head" title="{html.escape(private(run.source))}">{key}{html.escape(run.name)}</span>'


def _cell(text):
    return f"<td>{html.escape(text)}</td>"


# ---- the curves --------------------------------------------------------------------------------------------------------


def _chart(found, key, title, form):
    """A chart's curves, one a run (empty where it has none), as `[[epoch, value], …]`; None if no run has any."""
    curves = [[point for point in run.curve(key) if all(map(math.isfinite, point))] for run in found]
    if not any(curves):
        return None
    means = [moving_mean(curve, len(curve) // 40) if len(curve) >= NOISY else [] for curve in curves]
    return {"title": title, "form": form, "curves": _rounded(curves), "means": _rounded(means)}


def moving_mean(curve, reach):
    """The curve with each value the mean of those up to `reach` points before and after it."""
    out = []
    for i, (epoch, _) in enumerate(curve):
        values = [value for _, value in curve[max(0, i - reach) : i + reach + 1]]
        out.append((epoch, sum(values) / len(values)))
    return out


def _rounded(curves):
    return [[[float(f"{epoch:.5g}"), float(f"{value:.5g}")] for epoch, value in curve] for curve in curves]


# ---- the answers -------------------------------------------------------------------------------------------------------


def _prompts(found):
    """`[{"prompt", "answers": [[{"epoch", "text", "end", "tokens"}, …] of each run]}, …]`, in the order first asked."""
    prompts = {}
    for number, run in enumerate(found):
        last = {
            (row.get("step"), str(row["prompt_id"])): row for row in run.samples
        }  # a resumed run may have asked twice
        for (_, name), row in last.items():
            one = prompts.setdefault(name, {"prompt": str(row["prompt"]), "answers": [[] for _ in found]})
            one["answers"][number].append(
                {
                    "epoch": _finite(row.get("epoch")) or 0.0,
                    "text": str(row["response"]),
                    "end": str(row.get("finish_reason") or ""),
                    "tokens": _finite(row.get("tokens")),
                }
            )
    for one in prompts.values():
        for answers in one["answers"]:
            answers.sort(key=lambda answer: answer["epoch"])
    return list(prompts.values())


def _finite(value):
    return value if isinstance(value, int | float) and math.isfinite(value) else None
