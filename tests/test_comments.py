"""Comments under an answer → turns: what a comment's text becomes, what each rule finds, who follows whom."""

import pytest

from lima.curate import comments, dialogues, text
from lima.curate.comments import ANSWERER, ASKER, OTHER, Chain, Comment
from lima.curate.rules import first

RULES = dialogues.read_settings("recipes/data/lima-open.yaml")


@pytest.mark.parametrize(
    ("said", "to", "rest"),
    [
        ("@Ada Does it hold?", "Ada", "Does it hold?"),
        ("@Ada, does it hold?", "Ada", "does it hold?"),
        ("@Ada: does it hold?", "Ada", "does it hold?"),
        ("@Ada - does it hold?", "Ada", "does it hold?"),
        ("  @ada-lovelace... does it hold?", "ada-lovelace...", "does it hold?"),
        ("Hi @Ada, does it hold?", "Ada", "does it hold?"),
        ("@Ada @Bob Does it hold?", "Ada", "Does it hold?"),
        ("@Ada Lovelace Does it hold?", "Ada Lovelace", "Does it hold?"),  # a name that is known
        ("@Łukasz does it hold?", "Łukasz", "does it hold?"),
        ("@Ada's idea holds.", "", "@Ada's idea holds."),
        ("As @Ada says, it holds.", "", "As @Ada says, it holds."),
        ("`@Override` holds.", "", "`@Override` holds."),
        ("@", "", "@"),
        ("", "", ""),
    ],
)
def test_whom_a_comment_addresses_is_taken_from_its_beginning(said, to, rest):
    assert comments.addressed(said, ["Ada Lovelace", "Grace Brewster"]) == (to, rest)


def test_a_name_is_called_by_its_beginning_without_spaces():
    assert all(comments.is_called(to, "Ada Lovelace") for to in ("Ada", "ada.", "AdaLovelace", "Ada Lovelace"))
    assert not any(comments.is_called(to, "Ada Lovelace") for to in ("Adam", "Lovelace", "", "…"))
    assert not comments.is_called("Ada", "")


@pytest.mark.parametrize(
    ("said", "clean"),
    [
        ("See [the guide](http://x.org/a) first.", "See the guide first."),
        ('See [the guide](https://x.org/a "Title") first.', "See the guide first."),
        ("See [a (b)](http://x.org/a_(b)).", "See a (b)."),
        (
            "See [`map`](//x.org/map) and `[a](b)`.",
            "See ```map``` and ```[a](b)```.",
        ),  # code in a link; no link in code
        ("Let f[x](y) be.", "Let f[x](y) be."),
        ("It is in http://x.org/a?b=c&d too.", "It is in too."),
        ("Use `a < b && c` here", "Use ```a < b && c``` here"),
        ("Use ``a ` b`` here", "Use ``` a ` b ``` here"),
        ("Is it *so*, **so** or ***so***, or _so_?", "Is it so, so or so, or so?"),
        ("2 * 3 * 4, snake_case_name, __init__ and **kwargs", "2 * 3 * 4, snake_case_name, __init__ and **kwargs"),
        ("Let $a_1 * b_2 * c_3$ be *it*.", "Let $a_1 * b_2 * c_3$ be it."),
        ("$5 and *then* $10", "$5 and then $10"),
        (r"\*not so\*", "*not so*"),
        ("a <sigh> & <b>b</b> &amp; c", "a <sigh> & <b>b</b> &amp; c"),  # comments know no HTML and no entities
        ("one\n\ntwo", "one two"),
        ("[tag:maps], [meta-tag:maps], [physics.se] and [edit] it", "maps, maps, physics.se and edit it"),
        ("1. first # no heading", "1. first # no heading"),
        ("http://x.org", ""),
        ("", ""),
    ],
)
def test_a_comment_becomes_what_a_post_would_be(said, clean):
    assert comments.clean(said) == clean


def test_the_mark_of_code_is_the_one_of_posts():
    assert comments.clean("Use `x`", "`") == "Use `x`" == text.from_html("<p>Use <code>x</code></p>", "`")


@pytest.mark.parametrize(
    "said", ["[" * 20_000, "*a" * 20_000, "_a " * 20_000, "`" * 20_000, "$a" * 20_000, "@a " * 5_000]
)
def test_no_comment_takes_long(said):
    to, rest = comments.addressed(said)
    comments.clean(rest)
    assert to in ("", "a")


@pytest.mark.parametrize(
    "said",
    ["+1", "Thanks!", "Thank you so much!!", "thx :)", "Thanks, that worked perfectly.", "Great answer, thanks a lot", "Ok, I see.",
     "You're welcome :-)", "No problem, glad it helped!", "+1 - very helpful 👍", "Thanks for the detailed explanation.",
     "Makes sense now. Cheers", "yes", "Good point", "Sounds good, I'll try it."],
)  # fmt: skip
def test_nothing_but_thanks_and_a_nod_is_an_acknowledgement(said):
    assert first(comments.COMMENT, said, RULES) == ("acknowledgement", said)


