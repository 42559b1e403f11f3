"""What the report says of runs: epochs, and what answers show without a judge; and how the judges were asked."""

import json
import re
from pathlib import Path

import yaml

from lima import UserError
from lima.evaluate import answers, asking, by_epoch, report_data, report_draw, signals, verdicts
from lima.evaluate.report_data import NONE, PAPER, TO_RATE, Section

EXCERPT = 300  # characters of a hostile answer
MOST = 8  # curves


def datasets(found):
    """`{run's name: its dataset's name}`: `se-filtered-2k` for data/se-filtered-2k/train.jsonl, by which arms are known."""
    named = {}
    for run in found:
        try:
            recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["recipe"]
            path = Path(str(recipe["dataset"]))
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
            continue
        named[run.resolve().name] = path.parent.name if path.suffix else path.name
    return named


# ---- epochs ------------------------------------------------------------------------------------------------------------


def epochs(found, judged, folder):
    """Perplexity beside grades by epoch (appendix B), a run and judge at a time."""
    figures, rows, notes = [], [], [PAPER["perplexity"]["said"]]
    for run in found:
        name = answers.file_name(run.resolve().name)
        mine = [
            one
            for one in judged
            if one.kind == "grade" and re.fullmatch(re.escape(name) + r"-checkpoint-\d+", *one.systems)
        ]
        for prompts, judge in _series(run, mine):
            try:
                series = [row for row in by_epoch.series(run, prompts, judge, folder) if row["epoch"] is not None]
            except UserError:  # nothing there yet
                continue
            rows += [("ours", _epoch(run, row, prompts, judge, folder)) for row in series]
            figures += _curves(run, series, judge, len(figures))
    graded = any(cells[2] != NONE for _, cells in rows)
    if not graded:
        notes.append(
            "not run here: " + TO_RATE.format(kind="grade", prompts="dev").replace("NAME", "NAME/checkpoint-STEP")
        )
    head = ["", "perplexity", "mean grade", "read", "ended by EOT", "median tokens", "set", "judge", "from"]
    state = ("here" if graded else "partial") if rows else "not run here"
    where = PAPER["perplexity"]["where"]
    return Section("epochs", "Perplexity beside grade, by epoch", where, state, figures[:MOST], head, rows, notes)


def _series(run, mine):
    """`[(prompt set, judge), …]` to show a run's epochs by. An ablation has many runs, so an arm's is shown only where several of
    its epochs were graded."""
    found = sorted({(one.prompts, one.judge) for one in mine})
    if (run / "arm.json").exists():
        return [key for key in found if sum((one.prompts, one.judge) == key for one in mine) > 1]
    return found or [("dev", None)]


def _epoch(run, row, prompts, judge, folder):
    name = f"{answers.file_name(run.resolve().name)}-checkpoint-{row['step']}"
    has = row["grade"] is not None
    return [
        f"{run.resolve().name}, epoch {row['epoch']:.4g}",
        NONE if row["perplexity"] is None else f"{row['perplexity']:.2f}",
        "{grade:.2f} ({grade_low:.2f}–{grade_high:.2f})".format(**row) if has else NONE,
        f"{row['graded']} of {row['asked']}" if row["asked"] else NONE,
        signals.percent(row["eot_share"]),
        NONE if row["median_tokens"] is None else f"{row['median_tokens']:.0f}",
        prompts,
        judge or NONE,
        Path(folder) / f"{name}.grade.jsonl" if has else run / "metrics.jsonl",
    ]


def _curves(run, series, judge, number):
    """Up to two figures: perplexity, and grades with their intervals."""
    name, held = (
        run.resolve().name,
        [(row["epoch"], row["perplexity"], None, None) for row in series if row["perplexity"]],
    )
    graded = [(row["epoch"], row["grade"], row["grade_low"], row["grade_high"]) for row in series if row["grade"]]
    both = [(f"{name}: held-out perplexity by epoch", held), (f"{name}: grade by epoch, {judge}", graded)]
    return [
        (f"appendix-b-{number + place}", report_draw.curve(report_draw.cut(title, 50), points), title)
        for place, (title, points) in enumerate(both)
        if points
    ]


