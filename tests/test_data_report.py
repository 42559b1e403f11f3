"""The data report: its numbers are the ledger's, it fetches and runs nothing, and no text becomes markup."""

import re

import pytest
from lxml import html as reader

from lima import UserError, runs
from lima.curate import card, ledger, mixture, report, report_draw
from tests.test_mixture import candidate, recipe, write

NASTY = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;<!--"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A mix of two steps whose every text, name and rule is hostile."""
    folder = tmp_path_factory.mktemp("report")
    rows = [candidate("wikihow", NASTY, n, 5, author=NASTY, url="https://w.org/a'\"><b>") for n in range(12)]
    for row in rows:
        row["messages"][1]["content"] += f" {NASTY} \ud800"[: None if row["id"].endswith("/1") else -2]
    for row in rows[::2]:
        row["url"] = "javascript:alert(3)"
    rows[3]["messages"][1]["content"] += " ask ada@site.org"
    rows = [row for row in rows if not row["id"].endswith("/1")]
    with ledger.Step(folder / "cand/wikihow") as step:
        for row in rows:
            step.keep(row)
        for number in range(30):
            step.drop(f"wikihow/x/{number}", NASTY, "too_short", f"{number} {NASTY}", NASTY)
        step.drop("wikihow/y", "c", NASTY, NASTY, NASTY)
    write(folder / "cand/reddit", [candidate("askreddit", "AskReddit", n, n, response=False) for n in range(6)])
    recipe(folder, train=[{"source": "wikihow", "rows": 9}], test=[{"source": "askreddit", "rows": 2}])
    words = ["--config", folder / "r.yaml", "--candidates", folder / "cand", "--out", folder / "out"]
    mixture.main([str(word) for word in words])
    return folder


@pytest.fixture(scope="module")
def page(data):
    report.main(["--data", str(data / "out"), "--samples", "4"])
    return (data / "out/report.html").read_text(encoding="utf-8")


def words(node):
    return " ".join(" ".join(node.itertext()).split())


def test_no_text_becomes_markup(page):
    tree = reader.fromstring(page)
    for bad in ("script", "img", "link", "iframe", "b[not(@class)]", "*[@onerror or @onclick or @onload]", "comment()"):
        assert not tree.xpath(f"//{bad}"), bad
    assert (
        page.count(reader.tostring(tree.xpath("//meta[contains(@content, 'default-src')]")[0], encoding="unicode")[:30])
        == 1
    )
    assert "alert(1)" in tree.text_content()  # it is shown
    assert {link.get("href") for link in tree.xpath("//a")} == {"https://w.org/a'\"><b>"}
    assert "javascript:" not in page


def test_it_is_one_file(page):
    assert not re.search(r"""(src|srcset|@import|url\()\s*=?\s*["']?(https?:|/|\.)""", page.replace("&lt;", ""))
    assert "default-src 'none'" in page and 'name="viewport"' in page


def test_the_flow_has_the_ledgers_numbers(data, page):
    said = {
        svg.get("aria-label") for svg in reader.fromstring(page).xpath("//svg") if "considered" in svg.get("aria-label")
    }
    wikihow = next(text for text in said if "considered 42" in text)
    for part in ("too_short 30", "candidates 11", "beyond_quota 2", "chosen 9"):
        assert part in wikihow
    reddit = next(text for text in said if "considered 6" in text)
    assert "candidates 6" in reddit and "beyond_quota 2" in reddit and "not_drawn 2" in reddit and "chosen 2" in reddit


def test_every_rule_and_source_has_rows_to_look_at(page):
    tree = reader.fromstring(page)
    shown = {
        " ".join(" ".join(part.find("summary").itertext()).split()): len(part.findall("article"))
        for part in tree.xpath("//details")
    }
    assert shown["too_short 4 of 30"] == 4 and shown["beyond_quota 4 of 4"] == 4
    assert shown["askreddit, test 2 of 2"] == 2
    kept = next(name for name in shown if name.startswith("wikihow"))
    assert shown[kept] == 4 + ("flagged" in kept) and "email: ad…org" in page


def test_lengths_are_beside_the_papers(data, page):
    tree = reader.fromstring(page)
    figure = next(part for part in tree.xpath("//figure") if words(part).startswith("wikihow 9"))
    rows = runs.read_jsonl(data / "out/train.jsonl")
    mean = sum(len(row["messages"][1]["content"]) for row in rows) / len(rows) / card.CHARACTERS
    assert f"mean {mean:,.0f}, paper 1,811" in words(figure)


def test_candidates_alone_have_a_report(data, tmp_path):
    report.main(["--data", str(data / "cand"), "--out", str(tmp_path / "r.html")])
    text = words(reader.fromstring((tmp_path / "r.html").read_text(encoding="utf-8")))
    assert "17 candidates, not mixed yet" in text and "too_short" in text


def test_the_same_page_twice(data, page, tmp_path):
    report.main(["--data", str(data / "out"), "--samples", "4", "--out", str(tmp_path / "r.html")])
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == page


def test_tokens_can_be_counted(data, tmp_path, smollm2, smollm2_tokenizer):
    report.main(["--data", str(data / "out"), "--out", str(tmp_path / "r.html"), "--tokenizer", str(smollm2)])
    text = words(reader.fromstring((tmp_path / "r.html").read_text(encoding="utf-8")))
    prompts = [row["messages"][0]["content"] for row in runs.read_jsonl(data / "out/test.jsonl")]
    mean = sum(len(smollm2_tokenizer(text)["input_ids"]) for text in prompts) / len(prompts)
    assert "counted with" in text and f"mean {mean:,.0f}, paper 30" in text


def test_what_is_wrong_is_said(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        report.main(["--data", str(tmp_path / "none")])
    with pytest.raises(UserError, match="no finished step"):
        report.main(["--data", str(tmp_path)])


def test_the_flow_is_drawn_to_scale():
    steps = [("in", "considered", 1000, ""), ("drop", "a", 750, "75 %"), ("end", "chosen", 250, "")]
    drawn = report_draw.flow(steps)
    numbers = [float(x) for x in re.findall(r"L([\d.]+) [\d.]+V", re.search('class="trunk" d="(.*?)"', drawn)[1])]
    assert numbers[0] == pytest.approx(report_draw.TRUNK) and numbers[-1] == pytest.approx(report_draw.TRUNK / 4)
    assert report_draw.flow([("in", "considered", 0, ""), ("end", "chosen", 0, "")]).startswith("<svg")
    assert "mean 10 tokens, paper 20" in report_draw.histogram([5, 15], 20, "prompt")
    extremes = report_draw.histogram([0.1, 5, 99_999], None, "prompt")
    assert all(float(width) > 0 for width in re.findall(r'class="bar".*? width="(.*?)"', extremes))
    assert extremes.count('class="bar"') == 3
    assert report_draw.histogram([], None, "prompt").startswith("<svg")
