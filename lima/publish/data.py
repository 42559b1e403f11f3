"""Pushes a dataset as Parquet with its card, filled from the data's own statistics; recipes then train on it by its id.

    python -m lima.publish.data --dataset data/mine.jsonl --hub org/name|dir:PATH [--private] [--force]

A `dataset_card.md` in the file's folder or the one above whose `configs` name the file is its card: everything that they
name is pushed, and what a person wrote there stays. Any other file gets a card of its own and is the `train` split.
"""

import argparse
import io
import json
import re
import shlex
import statistics
import sys
from collections import Counter
from pathlib import Path

import yaml

from lima import UserError, conversations, exit_codes
from lima.publish import licences, send
from lima.publish.card import code, front_matter, mark, text
from lima.publish.revision import Revision
from lima.publish.secrets import TOKEN, refuse_secrets

CARD = "dataset_card.md"
FORMS = ("messages", "conversations", "prompt", "response", "row")  # where a row's text stands, and a counter
STATISTICS = "<!-- statistics -->"  # in a written card: where they go; at its end without it


def collect(file, force=False):
    """The revision `main` of a dataset, a Parquet file a split and README.md, and lines for the plan.

    Raises `UserError` for rows that cannot be used, and unless `force` for one that looks as if it held an access token.
    """
    file = _in_folder(file)
    if not file.is_file():
        raise UserError(f"{file}: no such file; give a .jsonl, .json or .parquet file, or a folder with train.jsonl")
    meta, body, splits = find_card(file)
    files, tables, notes = {}, {}, []
    for config in dict.fromkeys(config for config, _ in splits):
        here = {}
        for path, split in [(path, split) for (of, split), path in splits.items() if of == config]:
            name = f"{split}.parquet" if config == "default" else f"{config}/{split}.parquet"
            here[name], found = load(path, is_training=config == "default")
            notes += [f"{path.name}: {note}" for note in found]
            if not force:
                _refuse_tokens(path, here[name])
        files |= zip(here, parquet(file, here.values()), strict=True)
        tables |= here
    meta = {**meta, **_metadata(meta, tables, splits)}
    made = "\n\n".join([front_matter(meta), _with_statistics(body, tables), mark("dataset", file.stem)]) + "\n"
    files["README.md"] = made.encode()
    beside = file.with_name("ATTRIBUTION.md")  # the mix's: who wrote what, as share-alike licences ask
    if beside.is_file():
        files[beside.name] = beside
    rows = len(next(iter(tables.values())))
    licence = meta.get("license_name") or meta.get("license")
    notes.append(f"licence    {licence or 'none stated: give rows a `license`, or write a ' + CARD}")
    return Revision("main", files, says=f"{file.name}, {rows:,} rows"), notes


def _in_folder(file):
    """The training split of a folder such as `make curate-mix` writes; a file is itself."""
    file = Path(file)
    splits = [file / f"train{suffix}" for suffix in conversations.SUFFIXES] if file.is_dir() else []
    return next((split for split in splits if split.is_file()), file)


def find_card(file):
    """`(metadata, body, {(config, split): Path})` from a written card that names the file, or a new one's."""
    file = Path(file).resolve()
    for folder in (file.parent, file.parent.parent):
        card = folder / CARD
        if not card.is_file():
            continue
        meta, body = _parted(card)
        splits = {}
        for config in meta.get("configs") or []:
            for entry in config.get("data_files") or []:
                splits[config.get("config_name", "default"), entry["split"]] = folder / entry["path"]
        if file in [path.resolve() for path in splits.values()]:
            return meta, body, splits
    title = (
        f"# {text(file.stem)}\n\nConversations to fine-tune on, as [LIMA](https://arxiv.org/abs/2305.11206) does it."
    )
    return {"pretty_name": file.stem, "task_categories": ["text-generation"]}, title, {("default", "train"): file}


def _parted(card):
    found = re.fullmatch(r"---\n(.*?)\n---\n(.*)", card.read_text(encoding="utf-8"), re.DOTALL)
    try:
        meta = yaml.safe_load(found[1])
        if isinstance(meta, dict):
            return meta, found[2].strip()
    except (yaml.YAMLError, TypeError):
        pass
    raise UserError(f"{card}: expected metadata between two lines of ---, as the Hub reads it")


def load(path, is_training=True):
    """Checked rows `{id, source, messages, …}` with everything else that a row carries, and what a person should know."""
    if is_training:
        checked = conversations.load(str(path))
        rows, notes = checked.rows, checked.notes
    else:
        rows, notes = conversations.load_prompts(str(path)), []
    raw = raw_rows(path)
    for row in rows:
        beside = {key: value for key, value in raw[row.pop("row")].items() if key not in FORMS}
        row |= {**beside, "id": row["id"], "source": str(row.get("source") or "unknown")}
    return rows, notes


def raw_rows(path):
    """The rows of a dataset's file as they stand, in the order in which `conversations.load` counts them."""
    path = Path(path)
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()
    content = path.read_text(encoding="utf-8-sig")
    return json.loads(content) if path.suffix == ".json" else [json.loads(s) for s in content.split("\n") if s.strip()]


def distinct(rows, key):
    """The different values of a column, as text."""
    return sorted({str(row[key]) for row in rows if row.get(key)})