def chosen(found):
    """Which epoch was selected in each run (section 3), by whom, and whether it differs from the others."""
    picked = "LIMA 65B, picked by hand between epochs 5 and 10"
    rows, notes = [("paper", [picked, *[NONE] * 5, "50", "the authors", "2023", "the paper"])], []
    for run in found:
        if not (path := run / "selected.json").exists():
            continue
        try:
            made = json.loads(path.read_text(encoding="utf-8"))
            rows += [
                ("ours", [f"{run.resolve().name}, epoch {round(row['epoch'], 2):g}", *_chosen(made, row), path])
                for row in made["table"]
            ]
            notes.append(f"{run.resolve().name}: {made['said']}; judged against {made['against']}")
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{path}: not what `python -m lima.evaluate.select` writes; select again, or remove it"
            ) from None
    notes += [] if notes else ["not run here: make select RUN=runs/NAME JUDGE=MODEL"]
    head = ["", "win", "tie", "lose", "p (Holm)", "perplexity", *report_data.ABOUT]
    state = report_data.state([cells for kind, cells in rows if kind == "ours"])
    return Section("selection", "The epoch that was selected", "section 3", state, [], head, rows, notes)


def _chosen(made, row):
    """The cells of a row of selected.json after the first and before the last."""
    shares = [NONE if row[key] is None else asking.percent(tuple(row[key])) for key in ("win", "tie", "lose")]
    p = "selected" if row["checkpoint"] == made["checkpoint"] else f"{row['p']:.3f}"
    held = NONE if row["perplexity"] is None else f"{row['perplexity']:.2f}"
    whole = made.get("extent") or f"all {made['answered']} prompts"
    part = whole if row["n"] >= made["answered"] else f"partial: {row['n']} of {made['answered']} prompts"
    prompts = f"{part} of {made['prompts']}"
    return [*shares, p, held, prompts, str(made["by"]), str(made["date"])[:10]]


# ---- without a judge ---------------------------------------------------------------------------------------------------


def kept(found, file):
    """`[(label, figures, path), …]` of what a program kept in runs/NAME/generations/FILE, by run, prompt set and step."""
    out = []
    for run in found:
        if not (path := run / "generations" / file).exists():
            continue
        try:
            for prompts, those in sorted(json.loads(path.read_text(encoding="utf-8")).items()):
                for one in sorted(those.values(), key=lambda one: one["step"]):
                    label = signals.Checkpoint(one["step"], one["epoch"], path).label
                    out.append((f"{run.resolve().name}, {label}, {prompts}", one, path))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{path}: not what lima.evaluate.{path.stem} writes; remove it, and run that again"
            ) from None
    return out


def _kept(found, file, name, title, where, head, cells, notes):
    """A section of what was kept in `file`, a row a checkpoint; `cells(figures)` are those of its row."""
    try:
        rows = [[label, *cells(one), path] for label, one, path in kept(found, file)]
    except (KeyError, TypeError):
        raise UserError(
            f"runs/*/generations/{file}: has figures of another form; remove it, and measure again"
        ) from None
    notes = notes if rows else [*notes, f"not run here: python -m lima.evaluate.{Path(file).stem} --run runs/NAME"]
    rows_ = [("ours", [str(cell) if not isinstance(cell, Path) else cell for cell in row]) for row in rows]
    return Section(name, title, where, report_data.state(rows), [], ["", *head, "from"], rows_, notes)


def signs(found):
    """Ends, lengths, repetition, refusals (signals.py)."""

    def cells(one):
        tokens = one["tokens"] or {}
        lengths = "/".join(f"{tokens[key]:.0f}" for key in ("p10", "median", "p90")) if tokens else NONE
        distinct = NONE if one["distinct"]["2"] is None else f"{one['distinct']['2']:.3f}"
        repeat = [NONE if one["repeat"][key] is None else f"{one['repeat'][key]:.0f}" for key in ("median", "longest")]
        shares = [signals.percent(one[key]) for key in ("eot_share", "empty_share", "refusal_share")]
        return [
            one["answers"],
            *shares,
            lengths,
            distinct,
            "/".join(repeat),
            signals.percent(one["language"]["same_share"]),
        ]

    head = [
        "answers",
        "ended by EOT",
        "empty",
        "refusing",
        "tokens",
        "distinct 2-grams",
        "repeated",
        "prompt's language",
    ]
    notes = ["tokens: 10/50/90 %; repeated: words in a row that stand twice in an answer, median/longest; the share that refuses "
             "is a lower bound"]  # fmt: skip
    return _kept(found, "signals.json", "signals", "What answers show without a judge", "", head, cells, notes)


