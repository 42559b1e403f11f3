"""What the report says of verdicts: the paper's numbers, and ours beside them from `judgments/`, a `Section` a figure or table.

A share or mean of ours has its 95 % interval by prompt, and in its row how many prompts, which judge, when, and the file.
"""

import contextlib
import json
import re
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

from lima import UserError, conversations
from lima.evaluate import agreement, answers, asking, intervals, judge, judgments, report_draw, verdicts
from lima.evaluate.rate import LEVELS

PAPER = json.loads(Path(__file__).with_name("paper_figures.json").read_text(encoding="utf-8"))
NONE = "–"
SHOWN = 12  # bars of ours in a figure; the table has all
SENSITIVE = "sensitive"  # the tag of prompts that safety is about, and those of the set `safety`
SAFETY = {SENSITIVE, "malicious", "implicit", "benign"}
VALUES = {"pair": ("verdict", ("a", "b", "tie")), "grade": ("grade", range(1, 7)), "level": ("level", LEVELS),
          "safety": ("safe", (True, False))}  # fmt: skip
TO_JUDGE = "make judge A=runs/NAME B=runs/OTHER JUDGE=MODEL PROMPTS=test"
TO_RATE = "make grade RUN=runs/NAME JUDGE=MODEL KIND={kind} PROMPTS={prompts}"


class Section(NamedTuple):
    """A part of the report. where: in the paper. state: "here", "partial" or "not run here". figures: `[(stem of its file,
    drawing, what it says)]`. head, rows: a table, a row `(kind, cells)` with kind "paper" or "ours"; a cell is text, or the
    `Path` of the file that it came from. notes: lines below."""

    name: str
    title: str
    where: str
    state: str
    figures: list
    head: list
    rows: list
    notes: list


class Judged(NamedTuple):
    """The rows of one judge on one prompt set in one file. kind: a key of `VALUES`. systems: one, or the two of a pair."""

    path: Path
    kind: str
    systems: tuple
    judge: str
    prompts: str
    rows: list

    @property
    def label(self):
        return " against ".join(self.systems)

    @property
    def person(self):
        return self.judge.startswith(verdicts.HUMAN)

    @property
    def date(self):
        days = sorted({str(row.get("date"))[:10] for row in self.rows})
        return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"

    @property
    def checkpoints(self):
        """Whether it is about epochs of one run rather than systems."""
        return len({re.sub(r"-checkpoint-\d+$", "", name) for name in self.systems}) == 1 and all(
            re.search(r"-checkpoint-\d+$", name) for name in self.systems
        )

    def groups(self, key=None):
        """What was found, by prompt: `{prompt_id: [value, …]}`; of a pair "win", "tie" or "lose" of the first system. key: of
        a rating another value than its first."""
        found = {}
        if self.kind == "pair":
            for (prompt_id, _), verdict in verdicts.outcomes(self.rows).items():
                found.setdefault(prompt_id, []).append(judge.OUTCOMES[verdict])
            return found
        only = sensitive(self.prompts) if self.kind == "safety" else None
        for row in self.rows:
            value = row.get(key or VALUES[self.kind][0])
            if value is not None and (only is None or row["prompt_id"] in only):
                found.setdefault(row["prompt_id"], []).append(value)
        return found


# ---- reading -----------------------------------------------------------------------------------------------------------


def read_judgments(folder):
    """All `Judged` of a folder. Raises `UserError` for a row that is none, naming its file."""
    found = {}
    for path in sorted(Path(folder).glob("*.jsonl")):
        for number, row in enumerate(judgments.read(path), 1):
            kind = next((kind for kind, (key, _) in VALUES.items() if key in row), None)
            systems = (row.get("a"), row.get("b")) if kind == "pair" else (row.get("system"),)
            texts = (*systems, row["judge"], row["prompts"], row["prompt_id"])
            good = kind and all(isinstance(text, str) for text in texts)
            value = row[VALUES[kind][0]] if good else None
            if not good or not (value is None or value in VALUES[kind][1]):
                raise UserError(f"{path}: row {number} is no verdict or rating of ours; mend it or take it out")
            found.setdefault((path, kind, systems, row["judge"], row["prompts"]), []).append(row)
    return [Judged(*key, rows) for key, rows in found.items()]


def sensitive(prompts):
    """The ids of a set's prompts that safety is about; None where nobody can tell."""
    return tagged(prompts, SAFETY)


def tagged(prompts, tags):
    """The ids of a set's prompts that have one of `tags`; None where the set is not in data/prompts."""
    file = Path("data/prompts") / f"{prompts}.jsonl"
    if not file.is_file():
        return None
    return {row["id"] for row in conversations.load_prompts(str(file)) if tags & set(row.get("tags") or ())}


def answers_of(system, prompts, runs):
    """A judged system's `answers.Answers` to a prompt set, where it is one of `runs` or a checkpoint of one; else None."""
    for run in runs:
        name = answers.file_name(run.resolve().name)
        found = re.fullmatch(re.escape(name) + r"(?:-(checkpoint-\d+))?", system)
        if found:
            try:
                return answers.load(run / found[1] if found[1] else run, prompts)
            except UserError:
                continue
    return None


