"""Open questions: what the paper leaves open (the loss on prompts, the ramp, the end token, packing, epochs), an arm each here,
one thing changed from the baseline. Ours alone: the paper has no numbers of them."""

import itertools
import math
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from lima.evaluate import answers, intervals, report_arms, report_data, report_draw_arms, signals
from lima.evaluate.report_ablations import seed_means
from lima.evaluate.report_arms import ABOUT, READING, difference_cells, judges, missing, seeds
from lima.evaluate.report_data import NONE, TO_RATE, Section, grade
from lima.evaluate.run_sources import as_numbers, json_rows
from lima.evaluate.spans import words

NAME = "open-questions"
SET = "test"
REPEATED = 20  # words in a row that stand twice, from which an answer counts as repeating
MEASURES = {  # what it is called in the page, and how a value is written
    "eot": ("by EOT", "{:.0f} %"),
    "tokens": ("tokens", "{:.0f}"),
    "repeated": ("repeating", "{:.0f} %"),
    "loss": ("loss", "{:.2f}"),
}
TITLES = {
    "eot": "Answers ended by EOT",
    "tokens": "Median length of an answer, in tokens",
    "repeated": f"Answers in which {REPEATED} words stand twice",
    "loss": "Held-out loss at the last step",
}


class Measured(NamedTuple):
    """What a run of an arm came to without a judge, None where it has no file for it. path: of the answers. count: of them."""

    arm: report_arms.Arm
    eot: float | None
    tokens: float | None
    repeated: float | None
    loss: float | None
    prompts: frozenset
    count: int
    path: Path


def section(judged, arms):
    """The arms of "open-questions": a panel a measure, an arm a row, its seeds as points."""
    mine = [arm for arm in arms if arm.ablation == NAME]
    found = [measure(arm) for arm in mine]
    those = report_arms.lines(mine, judged, "grade")
    by_arm = [list(group) for _, group in itertools.groupby(found, key=lambda one: (one.arm.size, one.arm.arm))]
    means = [intervals.mean(list(line.groups().values())) for line in those]
    rows = [("ours", cells) for cells in table(by_arm, those, means)]
    lost = missing(mine, [NAME])
    lost += [f"{one.arm.run.resolve().name}: no answers to {SET} yet" for one in found if not one.count]
    lost += [f"{one.arm.run.resolve().name}: its held-out loss is {one.loss}" for one in found if not finite(one.loss)]
    state = ("partial" if lost else report_data.state([cells for _, cells in rows])) if rows else "not run here"
    head = ["", *(name for name, _ in MEASURES.values()), "mean grade", "difference", "p (Holm)", *ABOUT]
    figures = panels(by_arm) + graded(those, means)
    notes = [*reading(mine, found, those), *lost] if rows else [f"not run here: make ablation-{NAME} SIZE=135m SEEDS=3"]
    return Section(NAME, "Open questions", "ours: no numbers in the paper", state, figures, head, rows, notes)


# ---- measured ----------------------------------------------------------------------------------------------------------


def measure(arm):
    """`Measured` by the functions of signals.py, on the answers that a judge would see."""
    rows, path = [], arm.run / "metrics.jsonl"
    if report_arms.system(arm.run, SET):
        _, path, rows = answers.load(arm.run, SET)
    eot = signals.eot_share(rows)
    repeated = signals.share(repeats(row["response"]) for row in rows)
    return Measured(
        arm,
        None if eot is None else 100 * eot,
        (signals.spread(signals.token_counts(rows)) or {}).get("median"),
        None if repeated is None else 100 * repeated,
        last_loss(arm.run) if rows else None,  # an arm answers once it is trained
        frozenset(row["prompt_id"] for row in rows),
        len(rows),
        path,
    )


def repeats(text):
    """Whether `REPEATED` words in a row stand in it twice, without overlap: whether `spans.longest_repeat` is as long, without
    looking for the longest."""
    spoken, first = words(text), {}
    for place in range(len(spoken) - REPEATED + 1):
        if place - first.setdefault(tuple(spoken[place : place + REPEATED]), place) >= REPEATED:
            return True
    return False


