"""Agreement against published worked examples and, on real verdicts of three people and a model, against pandas."""

import json
import random
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from conftest import run

from lima import UserError, runs
from lima.evaluate import agreement
from lima.evaluate.agreement import cohen, fleiss, krippendorff, table, tie_discounted

# ---- published worked examples -----------------------------------------------------------------------------------------


def spread(square, labels="abc"):
    """Two annotators whose cross table is `square`."""
    cells = [
        (x, y)
        for x, row in zip(labels, square, strict=True)
        for y, n in zip(labels, row, strict=True)
        for _ in range(n)
    ]
    return [{item: cell[side] for item, cell in enumerate(cells)} for side in (0, 1)]


def test_cohens_own_example():
    """J. Cohen, "A coefficient of agreement for nominal scales", 1960, table 1: kappa .492."""
    x, y = spread([[88, 14, 18], [10, 40, 10], [2, 6, 12]])
    assert cohen(x, y) == pytest.approx(0.492, abs=0.0005)


def test_fleiss_well_known_example():
    """Wikipedia, "Fleiss' kappa": fourteen raters, ten subjects, five categories, kappa 0.210."""
    counts = [[0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1], [7, 7, 0, 0, 0],
              [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]]  # fmt: skip
    assert fleiss(counts) == pytest.approx(0.210, abs=0.0005)


def test_krippendorffs_own_examples():
    """K. Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011: two observers, binary, no gaps, 0.095; four
    observers, five values, gaps, 0.743 (nominal)."""

    def of(*rows):
        return [{unit: value for unit, value in enumerate(row) if value != "."} for row in rows]

    assert krippendorff(of("0100000000", "1110010010")) == pytest.approx(0.095, abs=0.0005)
    units = ["11.1", "2232", "3333", "3333", "2222", "1234", "4444", "1121", "2222", ".555", "..11", "..3."]
    assert krippendorff(of(*zip(*units, strict=True))) == pytest.approx(0.743, abs=0.0005)


def test_the_papers_rule_for_ties():
    x = {1: "a", 2: "a", 3: "a", 4: "tie", 5: "tie", 6: "b", 7: "b"}
    y = {1: "a", 2: "tie", 3: "b", 4: "tie", 5: "b", 6: "b", 8: "a"}
    assert tie_discounted(x, y) == tie_discounted(y, x) == (1 + 0.5 + 0 + 1 + 0.5 + 1) / 6


def test_chance_that_cannot_be_taken_off_is_none():
    same = dict.fromkeys(range(5), "a")
    assert cohen(same, same) is None and krippendorff([same, same]) is None and fleiss([[2, 0]] * 5) is None
    assert krippendorff([{1: "a"}, {2: "b"}]) is None
    assert krippendorff([]) is None


# ---- real verdicts -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pandalm(shared):
    """999 pairs of answers to 170 prompts: three people, and GPT-3.5 (25 of its verdicts cannot be read)."""
    words = {0: "tie", 1: "a", 2: "b", "1": "a", "2": "b", "Tie": "tie"}
    rows = json.loads((shared / "preferences/pandalm_testset-v1.json").read_text())
    model = json.loads((shared / "preferences/pandalm_gpt-3.5-turbo-testset-v1.json").read_text())
    found = {f"human:{n}": {row["idx"]: words[row[f"annotator{n}"]] for row in rows} for n in (1, 2, 3)}
    found["gpt-3.5"] = {row["idx"]: words[row["gpt_result"]] for row in model if row["gpt_result"] in words}
    groups = {name: "crowd" if name.startswith("human:") else name for name in found}
    return found, groups, {row["idx"]: row["instruction"] + row["input"] for row in rows}


def by_pandas(frame, x, y):
    """Tie-discounted accuracy and Cohen's kappa from the cross table of two columns."""
    seen = pd.crosstab(frame[x], frame[y]).reindex(index=["a", "b", "tie"], columns=["a", "b", "tie"], fill_value=0)
    seen = seen / seen.to_numpy().sum()
    agreed = np.trace(seen)
    half = seen.loc["tie", ["a", "b"]].sum() + seen.loc[["a", "b"], "tie"].sum()
    chance = seen.sum(axis=1) @ seen.sum(axis=0)
    return agreed + half / 2, (agreed - chance) / (1 - chance)


def test_real_pairs_against_pandas_and_the_published_kappas(pandalm):
    found, _, _ = pandalm
    frame = pd.DataFrame(found)
    for x, y in combinations(found, 2):
        assert (tie_discounted(found[x], found[y]), cohen(found[x], found[y])) == pytest.approx(by_pandas(frame, x, y))
    published = {("1", "2"): 0.85, ("1", "3"): 0.88, ("2", "3"): 0.86}  # WeOpenML/PandaLM, README.md, "Test data"
    for (x, y), kappa in published.items():
        assert round(cohen(found[f"human:{x}"], found[f"human:{y}"]), 2) == kappa


