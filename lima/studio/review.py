"""Candidates of a mix, to be accepted, rejected or edited by a person (section 2: the authors chose and edited by hand).

Every decision is a line of decisions.jsonl, which `make curate-mix` applies at its next run.
"""

import re
import statistics
import threading
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from lima import UserError, conversations
from lima.curate import card, decisions, dedup, ledger, mixture
from lima.evaluate.asking import now
from lima.studio import shown
from lima.studio.journal import Journal

ALIKE = 0.35  # Jaccard similarity from which a candidate is shown as like another; the mix refuses from 0.7 on
CLOSE = 0.1  # of a limit: who is nearer to it passed barely
FIRST_PERSON = re.compile(r"[^.!?\n]*\b(?:I|my|me|mine|myself)\b[^.!?\n]*")
CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.S)


class Review:
    """The candidates of `data` (a folder that the mix wrote, or a file of conversations), and what was decided about them.

    count: a function of a text's tokens. Raises `UserError` for nothing to review, a row that is none, or decisions about another
    dataset.
    """

    def __init__(self, data, count, decided=None):
        data = Path(data)
        file = data / "review.jsonl" if data.is_dir() else data
        if data.is_dir() and not file.is_file():
            raise UserError(f"{data}: no review.jsonl there; make it with `make curate-mix`, or give a .jsonl file")
        self.name = data.resolve().stem
        self.rows = conversations.load_rows(str(file))
        if not self.rows:
            raise UserError(f"{file}: no candidate in it; `make curate-mix` writes those that passed every rule")
        self.mix = ledger.record(data) if data.is_dir() else None
        beside = data / "decisions.jsonl" if data.is_dir() else data.with_name(f"{data.stem}.decisions.jsonl")
        self.journal = Journal(decided or beside, decisions.parse)
        self.steps = _steps(self.mix)
        self._same_dataset(data)
        self.tokens = [[count(turn["content"]) for turn in row["messages"]] for row in self.rows]
        self.of_kind = {}  # tokens of all prompts and of all responses of a split and source
        for row, tokens in zip(self.rows, self.tokens, strict=True):
            for what, number in zip(("prompt", "response"), tokens, strict=False):
                self.of_kind.setdefault((_kind(row), what), []).append(number)
        self.barely = [barely(row, self.steps) for row in self.rows]
        self.alike = None  # n → [(what, similarity, id), …], once they are found
        threading.Thread(target=self._find_alike, daemon=True).start()

    def decided(self):
        """id → the last decision about it."""
        found = {}
        for decision in list(self.journal.look()):
            decisions.put(found, decision)
        return found

    def overview(self):
        """All that the page needs to know of all candidates, and what was decided."""
        return {
            "name": self.name,
            "items": [
                {
                    "id": row["id"],
                    "source": row.get("source") or "unknown",
                    "split": row.get("split") or "",
                    "tokens": round(sum(self.tokens[n])),
                    "rules": [*(row.get("flags") or {}), *self.barely[n]],
                }
                for n, row in enumerate(self.rows)
            ],
            **self.standing(),
        }

    def standing(self):
        """What everybody has decided so far: `decisions`, a candidate each (None while there is none), and `quotas`."""
        decided = self.decided()
        kinds = [decided[row["id"]]["decision"] if row["id"] in decided else None for row in self.rows]
        return {"decisions": kinds, "quotas": self.quotas(decided)}

    def quotas(self, decided):
        """`{split, source, rows, accepted, rejected}` a quota of the mix; where there is no mix, a source, with rows None."""
        counted = Counter()
        for row in self.rows:
            if row["id"] in decided:
                kind = "rejected" if decided[row["id"]]["decision"] == "reject" else "accepted"
                for group in (None, row.get("group")):
                    counted[row.get("split") or "", row.get("source"), group, kind] += 1
        if self.mix and "quotas" in self.mix["notes"]:
            wanted = [(q["split"], q["source"], q["group"], q["rows"]) for q in self.mix["notes"]["quotas"]]
        else:
            wanted = [
                (*key, None, None) for key in dict.fromkeys((r.get("split") or "", r.get("source")) for r in self.rows)
            ]
        return [
            {"split": split, "source": f"{source or 'unknown'}{f' / {group}' if group else ''}", "rows": rows,
             **{kind: counted[split, source, group, kind] for kind in ("accepted", "rejected")}}
            for split, source, group, rows in wanted
        ]  # fmt: skip

    def view(self, n):
        """Candidate n as it is shown, with what speaks for it and against it."""
        row = self._row(n)
        decision = self.decided().get(row["id"])
        messages = decision["messages"] if decision and decision["decision"] == "edit" else row["messages"]
        asked = row["messages"][0]["content"]  # the title may be the prompt itself
        facts = {key: row.get(key) for key in ("group", "score", "author", "license", "created", "title")}
        return {
            "n": n,
            "id": row["id"],
            "messages": [{**turn, "html": shown.as_html(turn["content"])} for turn in messages],
            "facts": {key: shown.visible(str(value)) for key, value in facts.items() if value not in (None, "", asked)},
            "url": _address(row.get("url")),
            "flags": {name: shown.visible(str(found)) for name, found in (row.get("flags") or {}).items()},
            "barely": self.barely[n],
            "alike": None if self.alike is None else self.alike.get(n, []),
            "lengths": self.lengths(n),
            "decision": decision and {key: decision[key] for key in ("decision", "who", "when", "why")},
        }

    def lengths(self, n):
        """`[(what, tokens, mean of the source here, the paper's mean or None), …]` of prompt and response."""
        kind = _kind(self.rows[n])
        paper = card.PAPER.get(kind, (None, None))
        return [
            (what, round(tokens), round(statistics.mean(self.of_kind[kind, what])), stated)
            for what, tokens, stated in zip(("prompt", "response"), self.tokens[n], paper, strict=False)
        ]

    def check(self, n, identity, kind, who, seen):
        """Raises `UserError` where a page that was loaded before is about to decide on what it does not show: on another candidate
        than `identity`, or one whose decision is no longer `seen`; or to take back somebody else's."""
        if self._row(n)["id"] != identity:
            raise UserError("these are other candidates than when the page was loaded; load it again")
        there = self.decided().get(identity)
        if (there and there["decision"]) != seen:
            said = f"{there['who']} has decided on it: {there['decision']}" if there else "its decision was taken back"
            raise UserError(f"{said}, since you got this page; look again")
        if kind == "undo" and there and there["who"] != who:
            raise UserError(f"{there['who']} decided on it; decide otherwise instead of undoing")

    def decide(self, n, kind, who, why="", messages=None):
        """Appends a decision about candidate n. Raises `UserError` for one that decisions.jsonl cannot hold."""
        row = {"id": self._row(n)["id"], "decision": kind, "who": who, "when": now(), "why": why}
        if kind == "edit":
            row["messages"] = messages
        self.journal.add({**row, **decisions.checked(row, "this edit" if kind == "edit" else "this decision")})

    def _row(self, n):
        if not 0 <= n < len(self.rows):
            raise UserError(f"no candidate {n}; there are {len(self.rows)}; load the page again")
        return self.rows[n]

    def _same_dataset(self, data):
        known, decided = {row["id"] for row in self.rows}, {row["id"] for row in self.journal.look()}
        if self.mix and decided - known:  # what was rejected is not in review.jsonl any more
            known |= {line["id"] for line in ledger.lines(data)}
        if decided and not decided & known:
            raise UserError(
                f"{self.journal.path}: none of its {len(decided)} ids is a candidate of {data}, such as {sorted(decided)[0]!r}; "
                "it is of another dataset: move it away, or give the dataset that it is of"
            )

    def _find_alike(self):
        indexes, found = {role: dedup.Texts(ALIKE, 5) for role in conversations.ROLES}, {}
        for n, row in enumerate(self.rows):
            for role, what in zip(conversations.ROLES, ("prompt", "response"), strict=True):
                text = "\n".join(turn["content"] for turn in row["messages"] if turn["role"] == role)
                if not text:
                    continue
                sketch, other, similarity = indexes[role].look(text)
                if other is not None:
                    found.setdefault(n, []).append((what, round(similarity, 2), self.rows[other]["id"]))
                    found.setdefault(other, []).append((what, round(similarity, 2), row["id"]))
                indexes[role].add(n, text, sketch)
        self.alike = found


