"""wikiHow pages, tables and JSON → candidates: the form of GAIR/lima's rows, and what cannot be read."""

import csv
import hashlib
import json
import re

import pytest

from lima import UserError, runs
from lima.curate import command, ledger, wikihow, wikihow_page

RECIPE = "recipes/data/lima-open.yaml"
LONG = "Enough words to make a paragraph that is worth reading, and then a few more of them. " * 6

PAGE = """<!DOCTYPE html><html><head><title>2 Ways to Fold a Map - wikiHow</title>
<link rel="canonical" href="https://www.wikihow.com/Fold-a-Map">
<script type="application/ld+json">{"@type": "HowTo", "name": "How to Fold a Map", "datePublished": "2012-03-04"}</script>
<script type="application/ld+json">{"@type": "BreadcrumbList", "itemListElement": [
 {"item": {"name": "wikiHow"}}, {"item": {"name": "Travel"}}, {"item": {"name": "Maps"}}]}</script></head><body>
<div id="intro" class="section sticky"><div id="byline_hover" hidden><p>This article was co-authored by staff.</p></div>
<div class="mf-section-0"><p>This article teaches you to fold a <a href="/Map">paper map</a>.<sup class="reference"><a>[1]</a>
<span class="ts_popup">X <span>Research source</span></span></sup> PADDING</p></div></div>
<div class="section steps"><h3><div class="altblock">Method <span>1</span> of 2:</div>
<span class="mw-headline">Folding &amp; Creasing</span></h3><div class="section_text"><ol class="steps_list_2">
<li><div class="mwimg"><img alt="Image titled Fold a Map Step 1"><noscript>picture</noscript></div>
<div class="step_num">1</div><div class="step"><b class="whb">Lay the map flat.</b> Use&nbsp;a table<sup
class="reference trusted">[2]<span class="ts_popup">Trustworthy Source</span></sup>. <script>WH.video.add(1)</script>
<ul><li>A floor will do, too.</li>
<li>Type <code>fold(1)</code> if it is a file.</li></ul></div></li>
<li><div class="step"><b>Gather your tools.</b> You need:<ul><li>A ruler.</li><li>A bone folder.</li></ul></div></li>
<li><div class="step"><b>Crease it.</b> Press hard.<ul><li>Along each line, use one of these.<ul>
<li>Your thumb.</li><li>A spoon.</li>
</ul></li><li>Do not rub the ink.</li></ul></div></li></ol></div></div>
<div class="section steps"><h3><span class="mw-headline">Rolling</span></h3>
<div class="section_text"><ol><li><div class="step"><b>Roll it.</b> This article of paper rolls well.
<ul><li>from left to right</li><li>Or not.</li></ul></div></li>
<li><div class="step"><b>Run this.</b><pre>fold --width 3 \\
  map.txt</pre></div></li></ol></div></div>
<div class="section tips"><h2><span class="mw-headline">Tips</span></h2><div class="section_text"><ul>
<li><div>Keep it dry.<div class="clearall"></div></div><div class="wh_vote_container">Thanks! Helpful 3</div></li></ul></div></div>
<div class="section"><h2><span class="mw-headline">Things You’ll Need</span></h2>
<div class="section_text"><ul><li>A map</li></ul></div></div>
</body></html>"""

FOLDED = """The following answer teaches you to fold a paper map. PADDING

## Folding & Creasing

1. Lay the map flat. Use a table. A floor will do, too. Type `fold(1)` if it is a file.
2. Gather your tools. You need:
\t* A ruler.
\t* A bone folder.
3. Crease it. Press hard. Along each line, use one of these.
\t* Your thumb.
\t* A spoon.

\tDo not rub the ink.


## Rolling

1. Roll it. This article of paper rolls well.
\t* from left to right
\t* Or not.
2. Run this.

\t```
\tfold --width 3 \\
\t  map.txt
\t```


## Tips

* Keep it dry."""


def curate(raw, out, *flags):
    paths = raw if isinstance(raw, list) else [raw]
    words = ["--config", RECIPE, "--raw", *map(str, paths), "--out", str(out), *flags]
    command.run("wikihow", wikihow.DEFAULTS, wikihow.SUFFIXES, wikihow.curate, "", words)
    return list(ledger.candidates(out)), {line["id"]: line for line in ledger.lines(out)}


def recipe(path, **changes):
    path.write_text(json.dumps({"wikihow": changes}), encoding="utf-8")  # JSON is YAML
    return path


def test_page(tmp_path):
    (tmp_path / "map.html").write_text(PAGE.replace("PADDING", LONG), encoding="utf-8")
    (one,), _ = curate(tmp_path / "map.html", tmp_path / "out")
    assert one["messages"][0] == {"role": "user", "content": "How to fold a map?"}
    assert one["messages"][1]["content"] == FOLDED.replace("PADDING", " ".join(LONG.split()))
    assert {k: one[k] for k in ("id", "source", "url", "license", "group", "created", "title")} == {
        "id": "wikihow/Fold-a-Map", "source": "wikihow", "url": "https://www.wikihow.com/Fold-a-Map",
        "license": "CC BY-NC-SA 3.0", "group": "Travel", "created": "2012-03-04", "title": "How to Fold a Map",
    }  # fmt: skip


