"""What a curation step leaves: candidates, and a ledger that says of every row considered what became of it.

`candidates.parquet` holds the examples that passed every rule; `ledger.parquet` one line a considered row, with the first
rule that dropped it, or "" where it was kept. The counts by rule therefore add up to what came in. `done.json` is written
last: it names settings and inputs, so that a step whose result stands does nothing.
"""

import contextlib
import json
import os
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lima import UserError, runs

CANDIDATES, LEDGER, DONE = "candidates.parquet", "ledger.parquet", "done.json"
EXCERPT = 300  # characters
LIBRARIES = ("lxml", "markdownify", "py7zr", "zstandard", "pyarrow", "datasketch")

TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
CANDIDATE = pa.schema(
    [
        ("id", pa.string()),  # stable, such as stackexchange/beer/1234
        ("source", pa.string()),  # stackexchange_stem, wikihow, writingprompts …
        ("messages", pa.list_(TURN)),
        ("url", pa.string()),
        ("author", pa.string()),
        ("license", pa.string()),
        ("score", pa.int64()),
        ("group", pa.string()),  # site, category, subreddit or task category
        ("created", pa.string()),  # ISO date
        ("title", pa.string()),
    ]
)
LINE = pa.schema([(name, pa.string()) for name in ("id", "group", "rule", "detail", "excerpt")])


class _Table:
    """A Parquet file written beside its place, a row group of `size` rows at a time."""

    def __init__(self, path, schema, size):
        self.path, self.schema, self.size, self.rows = path, schema, size, []
        self.beside = path.with_name(f".{path.name}.{os.getpid()}")
        words = [name for name in ("group", "rule", "source", "license") if name in schema.names]
        self.writer = pq.ParquetWriter(
            self.beside, schema, compression="zstd", use_dictionary=words, write_statistics=words
        )

    def flush(self):
        if self.rows:
            columns = zip(*self.rows, strict=True)
            arrays = [pa.array(c, type=f.type) for c, f in zip(columns, self.schema, strict=True)]
            self.writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema))
            self.rows.clear()

    def discard(self):
        with contextlib.suppress(Exception):  # what broke the block is what the user should see
            self.writer.close()
        self.beside.unlink(missing_ok=True)


