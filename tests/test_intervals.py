"""Intervals by prompt against scipy and exact answers, and on simulated judgments whose truth is known."""

import time
import tracemalloc

import numpy as np
import pytest
import scipy.stats

from benchmarks import coverage
from lima import UserError
from lima.evaluate import intervals
from lima.evaluate.intervals import difference, mean, shares


def graded(count, seed=0, samples=5):
    """Grades by prompt, without a truth that a test needs."""
    random = np.random.default_rng(seed)
    centres = random.normal(3.8, 0.9, count)
    return [np.clip(np.round(random.normal(c, 0.8, samples)), 1, 6).tolist() for c in centres]


# ---- estimates ---------------------------------------------------------------------------------------------------------


def test_a_prompt_counts_once_whatever_its_samples():
    outcomes = [["win"] * 9, ["lose"], ["tie", "win", None], [None], []]
    found = shares(outcomes, rounds=100)
    assert {name: ends[0] for name, ends in found.items()} == pytest.approx({"win": 0.5, "tie": 1 / 6, "lose": 1 / 3})
    assert mean([[6, 6, 6, 6], [1], [None], [2, None, 4]])[0] == pytest.approx(10 / 3)
    assert difference([[3, 5], [1], [2], [9]], [[1], [1, 3], [None], []])[0] == pytest.approx((3 - 1) / 2)


def test_other_names_than_win_tie_lose():
    levels = ("excellent", "pass", "fail")
    found = shares([["excellent"]] * 25 + [["pass"]] * 19 + [["fail"]] * 6, names=levels)
    assert [found[name][0] for name in levels] == pytest.approx([0.50, 0.38, 0.12])  # the paper's 50 test prompts
    assert all(low < share < high for share, low, high in found.values())


# ---- ends --------------------------------------------------------------------------------------------------------------


def test_at_300_prompts_a_half_is_known_to_within_5_7_points():
    share, low, high = shares([["win"]] * 150 + [["lose"]] * 150)["win"]
    assert share == 0.5
    assert (high - low) / 2 == pytest.approx(0.057, abs=0.0025)


@pytest.mark.parametrize("count", [100, 300])
def test_ends_are_scipys_for_many_prompts(count):
    groups = graded(count)
    values = np.array([np.mean(group) for group in groups])
    there = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1)
    middle, width = values.mean(), np.ptp(there.confidence_interval)
    stretched = middle + (np.array(there.confidence_interval) - middle) * intervals._stretch(count)
    assert mean(groups)[1:] == pytest.approx(stretched, abs=0.04 * width)
    t = scipy.stats.t.interval(0.95, count - 1, middle, scipy.stats.sem(values))
    assert mean(groups)[1:] == pytest.approx(t, abs=0.05 * width)


@pytest.mark.parametrize("hits", [1, 10, 25, 46])
def test_ends_of_a_share_are_binomial(hits):
    """With one outcome a prompt, wins in a round of the bootstrap are binomial: its percentiles need no simulation."""
    level = intervals.NORMAL.cdf(-intervals.Z * intervals._stretch(50))
    exact = scipy.stats.binom.ppf([level, 1 - level], 50, hits / 50) / 50
    found = shares([["win"]] * hits + [["lose"]] * (50 - hits), rounds=100_000)["win"]
    assert found == pytest.approx((hits / 50, *exact), abs=1e-9)


def test_few_prompts_are_stretched_to_the_t_distribution():
    for count in (6, 10, 50, 300):
        exact = scipy.stats.t.ppf(0.975, count - 1) / scipy.stats.norm.ppf(0.975) * (count / (count - 1)) ** 0.5
        assert intervals._stretch(count) == pytest.approx(exact, rel=0.01)


def test_samples_of_a_prompt_are_drawn_together():
    """Five equal samples a prompt say no more than one does."""
    once = [[grade] for grade in np.random.default_rng(1).integers(1, 7, 80).tolist()]
    assert mean([group * 5 for group in once]) == pytest.approx(mean(once))
    _, low, high = mean(once)
    _, rows_low, rows_high = mean([group for group in once for _ in range(5)])
    assert (high - low) / (rows_high - rows_low) == pytest.approx(5**0.5, rel=0.05)  # what drawing rows would claim


@pytest.mark.parametrize("count", [1, 30, 300])
def test_all_and_none_have_the_exact_open_end(count):
    found = shares([["win"] * 2] * count)
    for name, hits in (("win", count), ("tie", 0)):
        exact = scipy.stats.binomtest(hits, count).proportion_ci(0.95, method="exact")
        assert found[name] == pytest.approx((hits / count, exact.low, exact.high))


def test_one_prompt_or_equal_ones_leave_a_mean_its_point():
    assert mean([[4, 5]]) == (4.5, 4.5, 4.5)
    assert mean([[4]] * 20) == (4, 4, 4)
    assert difference([[4]], [[2]]) == (2, 2, 2, 1)


# ---- differences -------------------------------------------------------------------------------------------------------


def test_a_difference_is_that_of_the_prompts_it_is_of():
    random = np.random.default_rng(2)
    x = graded(120)
    y = [[grade - random.choice([0, 0, 0, 1]) for grade in group] for group in x]
    found, low, high, p = difference(x, y)
    values = [np.mean(a) - np.mean(b) for a, b in zip(x, y, strict=True)]
    assert found == pytest.approx(np.mean(values))
    assert (low, high) == pytest.approx(mean([[value] for value in values])[1:])
    assert 0 < low < found < high and p < 0.001
    assert high - low < 0.4 * np.ptp(mean(x)[1:])  # prompts differ more than the systems do


