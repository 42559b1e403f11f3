"""The rules that choose Stack Exchange posts (section 2.1), in the order of the lists at the end.

A rule takes a post and the settings of the recipe's `stackexchange` section and returns what it found against it, in
words, or "" where it has nothing against it. Its thresholds and cues are keys of that section, named in its docstring.
The paper gives the thresholds, but of its cues only two a rule: the lists are our reading, set on GAIR/lima's answers.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from lima.curate import text

# A lone "I" is the pronoun where a verb or an adverb follows, or after these words; not in "Type I error", "Ctrl+Shift+I",
# "I/O", "%I" or "$I$". "i" is an index, unless it is contracted or followed by such a verb.
PRONOUN = re.compile(
    r"(?<![\w$%\\&/+.^_'’-])(?<!\+ )(?:"
    r"I['’](?:m|ve|d|ll)\b"
    r"|I(?=,?\s+[a-z])"
    r"|(?<=than )I\b|(?<=you and )I\b|(?<=least, )I\b|(?<=so am )I\b|(?<=so do )I\b"
    r"|i(?=['’](?:m|ve|ll)\b| (?:am|was|have|had|think|would|use|don['’]?t|know|believe|found)\b)"
    r"|[Mm]yself\b|m[ey](?![\w.=(-])|My(?= [a-z])"
    r"|(?:of|is|are) mine\b"
    r")"
)
SENTENCE = re.compile(r"(?<=[.!?:;])[)\"”’]*\s+|\n+")


class Post(NamedTuple):
    """A question or an answer: `score`; `title` (questions); `html` as in the dump; `text`, cleaned, where a rule needs it."""

    score: int
    html: str
    title: str = ""
    text: str = ""


def question_score(question, settings):
    """`question_min_score`. The paper takes the questions with the highest score; the least is our reading."""
    return _below(question.score, settings["question_min_score"])


def title_alone(question, settings):
    """`title_min_words`, `title_cues`. "Self-contained in the title" (2.1): enough words, and none that point elsewhere (our
    reading)."""
    words = len(question.title.split())
    if words < settings["title_min_words"]:
        return f"{words} words"
    return _cue(question.title, settings["title_cues"])


def answer_score(answer, settings):
    """`answer_min_score`. "Strong positive score (at least 10)" (2.1)."""
    return _below(answer.score, settings["answer_min_score"])


def too_short(answer, settings):
    """`answer_characters`, first number: 1,200 (2.1), of the HTML or of the clean text by `length_of` (our reading: GAIR/lima
    has 45 answers of 400 that are shorter once cleaned, so the paper measured before)."""
    length = len(getattr(answer, settings["length_of"]))
    return f"{length} characters" if length < settings["answer_characters"][0] else ""


def too_long(answer, settings):
    """`answer_characters`, second number: 4,096 (2.1), measured as in `too_short`."""
    length = len(getattr(answer, settings["length_of"]))
    return f"{length} characters" if length > settings["answer_characters"][1] else ""


def first_person(answer, settings):
    """`first_person_idioms`, `first_person_not_after`, `first_person_most`. Written in the first person ("I", "my"; 2.1).

    Code, formulas and quotations do not count, nor what is not the pronoun ("Type I error"), nor, as in GAIR/lima, the
    phrases with which a writer turns to the reader ("I'll explain", "I'd recommend"): experience and opinion do.
    """
    voice = text.prose(answer.text)
    for idiom in settings["first_person_idioms"]:
        voice = _compiled(idiom).sub(" ", voice)
    for word in settings["first_person_not_after"]:
        voice = _compiled(rf"\b{word} I\b(?!['’])").sub(" ", voice)
    found = [sentence.strip() for sentence in SENTENCE.split(voice) if PRONOUN.search(sentence)]
    return _excerpt(found[0]) if len(found) > settings["first_person_most"] else ""


def reference(answer, settings):
    """`reference_cues`. Refers to other answers ("as mentioned", "stack exchange"; 2.1), outside code and quotations."""
    return _cue(text.prose(answer.text), settings["reference_cues"])


QUESTION = (question_score,)  # cheap: for every question
QUESTION_TEXT = (title_alone,)  # for those that have a strong answer
ANSWER_HTML = (answer_score, too_short, too_long)  # cheap: before clean-up
ANSWER_TEXT = (too_short, too_long, first_person, reference)


def answer_rules(settings):
    """The rules for the HTML as it is, and those for the clean text: length belongs to one of them, by `length_of`."""
    length = {too_short, too_long}
    if settings["length_of"] == "html":
        return ANSWER_HTML, tuple(rule for rule in ANSWER_TEXT if rule not in length)
    return tuple(rule for rule in ANSWER_HTML if rule not in length), ANSWER_TEXT


def _below(score, least):
    return f"score {score}" if score < least else ""


def _cue(words, cues):
    """The first of the patterns `cues` that `words` holds, with what stands around it."""
    for cue in cues:
        found = _compiled(cue).search(words)
        if found:
            return _excerpt(words[max(0, found.start() - 40) : found.end() + 40])
    return ""


@lru_cache(maxsize=1024)
def _compiled(pattern):
    """Cues ignore case, unless they say `(?-i:…)`."""
    return re.compile(pattern, re.IGNORECASE)


def _excerpt(words):
    words = " ".join(words.split())
    return words if len(words) <= 120 else words[:119] + "…"
