"""One Stack Exchange site: its answers under which the asker came back, and the dialogues that began there.

An answer with at least one comment by its question's asker is a chain considered, and gets exactly one line of the ledger.
"""

import json
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from lima import UserError
from lima.curate import archives, comments, ledger, posts, site, text
from lima.curate.comments import ANSWERER, ASKER, OTHER, Chain, Comment
from lima.curate.rules import first
from lima.curate.store import Rows, opened

# What `seen` says of an id: a question, an answer, one under which its asker has commented, one that has its line in the
# ledger, a post that a chain needs.
QUESTION, ANSWER, CONSIDERED, DONE, WANTED = range(1, 6)
KINDS = {"1": QUESTION, "2": ANSWER}
TABLES = """
create table asked (id integer primary key, who);
create table given (id integer primary key, question, who, score);
create table said (post, created, id, who, license, text);
create table names (id, name);
create table chains (post integer primary key, question, score, turns, created, license, detail);
create table texts (id integer primary key, title, html, user, name, license);
"""
CHAIN = """select asked.who, given.who, given.score, asked.id from given join asked on asked.id = given.question
where given.id = ?"""
WHOLE = """select post, question.title, question.html, answer.html, detail, turns, score, created, question.user, question.name,
answer.user, answer.name, chains.license, question.license, answer.license
from chains join texts question on question.id = chains.question join texts answer on answer.id = chains.post order by post"""


class Source(NamedTuple):
    """A site's dump and where its Comments.xml is."""

    dump: posts.Dump
    comments: Path

    def tables(self):
        """The files that are read, in their order: (path, table) pairs. Posts come twice: who wrote them, then what."""
        users = [pair for pair in site.tables(self.dump) if pair[1] == "Users"]
        return [(self.dump.posts, "Posts"), (self.comments, "Comments"), *users, (self.dump.posts, "Posts")]

    def files(self):
        return sorted({*self.dump.files(), self.comments})

    def size(self):
        return sum(archives.size(path, f"{table}.xml") for path, table in self.tables())


def curate(source, settings, folder, tick):
    """Leaves a finished step in `folder`: the dialogues of a site, and what became of every chain considered.

    Raises `UserError` for a dump that cannot be read, and for a disk that cannot be written.
    """
    if ledger.done(folder, settings, source.files()):
        tick(source.size())
        return
    with ledger.Step(folder, settings, source.files()) as step, opened(folder / ".dialogues.sqlite") as store:
        store.execute("pragma cache_size=-8192")  # 8 MB
        for table in filter(str.strip, TABLES.split(";")):
            store.execute(table)
        _Site(source, settings, step, store, tick).read()
        step.notes.update(considered=sum(step.counts.values()), kept=step.counts[""])


