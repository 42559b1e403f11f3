"""How far annotators agree, people and judges, beside the paper's figures (4.1).

    python -m lima.evaluate.agreement judgments/lima-vs-alpaca.jsonl [FILE ...]
        [--authors anna ben]

A model's two orders are combined first (a disagreement is a tie). People
(`human:NAME`) are the crowd, or authors where `--authors` names them; every
model is a group of its own. Identical answers, which nobody was asked about,
are left out.

    agreement  tie-discounted accuracy: 1 if two annotators agree, 1/2 if
               exactly one says tie, else 0; by item: the mean over the pairs
               of annotators that labelled it, then over the items of a
               prompt, then over prompts, with a 95 % interval by prompt
    Cohen      his kappa, chance taken off: the mean over those pairs
    Fleiss     his kappa of a whole group, on the items that all of it labelled
    alpha      Krippendorff's (nominal) of a whole group, gaps allowed

The paper's figures are of 50 items that all labelled, and its model is GPT-4.
Labels given at random reach 50 % and more: read kappa or alpha too.
"""

import argparse
import json
import sys
from collections import Counter
from itertools import combinations, product
from pathlib import Path

import numpy as np

from lima import UserError, exit_codes
from lima.evaluate import intervals, judgments, verdicts

LABELS = ("a", "b", "tie")
VERDICT = {"a", "b", "order", "verdict", "raw"}  # what a row has beside what every judgment has
CROWD, AUTHOR = "crowd", "author"
PAPER = Path(__file__).with_name("paper_figures.json")
PAPER_MODEL = "GPT-4"

# ---- two annotators ----------------------------------------------------------------------------------------------------


def score(label, other):
    """1 if two labels agree, ½ if exactly one is a tie, else 0."""
    return 1.0 if label == other else 0.5 if "tie" in (label, other) else 0.0


def tie_discounted(x, y):
    """The mean `score`, 0 to 1, of two annotators (`{item: "a" | "b" | "tie"}`) over the items that both labelled. Raises
    `UserError` where there is none."""
    both = _both(x, y)
    return sum(score(x[item], y[item]) for item in both) / len(both)


def cohen(x, y):
    """Cohen's kappa (1960) of two annotators (`{item: label}`) over the items that both labelled; None if each gave one
    label throughout, the same. Raises `UserError` where no item is shared."""
    both = _both(x, y)
    agreed = sum(x[item] == y[item] for item in both) / len(both)
    of_x, of_y = (Counter(one[item] for item in both) for one in (x, y))
    chance = sum(of_x[label] * of_y[label] for label in of_x) / len(both) ** 2
    return (agreed - chance) / (1 - chance) if chance < 1 else None


def _both(x, y):
    if not (both := [item for item in x if item in y]):
        raise UserError("agreement: no item that both annotators labelled; have them label the same ones")
    return both


# ---- a group -----------------------------------------------------------------------------------------------------------


def fleiss(table):
    """Fleiss' kappa (1971) of counts, items × labels, each row with the same sum of at least 2; None if one label has all.
    Raises `UserError` for other rows."""
    table = np.asarray(table, dtype=float)
    if table.ndim != 2 or not len(table) or table[0].sum() < 2 or (table.sum(1) != table[0].sum()).any():
        raise UserError("Fleiss' kappa: expected as many labels of every item, two or more; use Krippendorff's alpha")
    raters = table[0].sum()
    agreed = ((table**2).sum(1) - raters).mean() / (raters * (raters - 1))
    chance = ((table.sum(0) / table.sum()) ** 2).sum()
    return float((agreed - chance) / (1 - chance)) if chance < 1 else None


def krippendorff(ratings):
    """Krippendorff's alpha for nominal labels of a list of annotators (`{item: label}`, each may lack items); None if all
    labels are the same, or no item has two."""
    table = counts(ratings)
    table = table[table.sum(1) >= 2]
    held = table.sum(0)  # of each label
    total = held.sum()
    differ = total * total - (held * held).sum()  # ordered pairs of all labels that are unlike
    if not differ:
        return None
    size = table.sum(1)
    unlike = ((size * size - (table * table).sum(1)) / (size - 1)).sum()
    return float(1 - (total - 1) * unlike / differ)


