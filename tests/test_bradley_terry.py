"""Strengths against a published fit, scipy's own maximum, and simulated systems whose strengths are known."""

from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import brentq, minimize

from lima import UserError
from lima.evaluate.bradley_terry import fit, strengths

KNOWN = {"lima": 0.2, "alpaca": -0.5, "dv3": -0.3, "bard": 0.1, "gpt-4": 0.5}
STAR = [("lima", other) for other in KNOWN if other != "lima"]  # as in the paper
ALL = list(combinations(KNOWN, 2))


def simulated(random, count, pairs, samples=1, ties=0.2):
    """Verdicts by prompt; a tie, whoever plays, as often as `ties`, which draws strengths together."""
    out = []
    for _ in range(count):
        prompt = []
        for a, b in pairs * samples:
            won = random.random() < 1 / (1 + np.exp(KNOWN[b] - KNOWN[a]))
            prompt.append((a, b, "tie" if random.random() < ties else "a" if won else "b"))
        out.append(prompt)
    return out


def by_scipy(prompts, prior):
    """The maximum of the log-likelihood, written out comparison by comparison."""
    names = sorted(KNOWN)

    def loss(theta):
        total = 0.0
        for a, b, verdict in (row for prompt in prompts for row in prompt):
            ahead = theta[names.index(a)] - theta[names.index(b)]
            for share, sign in ((0.5, 1), (0.5, -1)) if verdict == "tie" else ((1, 1 if verdict == "a" else -1),):
                total += share * np.log1p(np.exp(-sign * ahead))
        return total + prior * sum(0.5 * np.log1p(np.exp(-t)) + 0.5 * np.log1p(np.exp(t)) for t in theta)

    found = minimize(loss, np.zeros(len(names)), method="BFGS", options={"gtol": 1e-6})
    return dict(zip(names, found.x - found.x.mean(), strict=True))


def test_a_published_fit():
    """American League East, 1987, every two teams 13 games (Agresti, "Categorical Data Analysis"; `baseball` in R's
    BradleyTerry2): abilities above Baltimore's."""
    wins = [[0, 7, 9, 7, 7, 9, 11], [6, 0, 7, 5, 11, 9, 9], [4, 6, 0, 7, 7, 8, 12], [6, 8, 6, 0, 6, 7, 10],
            [6, 2, 6, 7, 0, 7, 12], [4, 4, 5, 6, 6, 0, 6], [2, 4, 1, 3, 1, 7, 0]]  # fmt: skip
    found = fit(np.array([wins], dtype=float), prior=1e-7)[0]
    milwaukee_to_cleveland = [1.581, 1.436, 1.294, 1.248, 1.108, 0.684]
    assert found[:-1] - found[-1] == pytest.approx(milwaukee_to_cleveland, abs=0.0006)


@pytest.mark.parametrize("pairs", [STAR, ALL], ids=["star", "all"])
@pytest.mark.parametrize("prior", [1.0, 1e-6])
def test_scipys_maximum_is_ours(pairs, prior):
    prompts = simulated(np.random.default_rng(3), 40, pairs)
    found = strengths(prompts, rounds=10, prior=prior)
    assert {name: ends[0] for name, ends in found.items()} == pytest.approx(by_scipy(prompts, prior), abs=1e-4)
    assert sum(ends[0] for ends in found.values()) == pytest.approx(0, abs=1e-9)
    assert list(found) == sorted(found, key=lambda name: -found[name][0])


def test_known_strengths_come_back_and_intervals_hold_them():
    """40 simulations of 5 systems: 200 intervals, of which 190 should hold the truth (17 to 99.9 %: at least 180)."""
    random, held, errors = np.random.default_rng(4), 0, []
    for number in range(40):
        found = strengths(simulated(random, 150, ALL, ties=0), rounds=400, seed=number)
        middle = np.mean(list(KNOWN.values()))
        for name, (strength, low, high) in found.items():
            held += low <= KNOWN[name] - middle <= high
            errors.append(strength - KNOWN[name] + middle)
    assert 180 <= held <= 199
    assert abs(np.mean(errors)) < 0.01 and np.std(errors) < 0.12


