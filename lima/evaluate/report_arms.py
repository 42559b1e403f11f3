"""Arms of ablations that were run here (runs/NAME/arm.json): the runs of one arm, base size and judge as one line of the report.

A line's mean and interval are by prompt: what all its seeds' answers to a prompt were graded is one draw. A run of an arm
counts once, by the checkpoint whose answers stand for it (`answers.find`), and by that checkpoint's own file of judgments.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

from lima import UserError
from lima.evaluate import answers, asking, intervals, report_data
from lima.evaluate.report_data import NONE
from lima.evaluate.select import holm

FILE = "arm.json"
KEYS = {"ablation": str, "arm": str, "size": str, "seed": int, "label": str}
ABLATIONS = {  # their arms in the order of the paper's; the others are held against the first
    "quality": ("quality-filtered", "quality-unfiltered"),
    "diversity": ("diversity-stackexchange", "diversity-wikihow"),
    "quantity": ("quantity-2k", "quantity-4k", "quantity-8k", "quantity-16k", "quantity-32k"),
    "dialogue": ("dialogue-without", "dialogue-with"),
    "structure": ("structure-without", "structure-with"),
    "open-questions": ("baseline", "loss-on-all", "no-ramp", "eot-vs-eos", "packing", "epochs"),
}
SAME = (
    ("quality", "quality-filtered"),
    ("diversity", "diversity-stackexchange"),
    ("quantity", "quantity-2k"),
)  # one training
ABOUT = [
    name for name in report_data.ABOUT if name != "date"
]  # which stands with each file, under "How the judges were asked"
DEV = "dev"  # chooses, and reports nothing
READING = [
    "an arm's mean and interval are by prompt, the answers of all its seeds to a prompt drawn together; so the interval says "
    "what other prompts would give, and the seeds what other seeds would",
    "difference: from the arm called reference, on the same base, by the same judge, paired by prompt, the seeds taken as they "
    "are; p by Holm's correction over the differences of one ablation, base and judge",
]


class Arm(NamedTuple):
    """A run of an arm. run: its folder; the rest is what its arm.json says."""

    run: Path
    ablation: str
    arm: str
    size: str
    seed: int
    label: str

    @property
    def name(self):
        return f"{self.arm}, {self.size}"


class Line(NamedTuple):
    """What one judge said of one arm on one prompt set. arms: its runs by seed; judged: the same runs' `Judged`."""

    arms: list
    judged: list

    @property
    def first(self):
        return self.arms[0]

    @property
    def judge(self):
        return self.judged[0].judge

    @property
    def prompts(self):
        return self.judged[0].prompts

    @property
    def place(self):
        """Lines that may be compared have all of this in common."""
        return self.first.ablation, self.first.size, self.judge, self.prompts

    def groups(self):
        """`{prompt_id: [value, …]}` of all seeds."""
        found = {}
        for one in self.judged:
            for prompt_id, values in one.groups().items():
                found.setdefault(prompt_id, []).extend(values)
        return found


# ---- reading -----------------------------------------------------------------------------------------------------------


def read(found):
    """The `Arm`s among runs, in the paper's order; a run of one of `SAME` is one of the others too where these have none of their
    own. Raises `UserError` for an arm.json that is none, and for two runs of one seed of one arm, which would count twice."""
    here = {}
    for arm in map(_read, [run for run in found if (run / FILE).exists()]):
        if other := here.get(arm[1:5]):
            raise UserError(
                f"{other.run} and {arm.run}: both are seed {arm.seed} of {arm.name}, which would count twice; "
                "move one away, or name runs with --runs"
            )
        here[arm[1:5]] = arm
    for arm in list(here.values()):
        if (arm.ablation, arm.arm) in SAME:
            for ablation, name in SAME:
                here.setdefault((ablation, name, arm.size, arm.seed), arm._replace(ablation=ablation, arm=name))
    return sorted(here.values(), key=order)


def _read(run):
    path = run / FILE
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        values = {key: said[key] for key in KEYS}
    except (OSError, ValueError, KeyError, TypeError):
        values = {}
    good = values and all(type(values[key]) is kind for key, kind in KEYS.items())
    if not good or values["ablation"] not in ABLATIONS:
        raise UserError(
            f"{path}: expected an object with {', '.join(KEYS)}; ablation is one of {', '.join(ABLATIONS)}, seed a number; "
            "mend it, or remove it"
        )
    return Arm(run, **values)


def order(arm):
    """By ablation, base size and arm, as the paper has them, then by seed."""
    known = ABLATIONS[arm.ablation]
    place = known.index(arm.arm) if arm.arm in known else len(known)
    return list(ABLATIONS).index(arm.ablation), parameters(arm.size), arm.size, place, arm.arm, arm.seed


