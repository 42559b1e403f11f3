"""One Stack Exchange site: a pass over its posts, then its pairs, judged.

Memory is flat: the pass writes what the cheap rules let through to a temporary SQLite file, and remembers one byte of
every post. Every row of Posts.xml gets exactly one line of the ledger.
"""

import hashlib
import heapq
import random
import sqlite3
from contextlib import closing

from lima import UserError
from lima.curate import archives, filters, ledger, posts, text

MOST_ID = 400_000_000  # `seen` has a byte for every id; Stack Overflow is at a fifth of this
BATCH = 10_000  # rows of the ledger that are written at a time
DROPPED, TAKEN, OTHER = (
    1,
    2,
    3,
)  # what `seen` says of an id: a question that a rule dropped, one in the store, no question
QUESTIONS = "id integer primary key, score, title, html, user, name"
ANSWERS = "id integer primary key, parent, score, rule, found, html, user, name, created, license"


def tables(dump):
    """The files that are read of a dump: (path, table) pairs."""
    both = [(dump.posts, "Posts")]
    if dump.users:
        both.append((dump.users, "Users"))
    elif dump.posts.suffix == ".7z" and archives.holds(dump.posts, "Users.xml"):
        both.append((dump.posts, "Users"))
    return both


def curate(dump, group, settings, folder, tick):
    """Leaves a finished step in `folder`: the pairs of `dump` that pass, and what became of every row of its Posts.xml."""
    settings = {**settings, "group": group}
    if ledger.done(folder, settings, dump.files()):
        tick(sum(archives.size(path, f"{table}.xml") for path, table in tables(dump)))
        return
    with ledger.Step(folder, settings, dump.files()) as step:
        file = folder / ".posts.sqlite"
        file.unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(file, isolation_level=None)) as store:
                prepare(store)
                step.notes.update(group=group, rows=0)
                seen = Pass(dump, step, store, settings).read(tick)
                names = _names(dump, store, settings, tick)
                _Judge(dump.site, group, step, store, settings, names).judge(seen)
        finally:
            file.unlink(missing_ok=True)
        step.notes["kept"] = step.counts[""]


def prepare(store):
    """The tables of the temporary `store`, in one transaction that is never committed: it is read by this process alone."""
    store.executescript("pragma journal_mode=off; pragma synchronous=off; pragma locking_mode=exclusive; begin;")
    store.execute(f"create table questions ({QUESTIONS})")
    store.execute(f"create table answers ({ANSWERS})")


