"""A .jsonl file that several people add to at once, a row a line, from threads and processes."""

import json
import os
import threading
from pathlib import Path

from lima import UserError, runs


class Journal:
    """The rows of `path` as `parse(line, where)` makes them; none where there is no file yet.

    Another process may append to the file, or put another in its place; both are seen at the next look. Every method raises
    `UserError` for a line that `parse` refuses.
    """

    def __init__(self, path, parse):
        self.path, self.parse = Path(path), parse
        self._guard = threading.RLock()
        self._file = None  # kept open: a file that takes its place then has another number
        self._forget()

    def look(self):
        """The rows as the file has them now."""
        with self._guard:
            try:
                there = os.stat(self.path)
            except FileNotFoundError:
                self._forget()
                return self.rows
            if self._file is None or os.fstat(self._file.fileno()).st_ino != there.st_ino or there.st_size < self._read:
                self._forget()
                self._file = open(self.path, "rb", buffering=0)
            if there.st_size > self._read:
                self._read_on()
            return self.rows

    def add(self, row):
        """Appends a row: on disk when this returns, and where the disk is full the file is as it was before."""
        with self._guard, runs.locked(self.path.parent):
            self.look()
            self._append(row)

    def put(self, row, about, said, aside):
        """Adds `row` in place of those with the same `about(row)`, which `aside(rows)` gets first. Does nothing where one of
        these has the same `said(row)` too: a double click, or the same verdict again."""
        with self._guard, runs.locked(self.path.parent):
            rows = self.look()
            old = [one for one in rows if about(one) == about(row)]
            if not old:
                self._append(row)
            elif all(said(one) != said(row) for one in old):
                aside(old)
                runs.write_jsonl(self.path, [*(one for one in rows if one not in old), row])

    def _read_on(self):
        self._file.seek(self._read)
        new = self._file.read()
        whole = new[: new.rfind(b"\n") + 1]
        if _is_json(new[len(whole) :]):  # written by hand, without an end of line
            whole = new
        try:
            lines = whole.decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: not UTF-8 text (byte {self._read + error.start})") from None
        numbered = enumerate(filter(str.strip, lines), len(self.rows) + 1)
        self.rows += [self.parse(line, f"{self.path}: row {number}") for number, line in numbered]  # all, or none
        self._read += len(whole)
        self._ended = whole.endswith(b"\n") if whole else self._ended

    def _append(self, row):
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        with open(self.path, "ab", buffering=0) as file:
            file.truncate(self._read)  # what a death tore
            try:
                data = line if self._ended else b"\n" + line
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(self._read)
                raise

    def _forget(self):
        if self._file:
            self._file.close()
        self.rows, self._file, self._read, self._ended = [], None, 0, True


def _is_json(line):
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