def test_the_whole_table_of_real_verdicts(pandalm):
    found, groups, _ = pandalm
    frame = pd.DataFrame(found)
    within, across = table(found, groups)
    assert (within["pair"], within["pairs"], within["items"]) == ("crowd – crowd", 3, 999)
    assert (across["pair"], across["pairs"], across["items"]) == ("crowd – gpt-3.5", 3, 974)
    people = ["human:1", "human:2", "human:3"]
    means = np.mean([by_pandas(frame, *two) for two in combinations(people, 2)], axis=0)
    assert (within["agreement"][0], within["cohen"]) == pytest.approx(means)
    means = np.mean([by_pandas(frame, one, "gpt-3.5") for one in people], axis=0)
    assert (across["agreement"][0], across["cohen"]) == pytest.approx(means)
    assert (across["fleiss"], across["alpha"]) == (None, None)
    # Fleiss' kappa and alpha, counted pair by pair
    labels = frame[people].to_numpy()
    alike = np.mean([labels[:, i] == labels[:, j] for i, j in combinations(range(3), 2)])
    shares = pd.Series(labels.ravel()).value_counts(normalize=True)
    assert within["fleiss"] == pytest.approx((alike - (shares**2).sum()) / (1 - (shares**2).sum()))
    everything = labels.size  # without gaps alpha differs only by drawing the second label from those left
    expected = 1 - (shares * everything * (shares * everything - 1)).sum() / (everything * (everything - 1))
    assert within["alpha"] == pytest.approx(1 - (1 - alike) / expected)


def test_intervals_are_of_prompts_where_they_are_named(pandalm):
    """Six pairs of answers to one prompt are not six prompts: the interval by item is a third too narrow here."""
    found, groups, prompt = pandalm
    by_item, by_prompt = table(found, groups)[0], table(found, groups, prompt.get)[0]
    scores = pd.DataFrame(found)[["human:1", "human:2", "human:3"]]
    pairs = [scores.apply(lambda row, i=i, j=j: agreement.score(row.iloc[i], row.iloc[j]), axis=1)
             for i, j in combinations(range(3), 2)]  # fmt: skip
    each = sum(pairs) / 3
    for row, groups_of in ((by_item, each.index), (by_prompt, each.index.map(prompt))):
        means = each.groupby(groups_of).mean()
        middle, error = means.mean(), means.sem()
        assert row["agreement"] == pytest.approx((middle, middle - 1.96 * error, middle + 1.96 * error), abs=0.002)
    assert np.ptp(by_prompt["agreement"]) > 1.4 * np.ptp(by_item["agreement"])


# ---- groups, gaps ------------------------------------------------------------------------------------------------------


def simulated(people=5, items=60, seed=0):
    """Annotators who agree more often than not, and label about two thirds of the items each."""
    rng = random.Random(seed)
    truth = [rng.choice(agreement.LABELS) for _ in range(items)]
    return {
        f"p{n}": {
            i: t if rng.random() < 0.6 else rng.choice(agreement.LABELS)
            for i, t in enumerate(truth)
            if rng.random() < 0.66
        }
        for n in range(people)
    }


def test_groups_with_gaps_against_plain_loops():
    found = simulated()
    groups = {"p0": "crowd", "p1": "crowd", "p2": "crowd", "p3": "author", "p4": "gpt-4o"}
    rows = {row["pair"]: row for row in table(found, groups, rounds=200)}
    assert list(rows) == ["crowd – crowd", "crowd – author", "crowd – gpt-4o", "author – gpt-4o"]
    for pair, row in rows.items():
        one, other = pair.split(" – ")
        total = count = 0
        for item in range(60):
            scores = []
            for x, y in combinations(found, 2):
                if sorted([groups[x], groups[y]]) == sorted([one, other]) and item in found[x] and item in found[y]:
                    a, b = found[x][item], found[y][item]
                    scores.append(1 if a == b else 0.5 if a == "tie" or b == "tie" else 0)
            if scores:
                total, count = total + sum(scores) / len(scores), count + 1
        assert row["items"] == count
        assert row["agreement"][0] == pytest.approx(total / count)
        assert row["agreement"][1] < row["agreement"][0] < row["agreement"][2]
    shared_by_all = set(found["p0"]) & set(found["p1"]) & set(found["p2"])
    counts = [[[found[p][i] for p in ("p0", "p1", "p2")].count(one) for one in agreement.LABELS] for i in shared_by_all]
    assert rows["crowd – crowd"]["fleiss"] == pytest.approx(fleiss(counts))
    assert rows["crowd – crowd"]["alpha"] == pytest.approx(krippendorff([found["p0"], found["p1"], found["p2"]]))