class _Site:
    """The passes over one site. Memory is flat: a byte for every post is held; who wrote which, and what asker and answerer
    said in comments, lie in a temporary SQLite file."""

    def __init__(self, source, settings, step, store, tick):
        self.source, self.settings, self.step, self.store, self.tick = source, settings, step, store, tick
        self.site, self.seen = source.dump.site, bytearray(1 << 16)

    def read(self):
        self.owners()
        self.said()
        self.names()
        if self.talk():
            self.texts()
            self.keep()
        else:
            self.tick(archives.size(self.source.dump.posts, "Posts.xml"))

    def rows(self, path, table):
        notes = self.step.notes.setdefault(table, {})
        return posts.rows(path, table, self.tick, self.settings["keep_truncated"], notes)

    def drop(self, post, rule, found, excerpt):
        """The chain's line in the ledger, if there is a `rule`."""
        if rule:
            self.seen[post] = DONE
            self.step.drop(f"dialogues/{self.site}/{post}", self.site, rule, found, excerpt)
        return rule

    def owners(self):
        """The pass over Posts.xml that finds who asked and who answered."""
        asked, given, seen, row = Rows(self.store, "asked", 2), Rows(self.store, "given", 4), self.seen, None
        for row in self.rows(self.source.dump.posts, "Posts"):
            id, kind = _number(row.get("Id")), KINDS.get(row.get("PostTypeId"))
            if id is None or id < 0 or kind is None:
                continue
            if id >= len(seen):
                seen.extend(bytes(max(id + 1 - len(seen), len(seen) // 8)))
            if seen[id]:  # twice
                continue
            seen[id], who = kind, _who(row.get("OwnerUserId"), row.get("OwnerDisplayName"))
            if kind == QUESTION:
                asked.add((id, who))
            else:
                given.add((id, _number(row.get("ParentId")), who, _number(row.get("Score")) or 0))
        if row is None:
            raise UserError(f"{self.source.dump.posts}: no rows; a dump's Posts.xml has one <row …/> a post")
        asked.flush()
        given.flush()

    def chain(self, post):
        """`(chain, question's id)` of an answer; (None, None) where its question is not in the dump."""
        found = self.store.execute(CHAIN, (post,)).fetchone()
        return (Chain(*found[:3]), found[3]) if found else (None, None)

    def said(self):
        """The pass over Comments.xml: what asker and answerer said under an answer, and when others came between.

        A chain that falls whatever is said gets its line at the asker's first comment.
        """
        table, seen, least = Rows(self.store, "said", 6), self.seen, self.settings["answer_min_score"]
        number = placed = under = 0
        for number, row in enumerate(self.rows(self.source.comments, "Comments"), 1):
            post, who = _number(row.get("PostId")), _who(row.get("UserId"), row.get("UserDisplayName"))
            placed += post is not None
            if post is None or not 0 <= post < len(seen) or seen[post] not in (ANSWER, CONSIDERED):
                continue
            chain, _ = self.chain(post)
            if chain is None:
                continue
            under, words = under + 1, row.get("Text", "")
            if who is not None and who == chain.asker and seen[post] == ANSWER:
                seen[post] = CONSIDERED
                if self.drop(post, *first(comments.CHAIN, chain, self.settings), words):
                    continue
            if chain.score >= least:
                id, license = _number(row.get("Id")), posts.license_of(row)
                words = words if who in chain[:2] else ""
                table.add((post, row.get("CreationDate", ""), -number if id is None else id, who, license, words))
        if number and not placed:
            raise UserError(f"{self.source.comments}: no row has a PostId; expected a dump's Comments.xml")
        table.flush()
        self.step.notes["Comments"].update(rows=number, under_answers=under)

    def names(self):
        """The pass over Users.xml, where there is one."""
        table = Rows(self.store, "names", 2)
        for path in (path for path, name in self.source.tables() if name == "Users"):
            for row in self.rows(path, "Users"):
                table.add((_number(row.get("Id")), row.get("DisplayName", "")))
        table.flush()
        self.store.execute("create index named on names (id)")

    def name(self, who):
        """The name of somebody who wrote here; "" where it is not known."""
        if not isinstance(who, int):
            return (who or "").lstrip("~")
        found = self.store.execute("select name from names where id = ?", (who,)).fetchone()
        return found[0] if found else ""

    def talk(self):
        """Cuts each chain's dialogue out of its comments; returns how many there are, and marks the posts that they need."""
        self.store.execute("create index talk on said (post, created, id)")
        table, count = Rows(self.store, "chains", 7), 0
        lines = self.store.execute("select * from said order by post, created, id")
        for post, group in groupby(lines, key=itemgetter(0)):
            if self.seen[post] != CONSIDERED:
                continue
            (chain, question), here = self.chain(post), list(group)
            turns, rule, found = [], "no_reply", "the answerer says nothing"
            if any(line[3] == chain.answerer for line in here):
                turns, rule, found = comments.dialogue(self.comments(chain, here), self.settings)
            if not turns:
                self.drop(post, rule, found, next(line[5] for line in here if line[3] == chain.asker))
                continue
            parts, count = [comment for turn in turns for comment in turn], count + 1
            self.seen[post] = self.seen[question] = WANTED
            said, newest = json.dumps([comments.spoken(turn) for turn in turns]), max(part.created for part in parts)
            detail = f"{len(turns) + 2} turns" + (f", ended by {rule}" if rule else "")
            table.add((post, question, chain.score, said, newest[:10], max(part.license for part in parts), detail))
        table.flush()
        return count

    def comments(self, chain, lines):
        """An answer's lines of the store as comments, each once. What asker or answerer says to a third is another's talk."""
        names = {who: self.name(who) for who in {*chain[:2], *(line[3] for line in lines)}}
        others = [name for who, name in names.items() if who not in chain[:2]]
        spaced = [name for name in names.values() if " " in name]
        for _, same in groupby(lines, key=itemgetter(1, 2)):
            _, created, _, who, license, words = next(same)
            if who not in chain[:2]:
                yield Comment(OTHER, "", created, license)
                continue
            speaker, partner = (ASKER, chain.answerer) if who == chain.asker else (ANSWERER, chain.asker)
            to, words = comments.addressed(words, spaced)
            if not comments.is_called(to, names[partner]) and any(comments.is_called(to, name) for name in others):
                speaker = OTHER
            yield Comment(speaker, comments.clean(words, self.settings["inline_code"]), created, license)

    def texts(self):
        """The second pass over Posts.xml: what was asked and answered."""
        table = Rows(self.store, "texts", 6)
        for row in self.rows(self.source.dump.posts, "Posts"):
            id = _number(row.get("Id"))
            if id is not None and 0 <= id < len(self.seen) and self.seen[id] == WANTED:
                self.seen[id] = DONE
                who = (row.get("OwnerUserId"), row.get("OwnerDisplayName"))
                table.add((id, row.get("Title", ""), row.get("Body", ""), *who, posts.license_of(row)))
        table.flush()

    def keep(self):
        """Joins the dialogues with their question and answer, and keeps what has text."""
        for post, title, asked, answered, detail, *about in self.store.execute(WHOLE):
            try:
                title = text.line(title)
                asked, answered = (text.from_html(html, self.settings["inline_code"]) for html in (asked, answered))
            except UserError as error:
                self.drop(post, "unreadable", str(error), "")
                continue
            asked = "\n\n".join(filter(None, (title, asked)))
            if not asked or not answered:
                self.drop(post, "empty", f"nothing is left of the {'answer' if asked else 'question'}", "")
            else:
                self.step.keep(self.candidate(post, title, [asked, answered], *about), detail)

    def candidate(
        self, post, title, turns, more, score, created, asker, asker_name, answerer, answerer_name, *licenses
    ):
        """The row of candidates.parquet. `score` is the answer's; date and licence are those of the newest part: a work that is
        made of CC BY-SA parts may go on under a later version."""
        turns = [*turns, *json.loads(more)]
        return {
            "id": f"dialogues/{self.site}/{post}",
            "source": "multi_turn",
            "messages": [{"role": ("user", "assistant")[n % 2], "content": said} for n, said in enumerate(turns)],
            "url": f"https://{posts.host(self.site)}/a/{post}",
            "author": f"{self.author(answerer, answerer_name)}; question and comments by {self.author(asker, asker_name)}",
            "license": max(licenses),
            "score": score,
            "group": self.site,
            "created": created,
            "title": title,
        }

    def author(self, user, name):
        return self.name(_number(user)) or name or f"user {user}"


def _who(user, name):
    """Who wrote something: a number; "~name" of somebody who was deleted; None where neither is said."""
    number = _number(user)
    return number if number is not None or not name else f"~{name}"


def _number(words):
    try:
        number = int(words)
    except (TypeError, ValueError):
        return None
    return number if abs(number) < site.MOST_ID else None