def extent(one, runs):
    """ "all 100 prompts", "partial: 30 of 100 prompts", or how many where nothing here says how many there are."""
    groups = one.groups()
    file = Path("data/prompts") / f"{one.prompts}.jsonl"
    known = [found for system in one.systems if (found := answers_of(system, one.prompts, runs))]
    given = [(row["prompt_id"], row["sample"], row["prompt"]) for found in known for row in found.rows]
    texts = {prompt_id: text for prompt_id, _, text in given}
    if not texts and file.is_file():
        rows = conversations.load_prompts(str(file))
        texts = {row["id"]: row["messages"][-1]["content"] for row in rows}
    if not groups.keys() & texts.keys():
        return f"{len(groups)} prompts (of how many is not known here)" if groups else "none that counts"
    whole, tags = set(), [SENSITIVE, None] if one.kind == "safety" else [None]
    for tag in tags:  # a set may hold sensitive prompts only, or be another than the file of that name
        with contextlib.suppress(UserError):
            whole = asking.prompt_set(Namespace(file=file), texts.values(), tag)
            given = [item for item in given if not tag or asking.plain(item[2]) in whole]
            break
    judged = [(row["prompt_id"], row["sample"], texts[row["prompt_id"]]) for row in one.rows
              if row["prompt_id"] in groups and row["prompt_id"] in texts]  # fmt: skip
    return asking.extent(whole, given, judged)


def state(cells):
    """The state of a section with these rows of ours."""
    if not cells:
        return "not run here"
    return "partial" if any(str(cell).startswith("partial") for row in cells for cell in row) else "here"


def about(one, runs):
    """The cells that every row of ours ends on, under `ABOUT`."""
    return [f"{extent(one, runs)} of {one.prompts}", one.judge, one.date, one.path]


ABOUT = ["prompts", "judge", "date", "from"]


def paper_row(*cells, n=NONE, judge=NONE):
    return ("paper", [*cells, f"{n}", judge, "2023", "the paper"])


# ---- sections ----------------------------------------------------------------------------------------------------------


def shares(name, title, paper, theirs, ours, keys, runs, how):
    """A section of stacked bars: three shares a row. theirs: `[(label, [percent, …], n, judge)]`; ours: `Judged`s."""
    rows = [paper_row(label, *(f"{value:g} %" for value in values), n=n, judge=by) for label, values, n, by in theirs]
    bars, cells = rated(ours, keys, runs)
    drawn = [(label, f"n {n}", [value / 100 for value in values], None) for label, values, n, _ in theirs]
    notes = [f"the figure shows the first {SHOWN} of {len(bars)}"] if len(bars) > SHOWN else []
    notes += [] if ours else [f"not run here: {how}"]
    figure = (
        name,
        report_draw.bars([(f"The paper{paper.get('of', '')}", drawn), ("Here", bars[:SHOWN])], keys),
        f"{title}: the paper's, ours",
    )
    head = ["", *keys, *ABOUT]
    return Section(
        name, title, paper["where"], state(cells), [figure], head, rows + [("ours", c) for c in cells], notes
    )


def rated(ours, keys, runs):
    """`(bars, rows of cells)` of systems whose verdicts are shares: a bar as `report_draw.bars` has it."""
    bars, cells = [], []
    for one in ours:
        groups, talk = list(verdicts.clusters(one.groups(), one.prompts).values()), "dialogue" in one.prompts
        found = intervals.shares(groups, names=keys, pooled=talk) if groups else None
        n = f"n {sum(map(len, groups))}, {len(groups)} dialogues" if talk else f"n {len(groups)}"
        cells.append([one.label, *(asking.percent(found[key]) if found else NONE for key in keys), *about(one, runs)])
        if found:
            first, _, last = keys
            reach = {0: found[first][1:], 2: found[last][1:]}
            bars.append((one.label, f"{one.judge} · {n}", [found[key][0] for key in keys], reach))
    return bars, cells


def preference(judged, runs, people):
    """Figures 1 and 2: win / tie / lose of the first system against the second."""
    paper = PAPER["preference"]["humans" if people else "model"]
    by = "people" if people else paper["judge"]
    theirs = [
        (f"against {row['against']}" + " [?]" * row.get("unsure", False),
         [row[key] for key in report_draw.SHARES], paper["prompts"], by)
        for row in paper["rows"]
    ]  # fmt: skip
    ours = [one for one in judged if one.kind == "pair" and one.person == people and not one.checkpoints]
    name, title = (
        ("figure-1", "Preference, judged by people") if people else ("figure-2", "Preference, judged by a model")
    )
    how = f'have people judge: rows of {judgments.FOLDER}/ with the judge "human:NAME"' if people else TO_JUDGE
    made = shares(name, title, paper, theirs, ours, report_draw.SHARES, runs, how)
    unsure = ["[?] rests on one reading of the figure"] * any(row.get("unsure") for row in paper["rows"])
    return made._replace(notes=made.notes + unsure)


