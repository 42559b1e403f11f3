"""One Stack Exchange site: a pass over its posts, then its pairs, judged.

Memory is flat: the pass writes what the cheap rules let through to a temporary SQLite file, and remembers one byte of
every post. Every row of Posts.xml gets exactly one line of the ledger.
"""

import random
from array import array

from lima import UserError
from lima.curate import archives, filters, ledger, posts, text
from lima.curate.rules import first
from lima.curate.store import Rows, Sample, luck, opened

MOST_ID = 400_000_000  # `seen` has a byte for every id; Stack Overflow is at a fifth of this
BATCH = 10_000  # rows of the ledger that are written at a time
# What `seen` says of an id: a question that a rule dropped, a question in the store, a post that is no question; later, of a
# question in the store: its answer is judged in its place, or its title drops both.
DROPPED, TAKEN, OTHER, ASKED, UNFIT = range(1, 6)


def tables(dump):
    """The files that are read of a dump: (path, table) pairs."""
    both = [(dump.posts, "Posts")]
    if dump.users:
        both.append((dump.users, "Users"))
    elif dump.posts.suffix == ".7z" and archives.holds(dump.posts, "Users.xml"):
        both.append((dump.posts, "Users"))
    return both


def curate(dump, group, settings, folder, tick):
    """Leaves a finished step in `folder`: the pairs of `dump` that pass, and what became of every row of its Posts.xml.

    Raises `UserError` for a dump that cannot be read, and for a disk that cannot be written.
    """
    settings = {**settings, "group": group}
    if ledger.done(folder, settings, dump.files()):
        tick(sum(archives.size(path, f"{table}.xml") for path, table in tables(dump)))
        return
    with ledger.Step(folder, settings, dump.files()) as step:
        with opened(folder / ".posts.sqlite") as store:
            step.notes.update(group=group, rows=0)
            seen = Pass(dump, step, store, settings).read(tick)
            names = _names(dump, store, settings, tick)
            _Judge(dump.site, group, step, store, settings, names).judge(seen)
        step.notes["kept"] = step.counts[""]


