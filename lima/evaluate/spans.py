"""Words, and spans of words that stand twice: numbered, so that equal spans have equal numbers, without a hash.

A language that writes no spaces has few words in this sense; the figures made of them say little there.
"""

import re

import numpy as np

WORD = re.compile(r"[^\W_](?:[^\s—]*[^\W_])?")


def words(text):
    """What white space (or a dash —) parts and holds a letter or digit: lower case, without outer punctuation."""
    return WORD.findall(text.lower().replace("’", "'"))


def numbered(texts):
    """Lists of words → `(ids, vocabulary)`: one array of word numbers, in which the number `vocabulary` ends every list."""
    known = {}
    ids = [[known.setdefault(word, len(known)) for word in text] for text in texts]
    return np.array([one for text in ids for one in (*text, len(known))], dtype=np.int64), len(known)


def longer(spans, by):
    """Numbers of the spans at each place → numbers of the spans longer by `by` words, at most twice as long: equal numbers if
    and only if equal spans. Exact, for no hash is taken: a longer span is the pair of the two shorter that cover it."""
    if len(spans) <= by:
        return spans[:0]
    pairs = spans[:-by] * (spans.max() + 1) + spans[by:]
    return np.unique(pairs, return_inverse=True)[1]


def distinct(answers, longest=3):
    """`{"1": …, "2": …, "3": …}`: distinct n-grams over words, of all answers (lists of words) together (Li et al., 2016). It
    falls as there is more text, so compare answers to the same prompts. None without words."""
    spans, vocabulary = numbered(answers)
    inside, out = spans < vocabulary, {}
    total = int(inside.sum())
    for n in range(1, longest + 1):
        out[str(n)] = np.unique(spans[inside]).size / total if total else None
        spans, inside = longer(spans, 1), inside[:-1] & inside[1:]
    return out


def longest_repeat(answer):
    """`(length, start)` of the longest span of an answer's words that stands in it twice without overlap; (0, 0) if none does."""
    spans, _ = numbered([answer])
    spans, length = spans[:-1], 1
    if not _stands_twice(spans, 1):
        return 0, 0
    while _stands_twice(twice := longer(spans, length), 2 * length):
        spans, length = twice, 2 * length
    low, high = length, 2 * length  # the first stands twice, the second does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _stands_twice(longer(spans, middle - length), middle) else (low, middle)
    return low, _first_twice(longer(spans, low - length) if low > length else spans, low)


def _ends(spans):
    """First and last place of every span."""
    order = np.argsort(spans, kind="stable")
    new = np.flatnonzero(np.diff(spans[order], prepend=-1))
    return order[new], order[np.append(new[1:], len(order)) - 1]


def _stands_twice(spans, length):
    if not len(spans):
        return False
    first, last = _ends(spans)
    return bool((last - first >= length).any())


def _first_twice(spans, length):
    first, last = _ends(spans)
    return int(first[last - first >= length].min())
