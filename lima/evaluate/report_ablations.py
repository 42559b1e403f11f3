"""The paper's ablations with arms that were run here: figures 5 and 6 (grades), figure 7 (dialogue), appendix E (structure).
Without a run of an arm these sections are what report_data.py and report_runs.py make of systems."""

import itertools

from lima import UserError
from lima.evaluate import (
    answers,
    asking,
    constraints,
    intervals,
    report_arms,
    report_data,
    report_draw,
    report_draw_arms,
    report_runs,
    verdicts,
)
from lima.evaluate.rate import LEVELS
from lima.evaluate.report_arms import ABOUT, READING, difference_cells, judges, missing, seeds, unrated
from lima.evaluate.report_data import NONE, PAPER, TO_RATE, grade

GRADED = (
    "quality",
    "diversity",
    "quantity",
    "open-questions",
)  # ablations whose arms' grades stand in a section of theirs
SET = "structure"  # the prompt set of the structure arms
TALK = (
    "an arm's shares are of all replies of its seeds, its intervals by dialogue, whose replies of all seeds are drawn together; "
    "points under a bar: each seed's two borders; by seed: excellent/pass/fail, in percent"
)

# ---- grades ------------------------------------------------------------------------------------------------------------


def grades(judged, found, datasets, arms, quantity=False):
    """Figure 5 (quality, diversity) or 6 (quantity): a line an arm, then the systems that are no arm's."""
    names = ("quantity",) if quantity else ("quality", "diversity")
    mine = [arm for arm in arms if arm.ablation in names]
    those = report_arms.lines(mine, judged, "grade")
    others = without(judged, report_arms.lines([arm for arm in arms if arm.ablation in GRADED], judged, "grade"))
    alone = report_data.grades(others, found, datasets, quantity)
    how = TO_RATE.format(kind="grade", prompts="test")
    if not those:
        return alone._replace(notes=[*alone.notes, *missing(mine, names), *unrated(mine, those, how)])
    means = [intervals.mean(list(line.groups().values())) for line in those]
    cells, blank = [], [NONE] * (3 if quantity else 4)
    for line, mean, apart in zip(those, means, difference_cells(those), strict=True):
        of_paper = [] if quantity else [paper_cell(line.first)]
        cells.append([line.first.name, grade(mean), *of_paper, per_seed(line), *apart, *report_arms.about(line)])
    rows = [(kind, [label, mean, *blank, *report_arms.undated(rest)]) for kind, (label, mean, *rest) in alone.rows]
    start = sum(kind == "paper" for kind, _ in rows)
    rows[start:start] = [("ours", row) for row in cells]
    drawn = groups(those, means, quantity) + systems(others, datasets, quantity)
    name, _, said = alone.figures[0]
    lost = missing(mine, names)
    return alone._replace(
        state="partial" if lost else report_data.state([row for kind, row in rows if kind == "ours"]),
        figures=[(name, report_draw_arms.means(drawn, range(1, 7)), f"{said}, an arm a line")],
        head=["", "mean grade", *([] if quantity else ["the paper"]), "by seed", "difference", "p (Holm)", *ABOUT],
        rows=rows,
        notes=[
            f"the paper: {alone.notes[0]}",
            *READING,
            *twice(those),
            *judges(those),
            *lost,
            *unrated(mine, those, how),
        ],
    )


def twice(those):
    """A note where a run stands for arms of several ablations."""
    stands = {}
    for line in those:
        stands.setdefault(line.first.run, {}).setdefault(line.first.arm)
    shared = next((names for names in stands.values() if len(names) > 1), None)
    return [f"{' and '.join(shared)} are one training, here the same runs"] if shared else []


def without(judged, those):
    """What was judged and stands in no line."""
    used = {id(one) for line in those for one in line.judged}
    return [one for one in judged if id(one) not in used]


def paper_mean(arm):
    """The paper's mean grade of an arm, or None."""
    return next((row["mean"] for row in PAPER["grades"]["rows"] if arm in row["arms"]), None)


def paper_cell(arm):
    return NONE if paper_mean(arm.arm) is None else f"{paper_mean(arm.arm):.2f}"


def per_seed(line):
    return ", ".join(f"{mean:.2f}" for mean in seed_means(line))