class Pass:
    """The pass over Posts.xml: what the cheap rules let through into the store, a line of the ledger for the rest."""

    def __init__(self, dump, step, store, settings):
        self.dump, self.step, self.store, self.settings = dump, step, store, settings
        self.site, self.drop = dump.site, step.drop
        self.least, (self.early, _) = settings["answer_min_score"], filters.answer_rules(settings)
        self.questions, self.answers = _Rows(store, "questions", 6), _Rows(store, "answers", 10)
        self.sample = None
        if settings["unfiltered"]:
            self.sample = _Sample(f"{settings['seed']}/{dump.site}", settings["unfiltered_questions"])

    def read(self, tick):
        """Returns `seen`: for every id a byte, `DROPPED`, `TAKEN` or `OTHER`; 0 for one that is not in the dump.

        Nearly all of a dump's rows are answers with a low score: they are dropped here, in batches and without a call.
        """
        seen, number, low = bytearray(1 << 16), 0, [] if not self.sample else None
        take, size, least, batch = {"1": self.question, "2": self.answer}, len(seen), self.least, self.batch
        rows = posts.rows(self.dump.posts, "Posts", tick, self.settings["keep_truncated"], self.step.notes)
        for number, row in enumerate(rows, 1):
            get = row.get
            try:
                id, score = int(get("Id")), int(get("Score", "0"))
                before = seen[id]
            except IndexError:
                seen, before = _longer(seen, id), 0
                size = len(seen)
            except (TypeError, ValueError):
                id = -1
            if not 0 <= id < size:
                self.drop(f"stackexchange/{self.site}/row-{number}", self.site, "no_id", "Id or Score is no number")
                continue
            kind = get("PostTypeId")
            if before:
                self.drop(f"stackexchange/{self.site}/{id}", self.site, "id_twice", "", get("Body", ""))
            elif kind == "2" and score < least and low is not None:
                seen[id] = OTHER
                low.append((id, score, get("Body", "")[: ledger.EXCERPT]))
                if len(low) == BATCH:
                    batch(low)
            else:
                seen[id] = take.get(kind, self.other)(row, f"stackexchange/{self.site}/{id}", id, score)
        if not number:
            raise UserError(f"{self.dump.posts}: no rows; a dump's Posts.xml has one <row …/> a post")
        self.step.notes["rows"] = number
        self.batch(low)
        self.questions.flush()
        self.answers.flush()
        if self.sample:
            self._forget(seen)
        return seen

    def batch(self, low):
        """Drops answers whose score is too low: (id, score, excerpt) each."""
        if low:
            ids, scores, excerpts = zip(*low, strict=True)
            details = [f"score {score}" for score in scores]
            self.step.drop_all(f"stackexchange/{self.site}/", ids, self.site, "answer_score", details, excerpts)
            low.clear()

    def other(self, row, name, id, score):
        """A tag's description, a moderator's election …"""
        self.drop(name, self.site, "other_type", f"PostTypeId {row.get('PostTypeId')}", row.get("Body", ""))
        return OTHER

    def question(self, row, name, id, score):
        title, html = row.get("Title", ""), row.get("Body", "")
        if self.sample:
            took = row.get("AnswerCount", "0") != "0" and self.sample.take(id)
            rule, found = ("", "") if took else ("not_sampled", "")
        else:
            rule, found = filters.first(filters.QUESTION, filters.Post(score, html, title), self.settings)
        if rule:
            self.drop(name, self.site, rule, found, title)
            return DROPPED
        self.questions.add((id, score, title, html, row.get("OwnerUserId"), row.get("OwnerDisplayName")))
        return TAKEN

    def answer(self, row, name, id, score):
        parent, html, rule, found = _number(row.get("ParentId")), row.get("Body", ""), "", ""
        if parent is None or not 0 <= parent < MOST_ID:
            self.drop(name, self.site, "no_question", "no ParentId", html)
        elif self.sample and not self.sample.may_hold(parent):
            self.drop(name, self.site, "not_sampled", "", html)
        else:
            if not self.sample:
                rule, found = filters.first(self.early, filters.Post(score, html), self.settings)
            html = html[: ledger.EXCERPT] if rule else html
            who = (row.get("OwnerUserId"), row.get("OwnerDisplayName"))
            created, license = row.get("CreationDate", "")[:10], posts.license_of(row)
            self.answers.add((id, parent, score, rule, found, html, *who, created, license))
        return OTHER

    def _forget(self, seen):
        """Drops the questions that better luck has pushed out of the sample since."""
        out = [row for row in self.store.execute("select id, title from questions") if not self.sample.holds(row[0])]
        for id, title in out:
            seen[id] = DROPPED
            self.store.execute("delete from questions where id = ?", (id,))
            self.drop(f"stackexchange/{self.site}/{id}", self.site, "not_sampled", "", title)


