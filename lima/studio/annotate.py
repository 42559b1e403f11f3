"""The paper's blind annotation (section 4.1): a prompt, two answers in random order and three choices; or one answer, which is
excellent, passes or fails (section 4.3).

Verdicts are rows of `judgments/*.jsonl` as the evaluate step has them, with the judge "human:NAME" and the `seconds` that the
item was looked at. No system's name leaves this module before an annotator has finished.
"""

import hashlib
import json
import re
from typing import NamedTuple

from lima import UserError, runs
from lima.evaluate import answers, asking, judge, judgments, rate, verdicts
from lima.studio import shown
from lima.studio.journal import Journal

CHOICES = {"pair": ("A", "B", "tie"), "level": rate.LEVELS}
SEEN = "studio/results-seen.jsonl"  # {who, date, files}: what was chosen on these files before then stands
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


class Item(NamedTuple):
    """owner: whose answers they are, {"a": …, "b": …} or {"system": …}; answers: theirs, in that order."""

    journal: Journal
    owner: dict
    prompts: str
    prompt_id: str
    sample: int
    prompt: str
    answers: tuple
    digest: str

    @property
    def kind(self):
        return "pair" if len(self.answers) == 2 else "level"

    @property
    def place(self):
        return *self.owner.values(), self.prompts, self.prompt_id, self.sample


class Refused(UserError):
    """What an annotator may be told; other errors name files, and files name systems."""


def pairs(a, others, prompts, partial=False):
    """The items of the system `a` against each of `others` (specs as `answers.load` takes them); pairs of the same text, which
    nobody needs to look at, are left out."""
    instruction = asking.read_instruction(asking.INSTRUCTIONS / "pair.txt", judge.HOLDERS)
    name = answers.set_name(prompts)
    one, found = answers.load(a, prompts), []
    for spec in others:
        other = answers.load(spec, prompts)
        answers.apart(one, other)
        owner = {"a": one.name, "b": other.name}
        journal = _journal(f"{one.name}-vs-{other.name}.jsonl", owner)
        for pair in answers.pair(one, other, partial):
            if not judge.same(pair):
                digest = verdicts.digest(*pair[3:], instruction)
                found.append(Item(journal, owner, name, *pair[:3], pair[3:], digest))
    return found


def levels(spec, prompts):
    """The items of one system's answers."""
    instruction = asking.read_instruction(asking.INSTRUCTIONS / "level.txt", rate.HOLDERS)
    system = answers.load(spec, prompts)
    owner = {"system": system.name}
    journal = _journal(f"{system.name}.level.jsonl", owner)
    return [
        Item(journal, owner, answers.set_name(prompts), row["prompt_id"], row["sample"], row["prompt"],
             (row["response"],), verdicts.digest(row["response"], instruction))
        for row in system.rows
    ]  # fmt: skip


def _journal(name, owner):
    return Journal(judgments.FOLDER / name, lambda line, where: judgments.parse(line, where, **owner))


