"""One strength a system from pairwise verdicts (Bradley and Terry 1952), with 95 % intervals bootstrapped by prompt.

A system of strength s beats one of strength t in 1 / (1 + exp(t − s)) of comparisons; strengths have mean 0, so 0.69 above is
odds of 2 : 1 (times 174 they are Elo points). A tie is half a win for each. The paper compares LIMA with each other system
only; this puts all of them, and any comparison among the others, on one scale, and is ours.
"""

import numpy as np

from lima import UserError
from lima.evaluate import intervals

PRIOR = 1.0  # ties with an average opponent that every system is given
STEP, STEPS, TOLERANCE = 1.0, 200, 1e-6


def strengths(prompts, rounds=10_000, seed=0, prior=PRIOR):
    """`{system: (strength, low, high)}`, the strongest first, of a list (a prompt each) of lists of `(a, b, verdict)`.

    `verdict` is "a", "b", "tie", or None, which is left out. A prompt counts once for each two systems, whatever the number
    of its samples. A system that always wins, in the data or in a round, has no finite strength that is likeliest: `prior` ties
    with an average opponent give it one (and bring two at 80 : 20 of 100 prompts 0.01 closer). A round of the bootstrap
    draws their weight too, exponential with this mean, so that 30 wins of 30 have no interval of width 0.
    Raises `UserError` for no verdict, a strange one, or systems that no chain of comparisons joins.
    """
    prompts = [known for prompt in prompts if (known := [row for row in prompt if row[2] is not None])]
    systems = sorted({system for prompt in prompts for row in prompt for system in row[:2]})
    wins = np.array([_wins(prompt, systems) for prompt in prompts])  # prompts × systems × systems
    _check_joined(wins, systems)
    size, count = len(systems), len(wins)
    met = np.flatnonzero(wins.any(0).ravel())  # only pairs that were compared are resampled
    drawn = np.zeros((rounds, size * size))
    drawn[:, met] = intervals.resampled(wins.reshape(count, -1)[:, met], rounds, seed) * count
    fitted = fit(wins.sum(0)[None], prior)[0]
    priors = prior * np.random.default_rng(seed).exponential(size=(rounds, size))
    low, high = intervals.interval(fit(drawn.reshape(rounds, size, size), priors), count)
    found = zip(systems, zip(fitted.tolist(), low.tolist(), high.tolist(), strict=True), strict=True)
    return dict(sorted(found, key=lambda item: -item[1][0]))


def fit(wins, prior=PRIOR):
    """Strengths (rounds × systems, each round of mean 0) of `wins` (rounds × systems × systems; [r, i, j]: i over j).

    `prior` is one number, or rounds × systems. Newton's method on the concave log-likelihood, all rounds at once, no step longer
    than 1: about five steps, where the usual iteration (Hunter 2004, MM) takes thousands, for under so light a prior the
    level of all systems drifts slowly.
    """
    compared = wins + wins.swapaxes(1, 2)
    theta, own = np.zeros(wins.shape[:2]), np.eye(wins.shape[1])
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(theta[:, None] - theta[:, :, None]))  # [r, i, j]: that i beats j
        average = 1 / (1 + np.exp(-theta))
        slope = wins.sum(2) - (compared * chance).sum(2) + prior * (0.5 - average)
        curve = compared * chance * (1 - chance)
        bend = (curve.sum(2) + prior * average * (1 - average))[:, :, None] * own - curve
        step = np.linalg.solve(bend, slope[:, :, None])[:, :, 0]
        theta += step * np.minimum(1, STEP / np.maximum(np.abs(step).max(1, keepdims=True), STEP))
        if np.abs(step).max() < TOLERANCE:
            break
    return theta - theta.mean(1, keepdims=True)


def _wins(prompt, systems):
    """Systems × systems: how much of this prompt the first won against the second; each pair that met sums to 1."""
    place, won = {system: number for number, system in enumerate(systems)}, np.zeros((len(systems), len(systems)))
    for a, b, verdict in prompt:
        if verdict not in ("a", "b", "tie") or a == b:
            raise UserError(f"{a} against {b}: expected two systems and a verdict a, b or tie; found {verdict!r}")
        for_a = {"a": 1.0, "tie": 0.5, "b": 0.0}[verdict]
        won[place[a], place[b]] += for_a
        won[place[b], place[a]] += 1 - for_a
    return won / np.maximum(won + won.T, 1e-9)


def _check_joined(wins, systems):
    if not systems:
        raise UserError("nothing to compare: no verdict (none was judged, or none could be parsed)")
    met = wins.any(0) | wins.any(0).T
    reached = {0}
    while more := set(np.flatnonzero(met[sorted(reached)].any(0)).tolist()) - reached:
        reached |= more
    if left := [system for number, system in enumerate(systems) if number not in reached]:
        joined = ", ".join(systems[number] for number in sorted(reached))
        raise UserError(f"{', '.join(left)}: never compared with {joined}; judge one of each side against the other")
