"""Hostile texts in the studio, in a real browser: nothing runs, nothing is fetched, and the controls stay where they are, on a
wide screen and on a phone's."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError

import pytest
from conftest import run
from studio_driver import PAIR, SOON, SYSTEMS, Studio, candidates, enter, free_port, on_screen, press

from lima import runs

LONG = "x" * 20_000
TEXTS = {
    "script": "<script>window.hacked=1</script><svg onload='window.hacked=1'><script>fetch('{beacon}/a')</script></svg>",
    "image": "<img src=x onerror='window.hacked=1'><img src='{beacon}/b'><iframe srcdoc='<script>top.hacked=1</script>'>",
    "markdown": "![a]({beacon}/c) [b]({beacon}/d) <{beacon}/e> {beacon}/f\n\n![r][ref]\n\n[ref]: {beacon}/g",
    "link": "[a](javascript:window.hacked=1) <javascript:window.hacked=1> <a href='javascript:window.hacked=1'>b</a>",
    "closing": "</textarea></div></section></main></body><footer id=bar></footer><style>#bar{display:none}</style>",
    "style": "<style>@import '{beacon}/h';</style><link rel=stylesheet href='{beacon}/i'><meta http-equiv=refresh content=0>",
    "math": "$\\href{javascript:window.hacked=1}{x}$ \\[<img src=x onerror=window.hacked=1>\\]\n\n| a | b |\n|-|-|\n| "
    + "w" * 500
    + " | <b onclick=window.hacked=1>c</b> |",
    "fence": "```<img/src=x/onerror=window.hacked=1>\n" + LONG[:2000] + "\n```\n    " + LONG[:2000],
    "line": LONG,
    "huge": "word " * 20_000,
    "turned": "start \u202eright to left\u2066 and \u200f on\u2028",
    "control": "null \x00, bell \x07, escape \x1b[31m, delete \x7f, byte order mark \ufeff",
}
HALF = "half a pair: \ud83d, and the other: \ude00"
INSIDE = (
    "script, img, iframe, a, style, link, meta, svg, object, embed, form, input, button, [onerror], [onload], [onclick]"
)
SCREENS = {"wide": {"width": 1280, "height": 900}, "phone": {"width": 375, "height": 700}}


@pytest.fixture(scope="module")
def beacon():
    """`(URL, paths)` of a server that nothing may ask."""
    asked = []

    class Listening(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_POST = do_HEAD = do_OPTIONS = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listening)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def write(folder, texts):
    """The texts wherever a source or a model may have put them: in candidates and what is told of them, prompts, answers."""
    rows = [
        {"id": f"c{n}{text[:100]}", "source": "web", "title": text[:500], "author": text[:500], "license": text[:500],
         "url": "javascript:window.hacked=1", "flags": {"note": text[:500]},
         "messages": [{"role": "user", "content": f"{n} {text[:3000]}"}, {"role": "assistant", "content": text}]}
        for n, text in enumerate(texts)
    ]  # fmt: skip
    (folder / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for system in SYSTEMS:
        found = [
            {"prompt_id": f"p{n}", "prompt": f"{n} {text[:3000]}", "response": f"{system[0]} {text}"}
            for n, text in enumerate(texts)
        ]
        path = folder / f"answers/{system}/test.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in found))


WORDS = ("--data", "c.jsonl", *PAIR, "--rate", "answers/zebra")


@pytest.fixture(scope="module")
def studio(beacon, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    write(folder, [text.replace("{beacon}", beacon[0]) for text in TEXTS.values()])
    with Studio(folder, *WORDS) as found:
        yield found


@pytest.fixture(params=SCREENS)
def page(request, browser, studio):
    """A page that keeps to the studio: no dialog, no error in it, no request elsewhere."""
    context = browser.new_context(viewport=SCREENS[request.param], has_touch=request.param == "phone")
    found, wrong = context.new_page(), []
    found.on("dialog", lambda one: (wrong.append(one.message), one.dismiss()))
    found.on("pageerror", lambda one: wrong.append(str(one)))
    found.on("request", lambda one: one.url.startswith((studio.url, "data:")) or wrong.append(one.url))
    yield found
    context.close()
    assert wrong == []


BUTTONS = """Array.from(document.querySelectorAll("button")).filter((one) => one.checkVisibility()).map((one) => {
  const box = one.getBoundingClientRect();
  return [one.innerText, box.left, box.right, box.top, box.bottom, one.closest("footer") !== null];
})"""


def fits(page):
    """Nothing is wider than the screen; every button is on it, and large enough for a finger."""
    size = page.viewport_size
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    buttons = page.evaluate(BUTTONS)
    assert buttons
    for words, left, right, top, bottom, below in buttons:
        assert bottom - top >= 30 and left >= 0 and right <= size["width"], words
        assert not below or (top >= 0 and bottom <= size["height"]), words


def inert(page):
    assert page.evaluate("window.hacked") is None
    assert page.locator(".text").locator(INSIDE).count() == 0


def test_review(studio, page, beacon):
    enter(page, studio.url, "review", "ada")
    for n, text in enumerate(TEXTS.values()):
        assert on_screen(page) == str(n)
        inert(page)
        fits(page)
        assert page.locator("aside a").count() == 0  # its address is no http
        page.keyboard.press("e")
        field = page.locator("textarea").last
        assert field.input_value() == text.replace("{beacon}", beacon[0])
        fits(page)
        page.keyboard.press("Escape")
        page.wait_for_selector(".turn .text")
        press(page, "ArrowRight")
    assert "last of these" in page.inner_text(".hint")
    fits(page)
    assert beacon[1] == []


def test_the_name_is_asked_for(studio, page):
    page.goto(f"{studio.url}/compare")
    page.wait_for_selector("#name")
    fits(page)


@pytest.mark.parametrize("room", ["compare", "rate"])
def test_annotation(studio, page, beacon, room):
    enter(page, studio.url, room, f"{'a-name-of-forty-letters-and-digits-'}{page.viewport_size['width']:05}")
    for n in range(len(TEXTS)):
        page.wait_for_selector(".answer")
        inert(page)
        fits(page)
        assert page.locator(".answer").count() == (2 if room == "compare" else 1)
        if n < len(TEXTS) - 1:
            press(page, "ArrowRight")
    name = page.inner_text("#who")
    for key, _ in studio.get(f"/api/{room}/session?who={name}")["items"]:
        studio.post(f"/api/{room}/items/{key}", {"who": name, "choice": 1, "seconds": 1})
    page.reload()
    page.wait_for_selector("#main > .hint")
    page.keyboard.press("Enter")
    page.wait_for_selector(".found")
    fits(page)
    assert beacon[1] == []


def test_what_is_invisible_is_shown(studio):
    n = list(TEXTS).index("turned")
    html = studio.get(f"/api/review/{n}")["messages"][1]["html"]
    assert "[U+202E]" in html and "\u202e" not in html and "[U+2066]" in html
    html = studio.get(f"/api/review/{n + 1}")["messages"][1]["html"]
    assert "[U+0000]" in html and "[U+001B]" in html and not any(ord(one) < 32 for one in html.replace("\n", ""))


def test_a_hostile_text_is_kept_as_it_is_when_edited(studio, browser):
    page = browser.new_context().new_page()
    enter(page, studio.url, "review", "ada")
    page.keyboard.press("e")
    page.keyboard.press("Control+End")
    page.keyboard.type("</textarea>")
    page.wait_for_timeout(SOON)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector('#main[data-n="1"]')
    (row,) = runs.read_jsonl(studio.folder / "c.decisions.jsonl")
    first = studio.get("/api/review/0")["messages"]
    assert row["messages"] == [{key: turn[key] for key in ("role", "content")} for turn in first]
    assert row["messages"][1]["content"].endswith("</script></svg></textarea>")
    page.context.close()


def test_half_surrogates(browser, tmp_path):
    write(tmp_path, ["whole", HALF])
    refused = run("-m", "lima.studio.serve", "--data", tmp_path / "c.jsonl", "--port", free_port())
    assert refused.returncode == 2 and "row 1: turn 0 holds half of a surrogate pair" in refused.stderr
    candidates(tmp_path / "c.jsonl", 1)
    with Studio(tmp_path, *WORDS) as studio:
        page = browser.new_context().new_page()
        enter(page, studio.url, "compare", "ada")
        shown = page.inner_text("main")
        press(page, "ArrowRight")
        assert page.locator("#error").is_hidden()
        assert "half a pair: \ufffd, and the other: \ufffd" in shown + page.inner_text("main")
        page.context.close()


def test_half_surrogates_in_a_decision(tmp_path):
    candidates(tmp_path / "c.jsonl", 1)
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    good = {"id": "c0", "decision": "edit", "who": "ada", "why": "", "messages": turns}
    with Studio(tmp_path, "--data", "c.jsonl") as studio:
        for key, value in (("who", HALF), ("why", HALF), ("messages", [turns[0], {**turns[1], "content": HALF}])):
            with pytest.raises(HTTPError) as error:
                studio.post("/api/review/0", {**good, key: value})
            assert error.value.code == 422 and json.load(error.value)["error"]
    assert not (tmp_path / "c.decisions.jsonl").exists()
