"""The studio in a real browser: reviewing by keys, two annotators at once, a server that dies, the
password."""

from collections import Counter

from studio_driver import (
    PAIR,
    SOON,
    SYSTEMS,
    Studio,
    answers,
    candidates,
    choose,
    enter,
    on_screen,
    press,
    side,
    tab_to,
    verdicts,
    wait_for_other,
)

from lima import runs
from lima.curate import decisions
from lima.evaluate import judgments
from lima.studio import annotate


def test_a_review_by_keyboard_alone(page, tmp_path):
    candidates(tmp_path / "c.jsonl", 9, ["one", "one", "two"])
    with Studio(tmp_path, "--data", "c.jsonl") as studio:
        enter(page, studio.url, "review", "ada")
        for key in "xARq1":  # no keys here
            page.keyboard.press(key)
        choose(page, "a")
        page.keyboard.press("w")
        page.keyboard.type("a rare u-turn")  # a, r, e, u are letters while one types
        page.keyboard.press("Enter")
        choose(page, "r")
        page.keyboard.press("e")
        page.keyboard.press("Control+a")
        page.keyboard.type("Better\nby far.")
        choose(page, "Control+Enter")
        press(page, "ArrowRight")
        choose(page, "a")
        press(page, "ArrowLeft")
        press(page, "ArrowLeft")
        assert page.inner_text("p.id").strip() == "c3"
        choose(page, "r")
        press(page, "u")  # shows what was decided, open again
        assert page.inner_text("p.id").strip() == "c3" and page.locator(".decided").count() == 0
        choose(page, "a")
        for number in (6, 5):  # all sources → one → two, of which c2 is decided
            tab_to(page, "by-source")
            page.keyboard.press("ArrowDown")
            page.wait_for_selector(f'#main[data-n="{number}"]')
        while page.evaluate("document.activeElement.matches('select')"):
            page.keyboard.press("Tab")
        choose(page, "r")
        assert page.inner_text("p.id").strip() == "c8"
        assert page.inner_text("#progress") == "c: 6 of 9 decided"
    edited = [{"role": "user", "content": "Question 2?"}, {"role": "assistant", "content": "Better\nby far."}]
    file = tmp_path / "c.decisions.jsonl"
    found = [(row["id"], row["decision"], row["why"], row.get("messages")) for row in runs.read_jsonl(file)]
    assert found == [
        ("c0", "accept", "", None),
        ("c1", "reject", "a rare u-turn", None),
        ("c2", "edit", "", edited),
        ("c4", "accept", "", None),
        ("c3", "reject", "", None),
        ("c3", "undo", "", None),
        ("c3", "accept", "", None),
        ("c5", "reject", "", None),
    ]
    standing = {name: row["decision"] for name, row in decisions.load(file).items()}
    wanted = {"c0": "accept", "c1": "reject", "c2": "edit", "c4": "accept", "c3": "accept", "c5": "reject"}
    assert standing == wanted and {row["who"] for row in decisions.load(file).values()} == {"ada"}


def test_two_reviewers_do_not_get_the_same_candidates(browser, tmp_path):
    candidates(tmp_path / "c.jsonl", 6)
    with Studio(tmp_path, "--data", "c.jsonl") as studio:
        pages = [browser.new_context().new_page() for _ in range(2)]
        for page, who in zip(pages, ("ada", "bob"), strict=True):
            enter(page, studio.url, "review", who)
        choose(pages[0], "a")
        choose(pages[0], "r")  # ada has decided on c0 and c1, bob still looks at c0
        choose(pages[1], "ArrowRight")
        assert pages[1].inner_text("p.id").strip() == "c1"
        pages[1].wait_for_timeout(SOON)
        pages[1].keyboard.press("a")
        pages[1].wait_for_selector("#error:visible")  # bob does not overrule ada unseen
        assert "ada has decided on it: reject" in pages[1].inner_text("#error")
        pages[1].wait_for_selector(".decided.reject")
        assert "2 of 6 decided" in pages[1].inner_text("#progress")
        choose(pages[1], "a")  # but he may
        assert pages[1].inner_text("p.id").strip() == "c2" and pages[1].locator("#error").is_hidden()
        choose(pages[1], "r")
        choose(pages[1], "r")
        pages[0].keyboard.press("u")  # what ada decided last is c1, which is bob's now
        pages[0].wait_for_selector("#error:visible")
        assert "bob has decided on it: accept" in pages[0].inner_text("#error")
        pages[0].wait_for_selector("#progress:has-text('4 of 6 decided')")
        choose(pages[0], "ArrowRight")
        choose(pages[0], "ArrowRight")
        choose(pages[0], "a")
        assert pages[0].inner_text("p.id").strip() == "c5" and "5 of 6 decided" in pages[0].inner_text("#progress")
        for page in pages:
            page.context.close()


