"""Shares, means and paired differences with 95 % intervals, bootstrapped by prompt.

Prompts are what was sampled, so whole prompts are drawn again, with all their samples. A prompt counts once, whatever the
number of its samples; None (a verdict that could not be parsed) and prompts without any value are left out, which callers
count and report. The paper gives 95 % two-sided intervals of its mean grades but not how it made them: this is our reading.

The ends are percentiles, taken a little further out where prompts are few. How often they held the truth, in percent of 2,000
simulations each (`python -m benchmarks.coverage`; standard error 0.5):

    simulated                         ours       percentile  BCa        rows drawn as if prompts
    shares of 0.2–0.8, 50–300 prompts 93.6–95.3  93.2–95.1   93.6–95.3  80–81 (of five samples)
    grades, differences, 50–300       94.2–95.2  93.5–95.0   93.5–95.1  72–84
    grades, differences, 6            91–92      85–86       85–86      68–80
    shares of 0–0.1, 50–300           94.7–96.7  78–92       79–93

So BCa, which knows skewness but not that prompts are few, would be more code for less.
"""

import math
from statistics import NormalDist

import numpy as np

from lima import UserError

NORMAL = NormalDist()
Z = NORMAL.inv_cdf(0.975)
OUTCOMES = ("win", "tie", "lose")
BLOCK = 2**20  # draws in memory at a time


def shares(outcomes, rounds=10_000, seed=0, names=OUTCOMES, pooled=False):
    """`{"win": (share, low, high), …}`, each from 0 to 1, of a list (a prompt each) of lists of outcomes among `names`.

    A share that every prompt has whole, or none has at all, leaves a bootstrap nothing to vary; its open end is then the exact
    one, 1 − 0.025^(1/prompts), so that 30 of 30 is (1, 0.88, 1). pooled: shares of all outcomes rather than means of the prompts'
    own, so that a long dialogue counts for more. Raises `UserError` for no outcomes, or one not in `names`.
    """
    groups = _filled(outcomes)
    if strange := {str(value) for group in groups for value in group} - set(names):
        raise UserError(f"outcomes: expected {', '.join(names)}; found {sorted(strange)[0]!r}")
    values = np.array([[group.count(name) / len(group) for name in names] for group in groups])
    weights = np.array([[len(group) if pooled else 1] for group in groups])
    drawn = resampled(np.hstack([values * weights, weights]), rounds, seed)
    low, high = interval(drawn[:, :-1] / drawn[:, -1:], len(values))
    open_end = 0.025 ** (1 / len(values))
    low = np.where(values.min(0) == 1, open_end, low)
    high = np.where(values.max(0) == 0, 1 - open_end, high)
    found = np.average(values, 0, weights[:, 0])
    return dict(zip(names, zip(found.tolist(), low.tolist(), high.tolist(), strict=True), strict=True))


def share(groups):
    """`(share, low, high)` of what is true in a list (a prompt each) of lists of truth values; as `shares`."""
    return shares([["yes" if value else "no" for value in _known(group)] for group in groups], names=("yes", "no"))[
        "yes"
    ]


def mean(groups, rounds=10_000, seed=0):
    """`(mean, low, high)` of a list (a prompt each) of lists of numbers, such as the grades of its samples.

    One prompt, or the same mean for every prompt, gives (x, x, x): nothing there says how others would differ, so give the number
    of prompts beside it. Raises `UserError` for no numbers.
    """
    values = _means(_filled(groups))
    low, high = interval(resampled(values, rounds, seed), len(values))
    return float(values.mean()), float(low[0]), float(high[0])


def difference(x, y, rounds=10_000, seed=0):
    """`(difference, low, high, p)`: the mean of x − y over prompts; `x[i]` and `y[i]` are lists of numbers of one prompt.

    p is two-sided: 2 · min(share of rounds ≤ 0, share of rounds ≥ 0), one round added to each count, at most 1, and stretched
    as the interval is, so that p < 0.05 where 0 lies outside. One prompt gives (d, d, d, 1). Raises `UserError` for
    lists of unequal length, or no prompt with numbers on both sides.
    """
    if len(x) != len(y):
        raise UserError(f"paired by prompt: expected as many prompts on both sides; found {len(x)} and {len(y)}")
    both = [(a, b) for a, b in zip(map(_known, x), map(_known, y), strict=True) if a and b]
    if not both:
        raise UserError("nothing to compare: no prompt has a value on both sides")
    values = _means([a for a, _ in both]) - _means([b for _, b in both])
    means = np.round(resampled(values, rounds, seed), 12)  # a sum that should be 0 may be 1e-17
    low, high = interval(means, len(values))
    fewer = min((means <= 0).sum(), (means >= 0).sum())
    p = min(1.0, 2 * (fewer + 1) / (rounds + 1))
    p = 2 * NORMAL.cdf(NORMAL.inv_cdf(p / 2) / _stretch(len(values)))
    return float(values.mean()), float(low[0]), float(high[0]), p


def _known(group):
    return [value for value in group if value is not None]


def _filled(groups):
    filled = [known for group in groups if (known := _known(group))]
    if not filled:
        raise UserError("nothing to resample: no prompt has a value (none was judged, or no verdict could be parsed)")
    return filled


def _means(groups):
    return np.array([[sum(group) / len(group)] for group in groups])


def resampled(values, rounds, seed):
    """Means of `rounds` draws of prompts with replacement; `values` is prompts × columns, the result rounds × columns."""
    count, random = len(values), np.random.default_rng(seed)
    size = max(1, BLOCK // count)
    out = np.empty((rounds, values.shape[1]))
    for start in range(0, rounds, size):
        drawn = random.integers(count, size=(min(size, rounds - start), count), dtype=np.int32)
        for column in range(values.shape[1]):
            out[start : start + size, column] = values[drawn, column].mean(1)
    return out


def interval(means, count):
    """The ends by column of `means` (rounds × columns) of `count` prompts: percentiles, a little further out than 2.5 and 97.5
    where prompts are few (`_stretch`)."""
    level = NORMAL.cdf(-Z * _stretch(count))
    return np.quantile(means, [level, 1 - level], axis=0)


def _stretch(count):
    """By how much a bootstrap of `count` prompts is too narrow: it divides by n, not n − 1, and knows no t distribution
    (whose 97.5 % point is expanded here in 1/(n − 1)). 1.036 at 50 prompts, 1.006 at 300."""
    if count == 1:
        return math.inf
    t = 1 + (Z**2 + 1) / (4 * (count - 1)) + (5 * Z**4 + 16 * Z**2 + 3) / (96 * (count - 1) ** 2)
    return t * math.sqrt(count / (count - 1))
