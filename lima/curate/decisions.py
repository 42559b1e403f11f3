"""What people decided about candidates: `decisions.jsonl`, a JSON object a line, only ever appended to.

    {"id": "stackexchange/beer/12", "decision": "accept", "who": "ada", "when": "2024-05-01T10:00:00Z", "why": "clear"}

`decision` is accept, reject or edit; an edit carries `messages`, the conversation as it should be; undo takes back what was
decided. The last line about an id counts. The authors of the paper chose their Reddit and task examples by hand: this is where
such a choice is kept.
"""

import datetime
import json
from pathlib import Path

from lima import UserError

KINDS = ("accept", "reject", "edit", "undo")


def load(path):
    """id → its last decision, a dict with `id`, `decision`, `who`, `when`, `why` and, for an edit, `messages`.

    No file is no decision. Raises `UserError` naming the line.
    """
    path, found = Path(path), {}
    if not path.exists():
        return found
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            put(found, parse(line, f"{path}: line {number}"))
    return found


def put(found, decision):
    """Notes the decision in `found` (id → its last)."""
    if decision["decision"] == "undo":
        found.pop(decision["id"], None)
    else:
        found[decision["id"]] = decision


def parse(line, where):
    """A line as its decision; raises as `checked`."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f"{where}: not valid JSON; expected one decision a line") from None
    return checked(row, where)


def checked(row, where):
    """A decision that is whole and well-formed; raises `UserError` with `where` in front."""
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object, found {type(row).__name__}")
    for key in ("id", "who", "when"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise UserError(f"{where}: `{key}` is missing; expected id, decision, who, when and why")
    if not isinstance(row.setdefault("why", ""), str):
        raise UserError(f"{where}: `why` is {type(row['why']).__name__}, expected text")
    if row.get("decision") not in KINDS:
        raise UserError(f"{where}: decision {row.get('decision')!r}; expected {', '.join(KINDS)}")
    try:
        datetime.datetime.fromisoformat(row["when"].replace("Z", "+00:00"))
    except ValueError:
        raise UserError(f"{where}: when {row['when']!r} is no ISO date, such as 2024-05-01T10:00:00Z") from None
    if row["decision"] == "edit":
        row["messages"] = _messages(row.get("messages"), where)
    return row


def _messages(turns, where):
    if not isinstance(turns, list) or not turns:
        raise UserError(f"{where}: an edit needs `messages`, the conversation as it should be")
    for number, turn in enumerate(turns):
        role = ("user", "assistant")[number % 2]
        if not isinstance(turn, dict) or turn.get("role") != role:
            raise UserError(f"{where}: turn {number} of the edit: expected role {role}; user first, then alternating")
        if not isinstance(turn.get("content"), str) or not turn["content"].strip():
            raise UserError(f"{where}: turn {number} of the edit is empty")
        if any("\ud800" <= one <= "\udfff" for one in turn["content"]):
            raise UserError(f"{where}: turn {number} of the edit holds half of a surrogate pair, which is not text")
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def apply(decision, candidate):
    """The candidate as decided: an edit's messages in place of its own, which stay beside as `original`."""
    if decision is None or decision["decision"] != "edit" or decision["messages"] == candidate["messages"]:
        return dict(candidate)
    by = {key: decision[key] for key in ("who", "when", "why")}
    return {**candidate, "messages": decision["messages"], "original": candidate["messages"], "edited": by}