def test_two_systems_are_log_odds_with_a_tie_half_a_win():
    prompts = [[("x", "y", "a")]] * 50 + [[("y", "x", "a")]] * 20 + [[("x", "y", "tie")]] * 30
    found = strengths(prompts, rounds=4000, prior=1e-6)
    assert found["x"][0] - found["y"][0] == pytest.approx(np.log(65 / 35), abs=1e-6)
    share = np.log(np.array([0.57, 0.73]) / (1 - np.array([0.57, 0.73])))  # 0.65 ± 1.96 · 0.391 / √100
    assert 2 * np.array(found["x"][1:]) == pytest.approx(share, abs=0.08)


def test_a_prompt_counts_once_whatever_its_samples():
    once = [[("x", "y", "a")], [("x", "y", "b")], [("x", "y", "a")], [("x", "y", "tie")]] * 10
    often = [rows * 5 for rows in once]
    assert strengths(often, rounds=200) == strengths(once, rounds=200)
    mixed = [[("x", "y", "a"), ("x", "y", "b"), ("y", "x", "a"), ("x", "y", None)], [("x", "y", "a")], []]
    assert strengths(mixed, rounds=10, prior=1e-6)["x"][0] * 2 == pytest.approx(np.log((1 / 3 + 1) / (2 / 3)), abs=1e-5)


def test_a_system_that_always_wins_has_a_strength_and_a_width():
    found = strengths([[("x", "y", "a")]] * 30)
    strength, low, high = found["x"]
    slope = brentq(
        lambda t: 30 / (1 + np.exp(2 * t)) + 0.5 - 1 / (1 + np.exp(-t)), 0, 9
    )  # the likelihood's, at t and −t
    assert strength == pytest.approx(slope, abs=1e-6)
    assert low + 0.2 < strength < high - 1 and np.isfinite(high)
    more = strengths([[("x", "y", "a")]] * 300)
    assert more["x"][1] > low + 0.8


CHAIN = np.triu(np.full((20, 20), 300.0), 1)  # each beats all after it, always
CLIFF = [[0, 0, 0, 1, 0], [0, 0, 100, 10, 1], [0, 0, 0, 0, 100], [1, 0, 0, 0, 0], [100, 1, 1, 0, 0]]


@pytest.mark.parametrize("wins, prior", [(CHAIN, 1.0), (CHAIN, 1e-3), (CLIFF, 0.1)])
def test_the_most_one_sided_wins_are_solved(wins, prior):
    """Where the log-likelihood is nearly flat, whole steps of Newton's method overshoot (`CLIFF`: to infinity)."""
    wins = np.array(wins, dtype=float)
    theta = fit(wins[None], np.full((1, len(wins)), prior))[0]
    chance = 1 / (1 + np.exp(theta[None] - theta[:, None]))
    pull = wins.sum(1) - ((wins + wins.T) * chance).sum(
        1
    )  # what is won beyond expectation is what the prior holds back
    assert np.abs(pull).max() <= prior / 2 + 1e-6
    assert pull.sum() == pytest.approx(0, abs=1e-6)


def test_a_seed_gives_the_same_ends():
    prompts = simulated(np.random.default_rng(5), 30, STAR)
    assert strengths(prompts, rounds=300) == strengths(prompts, rounds=300)
    assert strengths(prompts, rounds=300, seed=1) != strengths(prompts, rounds=300)


@pytest.mark.parametrize(
    "prompts, words",
    [
        ([], "nothing to compare"),
        ([[("x", "y", None)], []], "nothing to compare"),
        ([[("x", "y", "A")]], "x against y: expected two systems and a verdict a, b or tie; found 'A'"),
        ([[("x", "x", "a")]], "x against x: expected two systems"),
        ([[("p", "q", "a"), ("x", "y", "b")], [("y", "z", "tie")]], "x, y, z: never compared with p, q"),
    ],
)
def test_what_has_no_strength_is_said(prompts, words):
    with pytest.raises(UserError, match=words):
        strengths(prompts, rounds=10)