def counts(ratings):
    """How often each label was given to each item, items × labels, by a list of annotators."""
    items = list(dict.fromkeys(item for one in ratings for item in one))
    labels = sorted({label for one in ratings for label in one.values()})
    given = [Counter(one[item] for one in ratings if item in one) for item in items]
    return np.array([[count[label] for label in labels] for count in given], dtype=float).reshape(
        len(items), len(labels)
    )


# ---- all of them -------------------------------------------------------------------------------------------------------


def table(annotations, groups=None, prompt_of=None, rounds=10_000, seed=0):
    """Rows of agreement within and across groups, from `{annotator: {item: "a" | "b" | "tie"}}`.

    groups: `{annotator: group}`; without it every annotator is one. prompt_of: item → what is resampled for the interval,
    the item itself by default; a prompt counts once, and so does an item of it, however many pairs labelled it (where all
    labelled all, that is the mean over pairs). A row: pair ("crowd – author"), pairs (of annotators), items, agreement
    ((share, low, high), None without items), cohen (mean over pairs), and within a group fleiss and alpha, else None.
    Raises `UserError` for a label that is none of the three, or fewer than two annotators.
    """
    if len(annotations) < 2:
        raise UserError(f"agreement: expected two annotators or more; found {', '.join(annotations) or 'none'}")
    if strange := {str(label) for one in annotations.values() for label in one.values()} - set(LABELS):
        raise UserError(f"agreement: expected labels {', '.join(LABELS)}; found {sorted(strange)[0]!r}")
    members = {}
    for name in annotations:
        members.setdefault(groups[name] if groups else name, []).append(annotations[name])
    rows = [
        _row(f"{group} – {group}", list(combinations(those, 2)), prompt_of, rounds, seed) | _within(those)
        for group, those in members.items()
        if len(those) > 1
    ]
    return rows + [
        _row(f"{group} – {other}", list(product(members[group], members[other])), prompt_of, rounds, seed)
        for group, other in combinations(members, 2)
    ]


def _row(pair, pairs, prompt_of, rounds, seed):
    scores = {}  # item → scores of the pairs that labelled it
    for x, y in pairs:
        for item in x.keys() & y.keys():
            scores.setdefault(item, []).append(score(x[item], y[item]))
    by_prompt = {}
    for item in sorted(scores, key=repr):  # the same rounds at every call
        by_prompt.setdefault(prompt_of(item) if prompt_of else item, []).append(sum(scores[item]) / len(scores[item]))
    kappas = [kappa for x, y in pairs if x.keys() & y.keys() and (kappa := cohen(x, y)) is not None]
    return {
        "pair": pair,
        "pairs": len(pairs),
        "items": len(scores),
        "agreement": intervals.mean(list(by_prompt.values()), rounds, seed) if scores else None,
        "cohen": sum(kappas) / len(kappas) if kappas else None,
        "fleiss": None,
        "alpha": None,
    }


def _within(annotators):
    by_all = counts(annotators)
    by_all = by_all[by_all.sum(1) == len(annotators)]
    return {"fleiss": fleiss(by_all) if len(by_all) else None, "alpha": krippendorff(annotators)}


# ---- from files of judgments -------------------------------------------------------------------------------------------