def test_recipe_prunes_sections_and_keeps_the_title(tmp_path):
    (tmp_path / "map.html").write_text(PAGE.replace("PADDING", LONG), encoding="utf-8")
    words = ["--config", recipe(tmp_path / "r.yaml", prompt="title", prune=["TIPS", "Things You'll Need"], rename={})]
    words += ["--raw", tmp_path / "map.html", "--out", tmp_path / "out"]
    command.run("wikihow", wikihow.DEFAULTS, wikihow.SUFFIXES, wikihow.curate, "", list(map(str, words)))
    (one,) = ledger.candidates(tmp_path / "out")
    prompt, answer = (message["content"] for message in one["messages"])
    assert prompt == "How to Fold a Map" and "## Tips" not in answer and "Need" not in answer
    assert answer.startswith("This article teaches")


def test_page_without_steps_in_its_html_is_read_from_json_ld(tmp_path):
    linked = {"@type": "HowTo", "name": "How to Wave", "step": [
        {"@type": "HowToSection", "name": "Standing", "itemListElement": [
            {"@type": "HowToStep", "text": "Lift a hand. Smile.\nBe calm.\nMove it:\nleft\nright"}]}]}  # fmt: skip
    html = f"<html><script>x={{wgCategories:['a']}}</script><script type='application/ld+json'>{json.dumps(linked)}</script></html>"
    (tmp_path / "w.html").write_text(html, encoding="utf-8")
    article, rule = wikihow_page.read(tmp_path / "w.html")
    assert rule == "" and article.slug == "w"
    assert article.methods == [("Standing", ["Lift a hand. Smile. Be calm. Move it:\n\t* left\n\t* right"])]


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "not_an_article"),
        (b"\xff\xfe<html>", "not_utf8"),
        (b"<html><p>nothing here</p></html>", "not_an_article"),
        (b"<html><h1>What a Map Is</h1></html>", "not_how_to"),
        (b"<html><h1>How to Wait</h1></html>", "no_steps"),
        (b"<html><h1>How to Wait</h1><div class='section steps'><div class='step'>Wait.</div></div></html>", "too_short"),
        (PAGE.replace("PADDING", LONG * 60).encode(), "too_long"),
        (PAGE.replace("PADDING", LONG + "[[Image:Map.jpg|center]]").encode(), "left_over"),
    ],
)  # fmt: skip
def test_every_rule(tmp_path, content, rule):
    (tmp_path / "a.html").write_bytes(content)
    (tmp_path / "z.html").write_text(PAGE.replace("PADDING", LONG), encoding="utf-8")
    (tmp_path / "zz.html").write_text(PAGE.replace("PADDING", LONG), encoding="utf-8")
    kept, lines = curate(tmp_path, tmp_path / "out")
    counts = ledger.counts(tmp_path / "out")
    assert len(kept) == 1 and counts == {"": 1, rule: 1, "repeated": 1}, lines
    assert sum(counts.values()) == 3


