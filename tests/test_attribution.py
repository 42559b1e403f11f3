"""ATTRIBUTION.md: every row is named, the licence follows its date, and nobody's name becomes markup."""

import re

import pytest
from markdown_it import MarkdownIt

from lima.curate import attribution

ROW = {
    "id": "stackexchange/beer/12",
    "source": "stackexchange_other",
    "group": "beer",
    "author": "Ada",
    "url": "https://beer.stackexchange.com/a/12",
    "license": "",
    "created": "2014-03-02T10:00:00",
    "title": "Why is foam white?",
}


@pytest.mark.parametrize(
    "created, version",
    [("2011-04-07T23:59:59", "2.5"), ("2011-04-08T00:00:00", "3.0"), ("2018-05-01", "3.0"), ("2018-05-02", "4.0")],
)
def test_the_version_follows_the_date(created, version):
    assert attribution.licence({**ROW, "created": created}) == f"CC BY-SA {version}"


def test_what_a_row_states_comes_first():
    assert attribution.licence({**ROW, "license": "CC BY-SA 4.0", "created": "2009-01-01"}) == "CC BY-SA 4.0"
    assert attribution.licence({**ROW, "created": ""}) == "CC BY-SA"
    assert attribution.licence({**ROW, "source": "askreddit"}) == ""


def test_every_row_has_its_line():
    rows = [{**ROW, "id": f"stackexchange/{site}/{n}", "group": site} for site in ("beer", "chess") for n in range(3)]
    rows.append({**ROW, "id": "wikihow/a", "source": "wikihow", "license": "CC BY-NC-SA 3.0"})
    rows.append({**ROW, "id": "authors/1", "source": "authors", "author": "", "url": ""})
    page = attribution.page("mine", rows)
    lines = [line for line in page.splitlines() if line.endswith("`") and line.startswith("- ")]
    assert sorted(re.search("`(.*)`", line)[1] for line in lines) == sorted(row["id"] for row in rows[:-1])
    assert "## Stack Exchange, beer (3)" in page and "## wikihow (1)" in page and "- authors: 1 rows" in page
    assert lines[0] == (
        "- [Why is foam white?](https://beer.stackexchange.com/a/12) by Ada, CC BY-SA 3.0 `stackexchange/beer/12`"
    ).replace("beer/12`", "beer/0`")
    assert page.count("Changed: ") == 3  # CC BY-SA asks to say so


def test_an_edit_and_a_missing_author_are_said():
    page = attribution.page("mine", [{**ROW, "author": "", "edited": {"who": "bob", "when": "", "why": ""}}])
    assert "the author is not in the dump" in page and "edited by bob" in page


def test_names_stay_text():
    nasty = "<img src=x> [click](javascript:alert(1)) `a` | *b* https://evil.example\n# head"
    page = attribution.page(nasty, [{**ROW, "author": nasty, "title": nasty, "group": nasty, "id": "a`b\n# c"}])
    shown = MarkdownIt("commonmark").enable("table").render(page)  # lets HTML through
    assert "<img" not in shown and "<em>" not in shown and "<h1>head" not in shown
    assert re.findall('href="(.*?)"', shown) == ["https://creativecommons.org/licenses/by-sa/3.0/", ROW["url"]]
    assert "https://evil" not in page  # nor does the Hub make a link of it
    assert "&lt;img src=x&gt; [click](javascript:alert(1)) `a` | *b*" in shown


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "//x", "http://[", "", None])
def test_only_addresses_of_the_web_are_links(url):
    assert attribution.address(url) == ""


def test_an_address_cannot_end_its_link():
    assert attribution.address("https://a.org/x) [b](c \n<d>") == "https://a.org/x%29%20%5Bb%5D%28c%20%0A%3Cd%3E"
    assert attribution.address("https://a.org/a%20b?c=d&e=f#g") == "https://a.org/a%20b?c=d&e=f#g"