def parquet(path, splits):
    """The splits of one config (lists of rows) as Parquet files' bytes; the same rows give the same bytes.

    All splits get the same columns of the same kinds, or `datasets` would not read them as one.
    """
    import pyarrow
    import pyarrow.parquet

    rows, columns = [row for split in splits for row in split], {}
    for key in dict.fromkeys(("id", "source", "messages", *(key for row in rows for key in row))):
        try:
            columns[key] = pyarrow.array([row.get(key) for row in rows])
        except pyarrow.ArrowException as error:
            said = " ".join(str(error).split())[:120]
            raise UserError(
                f"{path}: column {key!r} holds values of different kinds ({said}); give it one kind"
            ) from None
    whole, files, start = pyarrow.table(columns), [], 0
    for split in splits:
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(whole.slice(start, len(split)), buffer, compression="zstd")
        files.append(buffer.getvalue())
        start += len(split)
    return files


def _refuse_tokens(path, rows):
    for number, row in enumerate(rows):
        if TOKEN.search(json.dumps(row, default=str)):
            raise UserError(f"{path}: row {number} holds what looks like an access token; take it out, or FORCE=1")


def _metadata(meta, tables, splits):
    """What the data itself says: licence where no person has stated it, size, and where each split lies."""
    lines, configs = {}, {}
    rows = next(iter(tables.values()))
    if "license" not in meta and (stated := distinct(rows, "license")):
        lines |= licences.metadata(licences.of_data("", stated))
    count = sum(map(len, tables.values()))
    bounds = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
    lines["size_categories"] = [next((name for bound, name in bounds if count < bound), "1M<n<10M")]
    for (config, split), name in zip(splits, tables, strict=True):
        configs.setdefault(config, []).append({"split": split, "path": name})
    lines["configs"] = [{"config_name": config, "data_files": files} for config, files in configs.items()]
    return lines


def _with_statistics(body, tables):
    first = conversations.Conversations("", next(iter(tables.values())))
    told = f"Fingerprint of the training text, as `recipe.yaml` of a run on it has it: `{first.fingerprint}`."
    made = "\n\n".join(["## Statistics", told, *[describe(name, rows) for name, rows in tables.items()]])
    return body.replace(STATISTICS, made) if STATISTICS in body else f"{body}\n\n{made}"


def describe(name, rows):
    """One file in Markdown: rows, lengths in characters by source, licences, and the columns beside the text."""

    def turns(part, role):
        return [len(turn["content"]) for row in part for turn in row["messages"] if turn["role"] == role]

    def line(label, part):
        cells = [label, f"{len(part):,}"]
        for role in ("user", "assistant"):
            found = turns(part, role)
            cells += [f"{statistics.mean(found):,.0f}", f"{max(found):,}"] if found else ["", ""]
        return "| " + " | ".join(cells) + " |"

    sources = Counter(row["source"] for row in rows)
    parts = [
        line(text(source), [row for row in rows if row["source"] == source]) for source, _ in sources.most_common()
    ]
    turned = Counter(len(row["messages"]) for row in rows)
    longer = sum(count for length, count in turned.items() if length > 2)
    columns = Counter(key for row in rows for key, value in row.items() if value is not None)
    others = [f"{code(key)} {count:,}" for key, count in columns.items() if key not in ("id", "source", "messages")]
    stated = Counter(str(row["license"]) for row in rows if row.get("license"))
    said = [f"{text(value)} {count:,}" for value, count in stated.most_common()]
    said += [f"not stated {len(rows) - sum(stated.values()):,}"] if sum(stated.values()) < len(rows) else []
    more = f", {longer:,} of them of more than one exchange" if longer else ""
    return "\n".join(
        [
            f"{code(name)}, {len(rows):,} rows{more}. Characters a turn:",
            "",
            "| source | rows | prompts, mean | longest | responses, mean | longest |",
            "|---|---:|---:|---:|---:|---:|",
            *parts,
            *([line("all", rows)] if len(sources) > 1 else []),
            "",
            *(["Licences that rows state: " + ", ".join(said) + "."] if stated else []),
            *(
                ["Columns beside `id`, `source`, `messages`, and rows with them: " + ", ".join(others) + "."]
                if others
                else []
            ),
        ]
    )


def main(argv):
    args = arguments().parse_args(argv)
    if not (args.dataset and args.hub):
        raise UserError("DATASET (a file, or a folder with train.jsonl) and HUB (org/name or dir:PATH) are both needed")
    flags = [f"{key}=1" for key in ("PRIVATE", "FORCE") if getattr(args, key.lower())]
    again = " ".join([f"make push-data DATASET={shlex.quote(args.dataset)} HUB={shlex.quote(args.hub)}", *flags])
    to = send.target(args.hub, "dataset", args.private, again)
    revision, notes = collect(args.dataset, args.force)
    refuse_secrets([revision])
    known_by = mark("dataset", _in_folder(args.dataset).stem)
    send.push(to, [revision], known_by, args.force, lambda path: path.endswith(".parquet"), notes)
    name = args.hub if to.on_hub else str(to.path / "main/train.parquet")
    print(f"\npushed · {to.shown}\n  train on it: --dataset {name}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="a .jsonl, .json or .parquet file, or a folder with train.jsonl")
    parser.add_argument("--hub", help="org/name, or dir:PATH for the same tree in a folder")
    parser.add_argument("--private", action="store_true", help="create the repository private")
    parser.add_argument(
        "--force", action="store_true", help="push what looks like a secret; replace what somebody else put there"
    )
    return parser


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