def write_csv(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def test_table_of_methods(tmp_path):
    """wikihowAll.csv: a method a row, an article's rows apart, headlines and texts each run together."""

    def row(title, heads, texts):
        return {"headline": "\n" + ",\n".join(heads), "title": title, "text": ";\n, ".join(texts)}  # fmt: skip

    path = write_csv(tmp_path / "all.csv", [
        row("How to Sort Socks2", ["Pair them.", "Roll them."], [LONG + "\n", "Tightly.\n"]),
        row("How to Play a PS3", ["Plug it in."], [LONG * 3]),
        row("How to Sort Socks1", ["Wash them.", "Dry them."], ["Use one of:\n\n\nsoap\nsoda", LONG]),
        row("How to Lose Count", ["One.", "Two."], [LONG * 3]),
        row("", ["One."], [LONG]),
    ])  # fmt: skip
    kept, lines = curate(path, tmp_path / "out")
    by_id = {one["id"]: one for one in kept}
    assert set(by_id) == {"wikihow/Sort-Socks", "wikihow/Play-a-PS3"}
    text = " ".join(LONG.split())
    assert by_id["wikihow/Sort-Socks"]["messages"][1]["content"] == (
        f"## Part 1\n\n1. Wash them. Use one of:\n\t* soap\n\t* soda\n2. Dry them. {text}\n\n\n"
        f"## Part 2\n\n1. Pair them. {text}\n2. Roll them. Tightly."
    )
    assert by_id["wikihow/Play-a-PS3"]["messages"][0]["content"] == "How to play a ps3?"
    assert lines["wikihow/Lose-Count"]["rule"] == "unpaired_steps"
    assert ledger.counts(tmp_path / "out") == {"": 2, "unpaired_steps": 1, "no_title": 1}


def test_table_of_steps(tmp_path):
    """wikihowSep.csv: a step a row, with the introduction and the method's name."""

    def row(label, head, text, title="How to Sort Socks"):
        return {"overview": "   This wikiHow shows how. ", "headline": f"\n{head}", "text": f"   {text};\n",
                "sectionLabel": label, "title": title}  # fmt: skip

    path = write_csv(tmp_path / "sep.csv", [
        row("Washing", "Wash them.", LONG), row("Steps", "Look.", LONG * 3, "How to Look"),
        row("Washing", "Dry them.", LONG), row("Pairing", "Pair them.", "Left and right."),
    ])  # fmt: skip
    kept, _ = curate(path, tmp_path / "out")
    text = " ".join(LONG.split())
    assert [one["title"] for one in kept] == ["How to Look", "How to Sort Socks"]
    assert kept[1]["messages"][1]["content"] == (
        f"The following answer shows how.\n\n## Washing\n\n1. Wash them. {text}\n2. Dry them. {text}\n\n\n"
        "## Pairing\n\n1. Pair them. Left and right."
    )


def test_json(tmp_path):
    article = {"title": "How to Nod", "category": "Youth", "introduction": LONG, "tips": ["Slowly."],
               "methods": [{"title": "Down", "steps": ["Look down. " + LONG, {"headline": "Look up.", "text": LONG}]}]}  # fmt: skip
    items = [
        article,
        7,
        {"title": "How to Fail", "methods": [{"steps": 3}]},
        {"headline": "A.", "title": "How to A", "text": LONG * 3},
    ]
    (tmp_path / "list.json").write_text(json.dumps(items), encoding="utf-8")
    kept, _ = curate(tmp_path / "list.json", tmp_path / "out")
    assert {one["id"]: one["group"] for one in kept} == {"wikihow/A": "", "wikihow/Nod": "Youth"}
    assert ledger.counts(tmp_path / "out") == {"": 2, "not_an_article": 2}
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    again, _ = curate(tmp_path / "lines.jsonl", tmp_path / "again")
    assert again == kept


def bytes_of(folder):
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (ledger.CANDIDATES, ledger.LEDGER)]


def test_same_bytes_and_twice_does_nothing(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/map.html").write_text(PAGE.replace("PADDING", LONG), encoding="utf-8")
    curate(tmp_path / "in", tmp_path / "a")
    curate(tmp_path / "in", tmp_path / "b")
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    made = (tmp_path / "a" / ledger.DONE).stat().st_mtime_ns
    curate(tmp_path / "in", tmp_path / "a")
    assert "nothing to do" in capsys.readouterr().out and (tmp_path / "a" / ledger.DONE).stat().st_mtime_ns == made


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "expected the columns headline, title, text; found nothing"),
        ("a.csv", b"title,body\n1,2\n", "found title, body"),
        ("a.csv", b"headline,title,text\n\xff,How to A,b\n", "not UTF-8"),
        ("a.json", b"{", "not JSON"),
        ("a.json", b"{}", "expected a JSON list"),
        ("a.txt", b"", "no file there that ends in .html"),
    ],
)
def test_bad_input_is_one_line(tmp_path, name, content, words):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        curate(tmp_path / "in", tmp_path / "out")
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_real_pages_have_the_form_of_gair_lima(shared, tmp_path):
    kept, _ = curate(shared / "wikihow", tmp_path / "out")
    assert len(kept) == 8 and {one["group"] for one in kept} <= set(wikihow_page.CATEGORIES)
    theirs = [
        row["conversations"] for row in runs.read_jsonl(shared / "lima/train.jsonl") if row["source"] == "wikihow"
    ]
    for prompt, answer in [*theirs, *([message["content"] for message in one["messages"]] for one in kept)]:
        assert re.fullmatch(r"How to .*\?", prompt) and prompt[7:] == prompt[7:].lower()
        assert re.search(r"^## \S.*\n+1\. \S", answer, re.M) and not re.search(r"^#(?!# )", answer, re.M)
    for one in kept:  # stricter than theirs, which has some rests
        answer = one["messages"][1]["content"]
        assert not re.search(r"</?\w+>|https?:|&\w+;|\xa0|Image titled|\*\*|  \S|Advertisement|Helpful", answer)
        for section in re.split(r"\n\n\n", answer):
            numbers = [int(n) for n in re.findall(r"^(\d+)\. ", section, re.M)]
            assert numbers == list(range(1, len(numbers) + 1))
    assert sum("\n\t* " in answer for _, answer in theirs) == 82  # a list stays a list in some, as in ours
    assert 0 < sum("\n\t* " in one["messages"][1]["content"] for one in kept) < 8
