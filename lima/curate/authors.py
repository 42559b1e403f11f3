"""Examples of one's own → candidates (section 2.2 of the paper: 200 of the 1,000 were written by the authors).

    python -m lima.curate.authors --config recipes/data/lima-open.yaml --raw data/starter.jsonl \\
        --out data/candidates/lima-open/authors

Reads what training reads (`lima.conversations`): rows of `messages`, `conversations` or `prompt` and `response`. A row of
several turns becomes `multi_turn`, the paper's dialogue chains; any other `authors`.
"""

import sys

from lima import conversations, exit_codes
from lima.curate import command

SUFFIXES = (".jsonl", ".json", ".parquet")
DEFAULTS = {"author": "", "license": ""}


def curate(step, paths, settings, tick):
    """Every row is kept: they were chosen when they were written. `group` has a row's `tags`, or else its source.

    Raises `UserError` for rows that cannot be trained on, as training does; a conversation that stands in two files is
    kept once.
    """
    seen, ids = set(), set()
    for path in paths["raw"]:
        extras = {row["row"]: row for row in conversations.load_prompts(str(path))}
        for row in conversations.load(str(path)).rows:
            one = candidate(row, extras[row["row"]], settings)
            text = tuple(message["content"] for message in one["messages"])
            if text in seen:
                step.drop(one["id"], one["group"], "repeated", str(path), text[-1])
                continue
            if one["id"] in ids:
                one["id"] += f"@{path.stem}"
            seen.add(text)
            ids.add(one["id"])
            step.keep(one)
        tick(path.stat().st_size)


def candidate(row, extra, settings):
    """The row of candidates.parquet; `extra` is the row as the file has it."""
    tags = extra.get("tags")
    tags = [tags] if isinstance(tags, str) else [str(tag) for tag in tags or []]
    source = "multi_turn" if len(row["messages"]) > 2 else "authors"
    score = extra.get("score")
    return {
        "id": f"authors/{row['id']}",
        "source": source,
        "messages": row["messages"],
        "url": str(extra.get("url") or ""),
        "author": str(extra.get("author") or settings["author"]),
        "license": str(extra.get("license") or settings["license"]),
        "score": score if isinstance(score, int) and not isinstance(score, bool) else None,
        "group": "+".join(tags) or row["source"],
        "created": str(extra.get("created") or ""),
        "title": str(extra.get("title") or ""),
    }


if __name__ == "__main__":
    with exit_codes():
        command.run("authors", DEFAULTS, SUFFIXES, curate, __doc__, sys.argv[1:])