class Pass:
    """The pass over Posts.xml: what the cheap rules let through into the store, a line of the ledger for the rest."""

    def __init__(self, dump, step, store, settings):
        self.dump, self.step, self.store, self.settings = dump, step, store, settings
        self.site, self.drop = dump.site, step.drop
        self.least, (self.early, _) = settings["answer_min_score"], filters.answer_rules(settings)
        self.questions, self.answers = Rows(store, "questions", 6), Rows(store, "answers", 10)
        self.sample = None
        if settings["unfiltered"]:
            self.sample = Sample(f"{settings['seed']}/{dump.site}", settings["unfiltered_questions"])

    def read(self, tick):
        """Returns `seen`: for every id a byte, `DROPPED`, `TAKEN` or `OTHER`; 0 for one that is not in the dump.

        Most of a dump's rows are answers with a low score: they are dropped here, in batches, without a call, and one in eight
        with an excerpt.
        """
        seen, number, quick = bytearray(1 << 16), 0, not self.sample
        ids, scores, excerpts = low = (array("q"), array("q"), [])
        take, size, least, batch = {"1": self.question, "2": self.answer}, len(seen), self.least, self.batch
        rows = posts.rows(self.dump.posts, "Posts", tick, self.settings["keep_truncated"], self.step.notes)
        for number, row in enumerate(rows, 1):
            get = row.get
            try:
                id, score = int(get("Id")), int(get("Score", "0"))
                before = seen[id]
            except IndexError:
                before = 0
                if 0 <= id < MOST_ID:
                    seen.extend(bytes(max(id + 1 - size, size // 8)))
                    size = len(seen)
            except (TypeError, ValueError):
                id = -1
            if not (0 <= id < size and -MOST_ID < score < MOST_ID):
                self.drop(f"stackexchange/{self.site}/row-{number}", self.site, "no_id", "Id or Score is no number")
                continue
            kind = get("PostTypeId")
            if before:
                self.drop(f"stackexchange/{self.site}/{id}", self.site, "id_twice", "", get("Body", ""))
            elif kind == "2" and score < least and quick:
                seen[id] = OTHER
                ids.append(id)
                scores.append(score)
                excerpts.append("" if id & 7 else get("Body", "")[: ledger.EXCERPT])
                if len(ids) == BATCH:
                    batch(*low)
            else:
                seen[id] = take.get(kind, self.other)(row, f"stackexchange/{self.site}/{id}", id, score)
        if not number:
            raise UserError(f"{self.dump.posts}: no rows; a dump's Posts.xml has one <row …/> a post")
        self.step.notes["rows"] = number
        self.batch(*low)
        self.questions.flush()
        self.answers.flush()
        if self.sample:
            self._forget(seen)
        return seen

    def batch(self, ids, scores, excerpts):
        """Drops answers whose score is too low, and empties the lists."""
        if ids:
            names = f"stackexchange/{self.site}/"
            self.step.drop_all((names, ids), self.site, "answer_score", ("score ", scores), excerpts)
            for column in (ids, scores, excerpts):
                del column[:]

    def other(self, row, name, id, score):
        """A tag's description, a moderator's election …"""
        self.drop(name, self.site, "other_type", f"PostTypeId {row.get('PostTypeId')}", row.get("Body", ""))
        return OTHER

    def question(self, row, name, id, score):
        title, html, rule, found = row.get("Title", ""), row.get("Body", ""), "", ""
        if self.sample:
            if row.get("AnswerCount", "0") == "0" or not self.sample.take(id):
                rule = "not_sampled"
        elif score < self.settings["question_min_score"]:  # the rule is called to say why: most questions pass it
            rule, found = first(filters.QUESTION, filters.Post(score, html, title), self.settings)
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
                rule, found = first(self.early, filters.Post(score, html), self.settings)
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
            "luck", 1, lambda id: luck(f"{self.settings['seed']}/{self.site}", id), deterministic=True
        )
        if not self.settings["unfiltered"]:
            self.store.execute("create index best on answers (parent, score desc, id)")
        before = None
        for answer in self.store.execute(f"select * from answers order by parent, {order}"):
            id, parent, _, rule, found, html = answer[:6]
            known, first, before = seen[parent] if parent < len(seen) else 0, parent != before, parent
            if known in (0, OTHER):
                rule, found = "no_question", f"{parent} is no question of this dump"
            elif known == ASKED and not first:
                rule, found = "not_the_best", f"of question {parent}"
            elif known == TAKEN:
                question = self.store.execute("select * from questions where id = ?", (parent,)).fetchone()
                seen[parent] = UNFIT if self.unfit(question)[0] else ASKED
                if seen[parent] == ASKED and not rule:
                    rule, found = self.keep(question, answer)
            if seen[parent : parent + 1] in (bytes([DROPPED]), bytes([UNFIT])):
                rule, found = self.asked, f"question {parent}"
            if rule:
                self.step.drop(f"stackexchange/{self.site}/{id}", self.site, rule, found, html)
        for question in self.store.execute("select * from questions order by id"):
            id, _, title = question[:3]
            rule, found = "asked" if seen[id] == ASKED else "no_answer", ""  # asked: see the line of its answer
            if seen[id] == UNFIT:
                rule, found = self.unfit(question)
            self.step.drop(f"stackexchange/{self.site}/{id}", self.site, rule, found, title)

    def unfit(self, question):
        """The rule that drops a question which has a strong answer, and what it found; ("", "") if none does."""
        if self.settings["unfiltered"]:
            return "", ""
        _, score, title, html, *_ = question
        return first(filters.QUESTION_TEXT, filters.Post(score, html, title), self.settings)

    def keep(self, question, answer):
        """Keeps the pair, or returns the rule that drops it and what it found."""
        _, asked, title, body, asker, asker_name = question
        id, _, score, _, _, html, user, name, created, license = answer
        settings, key = self.settings, f"stackexchange/{self.site}/{id}"
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
            rule, found = first(self.late, filters.Post(score, html, title, said), settings)
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
    asked = "select user from questions where id in (select parent from answers where rule = '')"
    wanted = {user for (user,) in store.execute(f"select user from answers where rule = '' union {asked}")}
    rows = posts.rows(source[0], "Users", tick, settings["keep_truncated"], {})
    return {row.get("Id"): row.get("DisplayName", "") for row in rows if row.get("Id") in wanted}