def test_alpha_with_gaps_against_its_definition():
    """1 − observed / expected disagreement, over ordered pairs of labels, a unit's pairs weighing 1 / (its labels − 1)."""
    found = list(simulated(seed=3).values())
    units = [[one[item] for one in found if item in one] for item in range(60)]
    pairable = [unit for unit in units if len(unit) > 1]
    assert (
        len({len(unit) for unit in units}) > 3 and len(pairable) < 60
    )  # gaps of all sizes, and units that cannot be paired
    flat = [label for unit in pairable for label in unit]
    observed = sum(
        (x != y) / (len(unit) - 1)
        for unit in pairable
        for i, x in enumerate(unit)
        for j, y in enumerate(unit)
        if i != j
    ) / len(flat)
    expected = sum(x != y for i, x in enumerate(flat) for j, y in enumerate(flat) if i != j) / (
        len(flat) * (len(flat) - 1)
    )
    assert krippendorff(found) == pytest.approx(1 - observed / expected)


def test_without_groups_every_pair_is_a_row_and_what_is_not_shared_is_empty():
    rows = table({"x": {1: "a"}, "y": {1: "a", 2: "b"}, "z": {2: "tie"}})
    assert [(row["pair"], row["items"]) for row in rows] == [("x – y", 1), ("x – z", 0), ("y – z", 1)]
    assert rows[1]["agreement"] is None and rows[1]["cohen"] is None and rows[2]["agreement"][0] == 0.5
    assert all(len(line) <= 80 for line in agreement.lines(rows))
    one = table({"x": {1: "a"}, "y": {1: "a", 2: "b"}, "z": {2: "tie"}}, dict.fromkeys("xyz", "crowd"))[0]
    assert (one["pairs"], one["items"], one["agreement"][0]) == (3, 2, 0.75)
    assert one["fleiss"] is None and one["alpha"] is not None  # no item that all three labelled


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: tie_discounted({1: "a"}, {2: "a"}), "no item that both"),
        (lambda: cohen({}, {}), "no item that both"),
        (lambda: fleiss([[2, 1], [1, 1]]), "as many labels of every item"),
        (lambda: fleiss([]), "as many labels of every item"),
        (lambda: fleiss([[1, 0]]), "two or more"),
        (lambda: table({"x": {1: "a"}}), "two annotators or more; found x"),
        (lambda: table({}), "found none"),
        (lambda: table({"x": {1: "a"}, "y": {1: "A"}}), "expected labels a, b, tie; found 'A'"),
    ],
)
def test_what_cannot_be_compared_is_said(call, words):
    with pytest.raises(UserError, match=words):
        call()


# ---- files of judgments ------------------------------------------------------------------------------------------------


def row(judge, prompt, verdict, order="ab", a="lima", b="alpaca", raw="Verdict: …"):
    return {"prompt_id": prompt, "prompts": "test", "sample": 0, "a": a, "b": b, "judge": judge, "order": order,
            "verdict": verdict, "raw": raw, "date": "2026-01-01", "digest": "0" * 16}  # fmt: skip


def judged(folder):
    """Two files: a model in both orders, two people of the crowd, an author."""
    first = [
        *[row("gpt-4o", f"p{n}", verdict, "ab") for n, verdict in enumerate(["a", "a", "b", "tie", "a", None])],
        *[row("gpt-4o", f"p{n}", verdict, "ba") for n, verdict in enumerate(["a", "b", "b", "tie"])],
        *[row("gpt-4o", "p9", "tie", order, raw="identical answers") for order in ("ab", "ba")],
        *[row("human:ann", f"p{n}", verdict) for n, verdict in enumerate(["a", "tie", "a", "b", "b", "b"])],
        *[row("human:ben", f"p{n}", verdict, "ba") for n, verdict in enumerate(["a", "a", "b", "tie", None, "b"])],
        *[row("human:eve", "p9", "tie"), row("human:ann", "p9", "tie")],
    ]
    second = [row(judge, "p0", "b", b="bard") for judge in ("human:ann", "human:ben", "human:eve")]
    runs.write_jsonl(folder / "lima-vs-alpaca.jsonl", first)
    runs.write_jsonl(folder / "lima-vs-bard.jsonl", second)
    return [folder / "lima-vs-alpaca.jsonl", folder / "lima-vs-bard.jsonl"]


