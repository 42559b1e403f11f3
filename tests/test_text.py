"""HTML of posts → Markdown, on small posts written for this test."""

import pytest

from lima import UserError
from lima.curate import text


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ('<p>See <a href="https://x.org/a">the guide</a> first.</p>', "See the guide first."),
        ("<p>An <b>image</b> and <i>words</i>.<img src='x.png' alt='x'/></p>", "An image and words."),
        ("<p>Use <code>a &lt; b</code> here.</p>", "Use ```a < b``` here."),
        ("<p>&amp;lt; stays</p>", "&lt; stays"),  # decoded once
        ("<pre><code>if a:\n    b = 1\n</code></pre>", "```\nif a:\n    b = 1\n```"),
        ("<p>Let $x_1^2 * y_2 * z$ be.</p>", "Let $x_1^2 * y_2 * z$ be."),
        ("<ul><li>one</li><li>two<ul><li>in two</li></ul></li></ul>", "* one\n* two\n  * in two"),
        ("<ol><li>first</li><li>second</li></ol>", "1. first\n2. second"),
        ("<blockquote><p>said</p></blockquote><p>so</p>", "> said\n\nso"),
        ("<p>wrapped\nhere</p>", "wrapped here"),
        ("<script>alert(1)</script><p>safe</p>", "safe"),
    ],
)
def test_what_stays_and_what_goes(html, markdown):
    assert text.from_html(html) == markdown


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ("<p>See <img src='x'/> here.</p>", "See here."),
        ("<p>See <a href='y'><img src='x'/></a> here.</p>", "See here."),
        ("<p>See <img src='x'/> <img src='y'/> here.</p>", "See here."),
        ("<p>See <em>this</em> <img src='x'/> <em>there</em>.</p>", "See this there."),
        ("<p>See <img src='x'/> <code>x</code>.</p>", "See ```x```."),
        ("<p>See it <img src='x'/>, then <img src='y'/>.</p>", "See it, then."),
        ("<p>It was <s>never <img src='x'/></s> here.</p>", "It was here."),
        ("<p>It was <b><s>never </s></b> here.</p>", "It was here."),
        ("<p>One<br/>\n<img src='x'/> Two</p>", "One\nTwo"),
        ("<p><img src='x'/></p><p>One</p><img src='y'/><p>Two</p>", "One\n\nTwo"),
        ("<ul><li><img src='x'/> one</li><li>two <img src='x'/></li></ul>", "* one\n* two"),
        ("<p>one<img src='x'/>two</p>", "onetwo"),
        # what an image held apart in code, and two spaces that the writer typed there, are left as they are
        (
            "<pre><code>a  b <img src='x'/> c\n  d</code></pre><p>See <img src='x'/> here</p>",
            "```\na  b  c\n  d\n```\n\nSee here",
        ),
        ("<p><code>a <img src='x'/> b</code> here</p>", "```a  b``` here"),
    ],
)
def test_an_image_leaves_one_space_in_its_sentence(html, markdown):
    assert text.from_html(html) == markdown


def test_the_mark_of_inline_code_can_be_chosen():
    assert text.from_html("<p><code>x</code></p>", inline_code="`") == "`x`"


def test_a_table_stays_one():
    html = "<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.from_html(html).splitlines()]
    assert [rows[0], rows[2]] == [["a", "b"], ["1", "2"]]


def test_nesting_without_end_is_one_line():
    with pytest.raises(UserError, match="nested too deep"):
        text.from_html("<div>" * 50_000 + "x" + "</div>" * 50_000)


def test_prose_is_what_the_writer_says_in_their_own_voice():
    said = 'Press ```I``` and read "I am here" where $I$ is.\n> I was quoted\nDone.'
    assert "I" not in text.prose(said).split() and "Done." in text.prose(said)


def test_gair_limas_answers_pass_through_unharmed(shared):
    """Their text is clean already: taken as one paragraph of HTML, its words come back."""
    import html
    import json

    rows = [json.loads(line) for line in (shared / "lima/train.jsonl").open(encoding="utf-8")]
    answers = [row["conversations"][1] for row in rows if row["source"] == "stackexchange"][:50]
    for answer in answers:
        words = [word for word in answer.split() if word.isalpha()]
        again = text.from_html(f"<p>{html.escape(answer)}</p>").split()
        assert len([word for word in words if word in again]) >= 0.98 * len(words)
