"""The comments under an answer → the turns of a dialogue: a comment's text, the rules that judge it, and who follows whom.

A rule takes a chain, a comment's text or a turn's, and the recipe's `dialogues` section, and returns what it found against
it, in words, or "". Thresholds and cues are keys of that section, named in its docstring. The paper's authors made 20 of
their 30 dialogues from comments and say no more (section 6): all of this is our reading, and light, as people edit next.
"""

import re
from functools import lru_cache
from html import escape
from typing import NamedTuple

from lima.curate import filters, text
from lima.curate.rules import first

ASKER, ANSWERER, OTHER = "asker", "answerer", "other"

ADDRESSED = re.compile(r"\s*(?:(?:hi|hello|hey|dear)[\s,]+)?@(?P<name>[^\s,:;!?()\[\]]+)", re.IGNORECASE)
SIGN = re.compile(r"\s*[,:;.!–—-]*\s*")  # what stands between a name and what is said
LINK = re.compile(
    r"!?\[((?:[^\[\]]|\[[^\[\]]{0,300}\]){0,600})\]"
    r"\((?:(?:https?:|ftp:)?//|mailto:|/)(?:[^()\s]|\([^()\s]{0,300}\)){1,2000}(?:\s+\"[^\"]{0,300}\")?\)"
)
MAGIC = re.compile(  # the site's own short links
    r"(?<!\w)\[(?:(?:meta-)?tag:([\w.#+-]+)|([\w.-]+\.se|so|meta|chat|help|faq|tour|ask|answer|edit)(?:/[\w-]+)?)\]",
    re.IGNORECASE,
)
STARS = re.compile(r"(?<![\w*\\])(\*{1,3})(?=[^\s*])(.{1,600}?)(?<=[^\s*\\])\1(?![\w*])")
UNDERSCORES = re.compile(r"(?<![\w\\])_(?=[^\s_])(.{1,600}?)(?<=[^\s_\\])_(?!\w)")  # __init__ is what the writer meant
ESCAPED = re.compile(r"\\([\\`*_\[\](){}#+!.-])")
STASHED = re.compile("\x01(\\d+)\x01")  # where code or a formula was; XML cannot hold this character


class Chain(NamedTuple):
    """An answer under which the asker has commented. `asker`, `answerer`: a user's number; "~name" or None: no user now."""

    asker: int | str | None
    answerer: int | str | None
    score: int


class Comment(NamedTuple):
    """`speaker`: `ASKER`, `ANSWERER` or `OTHER`; `text`: clean; `created`: ISO time."""

    speaker: str
    text: str
    created: str
    license: str


# ---- a comment's text --------------------------------------------------------------------------------------------------


def addressed(said, names=()):
    """The name in "@name" at the beginning, and what is said; ("", said) where there is none, or where it belongs to the
    sentence ("@Ada's idea"). Of `names`, those that have spaces are known as a whole."""
    to, found = "", ADDRESSED.match(said)
    while found and not found["name"].endswith(("'s", "’s")):
        start = found.start("name")
        whole = (name for name in names if said[start:].lower().startswith(name.lower()))
        name = max([found["name"], *whole], key=len)
        to = to or name
        said = said[SIGN.match(said, start + len(name)).end() :]
        found = ADDRESSED.match(said)
    return to, said


def is_called(to, name):
    """Whether the site tells the user `name` of an "@to": it takes the name's beginning, without spaces."""
    to, name = ("".join(filter(str.isalnum, words)).lower() for words in (to, name))
    return bool(to) and name.startswith(to)


def clean(said, inline_code="```"):
    """A comment's Markdown, of which the site knows links, emphasis and code alone, written as `text.from_html` writes a post.

    Links become their text, bare addresses go; code and formulas stay; a line break is a space.
    """
    kept = []

    def stash(found):
        kept.append(found)
        return f"\x01{len(kept) - 1}\x01"

    def restore(found):
        found = kept[int(found[1])]
        if found.re is not text.INLINE:
            return escape(found[0], quote=False)
        return f"<code>{escape(found[0].strip('`').strip(), quote=False)}</code>"

    said = text.MATH.sub(stash, text.INLINE.sub(stash, said))
    said = MAGIC.sub(lambda found: found[1] or found[2], LINK.sub(r"\1", said))
    said = ESCAPED.sub(r"\1", UNDERSCORES.sub(r"\1", STARS.sub(r"\2", said)))
    said = escape(said, quote=False)
    while STASHED.search(said):  # a formula may hold code
        said = STASHED.sub(restore, said)
    return text.from_html(f"<p>{said}</p>", inline_code)