def _kind(row):
    return row.get("split") or "train", row.get("source")


def _steps(mix):
    """The settings of the steps that made the mix's candidates, where they are still there."""
    try:
        files = mixture.candidate_files(mix["notes"]["candidates"]) if mix else []
    except (UserError, KeyError):
        return []
    return [(ledger.record(file.parent) or {}).get("settings", {}) for file in files]


def barely(row, steps):
    """`{rule: words}`: limits of the steps (their settings) that a candidate passed by less than a tenth."""
    source, response, found = str(row.get("source")), row["messages"][-1]["content"], {}
    for rule, value, low, high, unit in _limits(source, row.get("score"), len(response), steps):
        if low is not None and low <= value <= low * (1 + CLOSE):
            found[rule] = f"{value:,} {unit}, at least {low:,}"
        elif high is not None and high * (1 - CLOSE) <= value <= high:
            found[rule] = f"{value:,} {unit}, at most {high:,}"
    if source.startswith("stackexchange") and (said := FIRST_PERSON.search(CODE.sub(" ", response))):
        found["first person"] = f"“{shown.visible(said[0].strip()[:120])}” is let through"
    return found


def _limits(source, score, characters, steps):
    """`(rule, value, low, high, unit)` of what a source's step limits."""
    for rules in steps:
        post, length = None, (None, None)
        if source.startswith("stackexchange") and "answer_characters" in rules:
            post, length = rules["answer_min_score"], rules["answer_characters"]
        elif source == "wikihow" and "min_characters" in rules:
            length = rules["min_characters"], rules["max_characters"]
        elif source in ("writingprompts", "askreddit") and source in rules:
            post, response = rules[source]["min_score"], rules[source].get("response")
            length = (response["min_characters"], response["max_characters"]) if response else length
        else:
            continue
        if score is not None:
            yield "score", score, post, None, "points"
        yield "length", characters, *length, "characters"


def _address(url):
    try:
        return url if urlsplit(url or "").scheme in ("http", "https") else None
    except ValueError:
        return None