def test_files_are_read_with_both_orders_combined(tmp_path):
    found, groups = agreement.load(judged(tmp_path), authors=["eve"])
    assert groups == {"human:ann": "crowd", "human:ben": "crowd", "human:eve": "author", "gpt-4o": "gpt-4o"}
    assert list(found) == ["human:ann", "human:ben", "human:eve", "gpt-4o"]
    first = ("lima", "alpaca", "test")
    # p1: the orders differ, a tie; p4: one order only; p5: not parsed; p9: nobody was asked
    assert found["gpt-4o"] == {
        (*first, "p0", 0): "a",
        (*first, "p1", 0): "tie",
        (*first, "p2", 0): "b",
        (*first, "p3", 0): "tie",
    }
    assert len(found["human:ann"]) == 8 and len(found["human:ben"]) == 6
    assert {agreement.prompt_of(item) for item in found["human:eve"]} == {("test", "p9"), ("test", "p0")}
    rows = {one["pair"]: one for one in table(found, groups, agreement.prompt_of)}
    # ann and ben agree on p0 of both files, 1 and 1, which is one prompt; p1 ½, p2 0, p3 ½, p5 1
    assert rows["crowd – crowd"]["items"] == 6
    assert rows["crowd – crowd"]["agreement"][0] == pytest.approx((1 + 0.5 + 0 + 0.5 + 1) / 5)
    # p0: both 1; p1: ann 1, ben ½; p2: ann 0, ben 1; p3: ann ½, ben 1
    assert rows["crowd – gpt-4o"]["agreement"][0] == pytest.approx((1 + 0.75 + 0.5 + 0.75) / 4)


def test_the_papers_figures_stand_beside_ours():
    given = {
        "crowd – crowd": 82,
        "crowd – author": 81,
        "author – author": 78,
        "crowd – gpt-4o": 78,
        "author – gpt-4o": 79,
    }
    assert {pair: agreement.paper(pair) for pair in given} == given
    assert agreement.paper("gpt-4o – o3") is None


def test_the_program_prints_the_table_in_80_columns(tmp_path, capsys):
    agreement.main([*map(str, judged(tmp_path)), "--authors", "eve"])
    said = capsys.readouterr().out
    assert "human:eve (author)" in said and "gpt-4o" in said
    assert said.splitlines()[0].split() == ["annotator", "items", "labels"]
    line = next(line for line in said.splitlines() if line.startswith("crowd – crowd"))
    assert line.split()[3:5] == ["6", "60.0"] and line.split()[6] == "82"
    assert max(map(len, said.splitlines())) <= 80


def test_names_from_files_cannot_steer_the_terminal(tmp_path, capsys):
    runs.write_jsonl(tmp_path / "x.jsonl", [row("human:\x1b[2J" + "long" * 20, "p", "a"), row("human:b\r", "p", "a")])
    agreement.main([str(tmp_path / "x.jsonl")])
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\r" not in said and max(map(len, said.splitlines())) <= 80


def test_a_users_mistake_is_one_line(tmp_path):
    files = [str(path) for path in judged(tmp_path)]
    grade = {key: value for key, value in row("g", "p", "a").items() if key not in ("a", "b", "order", "verdict")}
    runs.write_jsonl(tmp_path / "lima.grade.jsonl", [{**grade, "n": 0, "grade": 4}])
    (tmp_path / "broken.jsonl").write_text('{"judge": "x"\n')
    runs.write_jsonl(tmp_path / "bare.jsonl", [{**grade, "order": "ab", "verdict": "a"}])
    runs.write_jsonl(tmp_path / "number.jsonl", [row(5, "p", "a")])
    for words, message in [
        (["nowhere.jsonl"], "no such file"),
        ([str(tmp_path / "lima.grade.jsonl")], "ratings of one system"),
        ([str(tmp_path / "broken.jsonl")], "line 1"),
        ([str(tmp_path / "bare.jsonl")], "a row of judge 'g' lacks one of a, b, order, raw, verdict"),
        ([str(tmp_path / "number.jsonl")], "a row of judge 5"),
        ([*files, "--authors", "zoe"], "--authors zoe: no such person in these files; there are ann, ben, eve"),
        ([files[0], "--authors", "human:eve"], "no such person"),
    ]:
        with pytest.raises(UserError, match=message):
            agreement.main(words)
    runs.write_jsonl(tmp_path / "alone.jsonl", [row("human:ann", "p", "a")])
    done = run("-m", "lima.evaluate.agreement", tmp_path / "alone.jsonl")
    assert done.returncode == 2 and "expected two annotators or more; found human:ann" in done.stderr
    assert "Traceback" not in done.stderr