def copies(found):
    """What stands word for word in the training data (copied.py)."""

    def cells(one):
        seen = NONE if one["seen_share"] is None else f"{100 * one['seen_share']:.1f} %"
        row = NONE if one["row"] is None else one["row"]
        return [one["answers"], signals.percent(one["copied_share"]), one["longest"], row, seen, one["prompt_longest"]]

    head = ["answers", "20 words or more", "longest", "of training row", "8-grams seen", "longest of a prompt"]
    notes = ["words in a row that stand in a training response, or a training prompt; below 8 none"]
    return _kept(found, "copied.json", "copied", "Copied from the training data", "", head, cells, notes)


def structure(found):
    """Whether answers keep to a dictated structure (constraints.py)."""
    head = ["answers", "constraints met", "share", "answers that meet all", "prompts", "left to a reader"]
    paper = PAPER["structure"]
    return _kept(
        found,
        "constraints.json",
        "structure",
        "Dictated structure",
        paper["where"],
        head,
        structure_cells,
        [paper["said"]],
    )


def structure_cells(one):
    """The cells of what `constraints.measures` found, by the head of `structure`."""
    met = NONE if one["kept"] is None else asking.percent(tuple(one["kept"]))
    lacking = one["unanswered"]
    said = f"partial: {lacking} prompts unanswered" if lacking else "all answered"
    return [
        one["answers"],
        f"{one['met']} of {one['checked']}",
        signals.percent(one["share"]),
        met,
        said,
        one["open"],
    ]


# ---- how the asking went -----------------------------------------------------------------------------------------------


def asked(judged):
    """Asked, answered, parsed, flipped and the first slot's share, of every judge on every file."""
    rows = []
    for one in judged:
        if one.kind == "pair":
            n = verdicts.counts(one.rows)
            flipped = f"{n['flipped']} of {n['pairs']}" if n["pairs"] else NONE
            first = asking.percent(n["first_slot"]) if n["first_slot"] is not None else NONE
            cells = [str(n[key]) for key in ("asked", "answered", "parsed")] + [flipped, first]
        else:
            read = sum(row[report_data.VALUES[one.kind][0]] is not None for row in one.rows)
            answered = sum(row.get("raw") is not None for row in one.rows)
            cells = [str(len(one.rows)), str(answered), str(read), NONE, NONE]
        rows.append(("ours", [f"{one.label}, {one.kind}", *cells, one.prompts, one.judge, one.date, one.path]))
    head = ["", "asked", "answered", "parsed", "flipped by order", "for the first slot", "set", *report_data.ABOUT[1:]]
    notes = ["what could not be parsed is left out of the figures above, and its text is kept in the file",
             "flipped: the two orders gave different verdicts, which counts as a tie"]  # fmt: skip
    notes = notes if rows else ["not run here: there is no verdict in the folder of judgments"]
    return Section("asking", "How the judges were asked", "", "here" if rows else "not run here", [], head, rows, notes)


def hostile(found, judged):
    """Answers that seem to address their judge, for a person to look at. They were judged like all others."""
    rows, looked = [], {}
    for one in judged:
        for system in one.systems:
            looked.setdefault((system, one.prompts), report_data.answers_of(system, one.prompts, found))
    read = {key: known for key, known in looked.items() if known}
    for (system, prompts), known in read.items():
        texts = {(row["prompt_id"], row["sample"]): row["response"] for row in known.rows}
        for prompt_id, sample, what in verdicts.suspicious(known.rows):
            text = " ".join(texts[prompt_id, sample].split())
            text = text if len(text) <= EXCERPT else text[:EXCERPT] + " …"
            rows.append(("ours", [f"{system}, {prompts} {prompt_id}", what, text, known.path]))
    notes = [f"looked at the answers of {len(read)} of {len(looked)} systems judged: those whose run is named here"]
    notes = notes if looked else ["not run here: nothing was judged"]
    state = "here" if read else "not run here"
    if read and not rows:
        notes.append("none seems to")
    return Section(
        "hostile", "Answers that address their judge", "", state, [], ["", "what", "answer", "from"], rows, notes
    )