# ---- rules -------------------------------------------------------------------------------------------------------------


def deleted_user(chain, settings):
    """The asker or the answerer has no number any more: nobody can say which comments are theirs, nor thank them."""
    gone = [who for who in (chain.asker, chain.answerer) if not isinstance(who, int)]
    return (gone[0] or "without a name").lstrip("~") if gone else ""


def own_answer(chain, settings):
    """The asker answered their own question."""
    return f"user {chain.asker}" if chain.asker == chain.answerer else ""


def nothing_left(said, settings):
    """The comment was an address."""
    return "" if said else "an address alone"


def acknowledgement(said, settings):
    """`acknowledgements`. Nothing but thanks, praise, a yes: patterns that make up the whole comment, one after another, with
    signs between them. A question never is one."""
    rest, patterns = said.strip(), settings["acknowledgements"]
    if "?" in rest or not patterns:
        return ""
    while rest:
        ends = [found.end() for pattern in patterns if (found := _words(pattern).match(rest))]
        if not any(ends) and (rest[0].isalnum() or rest[0] == "+"):
            return ""
        rest = rest[max([1, *ends]) :].lstrip()
    return said[:100]


def site_talk(said, settings):
    """`site_talk`. About the site (an edited answer, votes, duplicates, chat), outside code and quotations."""
    return filters.reference(filters.Post(0, "", text=said), {"reference_cues": settings["site_talk"]})


def short_follow_up(said, settings):
    """`follow_up_characters`. What the asker says in a turn."""
    return _short(said, settings["follow_up_characters"])


def short_reply(said, settings):
    """`reply_characters`. What the answerer says in a turn."""
    return _short(said, settings["reply_characters"])


CHAIN = (deleted_user, own_answer, filters.answer_score)  # known before its comments are
COMMENT = (nothing_left, acknowledgement, site_talk)
TURN = {ASKER: (short_follow_up,), ANSWERER: (short_reply,)}


def _short(said, least):
    return f"{len(said)} characters: {said}" if len(said) < least else ""


@lru_cache(maxsize=1024)
def _words(pattern):
    return re.compile(rf"(?:{pattern})(?!\w)", re.IGNORECASE)


# ---- who follows whom --------------------------------------------------------------------------------------------------


def dialogue(talk, settings):
    """`(turns, rule, found)` of the comments `talk`, in the order of time: turns are lists of comments, the asker's and the
    answerer's by turns, the last the answerer's; `rule` says what ended the talk, or, where no turns are left, began it not.

    The asker begins. Acknowledgements are passed over; another's comment (`interrupted`; passed over with `others: skip`),
    talk about the site and a turn that is too short end it, and so does `most_turns`.
    """
    if settings["others"] == "skip":
        talk = [comment for comment in talk if comment.speaker != OTHER]
    turns, reason = [], ("", "")
    for comment in talk:
        if not turns and comment.speaker != ASKER:
            continue
        if comment.speaker == OTHER:
            rule, found = "interrupted", comment.created
        else:
            rule, found = first(COMMENT, comment.text, settings)
        if rule and (not turns or comment.speaker != ASKER or rule != "acknowledgement"):
            reason = (rule, found)
        if rule and rule != "acknowledgement" and turns:
            break
        if not rule:
            reason = ("", "")
            if not turns or turns[-1][0].speaker != comment.speaker:
                turns.append([])
            turns[-1].append(comment)
    return _whole(turns[: settings["most_turns"] - 2], reason, settings)


def _whole(turns, reason, settings):
    """The turns before the first that is too short, up to the answerer's last."""
    for place, turn in enumerate(turns):
        rule, found = first(TURN[turn[0].speaker], spoken(turn), settings)
        if rule:
            turns, reason = turns[:place], (rule, found)
            break
    if len(turns) % 2 and not reason[0]:
        reason = ("no_reply", spoken(turns[-1])[:100])
    return turns[: len(turns) // 2 * 2], *reason


def spoken(turn):
    """A turn's comments as one text."""
    return "\n\n".join(comment.text for comment in turn)
