"""The page of a comparison: all text escaped, nothing fetched, drawn and handled in a real browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from lima.evaluate import compare, compare_page
from lima.evaluate.run_sources import Run

EVIL = "</script><img src=x onerror='document.title=1'><!--DATA--> & \"quoted\" \u202e"


def made(name, n=0, epochs=3, answers=True, steps=4):
    """A run by hand: `steps` logged steps an epoch, and each epoch held-out loss and answers to two prompts."""
    rows, samples = [], []
    for step in range(1, epochs * steps + 1):
        epoch = step / steps
        rows.append({"step": step, "epoch": epoch, "loss": 3 - n / 10 - epoch / 4, "tokens_per_second": 1000.0 + step})
        if step % steps == 0:
            rows.append({"step": step, "epoch": epoch, "eval_loss": 2.5 + n, "samples/eot_share": epoch / 4})
            rows[-1]["samples/mean_tokens"] = 100.0 - epoch
            samples += [
                {"step": step, "epoch": epoch, "prompt_id": f"dev-{i}", "prompt": f"prompt {i} {EVIL}", "tokens": 7 + i,
                 "response": f"{name} says {i} after {epoch:g} {EVIL}", "finish_reason": ["eot", "length"][i]}
                for i in range(2)
            ]  # fmt: skip
    return Run(name, f"runs/{name}", {"recipe": {"seed": n, EVIL: f"{EVIL}{n}"}}, rows, samples if answers else [])


def page_of(*found):
    return compare_page.page(found, compare.differences(found), compare.figures(found))


class Reader(HTMLParser):
    """What a browser sees: tags with attributes, and text by the tag that it stands in."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, text):
        self.texts.append((self.open[-1] if self.open else "", text))

    def data(self):
        return json.loads(next(text for tag, text in self.texts if tag == "script" and text.startswith("{")))


def test_every_text_is_escaped_and_arrives_whole():
    names = [f"run {EVIL}", "b"]
    reader = Reader(page_of(made(names[0]), made(names[1], 1)))
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("script") == 2 and "img" not in tags
    assert not any(key.startswith("on") for _, attributes in reader.tags for key in attributes)
    cells = [text for tag, text in reader.texts if tag in ("th", "span", "td")]
    assert names[0] in cells  # the table's
    assert compare.plain(f"{EVIL}0") in cells
    assert not set("<>&") & set(next(text for tag, text in reader.texts if tag == "script" and text.startswith("{")))
    data = reader.data()
    assert [run["name"] for run in data["runs"]] == names
    assert data["prompts"][1]["prompt"] == f"prompt 1 {EVIL}"
    assert data["prompts"][0]["answers"][0][-1] == {
        "epoch": 3.0, "text": f"{names[0]} says 0 after 3 {EVIL}", "end": "eot", "tokens": 7
    }  # fmt: skip


