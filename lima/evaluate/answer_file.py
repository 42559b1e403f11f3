"""A file of answers that grows an answer at a time and is never lost: `STEM.jsonl`, and `.STEM.partial.jsonl` until it is whole.

Rows: `{prompt_id, prompt, response, finish_reason, tokens, sampling, sample}`. `sampling` holds all that an answer depends on
beside its prompt and `sample`, so that what is there can be told from what is asked for. A reply within a dialogue
(dialogue.py) has the conversation before it as the text of its `prompt`, and as `messages`.
"""

import contextlib
import fcntl
import json
import os
import sys
from collections import Counter
from pathlib import Path

from lima import UserError, runs

KEYS = {"prompt_id", "prompt", "sampling", "sample"}  # what tells which answer a row is


def fill(out, prompts, sampling, answers, samples=1, limit=None, overwrite=False, label=""):
    """Brings the file `out` to `samples` answers to each of the first `limit` of `prompts`; returns their rows, prompt by prompt.

    `answers(missing, tick)` gets what is not there, a list of `(prompt, sample)`; what it returns yields `(prompt, sample, text,
    finish_reason, tokens)` in any order; `tick(tokens, note=None)` moves the progress bar. What is there is kept, as `stored`
    reads it. Rows are in the order of `prompts`, then of samples.
    """
    out = Path(out)
    asked = [(prompt["id"], sample) for prompt in prompts[:limit] for sample in range(samples)]
    have = stored(out, prompts, sampling, overwrite)
    missing = [(prompt, n) for prompt in prompts[:limit] for n in range(samples) if (prompt["id"], n) not in have]
    if missing:
        try:
            add(out, have, lambda tick: answers(missing, tick), sampling, len(asked) - len(missing), len(asked), label)
        except KeyboardInterrupt:
            kept = sum(key in have for key in asked)
            print(f"\n{out}: {kept} of {len(asked)} answers are kept; the same command goes on", file=sys.stderr)
            raise
    if missing or partial(out).exists() or len(read(out)) < len(_lines(out)):
        write(out, prompts, have)
        partial(out).unlink(missing_ok=True)
    return [have[key] for key in asked]


def add(out, have, answers, sampling, there, total, label):
    """Appends a row to what is not whole yet of `out`, and to `have`, as each answer ends that `answers(tick)` yields; `there` of
    `total` stand already."""
    from tqdm import tqdm

    generated, bar = 0, None

    def tick(tokens, note=None):
        nonlocal generated
        generated += tokens
        if note:
            bar.write(note, file=sys.stderr)
        bar.set_postfix_str(f"{generated / max(bar.format_dict['elapsed'], 1e-9):,.0f} tokens/s", refresh=False)
        bar.update(0)

    started = read(partial(out))
    kept = [row for row in started if have.get((row["prompt_id"], row["sample"])) == row]
    if len(kept) < len(started):  # those with other settings are replaced
        runs.write_jsonl(partial(out), kept)
    with _appending(partial(out)) as file:
        found = answers(tick)
        with tqdm(total=total, initial=there, desc=label, unit="answer", miniters=0, mininterval=0.5) as bar:
            for prompt, sample, text, reason, tokens in found:
                row = as_row(prompt, sample, text, reason, tokens, sampling)
                file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
                file.flush()
                have[prompt["id"], sample] = row
                bar.update(1)


def as_row(prompt, sample, text, reason, tokens, sampling):
    """An answer as its file has it."""
    so_far = {"messages": prompt["messages"]} if "transcript" in prompt else {}
    return {"prompt_id": prompt["id"], "prompt": text_of(prompt), "response": text, "finish_reason": reason,
            "tokens": tokens, "sampling": sampling, "sample": sample, **so_far}  # fmt: skip


def text_of(prompt):
    """What was asked: the last message, or the `transcript` of a dialogue so far."""
    return prompt["transcript"] if "transcript" in prompt else prompt["messages"][-1]["content"]


def write(out, prompts, have):
    """Writes the answers of `have` (by prompt id and sample) in the order of `prompts`, then of samples."""
    order = {prompt["id"]: number for number, prompt in enumerate(prompts)}
    runs.write_jsonl(out, sorted(have.values(), key=lambda row: (order[row["prompt_id"]], row["sample"])))


def partial(out):
    """Where answers stand until all of `out` are there."""
    return out.with_name(f".{out.stem}.partial.jsonl")


@contextlib.contextmanager
def _appending(path):
    """The file `path`, open to append for this process alone; a last line that a death tore is cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{path}: another process adds answers to it; wait for it to end") from None
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        try:
            yield file
        finally:
            if not os.fstat(file.fileno()).st_size:
                path.unlink()


def stored(out, prompts, sampling, overwrite=False):
    """`{(prompt id, sample): row}` of the answers in `out` and in what is not whole yet.

    Raises `UserError`, naming what differs, where some were made with other settings or to other prompts; with `overwrite` these
    are left out, and so replaced.
    """
    have, texts = {}, {prompt["id"]: text_of(prompt) for prompt in prompts}
    for path in (out, partial(out)):
        rows = read(path)
        others = [row for row in rows if row["sampling"] != sampling or texts.get(row["prompt_id"]) != row["prompt"]]
        if others and not overwrite:
            raise UserError(
                f"{path}: holds answers {_difference(others[0], sampling, texts)}; ask for the same, or replace "
                f"{len(others)} of its {len(rows)} answers with --overwrite"
            )
        rows = [row for row in rows if row not in others] if others else rows
        have |= {(row["prompt_id"], row["sample"]): row for row in rows}
    return have


def read(path):
    """The answers in a file, without a line that a death tore."""
    rows = []
    for line in _lines(path):
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    if not all(isinstance(row, dict) and row.keys() >= KEYS for row in rows):
        raise UserError(f"{path}: has rows without {', '.join(sorted(KEYS))}, so not answers; move it away")
    return rows


def _lines(path):
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return [line for line in text.split("\n") if line.strip()]


def _difference(row, sampling, texts):
    """How a row's answer was made otherwise, in words."""
    there = row["sampling"] if isinstance(row["sampling"], dict) else {}
    keys = [key for key in sampling | there if sampling.get(key) != there.get(key)]
    if keys:
        return "with other settings: " + ", ".join(f"{key} {there.get(key)} (now {sampling.get(key)})" for key in keys)
    if row["prompt_id"] not in texts:
        return f"to a prompt that is not among these, {row['prompt_id']!r}"
    return f"to another text of prompt {row['prompt_id']!r}"


def summary(rows):
    """Answers by finish reason, and their mean length."""
    counts = Counter(row["finish_reason"] for row in rows)
    reasons = ", ".join(f"{counts[reason]} ended by {reason}" for reason in ("eot", "eos") if counts[reason])
    cut = f"{counts['length']} cut at the limit" if counts["length"] else ""
    return f"{len(rows)} answers: {', '.join(filter(None, [reasons, cut]))}; {_mean(rows):,.0f} tokens on average"


def _mean(rows):
    return sum(row["tokens"] for row in rows) / len(rows)