def listen(page):
    """A function of what has gone to and from the page since it was last asked, and of what the page holds and keeps."""
    replies, asked = [], []
    page.on("response", lambda one: replies.append(one))
    page.on("request", lambda one: asked.append(f"{one.url} {one.post_data} {one.headers}"))

    def heard():
        stored = page.evaluate(
            "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, document.title])"
        )
        headers = [str(one.headers) for one in replies]
        bodies = [one.body().decode() for one in replies]
        found = "\n".join([*asked, *headers, *bodies, stored, page.content(), page.url]).lower()
        replies.clear(), asked.clear()
        return found

    return heard


def test_two_annotators_at_once(browser, tmp_path):
    candidates(tmp_path / "c.jsonl", 2)
    answers(tmp_path, 16, **SYSTEMS)
    words = ("--annotators", "anna", "ben", "--shared", 4, "--limit", 12, "--seed", 1)
    likes, asked, zebra_first = {"anna": "northern", "ben": "southern"}, {"anna": [], "ben": []}, []
    with Studio(tmp_path, "--data", "c.jsonl", *PAIR, *words) as studio:
        pages = {who: browser.new_context().new_page() for who in likes}
        heard = {who: listen(page) for who, page in pages.items()}
        for who, page in pages.items():
            enter(page, studio.url, "compare", who)
        for n in range(8):
            for who, page in pages.items():
                assert page.inner_text("#progress") == f"{n} of 8 done" and page.locator(".found").count() == 0
                reply = page.request.get(f"{studio.url}/api/compare/results?who={who}")
                assert reply.status == 409 and "zebra" not in reply.text()
                asked[who].append(page.inner_text(".asked .text"))
                zebra_first.append(side(page, "northern") == "1")
                assert not any(name in heard[who]() for name in SYSTEMS)
            shown = {who: on_screen(page) for who, page in pages.items()}
            pages["anna"].wait_for_timeout(SOON)
            for who, page in pages.items():  # both keys are down before either verdict is saved
                if n < 7 or who == "anna":  # ben's last one waits
                    page.keyboard.press(side(page, likes[who]))
            for who, page in list(pages.items())[: 2 if n < 7 else 1]:
                wait_for_other(page, shown[who])
        assert "what you chose stands" in pages["anna"].inner_text("#main") and "zebra" not in heard["anna"]()
        pages["anna"].keyboard.press("Enter")
        pages["anna"].wait_for_selector(".found")
        assert "zebra against quokka" in pages["anna"].inner_text(".found >> nth=0")
        was = pages["anna"].request.get(f"{studio.url}/api/compare/session?who=anna").json()
        pages["anna"].keyboard.press("ArrowLeft")
        pages["anna"].wait_for_selector(".answers")
        pages["anna"].wait_for_timeout(SOON)
        pages["anna"].keyboard.press("3")
        pages["anna"].wait_for_selector("#error:visible")
        assert "you have seen the results" in pages["anna"].inner_text("#error")
        assert pages["anna"].request.get(f"{studio.url}/api/compare/session?who=anna").json() == was
        assert pages["ben"].request.get(f"{studio.url}/api/compare/results?who=ben").status == 409
        choose(pages["ben"], side(pages["ben"], "southern"))
        pages["ben"].keyboard.press("Enter")
        pages["ben"].wait_for_selector(".found")
        found = pages["ben"].request.get(f"{studio.url}/api/compare/results?who=ben").json()
        assert all("zebra" in one() for one in heard.values())  # so it would have been found before
        for page in pages.values():
            page.context.close()
    both = set(asked["anna"]) & set(asked["ben"])
    assert len(both) == 4 and len(set(asked["anna"]) | set(asked["ben"])) == 12
    assert {len(set(one)) for one in asked.values()} == {8}
    assert 3 <= sum(zebra_first) <= 13
    rows = judgments.read(tmp_path / "judgments/zebra-vs-quokka.jsonl", a="zebra", b="quokka")
    said = {who: {row["verdict"] for row in rows if row["judge"] == f"human:{who}"} for who in likes}
    assert said == {"anna": {"a"}, "ben": {"b"}} and len(rows) == 16
    assert {row["order"] for row in rows} == {"ab", "ba"}
    shares = {row["who"]: (row["n"], row["shares"]["win"][0]) for row in found["tables"][0]["rows"]}
    assert shares == {"people": (12, 0.5), "anna": (8, 1.0), "ben": (8, 0.0)}
    assert [(row["items"], row["share"][0]) for row in found["agreement"]] == [(4, 0.0)]