def test_nothing_is_fetched():
    page = page_of(made("a"), made("b"))
    reader = Reader(page)
    assert not {"link", "img", "iframe", "base", "object"} & {tag for tag, _ in reader.tags}
    assert not any({"src", "href", "srcset"} & attributes.keys() for _, attributes in reader.tags)
    assert set(re.findall(r"https?://[^\s\"']+", page)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "url(" not in page and "@import" not in page and "fetch(" not in page
    policy = next(a["content"] for tag, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_what_json_and_utf8_cannot_hold_does_not_break_the_page():
    one = made("a")
    one.rows += [{"step": 13, "epoch": 3.25, "loss": float("nan")}, {"step": 14, "epoch": 3.5, "loss": float("inf")}]
    one.samples[0] |= {"response": "half a pair \ud83d", "epoch": float("nan"), "tokens": float("inf")}
    page = page_of(one)
    page.encode("utf-8")
    data = Reader(page).data()
    assert len(data["charts"][0]["curves"][0]) == 12
    assert {"epoch": 0.0, "text": "half a pair ?", "end": "eot", "tokens": None} in data["prompts"][0]["answers"][0]


def test_a_chart_without_any_curve_and_answers_of_no_run_are_left_out():
    bare = Run("bare", "runs/bare", {"recipe": {}}, [{"step": 1, "epoch": 0.1, "loss": 2.0}])
    data = Reader(page_of(bare)).data()
    assert [chart["title"] for chart in data["charts"]] == ["Loss"]
    assert data["prompts"] == []
    data = Reader(page_of(bare, made("a"))).data()
    assert [list(map(bool, chart["curves"])) for chart in data["charts"]] == [[True, True], *[[False, True]] * 4]


def test_the_table_has_runs_as_columns_or_as_rows():
    for count in (2, compare_page.ACROSS, compare_page.ACROSS + 1):
        found = [made(f"run-{n}", n) for n in range(count)]
        rows = compare_page.table(found, compare.differences(found), compare.figures(found)).split("<tr")[1:]
        across = count <= compare_page.ACROSS
        assert len(rows) - 1 == (1 + 1 + len(compare.figures(found)) if across else count)
        assert {row.count("<td") for row in rows[1:]} == ({count} if across else {rows[0].count("<th")})
        assert all(f">run-{n}<" in (rows[0] if across else rows[n + 1]) for n in range(count))


def test_moving_mean_is_a_mean_over_neighbours():
    values = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = compare_page.moving_mean([(i / 10, value) for i, value in enumerate(values.tolist())], 3)
    sums = torch.nn.functional.conv1d(
        values.view(1, 1, -1), torch.ones(1, 1, 7, dtype=torch.float64), padding=3
    ).flatten()
    counts = torch.tensor([min(i + 3, 49) - max(i - 3, 0) + 1 for i in range(50)])
    assert torch.allclose(torch.tensor([mean for _, mean in found], dtype=torch.float64), sums / counts)
    assert [epoch for epoch, _ in found] == [i / 10 for i in range(50)]


def test_names_are_shortened_where_words_are_shared():
    assert compare_page.shortened(["7b-quality-lr1-a", "7b-quality-lr2-a"]) == ["…lr1-a", "…lr2-a"]
    assert compare_page.shortened(["/data/sets/a/x", "/data/sets/ab/x"]) == ["…/a/x", "…/ab/x"]
    home = str(Path.home())
    assert compare_page.private(f"{home}/a {home}") == (f"{home}/a {home}" if home == "/" else "~/a ~")
    for same in (["lr-1", "lr-2"], ["7b-quality-lr1"], ["polynomial", "cosine"], ["1e-05", "1e-06"]):
        assert compare_page.shortened(same) == same


# ---- in a browser ------------------------------------------------------------------------------------------------------

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WATCH = """<script>
window.errors = [];
addEventListener("error", event => errors.push(event.message));
addEventListener("securitypolicyviolation", event => errors.push(event.violatedDirective));
</script>"""
TRY = """<script>
setTimeout(() => {
  const all = selector => [...document.querySelectorAll(selector)], texts = selector => all(selector).map(e => e.textContent);
  const out = {};
  const svg = all("svg")[0], box = svg.getBoundingClientRect();
  out.width = document.documentElement.scrollWidth;
  out.room = document.documentElement.clientWidth;
  out.curves = all("figure").map(f => f.querySelectorAll(".curve").length);
  out.names = texts("svg .name");
  out.titles = texts("h3");
  out.answers = texts(".answer pre");
  out.headers = texts(".answer header span");
  out.boxes = all(".answer").slice(0, 2).map(e => e.getBoundingClientRect().top);
  out.paper = getComputedStyle(document.body).backgroundColor;
  svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + 1e4, clientY: box.top + 9}));
  out.tip = texts(".tip div");
  const tip = document.querySelector(".tip").getBoundingClientRect();
  out.inside = tip.top >= box.top && tip.bottom <= box.bottom && tip.left >= 0 && tip.right <= out.room;
  out.crosses = all(".cross").length;
  svg.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
  out.back = texts(".tip div")[0];
  svg.dispatchEvent(new PointerEvent("pointerleave"));
  out.left = all(".tip").length;
  all("#legend button")[0].click();
  out.without = {pressed: all("#legend button").map(b => b.ariaPressed), answers: texts(".answer pre").length};
  out.without.curves = all("figure").map(f => f.querySelectorAll(".curve").length);
  all("#legend button")[0].click();
  const slider = document.querySelector("input[type=range]");
  slider.value = 0;
  slider.dispatchEvent(new Event("input"));
  out.first = texts(".answer pre");
  out.when = texts(".when output");
  out.title = document.title;
  out.errors = errors;
  parent.postMessage(JSON.stringify(out), "*");
}, 300);
</script>"""
FRAME = """<!doctype html><meta charset="utf-8"><pre id="out"></pre>
<script>addEventListener("message", event => { document.getElementById("out").textContent = event.data; });</script>
<iframe src="page.html" style="border: 0; width: WIDTHpx; height: 9000px"></iframe>"""


@pytest.fixture(scope="module")
def browse():
    """`browse(folder, page, width, dark)`: what the script `TRY` found in the page."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser here ({', '.join(BROWSERS)})")

    def look(folder, page, width, dark=False):
        at = page.index("<style>")
        (folder / "page.html").write_text(
            page[:at] + WATCH + page[at:].replace("</html>", f"{TRY}</html>"), encoding="utf-8"
        )
        (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
        words = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--window-size=1300,900",
            "--virtual-time-budget=5000",
        ]
        theme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
        profile = f"--user-data-dir={folder}/profile"
        done = subprocess.run(
            [browser, *words, theme, profile, "--dump-dom", f"file://{folder}/frame.html"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        reader = Reader(done.stdout)
        return json.loads("".join(text for tag, text in reader.texts if tag == "pre"))

    return look


def test_a_browser_draws_hovers_toggles_and_compares(browse, tmp_path):
    wide = browse(tmp_path, page_of(made("low"), made("high", 1)), 1200)
    assert wide["errors"] == [] and wide["title"] == "2 runs compared"
    assert wide["width"] <= wide["room"] == 1200
    assert wide["titles"] == [title for _, title, _ in compare_page.CHARTS]
    assert wide["curves"] == [2] * 5 and sorted(wide["names"]) == ["high"] * 5 + ["low"] * 5
    assert wide["tip"] == ["epoch 3", "low2.250", "high2.150"]  # in the order of the curves
    assert wide["inside"]
    assert wide["crosses"] == 5 and wide["back"] in ("epoch 2.75", "epoch 3") and wide["left"] == 0
    assert wide["answers"] == [f"{name} says {i} after 3 {EVIL}" for i in range(2) for name in ("low", "high")]
    assert wide["headers"][:4] == ["low", "7 tokens, ended by EOT", "high", "7 tokens, ended by EOT"]
    assert wide["headers"][5] == "8 tokens, cut off"
    assert wide["boxes"][0] == wide["boxes"][1]  # side by side
    assert wide["without"] == {"pressed": ["false", "true"], "curves": [1] * 5, "answers": 2}
    assert wide["first"] == [f"{name} says {i} after 1 {EVIL}" for i in range(2) for name in ("low", "high")]
    assert wide["when"] == ["after epoch 1"]


def test_a_phone_reads_it_without_scrolling_sideways_and_at_night(browse, tmp_path):
    long = [made(f"an-ablation-with-quite-a-long-name-{n}", n, answers=n < 2) for n in range(9)]
    for found in ([made("low"), made("high", 1)], long):
        phone = browse(tmp_path, page_of(*found), 375, dark=True)
        assert phone["errors"] == []
        assert phone["width"] <= phone["room"] == 375
        assert phone["curves"] == [len(found)] * 5 and phone["names"] == []
        assert phone["boxes"][0] < phone["boxes"][1]  # one under the other
        assert sum(map(int, re.findall(r"\d+", phone["paper"])[:3])) < 100
    assert phone["inside"]
    assert phone["tip"][0] == "epoch 3" and len(phone["tip"]) == 10


def test_a_run_of_many_steps_is_drawn_with_its_moving_mean(browse, tmp_path):
    seen = browse(tmp_path, page_of(made("low", steps=40), made("high", 1, steps=40)), 800)
    assert seen["errors"] == [] and seen["curves"] == [4, 2, 2, 2, 4]
    assert "moving mean" in seen["titles"][0]
