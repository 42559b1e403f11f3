"""Where a site's posts lie between the pass that reads them and the rules that judge them: a temporary SQLite file, written
in batches and never committed; and the sample of the arm without rules."""

import heapq
import sqlite3
from contextlib import closing, contextmanager

from lima import UserError
from lima.curate.sampling import key_of

QUESTIONS = "id integer primary key, score, title, html, user, name"
ANSWERS = "id integer primary key, parent, score, rule, found, html, user, name, created, license"


@contextmanager
def opened(file):
    """The empty tables, in one transaction that is never committed: this process alone reads them. `file` is gone after."""
    file.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(file, isolation_level=None)) as store:
            store.executescript(
                "pragma page_size=65536; pragma journal_mode=off; pragma synchronous=off; pragma locking_mode=exclusive; begin;"
            )
            store.execute(f"create table questions ({QUESTIONS})")
            store.execute(f"create table answers ({ANSWERS})")
            yield store
    except sqlite3.OperationalError as error:
        raise UserError(
            f"{file}: cannot be written ({error}); free some disk: it takes up to half of Posts.xml"
        ) from None
    finally:
        file.unlink(missing_ok=True)


class Rows:
    """Rows for a table of the store, written a thousand at a time."""

    def __init__(self, store, table, columns):
        self.store, self.rows = store, []
        self.insert = f"insert into {table} values ({','.join('?' * columns)})"

    def add(self, row):
        self.rows.append(row)
        if len(self.rows) == 1000:
            self.flush()

    def flush(self):
        self.store.executemany(self.insert, self.rows)
        self.rows.clear()


class Sample:
    """The `size` questions with the least luck: the same whatever order they come in, and known while they come."""

    def __init__(self, seed, size):
        self.seed, self.size, self.heap = seed, size, []

    def may_hold(self, id):
        return len(self.heap) < self.size or -luck(self.seed, id) >= self.heap[0]

    holds = may_hold

    def take(self, id):
        if not self.may_hold(id):
            return False
        (heapq.heappush if len(self.heap) < self.size else heapq.heappushpop)(self.heap, -luck(self.seed, id))
        return True


def luck(seed, id):
    """A number below 2^62 that follows from the seed and the id alone."""
    return key_of(seed, id) >> 2
