"""Quotas by split and source, filled from ranked candidates that pass the gate and from what people decided."""

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from lima import UserError, conversations
from lima.curate import decisions, sampling, settings

SPLITS = ("dev", "test", "train")  # in this order: what is trained on must keep clear of the prompts
WITHIN = ("score", "random")
UNSAID = {"url": "", "author": "", "license": "", "score": None, "created": "", "title": ""}
HOW = {  # where more of a source comes from
    "stackexchange": "more sites or a newer dump for `make curate-stackexchange`, or a lower score in `stackexchange`",
    "wikihow": "more pages for `make curate-wikihow`",
    "writingprompts": "more months of submissions and comments for `make curate-reddit`",
    "askreddit": "more months of submissions for `make curate-reddit`",
    "nlp": "more task files for `make curate-super-ni`",
    "authors": "more examples of your own for `make curate-authors`, or more prompts in its file",
    "multi_turn": "sites with Comments.xml for `make curate-dialogues`, or dialogues of your own",
}


@dataclass
class Quota:
    """`rows` examples of `source` (of its group `group`, if given) in `split`, and what fills them: candidates, or for dev
    and test the prompts in `file`, in their order.

    `admitted`: rows that passed, those that a person accepted first, then by rank; the first `rows` of them are chosen.
    `tried`: how many candidates were looked at, `available`: how many there are; `dropped`: rule → how many.
    """

    split: str
    source: str
    rows: int
    tau: float = 1.0
    within: str = "score"
    group: str | None = None
    file: str | None = None
    admitted: list = field(default_factory=list)
    dropped: Counter = field(default_factory=Counter)
    available: int = 0

    @property
    def name(self):
        return f"{self.source}/{self.group}" if self.group else self.source

    @property
    def chosen(self):
        return self.admitted[: self.rows]

    @property
    def lacks(self):
        return max(0, self.rows - len(self.admitted))


def parse(section, where):
    """The quotas of a `mix` section, in the order of `SPLITS`, then of the recipe. Raises `UserError` naming the entry."""
    quotas = []
    for split in SPLITS:
        for number, entry in enumerate(section[split]):
            place = f"{where}: mix.{split}[{number}]"
            if not isinstance(entry, dict) or not {"source", "rows"} <= entry.keys():
                raise UserError(f"{place}: expected {{source: NAME, rows: N, tau: 3, within: score}}; found {entry!r}")
            settings.check_keys(entry, ["source", "rows", "tau", "within", "group", "file"], f"{place}: key")
            quota = Quota(split, **entry)
            if type(quota.rows) is not int or quota.rows < 0:
                raise UserError(f"{place}: rows: expected a number of examples; found {quota.rows!r}")
            if type(quota.tau) not in (int, float) or not quota.tau > 0:
                raise UserError(f"{place}: tau: expected a temperature above 0, such as 3 or .inf; found {quota.tau!r}")
            if quota.within not in WITHIN:
                raise UserError(f"{place}: within: expected {' or '.join(WITHIN)}; found {quota.within!r}")
            if quota.file and (split == "train" or not Path(quota.file).is_file()):
                reason = "is for dev and test" if split == "train" else f"{quota.file}: no such file of prompts"
                raise UserError(f"{place}: file: {reason}")
            quotas.append(quota)
    if not any(quota.rows for quota in quotas):
        raise UserError(f"{where}: mix.train, mix.dev and mix.test name no rows; say {{source: NAME, rows: N}}")
    return quotas


def fill(quotas, pool, gate, decided, seed, review, tick=lambda rows: None):
    """Fills the quotas, each to `review` times its rows; returns number → `(quota, rule, detail, excerpt)` of every
    candidate that was looked at, rule "" for those admitted. A prompt from a file stands there under its id."""
    outcomes = {}
    by_hand = _decided(quotas, pool, decided, seed, outcomes)
    for split in (SPLITS[:2], SPLITS[2:]):
        here = [quota for quota in quotas if quota.split in split]
        for quota in here:
            for number, row in by_hand.get(id(quota), ()):
                _judge(quota, number, row, gate, outcomes, by_hand=True)
        pinned = {number for rows in by_hand.values() for number, _ in rows}
        for quota in here:
            if quota.file:
                _read(quota, gate, outcomes, decided, review)
            else:
                _draw(quota, pool, gate, outcomes, pinned, seed, review, tick)
    return outcomes


