"""A dataset (Hub id, file or folder) → checked conversations.

A row has `messages` ([{role, content}, …]), or `conversations` (GAIR/lima: a list of strings, user first), or `prompt` and
`response`. Rows are counted from 0, as `datasets` does; in a .jsonl file row N stands on line N + 1.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from lima import UserError, hub

SHOWN = 20  # bad rows shown at once
ROLES = ("user", "assistant")
SUFFIXES = (".jsonl", ".json", ".parquet")


@dataclass
class Conversations:
    """`rows`: `{id, source, messages, row}`, in file order; `row` is the row's number in `name`."""

    name: str
    rows: list
    excluded: int = 0
    cut: list = field(default_factory=list)  # rows that ended on a user turn, which was left out
    notes: list = field(default_factory=list)  # what a person should know, a line each

    @property
    def fingerprint(self):
        """sha256 (16 hex digits) over all messages in order: equal if and only if the training text is."""
        text = json.dumps([row["messages"] for row in self.rows], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def of_recipe(recipe):
    """The dataset that a resolved recipe trains on, as `load` gives it."""
    where = recipe.dataset, recipe.dataset_split, recipe.dataset_revision
    return load(*where, recipe.exclude_sources, recipe.exclude_rows)


def load(dataset, split="train", revision=None, exclude_sources=(), exclude_rows=()):
    """Reads and checks a dataset to train on: every conversation has a response, and ends on one.

    A conversation that ends on a user turn loses that turn and is counted in `cut` (GAIR/lima's row 1021). Raises
    `UserError` naming the file, the rows (up to 20 of them) and the reasons.
    """
    found = Conversations(str(dataset), [])
    bad, seen = [], {}
    raw = _read(dataset, split, revision)
    known_sources = {_source(r) for r in raw if isinstance(r, dict)}
    for source in exclude_sources or ():
        if source not in known_sources:
            names = ", ".join(sorted(map(str, known_sources)))
            raise UserError(f"{dataset}: exclude_sources names {source!r}, but its sources are: {names}")
    if beyond := [number for number in exclude_rows or () if not 0 <= number < len(raw)]:
        raise UserError(f"{dataset}: exclude_rows names row {beyond[0]}, but it has rows 0 to {len(raw) - 1}")
    for number, row in enumerate(raw):
        try:
            messages = _messages(row)
            if _source(row) in (exclude_sources or ()) or number in (exclude_rows or ()):
                found.excluded += 1
                continue
            if messages[-1]["role"] == "user":
                if len(messages) < 3:
                    raise ValueError("has a prompt but no response")
                messages = messages[:-1]
                found.cut.append(number)
            text = json.dumps(messages)
            if text in seen:
                raise ValueError(f"is the same conversation as row {seen[text]}; leave one of them out")
            seen[text] = number
        except ValueError as error:
            bad.append((number, str(error)))
            continue
        found.rows.append(
            {
                "id": str(number if row.get("id") is None else row["id"]),
                "source": _source(row),
                "messages": messages,
                "row": number,
            }
        )
    _raise_bad(dataset, bad)
    if found.excluded and not found.rows:
        raise UserError(f"{dataset}: exclude_sources and exclude_rows leave no row; name fewer")
    if not found.rows:
        raise UserError(f"{dataset}: no conversation in it; expected rows with `messages`")
    if found.cut:
        found.notes.append(f"{_rows(found.cut)} ended on a user turn, which was left out")
    found.notes += _repeated_prompts(found.rows)
    return found


def load_prompts(dataset, split="train", revision=None):
    """Reads a prompt file: rows `{id, source, messages, row}` whose messages end on a user turn."""
    rows = load_rows(dataset, split, revision)
    for row in rows:
        if row["messages"][-1]["role"] == "assistant":
            row["messages"].pop()
    if not rows:
        raise UserError(f"{dataset}: no prompt in it; expected rows with `messages`")
    return rows


def load_rows(dataset, split="train", revision=None):
    """Reads and checks prompts and conversations alike: the rows as they are, with `id`, `messages` and `row`, their number.

    Raises `UserError` naming the file, the rows (up to 20 of them) and the reasons.
    """
    rows, bad = [], []
    for number, row in enumerate(_read(dataset, split, revision)):
        try:
            rows.append({**row, "messages": _messages(row), "id": str(row.get("id", number)), "row": number})
        except ValueError as error:
            bad.append((number, str(error)))
    _raise_bad(dataset, bad)
    return rows


def contaminated(train, prompts):
    """`[(prompt's row, training row), …]` where a prompt is trained on, white space and case aside."""
    trained = {}
    for row in train:
        for message in row["messages"][::2]:
            trained.setdefault(_plain(message["content"]), row["row"])
    pairs = [(p["row"], trained.get(_plain(p["messages"][-1]["content"]))) for p in prompts]
    return [(prompt, row) for prompt, row in pairs if row is not None]


def _source(row):
    return str(row.get("source") or "unknown")


def _plain(text):
    return " ".join(text.lower().split())


def _rows(numbers):
    return (
        ("row " if len(numbers) == 1 else "rows ")
        + ", ".join(map(str, numbers[:5]))
        + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
    )


def _repeated_prompts(rows):
    first, notes = {}, []
    for row in rows:
        prompt = _plain(row["messages"][0]["content"])
        if prompt in first:
            notes.append(f"row {row['row']} has the prompt of row {first[prompt]}")
        first.setdefault(prompt, row["row"])
    return notes[:5] + ([f"… {len(notes) - 5} more repeated prompts"] if len(notes) > 5 else [])


def _raise_bad(dataset, bad):
    if bad:
        lines = [f"  row {number}: {reason}" for number, reason in bad[:SHOWN]]
        more = [f"  … and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
        count = "1 row" if len(bad) == 1 else f"{len(bad)} rows"
        raise UserError("\n".join([f"{dataset}: {count} cannot be used (rows count from 0):", *lines, *more]))


def _messages(row):
    """One row in any of the three forms → checked `[{role, content}, …]`; `ValueError` says what is wrong."""
    if isinstance(row, _Unreadable):
        raise ValueError(row)
    if not isinstance(row, dict):
        raise ValueError(f"expected an object with `messages`, found {type(row).__name__}")
    if row.get("messages") is not None:
        turns = row["messages"]
        if not isinstance(turns, list) or not all(isinstance(t, dict) for t in turns):
            raise ValueError("`messages` is not a list of {role, content}")
        messages = [{"role": t.get("role"), "content": t.get("content")} for t in turns]
    elif row.get("conversations") is not None:
        turns = row["conversations"]
        if not isinstance(turns, list):
            raise ValueError("`conversations` is not a list of strings")
        messages = [{"role": ROLES[i % 2], "content": text} for i, text in enumerate(turns)]
    elif "prompt" in row and "response" in row:
        messages = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]
    else:
        raise ValueError(
            f"has none of `messages`, `conversations`, `prompt` + `response`; it has {', '.join(row) or 'nothing'}"
        )
    if not messages:
        raise ValueError("has no turns")
    for number, message in enumerate(messages):
        role, expected = message["role"], ROLES[number % 2]
        if role == "system":
            raise ValueError("has a system turn; LIMA has none: move its text into the first user turn, or drop it")
        if role not in ROLES:
            raise ValueError(f"turn {number} has role {role!r}; expected user or assistant")
        if role != expected:
            raise ValueError(f"turn {number} is {role}, expected {expected}: user first, then strictly alternating")
        if not isinstance(message["content"], str):
            raise ValueError(f"turn {number} is {type(message['content']).__name__}, expected text")
        if not message["content"].strip():
            raise ValueError(f"turn {number} is empty")
        if any(0xD800 <= ord(char) <= 0xDFFF for char in message["content"]):
            raise ValueError(f"turn {number} holds half of a surrogate pair, which is not text")
    return messages


def _read(dataset, split, revision):
    path = Path(dataset)
    if path.is_dir():
        return _read_folder(path, split)
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise UserError(f"{dataset}: no such file; give a .jsonl, .json or .parquet file, or a Hub dataset id")
        return read_file(path)
    if path.exists() or dataset.count("/") > 1 or dataset.startswith((".", "/")):
        raise UserError(f"{dataset}: expected a .jsonl, .json or .parquet file, a folder, or a Hub dataset id")
    return _read_hub(dataset, split, revision)


def read_file(path):
    """The rows of a .jsonl, .json or .parquet file, as they are. Raises `UserError` for one that is broken."""
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            try:
                return pyarrow.parquet.read_table(path).to_pylist()
            except pyarrow.ArrowException as error:
                raise UserError(f"{path}: not a Parquet file ({error})") from None
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            rows = json.loads(text)
            if not isinstance(rows, list):
                raise UserError(f"{path}: expected a list of rows, found {type(rows).__name__}")
            return rows
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    return _json_lines(text)


class _Unreadable(str):
    """A line that is not JSON, kept in its place so that it is reported with the other bad rows."""


def _json_lines(text):
    rows = []
    for line in text.split("\n"):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            rows.append(_Unreadable(f"not valid JSON ({error})"))
    return rows


def _read_folder(path, split):
    import datasets

    files = [path / f"{split}{suffix}" for suffix in SUFFIXES]
    for file in files:
        if file.is_file():
            return read_file(file)
    try:
        try:
            data = datasets.load_from_disk(str(path))
        except FileNotFoundError:
            data = datasets.load_dataset(str(path), split=split)
        return (data[split] if isinstance(data, dict) else data).to_list()
    except (FileNotFoundError, KeyError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"{path}: no split {split!r} that `datasets` can read ({' '.join(str(error).split())})"
        ) from None


def _read_hub(dataset, split, revision):
    """A plain `<split>.jsonl` in the repository is read as a file, so that no loading script is ever needed or run."""
    import datasets
    from huggingface_hub import errors, hf_hub_download

    name = f"{dataset}@{revision}" if revision else dataset
    with hub.reading(
        name, "dataset", "give a local copy that ends in .jsonl, .json or .parquet: --dataset train.jsonl"
    ):
        try:
            for suffix in SUFFIXES:
                try:
                    return read_file(
                        Path(hf_hub_download(dataset, split + suffix, repo_type="dataset", revision=revision))
                    )
                except errors.LocalEntryNotFoundError:  # not in the cache, and the Hub is out of reach
                    raise
                except errors.EntryNotFoundError:
                    continue
            return datasets.load_dataset(dataset, split=split, revision=revision).to_list()
        except (datasets.exceptions.DatasetsError, ValueError) as error:
            if isinstance(error, UserError | errors.HFValidationError):
                raise
            raise UserError(f"{dataset}: {' '.join(str(error).split())}") from None