def test_nothing_in_an_items_id_tells_the_sides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answers(tmp_path, 400, **SYSTEMS)
    room = annotate.Room(annotate.pairs("answers/zebra", ["answers/quokka"], "test"))
    keys = [key for key, _ in room.session("anna")]
    first = ["northern" in room.view("anna", key)["answers"][0] for key in keys]
    for bit in range(4 * len(keys[0])):  # by chance one of them agrees in 6 of 10 at most
        agree = sum((int(key, 16) >> bit & 1) == one for key, one in zip(keys, first, strict=True)) / len(keys)
        assert 0.35 < agree < 0.65, f"bit {bit}"


def test_a_killed_server_loses_nothing(page, tmp_path):
    candidates(tmp_path / "c.jsonl", 2)
    answers(tmp_path, 6, **SYSTEMS)
    studio = Studio(tmp_path, "--data", "c.jsonl", *PAIR)
    with studio:
        enter(page, studio.url, "compare", "anna")
        choose(page, "3")
        choose(page, "3")
        page.wait_for_timeout(SOON)
        shown = on_screen(page)
        studio.kill()
        page.keyboard.press("3")
        page.wait_for_selector("#error:visible")
        assert "does not answer" in page.inner_text("#error") and on_screen(page) == shown
        assert page.locator(".answer").count() == 2 and page.inner_text("#progress") == "2 of 6 done"
        studio.start()
        press(page, "3")
        assert page.locator("#error").is_hidden() and page.inner_text("#progress") == "3 of 6 done"
        page.wait_for_timeout(SOON)
        page.keyboard.press("3")
        studio.kill()  # while it saves
        saved = len(verdicts(tmp_path, "anna"))
        assert saved in (3, 4)
        studio.start()
        page.reload()
        page.wait_for_selector(".answers")
        assert page.inner_text("#progress") == f"{saved} of 6 done"
        for _ in range(6 - saved):
            choose(page, "3")
        page.keyboard.press("Enter")
        page.wait_for_selector(".found")
    rows = verdicts(tmp_path, "anna")
    assert Counter(row["prompt_id"] for row in rows) == Counter(f"p{n}" for n in range(6))
    assert {row["verdict"] for row in rows} == {"tie"}


def test_the_password(browser, tmp_path):
    candidates(tmp_path / "c.jsonl", 2)
    with Studio(tmp_path, "--data", "c.jsonl", "--share", STUDIO_PASSWORD="correct horse") as studio:
        for word, status in ((None, 401), ("correct hors", 401), ("correct horse", 200)):
            login = {"username": "studio", "password": word} if word else None
            context = browser.new_context(http_credentials=login)
            for path in ("/review", "/api/review", "/page/studio.js"):
                assert context.request.get(studio.url + path).status == status
            if status == 200:
                page = context.new_page()
                enter(page, studio.url, "review", "ada")
                choose(page, "a")
            context.close()
    assert [row["id"] for row in runs.read_jsonl(tmp_path / "c.decisions.jsonl")] == ["c0"]