def seed_means(line):
    """The mean grade of each seed, a prompt counting once."""
    return [sum(sum(those) / len(those) for those in one.groups().values()) / len(one.groups()) for one in line.judged]


def groups(those, means, quantity):
    """The lines of figure 5 or 6 as `report_draw_arms.means` has them: those that may be compared under one head."""
    paper, out = PAPER["quantity"], []
    pairs = zip(those, means, strict=True)
    for (ablation, size, judge, prompts), found in itertools.groupby(pairs, key=lambda pair: pair[0].place):
        rows = []
        for line, (mean, low, high) in found:
            numbers = {"mean": mean, "reach": (low, high), "seeds": seed_means(line)}
            numbers |= {"span": (paper["low"], paper["high"])} if quantity else {"paper": paper_mean(line.first.arm)}
            said = f"about {paper['low']}–{paper['high']}" if quantity else paper_cell(line.first)
            below = f"{len(line.groups())} prompts × {seeds(line.arms)}"
            right = "not in the paper" if said == NONE else f"paper {said}"
            rows.append((line.first.arm, grade((mean, low, high)), below, right, numbers))
        out.append((f"{ablation.capitalize()}, {size}, by {judge}" + f" on {prompts}" * (prompts != "test"), rows))
    return out


def systems(judged, datasets, quantity):
    """The systems that are no arm's, as a group of the figure; none without any."""
    rows = [
        (label, grade(found), f"{one.judge} · {len(one.groups())} prompts", "", {"mean": found[0], "reach": found[1:]})
        for label, one, found in report_data.graded(judged, datasets, quantity)
        if found
    ]
    return [("Other systems here", rows[: report_data.SHOWN])] if rows else []


# ---- dialogue ----------------------------------------------------------------------------------------------------------


def dialogue(judged, found, arms):
    """Figure 7: the bars of the two arms, the paper's and ours, then other systems'."""
    mine = [arm for arm in arms if arm.ablation == "dialogue"]
    those = [line for line in report_arms.lines(mine, judged, "level") if "dialogue" in line.prompts]
    others = without(judged, those)
    alone = report_data.levels(others, found, dialogue=True)
    how = TO_RATE.format(kind="level", prompts="dialogue")
    if not those:
        return alone._replace(notes=[*alone.notes, *missing(mine, ["dialogue"]), *unrated(mine, those, how)])
    cells, bars = [], {}
    for line in those:
        clusters = list(verdicts.clusters(line.groups(), line.prompts).values())
        share = intervals.shares(clusters, names=LEVELS, pooled=True)
        apart = [pooled(one) for one in line.judged]
        said = ", ".join("/".join(f"{100 * part:.0f}" for part in one) for one in apart)
        cells.append([line.first.name, *(asking.percent(share[key]) for key in LEVELS), said, *report_arms.about(line)])
        reach = {0: share[LEVELS[0]][1:], 2: share[LEVELS[2]][1:]}
        note = f"n {sum(map(len, clusters))}, {seeds(line.arms)}"
        which = f" on {line.prompts}" * (line.prompts != "dialogue")
        bar = (f"{line.first.size}, by {line.judge}{which}", note, [share[key][0] for key in LEVELS], reach, *apart)
        bars.setdefault(line.judge, {}).setdefault(line.first.arm, []).append(bar)
    rows = [(kind, [*row[:4], NONE, *report_arms.undated(row[4:])]) for kind, row in alone.rows]
    start = sum(kind == "paper" for kind, _ in rows)
    rows[start:start] = [("ours", row) for row in cells]
    rest, _ = report_data.rated(
        [one for one in others if one.kind == "level" and "dialogue" in one.prompts], LEVELS, found
    )
    drawn = beside(bars) + ([("Other systems here", rest[: report_data.SHOWN])] if rest else [])
    lost = missing(mine, ["dialogue"])
    name, _, said = alone.figures[0]
    notes = [note for note in alone.notes if not note.startswith("not run here")]
    return alone._replace(
        state="partial" if lost else report_data.state([row for kind, row in rows if kind == "ours"]),
        figures=[(name, report_draw.bars(drawn, LEVELS), f"{said}, an arm at a time")],
        head=["", *LEVELS, "by seed", *ABOUT],
        rows=rows,
        notes=[TALK, *notes, *judges(those), *lost, *unrated(mine, those, how)],
    )