@pytest.mark.parametrize(
    "said",
    ["I have edited my answer.", "Edited.", "Fixed, thanks.", "Let us continue this discussion in chat.", "See my edit",
     "Please accept the answer if it helped.", "Possible duplicate of Why is it so", "Why the downvote?",
     "Please ask a new question for that", "I'll add it to my answer", "Expanded the answer a bit."],
)  # fmt: skip
def test_talk_about_the_site_is_known(said):
    assert first(comments.COMMENT, said, RULES)[0] == "site_talk"


@pytest.mark.parametrize(
    "said",
    ["Thanks, but it fails for a wheel with hubs", "Thanks! Does that hold for a lager?", "Thanks for the answer but it fails",
     "Yes, because it is cold", "No, that is the other one", "Great, that works for 3 and fails for 4", "You can edit the file",
     "I updated the kernel and it fails", "They voted to leave", "Close as possible to the wheel", "Really?", "12", "C",
     "Use a new chain", "He said \"I edited my answer\" to them"],
)  # fmt: skip
def test_what_says_something_is_neither(said):
    assert first(comments.COMMENT, said, RULES) == ("", "")


@pytest.mark.parametrize(
    ("chain", "rule", "found"),
    [
        (Chain("~user7", 8, 9), "deleted_user", "user7"),
        (Chain(7, "~user8", 9), "deleted_user", "user8"),
        (Chain(7, None, 9), "deleted_user", "without a name"),
        (Chain(7, 7, 9), "own_answer", "user 7"),
        (Chain(7, 8, 2), "answer_score", "score 2"),
        (Chain(7, 8, 3), "", ""),
    ],
)
def test_a_chain_may_fall_before_anything_is_said(chain, rule, found):
    assert first(comments.CHAIN, chain, RULES) == (rule, found)


WORDS = {
    "A": (ASKER, "Does it hold for a lager as well, or for ales alone?"),
    "B": (ANSWERER, "It does, because the yeast of both is killed by heat."),
    "a": (ASKER, "Thanks!"),
    "b": (ANSWERER, "You're welcome."),
    "w": (ASKER, "Why?"),
    "y": (ANSWERER, "Because of heat."),
    "E": (ANSWERER, "I have edited my answer to say why it holds."),
    "U": (ANSWERER, ""),  # an address
    "o": (OTHER, ""),
}


def talk(letters):
    return [Comment(*WORDS[letter], f"2014-01-{n:02}", "CC BY-SA 3.0") for n, letter in enumerate(letters, 1)]


@pytest.mark.parametrize(
    ("letters", "turns", "rule"),
    [
        ("AB", "A B", ""),
        ("ABAB", "A B A B", ""),
        ("BAB", "A B", ""),  # the asker begins
        ("oBaAB", "A B", ""),
        ("AABBB", "AA BBB", ""),
        ("ABA", "A B", "no_reply"),  # the answerer ends
        ("ABaAB", "A B A B", ""),
        ("ABab", "A B", "acknowledgement"),
        ("AbB", "A B", ""),
        ("ABoAB", "A B", "interrupted"),
        ("ABAoB", "A B", "interrupted"),
        ("ABEAB", "A B", "site_talk"),
        ("ABUAB", "A B", "nothing_left"),
        ("ABwB", "A B", "short_follow_up"),
        ("ABAy", "A B", "short_reply"),
        ("wAB", "wA B", ""),  # a turn is what is said in it together
        ("ABABABABAB", "A B A B A B", ""),  # with question and answer eight
        ("", "", ""),
        ("B", "", ""),
        ("a", "", "acknowledgement"),
        ("ab", "", "acknowledgement"),
        ("A", "", "no_reply"),
        ("Aa", "", "no_reply"),
        ("Ab", "", "acknowledgement"),
        ("AoB", "", "interrupted"),
        ("AE", "", "site_talk"),
        ("AU", "", "nothing_left"),
        ("wB", "", "short_follow_up"),
        ("Ay", "", "short_reply"),
    ],
)  # fmt: skip
def test_who_follows_whom(letters, turns, rule):
    found, ended_by, _ = comments.dialogue(talk(letters), RULES)
    expected = ["\n\n".join(WORDS[letter][1] for letter in turn) for turn in turns.split()]
    assert [comments.spoken(turn) for turn in found] == expected and ended_by == rule
    assert [turn[0].speaker for turn in found] == [ASKER, ANSWERER] * (len(found) // 2)


def test_others_may_be_passed_over():
    found, rule, _ = comments.dialogue(talk("AoBoAB"), {**RULES, "others": "skip"})
    assert len(found) == 4 and not rule