class Room:
    """A room of items, all pairs or all single answers, and who labels which.

    The first `shared` of them, drawn by the seed, are everybody's; the rest is dealt to `annotators`. Without `annotators`
    anybody may come, and everybody gets all.
    """

    def __init__(self, items, annotators=(), shared=50, seed=0, limit=None):
        self.annotators, self.seed = list(annotators), seed
        drawn = sorted(items, key=lambda item: _hash(seed, item.place))[:limit]
        _check(self.annotators, shared, limit)
        self.shared = drawn[:shared] if self.annotators else drawn
        self.divided = drawn[len(self.shared) :]
        self.items, self.kind = drawn, drawn[0].kind
        self.journals = {item.journal.path: item.journal for item in drawn}.values()
        self._seen = Journal(judgments.FOLDER / SEEN, _seen_row)
        for journal in self.journals:
            journal.look()  # a file that cannot be read is said at the start
        self.digests = {item.place: item.digest for item in drawn}  # of the texts as they are now
        self._shares = {}  # who → {key: (item, order)}

    def share(self, who):
        """`{opaque id: item}` of an annotator, in the order in which they come. An id is of the texts too: one that the page got
        before they changed is none any more. Raises `Refused` for a name that is not among them."""
        return {key: item for key, (item, _) in self._share(who).items()}

    def _share(self, who):
        if not NAME.fullmatch(who):
            raise Refused("a name is 1 to 40 letters, digits, dots, dashes or underscores")
        if self.annotators and who not in self.annotators:
            raise Refused("that name or code is not on the list; ask whoever started the studio")
        if who not in self._shares:
            own = self.divided[self.annotators.index(who) :: len(self.annotators)] if self.annotators else []
            keyed = {_hash(self.seed, who, item.place, item.digest): item for item in [*self.shared, *own]}
            drawn = sorted(keyed, key=lambda key: _hash(self.seed, "side", key))
            orders = {key: judge.ORDERS[place % 2] for place, key in enumerate(drawn)}  # each side half of the time
            self._shares[who] = {key: (keyed[key], orders[key]) for key in sorted(keyed)}
        return self._shares[who]

    def session(self, who):
        """`[(id, choice or None), …]`: what there is to do, and what this annotator has chosen (1, 2 or 3)."""
        standing = self._standing(who)
        return [(key, self._choice(who, key, standing.get(item.place))) for key, item in self.share(who).items()]

    def view(self, who, key):
        """An item as it is shown: HTML of the prompt and of the answers, in this annotator's order."""
        item, order = self._item(who, key)
        texts = item.answers if order == "ab" else item.answers[::-1]
        said = [shown.as_html(text if text.strip() else asking.NO_ANSWER) for text in texts]
        return {"id": key, "prompt": shown.as_html(item.prompt), "answers": said}

    def put(self, who, key, choice, seconds):
        """Notes choice 1, 2 or 3; the same again changes nothing, another takes the place of the first, unless its annotator
        has seen results since (`Refused`)."""
        item, _ = self._item(who, key)
        if seen := self._seen_at(who, item.journal):
            old = self._standing(who).get(item.place)
            if old and self._choice(who, key, old) != choice and old.get("date", "") <= seen:
                raise Refused("you have seen the results since: what you chose before stands")
        row = self._row(who, item, key, CHOICES[item.kind][choice - 1], seconds)

        def aside(old):
            if gone := [one for one in old if one.get("digest") != row["digest"]]:
                path = judgments.former(item.journal.path)
                runs.write_jsonl(path, [*judgments.read(path, **item.owner), *gone])

        item.journal.put(row, judgments.subject, _said, aside)

    def done(self, who):
        """Whether the annotator has labelled all of their share."""
        return all(choice for _, choice in self.session(who))

    def see_results(self, who):
        """Notes that an annotator sees results now. Raises `Refused` before their share is done."""
        if not (self.share(who) and self.done(who)):
            raise Refused("results are shown once your share is done, so that they cannot sway you")
        if not self.has_seen(who):
            files = sorted(journal.path.name for journal in self.journals)
            self._seen.add({"who": who, "date": asking.now(), "files": files})

    def has_seen(self, who):
        """Whether an annotator has seen results since their last choice, so that all of them stand."""
        standing = self._standing(who)
        seen = {journal.path: self._seen_at(who, journal) for journal in self.journals}
        items = [item for item in self.share(who).values() if item.place in standing]
        return all(standing[item.place].get("date", "") <= seen[item.journal.path] for item in items)

    def _seen_at(self, who, journal):
        rows = [row for row in self._seen.look() if row["who"] == who and journal.path.name in row["files"]]
        return max((row["date"] for row in rows), default="")

    def subjects(self):
        """`[(owner, prompt set), …]`: what the items are about."""
        found = {(*item.owner.values(), item.prompts): (item.owner, item.prompts) for item in self.items}
        return list(found.values())

    def _item(self, who, key):
        try:
            return self._share(who)[key]
        except KeyError:
            raise Refused("this item is not in your share (any more); load the page again") from None

    def _standing(self, who):
        """`{place: row}` of the annotator's rows on the answers as they are now."""
        found = {}
        for journal in self.journals:
            for row in journal.look():
                place = self.place_of(row)
                if row["judge"] == verdicts.HUMAN + who and self.digests.get(place) == row.get("digest"):
                    found[place] = row
        return found

    def place_of(self, row):
        """The `Item.place` that a row of judgments is on."""
        owner = (row["a"], row["b"]) if self.kind == "pair" else (row["system"],)
        return *owner, row["prompts"], row["prompt_id"], row["sample"]

    def _choice(self, who, key, row):
        if row is None:
            return None
        value = row["level"] if self.kind == "level" else row["verdict"]
        if self.kind == "pair" and value != "tie":  # by system → by slot
            value = "A" if value == self._item(who, key)[1][0] else "B"
        return CHOICES[self.kind].index(value) + 1

    def _row(self, who, item, key, value, seconds):
        order = self._item(who, key)[1]
        found = (
            {"order": order, "verdict": verdicts.by_system(value, order)}
            if item.kind == "pair"
            else {"n": 0, "level": value}
        )
        return {
            "prompt_id": item.prompt_id,
            "prompts": item.prompts,
            "sample": item.sample,
            **item.owner,
            "judge": verdicts.HUMAN + who,
            **found,
            "raw": "",
            "seconds": round(seconds, 1),
            "date": asking.now(),
            "digest": item.digest,
        }


def _check(annotators, shared, limit):
    for name in annotators:
        if not NAME.fullmatch(name) or annotators.count(name) > 1:
            raise UserError(
                f"--annotators {name}: expected each name once: 1 to 40 letters, digits, dots, dashes, underscores"
            )
    if shared < 0 or (limit is not None and limit < 1):
        raise UserError("expected --shared 0 or more, and --limit 1 or more")


def _seen_row(line, where):
    try:
        row = json.loads(line)
        _ = row["who"], row["date"] <= "", set(row["files"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{where} does not say who saw results, and when; take it out") from None
    return row


def _said(row):
    return row.get("verdict"), row.get("level"), row.get("digest")


def _hash(seed, *parts):
    return hashlib.sha256(repr((seed, *parts)).encode()).hexdigest()[:24]