def _decided(quotas, pool, decided, seed, outcomes):
    """Notes the rejected; returns the accepted and edited rows by the quota that takes them."""
    found, taken = pool.find(seed, decided), {}
    numbers = sorted(found.values())
    rows = dict(zip(numbers, pool.fetch(numbers), strict=True))
    drawn = [quota for quota in quotas if not quota.file] if found else []
    members = {id(quota): set(pool.members(quota.source, quota.group).tolist()) for quota in drawn}
    for name in sorted(found, key=lambda name: sampling.key_of(seed, name)):
        number, decision = found[name], decided[name]
        if decision["decision"] == "reject":
            said = f"{decision['who']}: {decision['why']}"
            outcomes[number] = (None, "rejected", said, rows[number]["messages"][-1]["content"])
            for quota in [quota for quota in drawn if number in members[id(quota)]][:1]:
                quota.dropped["rejected"] += 1
            continue
        row = decisions.apply(decision, rows[number])
        order = ("train", "dev", "test") if row["messages"][-1]["role"] == "assistant" else ("dev", "test")
        takers = [q for split in order for q in drawn if q.split == split and number in members[id(q)]]
        if takers:
            room = [q for q in takers if len(taken.get(id(q), ())) < q.rows] or takers
            taken.setdefault(id(room[0]), []).append((number, row))
    return taken


def _draw(quota, pool, gate, outcomes, by_hand, seed, review, tick):
    members = pool.members(quota.source, quota.group)
    quota.available = len(members)
    name = f"{quota.split}/{quota.name}"
    order = sampling.ranking(pool, members, quota.tau, quota.within, seed, name)
    order = (number for number in order if number not in outcomes and number not in by_hand)
    want = math.ceil(quota.rows * review)
    while len(quota.admitted) < want:
        numbers = list(islice(order, math.ceil((want - len(quota.admitted)) * 1.25)))
        if not numbers:
            return
        for number, row in zip(numbers, pool.fetch(numbers), strict=True):
            if len(quota.admitted) < want:
                _judge(quota, number, row, gate, outcomes)
                tick(1)


def _read(quota, gate, outcomes, decided, review):
    prompts = conversations.load_prompts(quota.file)
    quota.available = len(prompts)
    for row in prompts[: math.ceil(quota.rows * review)]:
        beside = {key: value for key, value in row.items() if key not in ("row", "conversations", "prompt", "response")}
        row = {**UNSAID, **beside, "source": quota.source, "group": quota.group or str(row.get("source") or "")}
        decision = decided.get(row["id"])
        if decision and decision["decision"] == "reject":
            outcomes[row["id"]] = (quota, "rejected", f"{decision['who']}: {decision['why']}", "")
            quota.dropped["rejected"] += 1
        else:
            _judge(quota, row["id"], decisions.apply(decision, row), gate, outcomes, by_hand=True)


def _judge(quota, number, row, gate, outcomes, by_hand=False):
    excerpt = row["messages"][-1]["content"]
    refused = gate.check(row, quota.split, by_hand)
    if refused:
        quota.dropped[refused[0]] += 1
        outcomes[number] = (quota, *refused, excerpt)
    else:
        row["by_hand"] = by_hand
        quota.admitted.append(row)
        outcomes[number] = (quota, "", "", excerpt)


def shortfall(quotas, where, candidates):
    """The `UserError` text for quotas that are not met, a line each with what to do; "" if all are."""
    short, lines = [quota for quota in quotas if quota.lacks], []
    width = max((len(f"{quota.split} {quota.name}") for quota in short), default=0)
    for quota in short:
        fell = ", ".join(f"{count} {rule}" for rule, count in quota.dropped.most_common())
        had = (
            f"{quota.available} candidates" + (f", of which fell {fell}" if fell else "")
            if quota.available
            else "no candidates"
        )
        hint = next((text for name, text in HOW.items() if quota.source.startswith(name)), "more candidates")
        label = f"{quota.split} {quota.name}"
        lines.append(
            f"  {label:<{width}}  has {len(quota.admitted)} of {quota.rows}, lacks {quota.lacks} ({had}): {hint}"
        )
    if not lines:
        return ""
    head = (
        f"{where}: {len(lines)} quota{'s are' if len(lines) > 1 else ' is'} not met by the candidates in {candidates}:"
    )
    return "\n".join([head, *lines, "  or lower the rows in `mix`, or write what there is: --allow_shortfall"])