def parameters(size):
    """`135m` → 135, `7b` → 7,000; a size of another form comes last."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mb])", size.lower())
    return float(found[1]) * {"m": 1, "b": 1000}[found[2]] if found else float("inf")


def system(run, prompts):
    """The name under which the run's answers to a prompt set are judged, or None without answers."""
    try:
        return answers.file_name(answers.find(run, prompts)[1])
    except UserError:
        return None


def lines(arms, judged, kind):
    """The `Line`s of one kind of rating: by ablation and base size, then judge and prompt set, then arm, as the paper has them."""
    judged = [one for one in judged if one.kind == kind and one.prompts != DEV]
    known, found = {}, {}
    for prompts in {one.prompts for one in judged}:
        for arm in arms:
            known.setdefault((system(arm.run, prompts), prompts), []).append(arm)
    for one in judged:
        if one.path.name != f"{one.systems[0]}.{kind}.jsonl" or not one.groups():  # a copy beside it would count twice
            continue
        for arm in known.get((one.systems[0], one.prompts), ()):
            which = order(arm)
            found.setdefault((*which[:3], one.judge, one.prompts, *which[3:-1]), []).append((arm, one))
    return [Line(*map(list, zip(*sorted(found[key], key=_seed), strict=True))) for key in sorted(found)]


def _seed(pair):
    return pair[0].seed


# ---- cells -------------------------------------------------------------------------------------------------------------


def about(line):
    """The cells that a line's row ends on, under `ABOUT`: how many prompts and seeds, judge, files by seed."""
    said = [report_data.extent(one, [arm.run]) for arm, one in zip(line.arms, line.judged, strict=True)]
    whole = said[0]
    if len(set(said)) > 1:
        parts = [(arm.seed, text) for arm, text in zip(line.arms, said, strict=True)]
        less = [(seed, text.removeprefix("partial: ")) for seed, text in parts if text.startswith("partial")] or parts
        whole = f"partial: {', '.join(f'seed {seed} {text}' for seed, text in less)}"
    files = {f"seed {arm.seed}": one.path for arm, one in zip(line.arms, line.judged, strict=True)}
    return [f"{whole} of {line.prompts}, {seeds(line.arms)}", line.judge, files]


def undated(cells):
    """A row of a system, which ends on `report_data.ABOUT`, under the head of arms."""
    return [*cells[:-2], cells[-1]]


def seeds(arms):
    return f"{len(arms)} seed" + "s" * (len(arms) != 1)


def differences(those):
    """`{place in the list: (difference, low, high, p)}` of grades from the first arm of each ablation, where that was graded on the
    same base by the same judge on the same prompts; p by Holm's correction over those of one such group."""
    out, places = {}, {}
    for place, line in enumerate(those):
        places.setdefault(line.place, []).append(place)
    for group in places.values():
        reference = next((n for n in group if those[n].first.arm == ABLATIONS[those[n].first.ablation][0]), None)
        if reference is None:
            continue
        base, found = those[reference].groups(), {}
        for place in group:
            mine = those[place].groups()
            if place != reference and (shared := sorted(mine.keys() & base.keys())):
                found[place] = intervals.difference([mine[key] for key in shared], [base[key] for key in shared])
        adjusted = holm({place: p for place, (*_, p) in found.items()})
        out |= {place: (*numbers, adjusted[place]) for place, (*numbers, _) in found.items()}
    return out


def difference_cells(those):
    """The two cells of each line under "difference" and "p (Holm)"."""
    found, cells = differences(those), []
    for place, line in enumerate(those):
        if place in found:
            middle, low, high, p = found[place]
            said = f"{middle:+.2f} ({low:+.2f} to {high:+.2f})".replace("-", "−")
            cells.append([said, "<0.001" if p < 0.001 else f"{p:.3f}"])
        else:
            cells.append(["reference" if line.first.arm == ABLATIONS[line.first.ablation][0] else NONE, NONE])
    return cells


def missing(arms, names):
    """Notes on arms of these ablations that no run is of."""
    if not arms:
        return [f"the arms: {', '.join(f'make ablation-{name}' for name in names)}"]
    have, notes = {(arm.ablation, arm.arm) for arm in arms}, []
    for name in names:
        if lost := [arm for arm in ABLATIONS[name] if (name, arm) not in have]:
            notes.append(f"not run here: {', '.join(lost)}; make ablation-{name}")
    return notes


def unrated(arms, those, how):
    """A note on the runs of these arms that stand in no line."""
    rated = {arm.run for line in those for arm in line.arms}
    lost = [arm.run.resolve().name for arm in arms if arm.run not in rated]
    return [f"run here and not judged: {asking.few(lost)}; {how}"] if lost else []


def judges(those):
    """A note where more than one judged."""
    found = sorted({line.judge for line in those})
    if len(found) < 2:
        return []
    return [
        f"judged by {', '.join(found)}: what different judges said is in lines of its own and is not to be compared"
    ]