def pooled(one):
    """The shares of all replies of a system, as LEVELS has them."""
    values = [value for those in one.groups().values() for value in those]
    return [values.count(level) / len(values) for level in LEVELS]


def beside(bars):
    """The paper's bar of each arm with ours under it, judge by judge. bars: `{judge: {arm: [bar, …]}}`."""
    out, known = [], set()
    for ours in bars.values():
        for row in PAPER["dialogue"]["rows"]:
            theirs = (
                "the paper, LIMA 65B",
                f"people · n {row['turns']}",
                [row[key] / 100 for key in LEVELS],
                None,
            )
            out.append((row["set"], [theirs, *(bar for arm in row["arms"] for bar in ours.get(arm, []))]))
            known |= set(row["arms"])
        out += [(arm, those) for arm, those in ours.items() if arm not in known]
    return out


# ---- structure ---------------------------------------------------------------------------------------------------------


def structure(found, arms):
    """Appendix E: how often the answers of arms with and without the examples that dictate a structure keep to one, then what
    constraints.py kept of other runs."""
    mine = [arm for arm in arms if arm.ablation == "structure"]
    answered = [arm for arm in mine if report_arms.system(arm.run, SET)]
    try:
        prompts = constraints.read_prompts(SET) if answered else []
        read = {arm.run: answers.load(arm.run, SET) for arm in answered}
    except UserError as error:
        alone = report_runs.structure(found)
        return alone._replace(notes=[*alone.notes, f"the arms are not shown: {error}"])
    used = {arm.run for arm in answered}
    alone = report_runs.structure([run for run in found if run not in used])
    lost = missing(mine, ["structure"])
    silent = [arm.run.resolve().name for arm in mine if arm not in answered]
    lost += [f"run here, without answers to {SET}: {asking.few(silent)}"] if silent else []
    if not answered:
        return alone._replace(notes=alone.notes + lost)
    rows, drawn = [], []
    for size, those in itertools.groupby(answered, key=lambda arm: arm.size):
        made = [_kept(list(line), read, prompts) for _, line in itertools.groupby(those, key=lambda arm: arm.arm)]
        rows += [("ours", cells) for cells, _ in made]
        drawn.append((f"{size}: answers that meet all, in percent", [bar for _, bar in made if bar]))
    rows += [(kind, [*cells[:5], NONE, *cells[5:]]) for kind, cells in alone.rows]
    notes = [note for note in alone.notes if not note.startswith("not run here")]
    return alone._replace(
        state="partial" if lost else report_data.state([cells for _, cells in rows]),
        figures=[
            (
                "structure",
                report_draw_arms.means(drawn, range(0, 101, 20)),
                "Share of answers that meet all constraints",
            )
        ],
        head=[*alone.head[:5], "by seed", *alone.head[5:]],
        rows=rows,
        notes=[*notes, READING[0], *lost],
    )


def _kept(line, read, prompts):
    """The cells and the row of the figure (None where nothing can be checked) of the runs of one arm."""
    each = [constraints.measures(read[arm.run].rows, prompts) for arm in line]
    one = constraints.measures(
        [row for arm in line for row in read[arm.run].rows], prompts
    )  # a prompt's of all seeds are one draw
    one["unanswered"] = max(found["unanswered"] for found in each)
    apart = [100 * found["kept"][0] for found in each if found["kept"]]
    met, answered = report_runs.structure_cells(one)[:4], report_runs.structure_cells(one)[4:]
    said = ", ".join(f"{value:.0f} %" for value in apart)
    files = {f"seed {arm.seed}": read[arm.run].path for arm in line}
    cells = [line[0].name, *map(str, met), said, f"{answered[0]}, {seeds(line)}", str(answered[1]), files]
    if not one["kept"]:
        return cells, None
    middle, *reach = (100 * value for value in one["kept"])
    below = f"{len(prompts) - one['unanswered']} prompts × {seeds(line)}"
    numbers = {"mean": middle, "reach": reach, "seeds": apart}
    return cells, (line[0].arm, asking.percent(tuple(one["kept"])), below, "no number in the paper", numbers)
