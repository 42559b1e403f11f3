"""Which candidates are looked at, and in which order: groups by temperature, within a group best or seeded first.

Everything follows a hash of seed and id, so neither the order of rows and files nor other sources' candidates change what is
drawn, and a smaller quota draws the beginning of a larger one's list.
"""

import hashlib
import math
import random
from itertools import accumulate, groupby

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lima import UserError

LIGHT = ["id", "source", "group", "score"]  # what ranking needs: the text stays on disk until it is drawn
UNSCORED = -(2**62)


class Pool:
    """All candidates of some files, by number. Arrays of one length: `source` and `group` (indices into the sorted lists
    `sources` and `groups`), `score` (lowest where there is none), `key` (uint64 of seed and id)."""

    def __init__(self, files, seed):
        self.files, starts = sorted(files), [0]
        sources, groups, parts = {}, {}, [(np.zeros(0, np.int64),) * 4]
        for file in self.files:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=20000, columns=LIGHT):
                id, source, group, score = (column.to_pylist() for column in batch.columns)
                source = [sources.setdefault(name, len(sources)) for name in source]
                group = [groups.setdefault(name or "", len(groups)) for name in group]
                score = [UNSCORED if value is None else value for value in score]
                key = np.array([key_of(seed, one) for one in id], dtype=np.uint64).view(np.int64)
                parts.append((np.array(source), np.array(group), np.array(score), key))
            starts.append(sum(len(part[0]) for part in parts))
        source, group, self.score, key = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        self.starts, self.key = np.array(starts), key.view(np.uint64)
        self.sources, self.source = _sorted(sources, source)
        self.groups, self.group = _sorted(groups, group)
        self._refuse_repeats()

    def __len__(self):
        return len(self.key)

    def members(self, source, group=None):
        """Numbers of the candidates of a source, of one group of it if given."""
        chosen = self.source == (self.sources.index(source) if source in self.sources else -1)
        if group is not None:
            chosen &= self.group == (self.groups.index(group) if group in self.groups else -1)
        return np.flatnonzero(chosen)

    def find(self, seed, ids):
        """id → number, of those ids that are candidates."""
        order = np.argsort(self.key, kind="stable")
        found = {}
        for id in ids:
            key = np.uint64(key_of(seed, id))
            place = np.searchsorted(self.key, key, sorter=order)
            if place < len(order) and self.key[order[place]] == key:
                found[id] = int(order[place])
        return found

    def fetch(self, numbers):
        """The candidates with these numbers, as dicts, in their order."""
        found = {}
        where = [(self._file(number), int(number)) for number in sorted(set(numbers))]
        for place, wanted in groupby(where, key=lambda pair: pair[0]):
            rows = [n - int(self.starts[place]) for _, n in wanted]
            found |= {row + int(self.starts[place]): content for row, content in _rows(self.files[place], rows)}
        return [found[int(n)] for n in numbers]

    def ids(self):
        """All ids, by number, as an Arrow array."""
        return pa.chunked_array([pq.read_table(file, columns=["id"])["id"].combine_chunks() for file in self.files])

    def source_of(self, number):
        return self.sources[self.source[number]]

    def _refuse_repeats(self):
        keys, counts = np.unique(self.key, return_counts=True)
        if len(keys) < len(self.key):
            twice = np.flatnonzero(self.key == keys[counts > 1][0])[:2].tolist()
            where = dict.fromkeys(str(self.files[self._file(number)]) for number in twice)
            raise UserError(
                f"{self.fetch(twice[:1])[0]['id']}: a candidate twice, in {' and '.join(where)}; remove one of the two"
            )

    def _file(self, number):
        return int(np.searchsorted(self.starts, number, side="right")) - 1


def _sorted(names, codes):
    """The names in order, and the codes as places in that order."""
    ordered = sorted(names)
    place = {name: number for number, name in enumerate(ordered)}
    return ordered, np.array([place[name] for name in names], dtype=np.int64)[codes.astype(np.int64)]


def key_of(seed, id):
    """64 bits that order candidates at random, by seed."""
    return int.from_bytes(
        hashlib.blake2b(f"{seed}/{id}".encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )


def _rows(file, rows):
    """`(row, dict)` of the numbered rows of a Parquet file, reading only the row groups that hold them."""
    with pq.ParquetFile(file) as opened:
        start, wanted = 0, list(rows)
        for number in range(opened.num_row_groups):
            size = opened.metadata.row_group(number).num_rows
            here = [row for row in wanted if start <= row < start + size]
            if here:
                content = opened.read_row_group(number).take([row - start for row in here]).to_pylist()
                yield from zip(here, content, strict=True)
                wanted = wanted[len(here) :]
            start += size


def probabilities(sizes, tau):
    """Groups of these sizes → how likely each is drawn: p_i ∝ n_i^(1/τ). τ = 1 is proportional to size, τ = inf uniform.

    The paper: "temperature τ = 3"; the exponent is our reading, and n_i counts candidates.
    """
    weights = [size ** (0.0 if math.isinf(tau) else 1 / tau) for size in sizes]
    return [weight / sum(weights) for weight in weights]


def ranking(pool, numbers, tau, within, seed, name):
    """Yields the numbers in the order in which to look at them.

    A group is drawn by `probabilities`, then its next candidate: best score first (`within="score"`, ties by seed) or at
    random (`within="random"`). A group that is used up is drawn no more. `name` parts the draws of one source from another's.
    """
    first = -pool.score[numbers] if within == "score" else np.zeros(len(numbers), dtype=np.int64)
    ordered = numbers[np.lexsort((pool.key[numbers], first, pool.group[numbers]))]
    queues = {}
    for number in ordered.tolist():
        queues.setdefault(pool.group[number], []).append(number)
    queues = [queue[::-1] for queue in queues.values()]  # taken from their ends
    weights = probabilities([len(queue) for queue in queues], tau)
    draw = random.Random(f"{seed}/{name}")
    while queues:
        upto, least = list(accumulate(weights)), min(map(len, queues))
        for _ in range(least):  # no queue can run empty before
            place = draw.choices(range(len(queues)), cum_weights=upto)[0]
            yield queues[place].pop()
        alive = [place for place, queue in enumerate(queues) if queue]
        queues, weights = [queues[place] for place in alive], [weights[place] for place in alive]
