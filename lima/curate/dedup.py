"""Near-duplicates: MinHash and LSH (datasketch) find what may be one, the exact Jaccard similarity decides.

Two conversations are near-duplicates if their prompts or their responses are: the same question posted twice with two
answers, or one answer copied to two questions. The paper does not say how, or whether, it looked for them: our choice.
"""

import re
import unicodedata

import numpy as np
from datasketch import MinHash, MinHashLSH

PERMUTATIONS = 128
SLACK = 0.15  # LSH is asked for pairs this much less alike: at the threshold itself it would miss every second one
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no bit of a character is lost


def plain(text):
    """Text without case, punctuation, white space and compatibility forms; itself where nothing else is in it."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())) or text.strip()


def shingles(text, size):
    """The distinct runs of `size` characters in `plain(text)`, as sorted uint64 hashes; a shorter text is one run."""
    codes = np.frombuffer(plain(text).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    size = max(1, min(size, len(codes)))
    hashes = np.zeros(max(1, len(codes) - size + 1), dtype=np.uint64)
    for start in range(min(size, len(codes))):
        hashes = hashes * MULTIPLIER + codes[start : start + len(hashes)] + np.uint64(1)
    return np.unique(hashes ^ (hashes >> np.uint64(32)))


def jaccard(one, other):
    """Shared over all of two sorted arrays of distinct hashes, 0 to 1."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


class Texts:
    """An index of texts by id, asked for one that is at least `threshold` alike."""

    def __init__(self, threshold, size):
        self.threshold, self.size = threshold, size
        self.lsh = MinHashLSH(threshold=max(0.1, threshold - SLACK), num_perm=PERMUTATIONS)
        self.known, self.permutations = {}, None

    def look(self, text):
        """`(sketch, id, similarity)` of the text and the one most like it, id None if none is alike enough."""
        sketch, best = self._sketch(text), (0.0, None)
        least = self.threshold - SLACK
        found = [id for id in self.lsh.query(sketch) if (self.known[id][0] == sketch.hashvalues).mean() > least]
        if found:
            own = shingles(text, self.size)
            best = max((jaccard(own, shingles(self.known[id][1], self.size)), id) for id in found)
        return (sketch, best[1], best[0]) if best[0] >= self.threshold else (sketch, None, best[0])

    def add(self, id, text, sketch=None):
        sketch = sketch or self._sketch(text)
        self.lsh.insert(id, sketch, check_duplication=False)
        self.known[id] = (sketch.hashvalues, text)

    def _sketch(self, text):
        # the shingles are hashes already
        sketch = MinHash(PERMUTATIONS, seed=1, hashfunc=_same, permutations=self.permutations, scheme="affine32")
        self.permutations = sketch.permutations
        sketch.update_batch((shingles(text, self.size) & np.uint64(0xFFFFFFFF)).tolist())
        return sketch


def _same(value):
    return value


class NearDuplicates:
    """Conversations by id. `threshold`: the Jaccard similarity from which on two texts are near-duplicates; `size`:
    characters a shingle."""

    def __init__(self, threshold=0.7, size=5):
        self.prompts, self.responses = Texts(threshold, size), Texts(threshold, size)

    def admit(self, id, messages):
        """None, and the conversation is in the index from now on; or what it repeats, as words, and it is not."""
        new = []
        for name, index, role in (("prompt", self.prompts, "user"), ("response", self.responses, "assistant")):
            text = "\n".join(turn["content"] for turn in messages if turn["role"] == role)
            if not text:
                continue
            sketch, other, similarity = index.look(text)
            if other is not None:
                return f"{name} {similarity:.2f} like {other}"
            new.append((index, text, sketch))
        for index, text, sketch in new:
            index.add(id, text, sketch)
        return None
