"""Arms in the report: every number beside numpy's on the raw rows, no run counted twice, judges kept apart."""

import json
import random
import re
import shutil
import subprocess
import time
from collections import Counter

import numpy as np
import pytest
from lxml import html as reader
from test_compare_page import BROWSERS, FRAME
from test_report import LOOK, rows_of, words

from lima import UserError, runs
from lima.evaluate import intervals, report, report_arms, report_data, report_draw, report_draw_arms, report_open
from lima.evaluate.spans import longest_repeat
from lima.evaluate.spans import words as spoken

PROMPTS, SAMPLES, LEVELS = 12, 2, ("excellent", "pass", "fail")
JUDGE = "gpt-x"


WORDS = [
    "garden",
    "soil",
    "water",
    "seed",
    "plan",
    "light",
    "day",
    "week",
    "pot",
    "root",
    "leaf",
    "cut",
    "slow",
    "clean",
]


def text_of(r, loop):
    said = [r.choice(WORDS) for _ in range(60)]
    return " ".join(said[:25] * 2 + said if loop else said)


def add_run(folder, ablation, arm, seed, size="135m", **more):
    """A run of an arm with answers to the test prompts and a held-out loss; returns its name."""
    name, r = f"{size}-{arm}-s{seed}", random.Random(f"{arm}{seed}")
    run = folder / "runs" / name
    about = {"ablation": ablation, "arm": arm, "size": size, "seed": seed, "label": arm, "epochs": 15, **more}
    runs.write_text(run / "arm.json", json.dumps(about))
    runs.write_text(
        run / "recipe.yaml", "config: recipes/135m.yaml\nrecipe:\n  dataset: data/se-filtered-2k/train.jsonl\n"
    )
    losses = [(0, 3.5), (32, 3.0 + r.random()), (64, 2.5 + r.random())]
    runs.write_jsonl(run / "metrics.jsonl", [{"step": s, "epoch": s / 32, "eval_loss": loss} for s, loss in losses])
    rows = [
        {"prompt_id": f"test-{i}", "prompt": f"Question {i}?", "response": text_of(r, r.random() < 0.3), "sample": k,
         "finish_reason": r.choice(["eot", "eot", "length"]), "tokens": r.randrange(50, 300), "sampling": {}}
        for i in range(PROMPTS) for k in range(SAMPLES)
    ]  # fmt: skip
    runs.write_jsonl(run / "generations/checkpoint-64/test.jsonl", rows)
    return name


def grade_run(folder, name, mean, judge=JUDGE, prompts=PROMPTS, stem=None):
    r = random.Random(f"{name}{judge}")
    rows = [
        {"prompt_id": f"test-{i}", "prompts": "test", "sample": k, "system": name, "judge": judge, "n": 0,
         "grade": None if r.random() < 0.05 else min(6, max(1, round(mean + i % 3 - 1 + r.gauss(0, 0.8)))),
         "raw": "said", "date": "2026-11-22T10:00:00Z", "digest": "0"}
        for i in range(prompts) for k in range(SAMPLES)
    ]  # fmt: skip
    path = folder / "judgments" / f"{stem or name}.grade.jsonl"
    runs.write_jsonl(path, (runs.read_jsonl(path) if path.exists() else []) + rows)


def add_dialogue(folder, arm, seed):
    name, r = add_run(folder, "dialogue", arm, seed), random.Random(f"{arm}{seed}d")
    turns = [f"dlg-{d}/{t + 1}" for d in range(6) for t in range(2 + d % 3)]
    rows = [
        {"prompt_id": turn, "prompt": turn, "response": "Yes.", "sample": 0, "finish_reason": "eot"} for turn in turns
    ]
    runs.write_jsonl(folder / "runs" / name / "generations/checkpoint-64/dialogue.jsonl", rows)
    levels = [
        {"prompt_id": turn, "prompts": "dialogue", "sample": 0, "system": name, "judge": JUDGE, "n": 0,
         "level": r.choice(LEVELS), "raw": "said", "date": "2026-11-22T10:00:00Z", "digest": "0"} for turn in turns
    ]  # fmt: skip
    runs.write_jsonl(folder / f"judgments/{name}.level.jsonl", levels)