class _Judge:
    """Takes each question's best answer through the rules that need its text, and keeps what passes.

    Unfiltered, it is one of the question's answers at random, and only an empty text falls.
    """

    def __init__(self, site, group, step, store, settings, names):
        self.site, self.group, self.step, self.store, self.names = site, group, step, store, names
        self.settings, (_, self.late) = settings, filters.answer_rules(settings)
        self.asked = "not_sampled" if settings["unfiltered"] else "question_dropped"

    def judge(self, seen):
        order = "luck(id)" if self.settings["unfiltered"] else "score desc, id"
        self.store.create_function(
            "luck", 1, lambda id: _luck(f"{self.settings['seed']}/{self.site}", id), deterministic=True
        )
        if not self.settings["unfiltered"]:
            self.store.execute("create index best on answers (parent, score desc, id)")
        answered, before = bytearray(len(seen)), None
        for answer in self.store.execute(f"select * from answers order by parent, {order}"):
            id, parent, _, rule, found, html = answer[:6]
            known = seen[parent] if parent < len(seen) else 0
            if known not in (DROPPED, TAKEN):
                rule, found = "no_question", f"{parent} is no question of this dump"
            elif known == DROPPED:
                rule, found = self.asked, f"question {parent}"
            elif parent == before:
                rule, found = "not_the_best", f"of question {parent}"
            else:
                answered[parent] = 1
                if not rule:
                    rule, found = self.keep(answer)
            before = parent
            if rule:
                self.step.drop(f"stackexchange/{self.site}/{id}", self.site, rule, found, html)
        for id, title in self.store.execute("select id, title from questions order by id"):
            rule = "asked" if answered[id] else "no_answer"  # "asked": its answer's line says what became of the pair
            self.step.drop(f"stackexchange/{self.site}/{id}", self.site, rule, "", title)

    def keep(self, answer):
        """Keeps the pair of `answer` and its question, or returns the rule that drops it and what it found."""
        id, parent, score, _, _, html, user, name, created, license = answer
        settings, key = self.settings, f"stackexchange/{self.site}/{id}"
        asked, title, body, asker, asker_name = self.store.execute(
            "select score, title, html, user, name from questions where id = ?", (parent,)
        ).fetchone()
        try:
            said = text.from_html(html, settings["inline_code"])
            prompt = title = text.line(title)
            if random.Random(f"{settings['seed']}/{key}").random() >= settings["title_share"] or not title:
                prompt = text.from_html(body, settings["inline_code"]) or title
        except UserError as error:
            return "unreadable", str(error)
        if not said or not prompt:
            return "empty", "nothing is left of the answer" if prompt else "nothing is left of the question"
        if not settings["unfiltered"]:
            rule, found = filters.first(self.late, filters.Post(score, html, title, said), settings)
            if rule:
                return rule, found
        author = f"{self.author(user, name)}; question by {self.author(asker, asker_name)}"
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": said}]
        candidate = {
            "id": key,
            "source": f"stackexchange_{self.group}",
            "messages": turns,
            "url": f"https://{posts.host(self.site)}/a/{id}",
            "author": author,
            "license": license,
            "score": asked,
            "group": self.site,
            "created": created,
            "title": title,
        }
        self.step.keep(candidate, f"answer's score {score}")
        return "", ""

    def author(self, user, name):
        return self.names.get(user) or name or (f"user {user}" if user else "an unnamed user")


class _Rows:
    """Rows for a table of the store, written a thousand at a time."""

    def __init__(self, store, table, columns):
        self.store, self.rows = store, []
        self.insert = f"insert into {table} values ({','.join('?' * columns)})"

    def add(self, row):
        self.rows.append(row)
        if len(self.rows) == 1000:
            self.flush()

    def flush(self):
        self.store.executemany(self.insert, self.rows)
        self.rows.clear()


class _Sample:
    """The `size` questions with the least luck: the same whatever order they come in, and known while they come."""

    def __init__(self, seed, size):
        self.seed, self.size, self.heap = seed, size, []

    def may_hold(self, id):
        return len(self.heap) < self.size or -_luck(self.seed, id) >= self.heap[0]

    holds = may_hold

    def take(self, id):
        if not self.may_hold(id):
            return False
        (heapq.heappush if len(self.heap) < self.size else heapq.heappushpop)(self.heap, -_luck(self.seed, id))
        return True


def _luck(seed, id):
    """A number below 2^62 that follows from the seed and the id alone."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{id}".encode(), digest_size=8).digest(), "big") >> 2


def _longer(seen, id):
    """`seen` with room for `id`, unless that is out of all proportion."""
    return seen + bytes(max(id + 1 - len(seen), len(seen) // 8)) if 0 <= id < MOST_ID else seen


def _number(words):
    try:
        return int(words)
    except (TypeError, ValueError):
        return None


def _names(dump, store, settings, tick):
    """User id → display name, of those who wrote what the store holds; {} where the dump has no Users.xml."""
    source = [path for path, table in tables(dump) if table == "Users"]
    if not source:
        return {}
    wanted = {
        user for (user,) in store.execute("select user from answers where rule = '' union select user from questions")
    }
    rows = posts.rows(source[0], "Users", tick, settings["keep_truncated"], {})
    return {row.get("Id"): row.get("DisplayName", "") for row in rows if row.get("Id") in wanted}