def test_swapped_sides_swap_the_ends():
    x, y = graded(60, seed=1), graded(60, seed=2)
    one, other = difference(x, y), difference(y, x)
    assert other[0] == pytest.approx(-one[0])
    assert other[1:3] == pytest.approx((-one[2], -one[1]), abs=0.01)
    assert other[3] == pytest.approx(one[3])


def test_p_is_near_that_of_the_paired_t_test_and_agrees_with_the_interval():
    pairs = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        x = random.normal(random.uniform(0, 0.5), 1, 60)
        _, low, high, p = difference([[value] for value in x], [[0.0]] * 60, rounds=4000, seed=seed)
        assert (p < 0.05) == (low > 0 or high < 0) or abs(p - 0.05) < 0.004
        pairs.append((p, scipy.stats.ttest_1samp(x, 0).pvalue))
    ours, theirs = np.array(pairs).T
    assert (theirs < 0.05).sum() > 15 and (theirs > 0.05).sum() > 15
    assert np.abs(ours - theirs).max() < 0.04


def test_p_without_any_difference_is_1_and_is_never_0():
    x = graded(40)
    assert difference(x, x) == (0, 0, 0, 1)
    thirds = [[1 / 3, 1 / 3, 0.1 + 0.2]] * 9  # sums that rounding keeps from being 0
    assert difference(thirds, [[1 / 3, 0.3, 1 / 3]] * 9)[3] == 1
    always = difference([[6]] * 300, [[1]] * 300, rounds=999)
    z = scipy.stats.norm.ppf(1 / 1000) / intervals._stretch(300)  # one round is added to the 0 of 999
    assert always == (5, 5, 5, pytest.approx(2 * scipy.stats.norm.cdf(z)))


# ---- coverage: `python -m benchmarks.coverage` has the whole table -----------------------------------------------------


def test_the_simulated_truth_is_the_truth():
    groups, truth = coverage.grades(np.random.default_rng(0), 100_000, better=0.3)
    assert np.mean(groups) == pytest.approx(truth, abs=0.015)
    outcomes, truth = coverage.share(np.random.default_rng(0), 50_000, 0.5, samples=5)
    assert np.mean([group.count("win") / 5 for group in outcomes]) == pytest.approx(truth, abs=0.01)


@pytest.mark.parametrize("case", ["share 0.2", "mean grade, 5 samples", "difference of 0.3"])
def test_95_percent_hold_the_truth_95_percent_of_the_time(case):
    """600 simulations: a right interval is outside these bounds once in 1,000, rows drawn for prompts always."""
    held = coverage.coverage(case, 60, simulations=600, rounds=500, seed=5)
    assert 0.92 <= held["ours"] <= 0.98
    assert held.get("by row", 0) < 0.9


def test_a_difference_that_is_not_is_found_one_time_in_20():
    held = coverage.coverage("no difference", 60, simulations=600, rounds=500, seed=6)
    assert 0.02 <= held["p<.05"] <= 0.08


def test_few_prompts_are_honest():
    """The percentile bootstrap of 6 prompts holds the truth 85 % of the time."""
    held = coverage.coverage("mean grade, 5 samples", 6, simulations=600, rounds=500, seed=7)
    assert held["percentile"] < 0.89 < held["ours"]


# ---- the work ----------------------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_ends_and_another_others():
    groups = graded(50)
    assert mean(groups) == mean(groups) == mean(groups, seed=0)
    assert mean(groups, seed=1) != mean(groups)
    assert mean(groups, seed=1) == pytest.approx(mean(groups), abs=0.02)


def test_300_prompts_take_under_a_second_and_many_little_memory():
    outcomes = [list(np.random.default_rng(n).choice(intervals.OUTCOMES, 5)) for n in range(300)]
    start = time.process_time()
    shares(outcomes)
    assert time.process_time() - start < 1
    tracemalloc.start()
    mean([[1, 2]] * 5000)
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20  # all rounds at once would be 200 MiB and more
    tracemalloc.stop()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: shares([]), "nothing to resample"),
        (lambda: shares([[], [None]]), "no prompt has a value"),
        (lambda: shares([["win"], ["draw"]]), "expected win, tie, lose; found 'draw'"),
        (lambda: mean([[None], []]), "nothing to resample"),
        (lambda: difference([[1]], [[1], [2]]), "found 1 and 2"),
        (lambda: difference([[1], []], [[], [2]]), "no prompt has a value on both sides"),
    ],
)
def test_nothing_to_resample_is_said(call, words):
    with pytest.raises(UserError, match=words):
        call()


def test_pooled_shares_draw_whole_dialogues():
    """A ratio of sums, and as wide as the bootstrap of dialogues that is written out here."""
    groups = [["win"] * 5, ["lose"], ["win", "lose", "lose"], ["tie"] * 2, ["win"] * 3 + ["lose"]]
    found = intervals.shares(groups, pooled=True)
    assert found["win"][0] == pytest.approx(9 / 15) and found["tie"][0] == pytest.approx(2 / 15)
    random = np.random.default_rng(1)
    wins, sizes = (np.array([f(group) for group in groups]) for f in (lambda g: g.count("win"), len))
    drawn = random.integers(5, size=(20_000, 5))
    shares = wins[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(shares, [0.025, 0.975])
    assert found["win"][1] <= low + 0.01 and found["win"][2] >= high - 0.01  # a little further out, as prompts are few
    alike = [["win"], ["lose"]] * 20
    assert intervals.shares(alike, pooled=True) == intervals.shares(alike)


def test_turns_of_a_dialogue_are_one_cluster():
    from lima.evaluate import verdicts

    groups = {"d-01/1": ["pass"], "d-01/2": ["fail", "pass"], "d-02/1": ["fail"]}
    assert verdicts.clusters(groups, "dialogue-live") == {"d-01": ["pass", "fail", "pass"], "d-02": ["fail"]}
    assert verdicts.clusters(groups, "test") == groups
