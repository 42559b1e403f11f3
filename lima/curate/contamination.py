"""Decontamination: a training example that shares 13 words in a row with an evaluation prompt is left out.

The words of the prompts are numbered, and every run of `n` numbers is hashed; a run of a training text whose hash is known is
compared word by word before it counts. A prompt shorter than `n` words counts where a whole turn equals it: "What is
love?" inside a long answer is no leak.
"""

import glob
from pathlib import Path

import numpy as np

from lima import UserError, conversations
from lima.curate.dedup import plain

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
KEYS = ("prompt", "instruction", "question", "text")  # MT-Bench's `turns`, AlpacaEval's `instruction` …


class Contamination:
    """Prompts by where they stand. `n`: words in a row that a leak shares."""

    def __init__(self, n=13):
        self.n, self.words, self.turns, self.runs = n, {}, {}, {}

    def add(self, name, text):
        """A prompt, and what to call it."""
        words = plain(text).split()
        numbers = np.array([self.words.setdefault(word, len(self.words) + 1) for word in words], dtype=np.uint64)
        if len(words) < self.n:
            self.turns.setdefault(" ".join(words), name)
        for start, key in enumerate(self._hashes(numbers)):
            self.runs.setdefault(key, []).append((name, words[start : start + self.n]))

    def find(self, messages):
        """None, or `(prompt's name, the shared words)` for the first turn that shares a run with a prompt."""
        for turn in messages:
            text = plain(turn["content"])
            if text in self.turns:
                return self.turns[text], text
            words = text.split()
            numbers = np.array([self.words.get(word, 0) for word in words], dtype=np.uint64)
            for start, key in enumerate(self._hashes(numbers)):
                for name, run in self.runs.get(key, ()):
                    if run == words[start : start + self.n]:
                        return name, " ".join(run)
        return None

    def _hashes(self, numbers):
        """The hash of each run of `n` numbers, as Python integers."""
        out = np.zeros(max(0, len(numbers) - self.n + 1), dtype=np.uint64)
        for start in range(self.n if len(out) else 0):
            out = out * MULTIPLIER + numbers[start : start + len(out)]
        return out.tolist()


def prompt_files(patterns):
    """The files that `mix.contamination.against` names; a pattern such as data/prompts/*.jsonl may match none."""
    found = []
    for pattern in patterns:
        here = sorted(glob.glob(pattern, recursive=True))
        if not here and not glob.has_magic(pattern):
            raise UserError(f"mix.contamination.against: {pattern}: no such file")
        found += here
    return [Path(path) for path in dict.fromkeys(found)]


def prompts(path):
    """`(name, text)` of every prompt in a .jsonl, .json or .parquet file of the usual forms: `messages`, `conversations`,
    `turns` (MT-Bench), `instruction` (AlpacaEval), `prompt`, `question`. Raises `UserError` for a row of no such form."""
    if path.suffix not in conversations.SUFFIXES:
        raise UserError(f"{path}: expected a {', '.join(conversations.SUFFIXES)} file of prompts")
    for number, row in enumerate(conversations.read_file(path)):
        try:
            texts = _texts(row)
        except (KeyError, TypeError, AttributeError):
            expected = f"expected messages, conversations, turns, {', '.join(KEYS)}"
            raise UserError(f"{path}: row {number}: no prompt in it; {expected}") from None
        for text in texts:
            yield f"{path} row {number}", text


def _texts(row):
    if row.get("messages"):
        return [turn["content"] for turn in row["messages"] if turn["role"] == "user"]
    if row.get("conversations"):
        return [str(text) for text in row["conversations"][::2]]
    if row.get("turns"):
        return [str(text) for text in row["turns"]]
    for key in KEYS:
        if row.get(key):
            return ["\n".join(filter(None, (str(row[key]), str(row.get("input") or ""))))]
    raise KeyError