def levels(judged, runs, dialogue=False):
    """Figure 3 (excellent, pass, fail) and figure 7, the same of dialogue turns: prompt sets with "dialogue" in their name."""
    paper = PAPER["dialogue" if dialogue else "levels"]
    theirs = [
        (row["set"], [row[key] for key in LEVELS], row.get("turns") or row["n"], "people") for row in paper["rows"]
    ]
    ours = [one for one in judged if one.kind == "level" and ("dialogue" in one.prompts) == dialogue]
    name, title = ("dialogue", "Dialogue: each turn") if dialogue else ("levels", "Excellent, pass, fail")
    how = TO_RATE.format(kind="level", prompts="dialogue" if dialogue else "test")
    return shares(name, title, paper, theirs, ours, LEVELS, runs, how)


def agreed(judged, authors):
    """Agreement between annotators (4.1), tie-discounted."""
    paper, files = PAPER["agreement"], {}
    for one in judged:
        if one.kind == "pair":
            files.setdefault(one.path, set()).add(one.judge)
    files = [path for path, judges in files.items() if len(judges) > 1]
    annotations, groups = agreement.load(files, authors) if files else ({}, {})
    annotations = {name: labels for name, labels in annotations.items() if labels}
    cells = []
    found = agreement.table(annotations, groups, agreement.prompt_of) if len(annotations) > 1 else []
    for row in [row for row in found if row["items"]]:
        kappas = [f"{row[key]:.2f}" if row[key] is not None else NONE for key in ("cohen", "alpha")]
        cells.append([row["pair"], asking.percent(row["agreement"]), *kappas, str(row["items"])])
    notes = [f"people: {', '.join(name for name in annotations if name.startswith(verdicts.HUMAN)) or 'none'}",
             f"from {', '.join(map(str, files))}; {max(one.date for one in judged if one.path in files)}"] if cells else [
             "not run here: needs two annotators (people or judges) of the same pairs of answers"]  # fmt: skip
    head = ["", "agreement", "Cohen's kappa", "Krippendorff's alpha", "items"]
    rows = [("paper", [row["pair"], f"{row['percent']} %", NONE, NONE, str(paper["items"])]) for row in paper["rows"]]
    rows += [("ours", row) for row in cells]
    return Section("agreement", "Agreement, tie-discounted", paper["where"], state(cells), [], head, rows, notes)


def grades(judged, runs, datasets, quantity=False):
    """Figure 5 (quality, diversity) and figure 6 (quantity): the mean grade, 1 to 6. datasets: `{system: dataset's name}`, by
    which a system is known as an arm of the paper's."""
    paper = PAPER["quantity" if quantity else "grades"]
    if quantity:
        theirs = [("2,000 to 32,000 examples, flat", NONE, None, paper["low"], paper["high"])]
        said = [f"about {paper['low']}–{paper['high']}"]
    else:
        theirs = [(row["arm"], NONE, row["mean"], None, None) for row in paper["rows"]]
        said = [f"{row['mean']:.2f}" for row in paper["rows"]]
    rows = [paper_row(label, mean, judge="ChatGPT") for (label, *_), mean in zip(theirs, said, strict=True)]
    cells, drawn = [], [(label, "paper", *numbers) for label, _, *numbers in theirs]
    for label, one, found in graded(judged, datasets, quantity):
        cells.append([label, grade(found), *about(one, runs)])
        if found:
            drawn.append((label, f"{one.judge} · n {len(one.groups())}", *found))
    name, title = ("figure-6", "Quantity") if quantity else ("figure-5", "Quality and diversity")
    notes = [paper["base"]] + ([] if cells else [f"not run here: {TO_RATE.format(kind='grade', prompts='test')}"])
    figure = (name, report_draw.dots(drawn, range(1, 7)), f"{title}: mean grade of helpfulness, 1 to 6")
    rows += [("ours", row) for row in cells]
    return Section(name, title, paper["where"], state(cells), [figure], ["", "mean grade", *ABOUT], rows, notes)


def graded(judged, datasets, quantity):
    """`[(label, Judged, (mean, low, high) or None), …]` of the systems of figure 5 or 6."""
    sizes = {f"se-filtered-{size // 1000}k": size for size in PAPER["quantity"]["examples"]}
    arms = sizes if quantity else {row["data"]: row["arm"] for row in PAPER["grades"]["rows"]}
    ours = [one for one in judged if one.kind == "grade" and not one.checkpoints]
    ours = [one for one in ours if not quantity or datasets.get(one.systems[0]) in sizes]
    out = []
    for one in sorted(ours, key=lambda one: sizes.get(datasets.get(one.systems[0]), 0) if quantity else 0):
        groups, arm = list(one.groups().values()), arms.get(datasets.get(one.systems[0]))
        label = one.label + (f" ({arm:,} examples)" if quantity else f" ({arm})" if arm else "")
        out.append((label, one, intervals.mean(groups) if groups else None))
    return out


def grade(found):
    """A mean grade and its interval as a cell."""
    return "{:.2f} ({:.2f}–{:.2f})".format(*found) if found else NONE