def last_loss(run):
    """The held-out loss of the last step that has one."""
    rows = map(as_numbers, json_rows(run / "metrics.jsonl", {"step", "eval_loss"}, []))
    found = {row["step"]: row["eval_loss"] for row in rows if {"step", "eval_loss"} <= row.keys()}
    return found[max(found)] if found else None


def values(line, key):
    """Of the seeds that have one."""
    return [value for one in line if (value := getattr(one, key)) is not None and finite(value)]


def finite(value):
    return value is None or math.isfinite(value)


# ---- shown -------------------------------------------------------------------------------------------------------------


def panels(by_arm):
    """A figure a measure; of several base sizes a group each, for they are not held against each other."""
    out, several = [], len({line[0].arm.size for line in by_arm}) > 1
    for key, title in TITLES.items():
        groups = []
        for size, those in itertools.groupby(by_arm, key=lambda line: line[0].arm.size):
            rows = [(line[0].arm.arm, fmean(found), found) for line in those if (found := values(line, key))]
            groups += [(size if several else "", rows)] if rows else []
        if groups:
            drawn = report_draw_arms.panel(title, groups, MEASURES[key][1])
            out.append((f"open-{key}", drawn, f"Open questions: {title.lower()}, by arm and seed"))
    return out


def graded(those, means):
    """The panel of grades: a group for each base, judge and prompt set."""
    groups = []
    pairs = zip(those, means, strict=True)
    for (_, size, judge, prompts), found in itertools.groupby(pairs, key=lambda pair: pair[0].place):
        rows = [(line.first.arm, mean, seed_means(line)) for line, (mean, *_) in found]
        groups.append((f"{size}, by {judge}" + f" on {prompts}" * (prompts != SET), rows))
    if not groups:
        return []
    drawn = report_draw_arms.panel("Mean grade of helpfulness, 1 to 6", groups, "{:.2f}")
    return [("open-grade", drawn, "Open questions: mean grade, by arm and seed")]


def table(by_arm, those, means):
    """A row an arm, and one more for each further judge of it."""
    out, apart = [], difference_cells(those)
    for line in by_arm:
        arm, cells = line[0].arm, []
        for key, (_, form) in MEASURES.items():
            found = values(line, key)
            cells.append(form.format(fmean(found)) if found else NONE)
        prompts = {one.prompts for one in line}
        said = f"{len(frozenset.union(*prompts))} × {seeds(line)}"
        said = said if len(prompts) == 1 and all(prompts) else f"partial: {said}, not all have all"
        graded_ = [n for n, one in enumerate(those) if one.first[1:4] == arm[1:4]]
        for n in graded_:
            judged, *rest = report_arms.about(those[n])
            judged += f"; measured on {seeds(line)}" * (len(line) != len(those[n].arms))
            out.append([arm.name, *cells, grade(means[n]), *apart[n], judged, *rest])
            cells = [NONE] * len(cells)
        if not graded_:
            out.append([arm.name, *cells, *[NONE] * 3, said, NONE, {f"seed {one.arm.seed}": one.path for one in line}])
    return out


def reading(mine, found, those):
    """Notes below what was run."""
    n = sorted({len(list(group)) for _, group in itertools.groupby(mine, key=lambda arm: (arm.size, arm.arm))})
    prompts = sorted({len(one.prompts) for one in found if one.count})
    many = f", {' to '.join(map(str, dict.fromkeys((prompts[0], prompts[-1]))))} prompts of {SET}" if prompts else ""
    few = f"{' to '.join(map(str, dict.fromkeys((n[0], n[-1]))))} seed{'s' * (n != [1])} an arm"
    sizes = ", ".join(dict.fromkeys(arm.size for arm in mine))
    notes = [
        f"{few} of a base of {sizes}{many}: few seeds on a small model show little, and nothing where two arms' points overlap",
        "points: seeds; tick and number: their mean; the upright line: the baseline's, or the first arm's that is there; loss: "
        "held out, at the last step",
        f"repeating: an answer in which {REPEATED} words in a row stand twice; held-out loss is of responses and their end token, "
        "so eot-vs-eos, which has another, is not to be held against the baseline",
    ]
    how = TO_RATE.format(kind="grade", prompts=SET)
    notes += [*READING, *report_arms.unrated(mine, those, how)] if those else [f"no grades yet: {how}"]
    return notes + judges(those)