class Step:
    """Collects what one step keeps and drops, in `folder`; nothing of it stays unless the block ends well.

    `settings` and `inputs` (paths) are what `done` compares; `notes` goes into done.json beside them. Memory is flat:
    a few thousand rows are held at a time. Raises `ValueError` for a candidate without the columns of `CANDIDATE`.

        with Step(folder, settings, inputs) as step:
            step.keep(candidate)
            step.drop(id, group, rule, detail, excerpt)
    """

    def __init__(self, folder, settings=None, inputs=()):
        self.folder, self.settings, self.inputs = Path(folder), settings or {}, list(inputs)
        self.counts, self.notes = Counter(), {}

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (CANDIDATES, LEDGER):  # what a killed process left
            for path in self.folder.glob(f".{name}.*"):
                path.unlink()
        self._stamp = stamp(self.inputs)  # before reading: an input that changes meanwhile is read again
        self._candidates = _Table(self.folder / CANDIDATES, CANDIDATE, 1000)
        self._ledger = _Table(self.folder / LEDGER, LINE, 20000)
        return self

    def keep(self, candidate, detail=""):
        """A candidate: a dict with the columns of `CANDIDATE`."""
        if candidate.keys() != set(CANDIDATE.names):
            raise ValueError(f"a candidate has the columns {CANDIDATE.names}; found {sorted(candidate)}")
        self._candidates.rows.append([candidate[name] for name in CANDIDATE.names])
        if len(self._candidates.rows) >= self._candidates.size:
            self._candidates.flush()
        answer = candidate["messages"][-1]["content"] if candidate["messages"] else ""
        self.drop(candidate["id"], candidate["group"], "", detail, answer)

    def drop(self, id, group, rule, detail="", excerpt=""):
        """A row that `rule` dropped; `detail` says what it found, `excerpt` is cut to 300 characters."""
        self.counts[rule] += 1
        rows = self._ledger.rows
        rows.append((id, group, rule, detail, excerpt[:EXCERPT]))
        if len(rows) >= self._ledger.size:
            self._ledger.flush()

    def drop_all(self, numbers, group, rule, details, excerpts):
        """`drop` for many rows at once, at a tenth of the cost: ids and details are (prefix, whole numbers)."""
        self.counts[rule] += len(excerpts)
        joined = [
            pc.binary_join_element_wise(prefix, pa.array(np.array(values, np.int64)).cast(pa.string()), "")
            for prefix, values in (numbers, details)
        ]
        same = [pa.repeat(pa.scalar(word), len(excerpts)) for word in (group, rule)]
        columns = [joined[0], *same, joined[1], pa.array(excerpts, pa.string())]
        self._ledger.writer.write_table(pa.Table.from_arrays(columns, schema=LINE))

    def add(self, folder):
        """Appends what another step left in `folder` (a part of this one)."""
        for table, name in ((self._candidates, CANDIDATES), (self._ledger, LEDGER)):
            table.flush()
            for group in _groups(Path(folder) / name):
                table.writer.write_table(group)
                pa.default_memory_pool().release_unused()  # else it keeps what the largest group took
        self.counts.update(counts(folder))

    def __exit__(self, kind, error, trace):
        tables = (self._candidates, self._ledger)
        try:
            if kind is None:
                for table in tables:
                    table.flush()
                    table.writer.close()
                (self.folder / DONE).unlink(missing_ok=True)  # from here to the last line the folder is not done
                for table in tables:
                    os.replace(table.beside, table.path)
                self._write_done()
        finally:
            for table in tables:
                table.discard()

    def _write_done(self):
        record = {
            "settings": self.settings,
            "inputs": self._stamp,
            "considered": sum(self.counts.values()),
            "kept": self.counts[""],
            "counts": dict(sorted(self.counts.items())),
            "notes": self.notes,
            "versions": {name: version(name) for name in LIBRARIES},
            "commit": runs.git_commit(),
        }
        runs.write_text(self.folder / DONE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def stamp(inputs):
    """Size and time of change of each input file, by name; what `done` compares."""
    stats = {str(path): os.stat(path) for path in inputs}
    return {path: {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns} for path, stat in sorted(stats.items())}


def record(folder):
    """What done.json says, or None where the step has not ended."""
    try:
        return json.loads((Path(folder) / DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def done(folder, settings, inputs):
    """Whether `folder` holds the result of exactly these settings and inputs."""
    found = record(folder)
    asked = {"settings": settings, "inputs": stamp(inputs)}
    whole = all((Path(folder) / name).exists() for name in (CANDIDATES, LEDGER))
    return bool(found) and whole and {k: found.get(k) for k in asked} == json.loads(json.dumps(asked))


def counts(folder):
    """Rule → rows it dropped; "" → rows kept."""
    found = record(folder)
    if found is None:
        raise UserError(f"{folder}: no finished step there ({DONE} is missing); run it first")
    return found["counts"]


def candidates(folder):
    """The kept examples of a finished step, one dict at a time, in their order."""
    counts(folder)
    for group in _groups(Path(folder) / CANDIDATES):
        yield from group.to_pylist()


def lines(folder):
    """The ledger of a finished step, one dict at a time, in its order."""
    counts(folder)
    for group in _groups(Path(folder) / LEDGER):
        yield from group.to_pylist()


def _groups(path):
    """The row groups of a Parquet file, one in memory at a time."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, use_threads=False)


def table(counted):
    """The counts by rule as text, largest first, with the total."""
    rows = sorted(((n, rule) for rule, n in counted.items() if rule), reverse=True)
    rows = [("considered", sum(counted.values())), *((rule, n) for n, rule in rows), ("kept", counted.get("", 0))]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {n:>12,}" for name, n in rows)