def add_structure(folder, arm, seed):
    name, r = add_run(folder, "structure", arm, seed), random.Random(f"{arm}{seed}s")
    rows = [
        {"prompt_id": f"s-{i}", "prompt": f"Three bullets about {i}.", "sample": k, "finish_reason": "eot",
         "response": r.choice(["- a\n- b\n- c", "- a\n- b", "none"])} for i in range(8) for k in range(SAMPLES)
    ]  # fmt: skip
    runs.write_jsonl(folder / "runs" / name / "generations/checkpoint-64/structure.jsonl", rows)


def project(folder):
    """Three seeds of most arms, one of one, some arms missing, one graded by two judges, a system that is no arm's."""
    for name, rows in (
        ("test", [{"id": f"test-{i}", "messages": [{"role": "user", "content": f"Question {i}?"}]} for i in range(PROMPTS)]),
        ("structure", [{"id": f"s-{i}", "constraints": [{"kind": "bullets", "count": 3}],
                        "messages": [{"role": "user", "content": f"Three bullets about {i}."}]} for i in range(8)]),
    ):  # fmt: skip
        runs.write_jsonl(folder / f"data/prompts/{name}.jsonl", rows)
    graded = [("quality", "quality-filtered", 3.5), ("quality", "quality-unfiltered", 2.5), ("quantity", "quantity-4k", 3.6),
              ("open-questions", "baseline", 3), ("open-questions", "no-ramp", 3.2), ("open-questions", "epochs", 2)]  # fmt: skip
    for ablation, arm, mean in graded:
        for seed in (2,) if arm == "quantity-4k" else (1, 2, 3):
            name = add_run(folder, ablation, arm, seed)
            grade_run(folder, name, mean)
            if arm == "quality-filtered" and seed < 3:
                grade_run(folder, name, mean - 1, judge="other judge")
    for arm in ("dialogue-without", "dialogue-with"):
        for seed in (1, 2):
            add_dialogue(folder, arm, seed)
    for seed in (1, 2, 3):
        add_structure(folder, "structure-with", seed)
    runs.write_text(folder / "runs/7b/recipe.yaml", "config: recipes/7b.yaml\nrecipe: {dataset: data/wikihow-2k}\n")
    grade_run(folder, "7b", 4)
    grade_run(folder, "135m-quality-filtered-s1", 6, stem="copy")  # a file of another name is not the run's
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = project(tmp_path_factory.mktemp("arms"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        report.main([])
    return folder


@pytest.fixture
def page(made):
    return reader.fromstring((made / "report/index.html").read_text(encoding="utf-8"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(made, arm, judge=JUDGE, seeds=(1, 2, 3), kind="grade"):
    """The raw grades, seeds × prompts × samples, NaN where none could be read."""
    out = np.full((len(seeds), PROMPTS, SAMPLES), np.nan)
    for place, seed in enumerate(seeds):
        for row in runs.read_jsonl(made / f"judgments/135m-{arm}-s{seed}.grade.jsonl"):
            if row["judge"] == judge and row["grade"] is not None:
                out[place, int(row["prompt_id"][5:]), row["sample"]] = row["grade"]
    return out


def by_prompt(raw):
    return np.nanmean(raw.transpose(1, 0, 2).reshape(PROMPTS, -1), 1)


def numbers(text):
    return [float(number) for number in re.findall(r"[+-]?\d+(?:\.\d+)?", text.replace("−", "-"))]


def interval(values):
    half = 2.201 * values.std(ddof=1) / np.sqrt(len(values))  # t, 11 degrees of freedom
    return values.mean(), values.mean() - half, values.mean() + half


# ---- figures 5 and 6 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "section, label, arm, judge, seeds",
    [
        ("figure-5", "quality-filtered, 135m", "quality-filtered", JUDGE, (1, 2, 3)),
        ("figure-5", "quality-filtered, 135m", "quality-filtered", "other judge", (1, 2)),
        ("figure-5", "quality-unfiltered, 135m", "quality-unfiltered", JUDGE, (1, 2, 3)),
        ("figure-5", "diversity-stackexchange, 135m", "quality-filtered", JUDGE, (1, 2, 3)),
        ("figure-6", "quantity-2k, 135m", "quality-filtered", JUDGE, (1, 2, 3)),
        ("figure-6", "quantity-4k, 135m", "quantity-4k", JUDGE, (2,)),
    ],
)
def test_an_arm_is_one_line_with_its_seeds(made, page, section, label, arm, judge, seeds):
    (row,) = [row for row in rows_of(page, section) if row[""] == label and row["judge"] == judge]
    raw = table(made, arm, judge, seeds)
    assert numbers(row["mean grade"].replace("–", " ")) == pytest.approx(interval(by_prompt(raw)), abs=0.08)
    assert numbers(row["mean grade"])[0] == pytest.approx(by_prompt(raw).mean(), abs=0.006)
    assert numbers(row["by seed"]) == pytest.approx([np.nanmean(one, 1).mean() for one in raw], abs=0.006)
    assert row["prompts"].endswith(f", {len(seeds)} seed{'s' * (len(seeds) > 1)}") and row["from"].count("seed") == len(
        seeds
    )


def test_the_papers_numbers_stand_beside_ours(page):
    ours = {row[""]: row.get("the paper") for row in rows_of(page, "figure-5")}
    assert ours["quality-filtered, 135m"] == "3.83" and ours["quality-unfiltered, 135m"] == "3.33"
    assert ours["diversity-stackexchange, 135m"] == "3.83" and ours["7b (wikiHow)"] == "–"
    drawn = words(page.xpath("//section[@id='figure-6']//*[local-name()='svg']")[0])
    assert drawn.count("paper about 3.8–3.9") == 3  # quantity-2k by both judges, and 4k


def test_no_run_is_counted_twice(made, page):
    systems = {row[""] for name in ("figure-5", "figure-6") for row in rows_of(page, name)}
    assert systems == {"quality-filtered, 135m", "quality-unfiltered, 135m", "diversity-stackexchange, 135m", "7b (wikiHow)",
                       "quantity-2k, 135m", "quantity-4k, 135m", "135m-quality-filtered-s1 (Stack Exchange, filtered)",
                       "135m-quality-filtered-s1 (2,000 examples)"}  # fmt: skip
    copied = [row for row in rows_of(page, "figure-5") if row[""].startswith("135m-quality-filtered-s1")]
    assert [row["from"] for row in copied] == ["judgments/copy.grade.jsonl"]  # and its sixes are in no arm's mean
    (svg,) = page.xpath("//section[@id='figure-5']//*[local-name()='svg']")
    dots = Counter(dot.get("class") for dot in svg.xpath(".//*[local-name()='circle']"))
    assert dots["seed win"] == 1 + 3 + 2 + 3 + 3 + 2  # the legend's, then line by line
    assert dots["ours"] == 1 + 5 + 2 and dots["paper"] == 1 + 5


def test_figures_json_keeps_a_row_a_system(made):
    kept = json.loads((made / "report/figures.json").read_text())
    found = Counter((row["system"], row["kind"], row["judge"]) for row in kept)
    assert found["135m-quality-unfiltered-s3", "grade", JUDGE] == 1 and found["7b", "grade", JUDGE] == 1
    assert len([row for row in kept if row["kind"] == "level"]) == 4 and not [row for row in kept if "arm" in row]


def test_judges_stand_apart(page):
    rows = [row for row in rows_of(page, "figure-5") if row[""] == "quality-unfiltered, 135m"]
    assert [row["judge"] for row in rows] == [JUDGE]
    assert "is not to be compared" in words(page.xpath("//section[@id='figure-5']//ul")[0])
    heads = [words(one) for one in page.xpath("//section[@id='figure-5']//*[@class='head']")]
    assert heads[:2] == ["Quality, 135m, by gpt-x", "Quality, 135m, by other judge"]


def test_differences_are_paired_and_corrected(made, page):
    rows = {row[""]: row for row in rows_of(page, "open-questions")}
    assert rows["baseline, 135m"]["difference"] == "reference"
    base = by_prompt(table(made, "baseline"))
    for arm in ("no-ramp", "epochs"):
        apart = by_prompt(table(made, arm)) - base
        found = numbers(rows[f"{arm}, 135m"]["difference"])
        assert found == pytest.approx(interval(apart), abs=0.08) and found[0] == pytest.approx(apart.mean(), abs=0.006)
    arms = [one for one in report_arms.read(sorted((made / "runs").iterdir())) if one.ablation == "open-questions"]
    base, *others = report_arms.lines(arms, report_data.read_judgments(made / "judgments"), "grade")
    ps = []
    for line in others:
        both = [(line.groups()[key], base.groups()[key]) for key in sorted(base.groups())]
        ps.append(intervals.difference(*zip(*both, strict=True))[3])
    low, high = sorted(ps)
    adjusted = sorted([min(1, 2 * low), max(min(1, 2 * low), high)])
    found = [numbers(rows[f"{arm}, 135m"]["p (Holm)"])[0] for arm in ("no-ramp", "epochs")]
    assert sorted(found) == pytest.approx(adjusted, abs=0.0006)


# ---- dialogue and structure --------------------------------------------------------------------------------------------


def test_dialogue_pools_the_replies_of_all_seeds(made, page):
    rows = {row[""]: row for row in rows_of(page, "dialogue")}
    assert set(rows) == {"dialogue-without, 135m", "dialogue-with, 135m"}
    for arm in ("dialogue-without", "dialogue-with"):
        seeds = [
            [row["level"] for row in runs.read_jsonl(made / f"judgments/135m-{arm}-s{seed}.level.jsonl")]
            for seed in (1, 2)
        ]
        every, row = np.array(seeds), rows[f"{arm}, 135m"]
        for level in LEVELS:
            share, low, high = numbers(row[level].replace("–", " "))
            assert share == round(100 * (every == level).mean()) and low <= share <= high
        each = ["/".join(f"{100 * (one == level).mean():.0f}" for level in LEVELS) for one in every]
        assert row["by seed"] == ", ".join(each)
    heads = [words(one) for one in page.xpath("//section[@id='dialogue']//*[@class='head']")]
    assert heads == [row["set"] for row in report_data.PAPER["dialogue"]["rows"]]
    bars = page.xpath("//section[@id='dialogue']//*[local-name()='rect'][@height='20.0']")
    assert [bar.get("class").startswith("paper") for bar in bars] == ([True] * 3 + [False] * 3) * 2


def test_structure_is_checked_by_prompt_over_seeds(made, page):
    (row,) = rows_of(page, "structure")
    met = np.array([[one["response"].count("- ") == 3 for one in runs.read_jsonl(
        made / f"runs/135m-structure-with-s{seed}/generations/checkpoint-64/structure.jsonl")] for seed in (1, 2, 3)])  # fmt: skip
    assert row["constraints met"] == f"{met.sum()} of {met.size}" and row["answers"] == str(met.size)
    assert numbers(row["answers that meet all"])[0] == round(100 * met.mean())
    assert numbers(row["by seed"]) == [round(100 * one) for one in met.mean(1)]
    assert "not run here: structure-without; make ablation-structure" in words(
        page.xpath("//section[@id='structure']//ul")[0]
    )


# ---- open questions ----------------------------------------------------------------------------------------------------


def test_open_questions_show_what_the_files_say(made, page):
    rows = {row[""]: row for row in rows_of(page, "open-questions")}
    assert set(rows) == {"baseline, 135m", "no-ramp, 135m", "epochs, 135m"}
    for arm in ("baseline", "no-ramp", "epochs"):
        folders = [made / f"runs/135m-{arm}-s{seed}" for seed in (1, 2, 3)]
        said = [runs.read_jsonl(folder / "generations/checkpoint-64/test.jsonl") for folder in folders]
        losses = [runs.read_jsonl(folder / "metrics.jsonl")[-1]["eval_loss"] for folder in folders]
        row = rows[f"{arm}, 135m"]
        eot = np.mean([[one["finish_reason"] == "eot" for one in those] for those in said])
        twice = np.mean([[longest_repeat(spoken(one["response"]))[0] >= 20 for one in those] for those in said])
        tokens = np.mean([np.median([one["tokens"] for one in those]) for those in said])
        assert numbers(row["by EOT"])[0] == round(100 * eot) and numbers(row["repeating"])[0] == round(100 * twice)
        assert numbers(row["tokens"])[0] == pytest.approx(tokens, abs=0.51)
        assert numbers(row["loss"])[0] == pytest.approx(np.mean(losses), abs=0.006)
        assert numbers(row["mean grade"])[0] == pytest.approx(by_prompt(table(made, arm)).mean(), abs=0.006)
    notes = words(page.xpath("//section[@id='open-questions']//ul")[0])
    assert (
        "3 seeds an arm" in notes
        and "12 prompts" in notes
        and "not run here: loss-on-all, eot-vs-eos, packing" in notes
    )
    stems = {path.stem for path in (made / "report").glob("open-*.svg")}
    assert stems == {"open-eot", "open-tokens", "open-repeated", "open-loss", "open-grade"}


def test_a_run_that_diverged_is_said_and_left_out_of_the_mean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs.write_jsonl(
        "data/prompts/test.jsonl", [{"id": "test-0", "messages": [{"role": "user", "content": "Question 0?"}]}]
    )
    for seed in (1, 2):
        add_run(tmp_path, "open-questions", "baseline", seed)
    metrics = tmp_path / "runs/135m-baseline-s2/metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 96, "epoch": 3, "eval_loss": NaN}\n')
    report.main([])
    page = reader.fromstring((tmp_path / "report/index.html").read_text(encoding="utf-8"))
    (row,) = rows_of(page, "open-questions")
    loss = runs.read_jsonl(tmp_path / "runs/135m-baseline-s1/metrics.jsonl")[-1]["eval_loss"]
    assert numbers(row["loss"])[0] == pytest.approx(loss, abs=0.006)
    assert "135m-baseline-s2: its held-out loss is nan" in words(page.xpath("//section[@id='open-questions']//ul")[0])


def test_repeating_is_what_the_longest_repeat_says():
    r = random.Random(4)
    texts = [text_of(r, loop) for loop in (True, False) * 20] + ["yes " * n for n in (20, 39, 40, 41)] + [""]
    texts += [f"{' '.join(map(str, range(n)))} and {' '.join(map(str, range(n)))}" for n in (19, 20, 21)]
    found = [report_open.repeats(text) for text in texts]
    assert found == [longest_repeat(spoken(text))[0] >= report_open.REPEATED for text in texts]
    assert found[-8:] == [False, False, True, True, False, False, True, True]


def test_a_panel_is_drawn_to_scale():
    _, _, shapes = report_draw_arms.panel("x", [("", [("a", 50, [40, 60]), ("b", 100, [100])])], "{:.0f}")
    low, high = (where[0] for name, where, kind in shapes if kind == "soft")
    dots = [where[0] for name, where, _ in shapes if name == "dot"]
    ticks = [where[0][0] for _, where, kind in shapes if kind == "tick"]
    assert (dots[0] - low) / (high - low) == pytest.approx(0) and dots[2] == ticks[1] == pytest.approx(high)
    assert ticks[0] == pytest.approx((dots[0] + dots[1]) / 2)
    flat = report_draw_arms.panel("x", [("", [("a", 0.0, [0.0])])], "{:.0f}")
    assert report_draw.svg(flat, "x").count("<circle") == 1


# ---- what is wrong, what is not there ----------------------------------------------------------------------------------


def test_a_spoilt_arm_is_named(here):
    add_run(here, "quality", "quality-filtered", 1)
    path = here / "runs/135m-quality-filtered-s1/arm.json"
    good = json.loads(path.read_text())
    for text in ("{", "[]", *(json.dumps(good | bad) for bad in ({"seed": "1"}, {"seed": True}, {"ablation": "luck"}))):
        path.write_text(text)
        with pytest.raises(UserError, match=r"s1/arm\.json: expected an object with ablation, arm, size, seed, label"):
            report.main([])
    path.write_text(json.dumps(good))
    shutil.copytree(path.parent, here / "runs/old")
    with pytest.raises(UserError, match=r"runs/.* and runs/.*: both are seed 1 of quality-filtered, 135m"):
        report.main([])
    assert not (here / "report").exists()


def test_what_is_not_judged_and_what_is_partial_is_said(here):
    project(here)
    for seed in (1, 2, 3):
        (here / f"judgments/135m-quality-unfiltered-s{seed}.grade.jsonl").unlink()
    (here / "judgments/135m-epochs-s3.grade.jsonl").unlink()
    (here / "judgments/135m-baseline-s2.grade.jsonl").unlink()
    grade_run(here, "135m-baseline-s2", 3, prompts=5)
    report.main([])
    page = reader.fromstring((here / "report/index.html").read_text(encoding="utf-8"))
    notes = words(page.xpath("//section[@id='figure-5']//ul")[0])
    assert "run here and not judged: 135m-quality-unfiltered-s1" in notes
    rows = {row[""]: row for row in rows_of(page, "open-questions")}
    assert rows["baseline, 135m"]["prompts"].startswith("partial: seed 2 5 of 12 prompts")
    assert rows["epochs, 135m"]["prompts"].endswith("2 seeds; measured on 3 seeds")
    state = words(page.xpath("//section[@id='open-questions']/header/span[contains(@class, 'state')]")[0])
    assert state == "partial"


def test_without_an_arm_the_section_says_how(here):
    report.main([])
    page = reader.fromstring((here / "report/index.html").read_text(encoding="utf-8"))
    for section, name in (("figure-5", "quality"), ("figure-6", "quantity"), ("dialogue", "dialogue"),
                          ("structure", "structure"), ("open-questions", "open-questions")):  # fmt: skip
        assert f"make ablation-{name}" in words(page.xpath(f"//section[@id='{section}']//ul")[0])


def test_a_hundred_runs_are_read_in_time(here):
    for arm in range(25):
        for seed in range(4):
            grade_run(here, add_run(here, "quantity", f"quantity-{arm}", seed), 3)
    start = time.perf_counter()
    judged = report_data.read_judgments(here / "judgments")
    found = report_arms.lines(report_arms.read(sorted((here / "runs").iterdir())), judged, "grade")
    assert time.perf_counter() - start < 2
    assert len(found) == 25 and all(len(line.arms) == 4 for line in found)


# ---- in a browser ------------------------------------------------------------------------------------------------------


def test_long_and_hostile_names_fit_and_stay_text(here):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser here ({', '.join(BROWSERS)})")
    evil = "<script>alert(1)</script>-" + "Wide" * 20
    project(here)
    for seed in (1, 2):
        for number, ablation in enumerate(("quality", "open-questions")):
            shown = add_run(here, ablation, f"odd{number}", seed)
            path = here / "runs" / shown / "arm.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"arm": evil, "size": "M" * 40}))
            grade_run(here, shown, 3, judge=evil)
    report.main([])
    text = (here / "report/index.html").read_text(encoding="utf-8")
    assert "<script" not in text
    text = text.replace("style-src 'unsafe-inline'", "style-src 'unsafe-inline'; script-src 'unsafe-inline'")
    (here / "page.html").write_text(text.replace("</html>", f"{LOOK}</html>"), encoding="utf-8")
    for width in (1200, 390):
        (here / "frame.html").write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
        done = subprocess.run(
            [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,900",
             "--virtual-time-budget=5000", f"--user-data-dir={here}/profile", "--dump-dom", f"file://{here}/frame.html"],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        seen = json.loads(reader.fromstring(done.stdout).xpath("//pre")[0].text_content())
        assert seen["clipped"] == [] and seen["width"] <= seen["room"] <= width
        assert all(300 < figure <= 400 for figure in seen["figures"])