def load(paths, authors=()):
    """`(annotations, groups)` of files of judgments, for `table(…, prompt_of=prompt_of)`; an item is (a, b, prompts, prompt_id,
    sample). People of `authors` (names without "human:") are of the group "author", others "crowd"; a model is its own.

    Raises `UserError` for a file that is not there or holds no verdicts of pairs, or an author that no file knows.
    """
    found = {}
    for path in paths:
        for (judge, *pair), rows in _asked(path).items():
            outcomes = verdicts.outcomes(rows)
            found.setdefault(judge, {}).update({(*pair, *key): verdict for key, verdict in outcomes.items()})
    people = {judge.removeprefix(verdicts.HUMAN): judge for judge in found if judge.startswith(verdicts.HUMAN)}
    if unknown := sorted(set(authors) - people.keys()):
        raise UserError(
            f"--authors {unknown[0]}: no such person in these files; there are {', '.join(people) or 'none'}"
        )
    kinds = {judge: AUTHOR if name in authors else CROWD for name, judge in people.items()}
    groups = {judge: kinds.get(judge, judge) for judge in found}
    order = {CROWD: 0, AUTHOR: 1}
    names = sorted(found, key=lambda judge: (order.get(groups[judge], 2), judge))
    return {name: found[name] for name in names}, groups


def prompt_of(item):
    """(prompt set, prompt) of an item of `load`."""
    return item[2:4]


def _asked(path):
    """A file's rows by judge, a, b and prompt set, without those that nobody was asked for."""
    if not Path(path).is_file():
        raise UserError(
            f"{path}: no such file; verdicts stand in judgments/A-vs-B.jsonl (python -m lima.evaluate.judge)"
        )
    found = {}
    for row in judgments.read(path):
        if "verdict" not in row:
            raise UserError(
                f"{path}: these are ratings of one system, not verdicts on two; name judgments/A-vs-B.jsonl"
            )
        if not row.keys() >= VERDICT or not isinstance(row["judge"], str):
            raise UserError(
                f"{path}: a row of judge {row['judge']!r} lacks one of {', '.join(sorted(VERDICT))}, or its name"
            )
        if row["raw"] != verdicts.IDENTICAL:
            found.setdefault((row["judge"], row["a"], row["b"], row["prompts"]), []).append(row)
    return found


def paper(pair):
    """The paper's agreement in percent for a pair of groups, any model in GPT-4's place; None where it gives none."""
    given = {row["pair"]: row["percent"] for row in json.loads(PAPER.read_text(encoding="utf-8"))["agreement"]["rows"]}
    return given.get(" – ".join(one if one in (CROWD, AUTHOR) else PAPER_MODEL for one in pair.split(" – ")))


# ---- the table ---------------------------------------------------------------------------------------------------------


def lines(rows):
    """The table as text of at most 80 columns."""
    yield f"{'pair':26} {'items':>5}  {'agreement % (95 %)':19} paper {'Cohen':>6} {'Fleiss':>6} {'alpha':>6}"
    for row in rows:
        agreed = "{:.1f} ({:.1f}–{:.1f})".format(*(100 * end for end in row["agreement"])) if row["items"] else "–"
        kappas = [f"{row[name]:.2f}" if row[name] is not None else "–" for name in ("cohen", "fleiss", "alpha")]
        cells = " ".join(f"{cell:>6}" for cell in kappas)
        yield f"{_shown(row['pair']):26} {row['items']:5}  {agreed:19} {paper(row['pair']) or '–':>5} {cells}"


def _shown(name):
    """A name as 26 printable characters at most: judges' names come from files."""
    name = "".join(char if char.isprintable() else "?" for char in name)
    return name if len(name) <= 26 else name[:25] + "…"


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="judgments/A-vs-B.jsonl")
    parser.add_argument(
        "--authors", nargs="+", default=[], metavar="NAME", help="people who are authors; others: crowd"
    )
    args = parser.parse_args(argv)
    annotations, groups = load(args.files, args.authors)
    print(f"{'annotator':26} {'items':>5}  labels")
    for name, labels in annotations.items():
        given = Counter(labels.values())
        kind = f" ({groups[name]})" if groups[name] != name else ""
        print(f"{_shown(name + kind):26} {len(labels):5}  " + ", ".join(f"{given[one]} {one}" for one in LABELS))
    print()
    print("\n".join(lines(table(annotations, groups, prompt_of))))


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
