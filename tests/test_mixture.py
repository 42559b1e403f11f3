"""The mix: quotas, temperature, order, what people decided, shortfalls, and that the same seed gives the same bytes."""

import json
import random
import re
from collections import Counter

import pytest
import yaml

from lima import UserError, conversations, runs
from lima.curate import ledger, mixture, quotas, sampling, settings

ROOT_RECIPES = "recipes/data"
ADVICE = (
    "This is what you should do about the {0} and the {1}: first look at it, then take the {2} out, and put it where the {3} "
    "was before. It is not hard, but it can be that the {4} will not come off; then use more of the {5}."
)


def word(rng):
    return "".join(rng.choices("abcdefghijklmnop", k=9))


def candidate(source, group, number, score=None, response=True, **more):
    rng = random.Random(f"{source}/{group}/{number}")
    prompt = f"How do I get the {word(rng)} {word(rng)} to {word(rng)} with the {word(rng)}?"
    turns = [{"role": "user", "content": prompt}]
    if response:
        turns.append({"role": "assistant", "content": ADVICE.format(*(word(rng) for _ in range(6)))})
    row = {"id": f"{source}/{group}/{number}", "source": source, "messages": turns, "url": "", "license": ""}
    return {**row, "author": "", "score": score, "group": group, "created": "2014-03-02", "title": "", **more}


def write(folder, rows):
    with ledger.Step(folder) as step:
        for row in rows:
            step.keep(row)


def recipe(folder, **mix):
    mix = {"contamination": {"against": []}, **mix}
    (folder / "r.yaml").write_text(yaml.safe_dump({"mix": mix}), encoding="utf-8")
    return folder / "r.yaml"


def mixed(folder, *flags, out="out"):
    """Runs the mix over `folder/cand` into `folder/out`; returns its train rows."""
    words = ["--config", folder / "r.yaml", "--candidates", folder / "cand", "--out", folder / out, *flags]
    mixture.main([str(w) for w in words])
    return runs.read_jsonl(folder / out / "train.jsonl")


@pytest.fixture
def two_sources(tmp_path):
    """100 scored rows of two sites, 40 unscored ones of four categories, 10 prompts; a recipe for some of each."""
    sites = [
        candidate("stackexchange_stem", site, n, n % 37, author="Ada")
        for site, size in (("math", 80), ("chess", 20))
        for n in range(size)
    ]
    write(tmp_path / "cand/stackexchange", sites)
    write(tmp_path / "cand/wikihow", [candidate("wikihow", f"c{n % 4}", n) for n in range(40)])
    write(tmp_path / "cand/reddit", [candidate("askreddit", "AskReddit", n, n, response=False) for n in range(10)])
    recipe(
        tmp_path,
        train=[
            {"source": "stackexchange_stem", "rows": 30, "tau": 3},
            {"source": "wikihow", "rows": 12, "tau": float("inf"), "within": "random"},
        ],
        test=[{"source": "askreddit", "rows": 4}],
    )
    return tmp_path


# ---- quotas and order --------------------------------------------------------------------------------------------------


def test_fills_the_quotas_with_rows_that_training_reads(two_sources):
    rows = mixed(two_sources)
    assert Counter(row["source"] for row in rows) == {"stackexchange_stem": 30, "wikihow": 12}
    read = conversations.load(str(two_sources / "out"))  # the folder itself is a dataset
    assert [row["id"] for row in read.rows] == [row["id"] for row in rows]
    assert set(rows[0]) == set(ledger.CANDIDATE.names)
    assert rows[0]["license"] == "CC BY-SA 3.0"
    assert ledger.record(two_sources / "out")["notes"]["fingerprint"] == read.fingerprint
    test = conversations.load_prompts(str(two_sources / "out/test.jsonl"))
    assert [row["score"] for row in test] == [9, 8, 7, 6]  # the most upvoted
    assert runs.read_jsonl(two_sources / "out/dev.jsonl") == []


def test_within_a_site_the_best_come_first(two_sources):
    rows = mixed(two_sources)
    for site in ("math", "chess"):
        scores = [row["score"] for row in rows if row["group"] == site]
        size = {"math": 80, "chess": 20}[site]
        assert scores == sorted((n % 37 for n in range(size)), reverse=True)[: len(scores)] and scores


def test_temperature_flattens_as_stated(tmp_path):
    """Drawn shares against n^(1/3) over their sum, computed here; tau 1 and inf too."""
    sizes = {"a": 4000, "b": 500, "c": 60}
    write(tmp_path / "cand/x", [candidate("s", group, n) for group, size in sizes.items() for n in range(size)])
    pool = sampling.Pool([tmp_path / "cand/x/candidates.parquet"], 0)
    for tau, power in ((3, 1 / 3), (1, 1), (float("inf"), 0)):
        drawn = Counter()
        for seed in range(60):
            order = sampling.ranking(pool, pool.members("s"), tau, "score", seed, "s")
            drawn.update(pool.groups[pool.group[next(order)]] for _ in range(50))
        whole = sum(size**power for size in sizes.values())
        for group, size in sizes.items():
            share = size**power / whole
            allowed = 4 * (share * (1 - share) / 3000) ** 0.5  # four standard errors
            assert abs(drawn[group] / 3000 - share) < allowed, (tau, group)
    assert sampling.probabilities([8, 1], 3) == pytest.approx([2 / 3, 1 / 3])


def test_a_group_that_is_used_up_leaves_the_rest_to_others(tmp_path):
    write(tmp_path / "cand/x", [candidate("s", group, n) for group, size in (("a", 3), ("b", 50)) for n in range(size)])
    pool = sampling.Pool([tmp_path / "cand/x/candidates.parquet"], 0)
    order = list(sampling.ranking(pool, pool.members("s"), float("inf"), "random", 0, "s"))
    assert sorted(order) == list(range(53))  # everything once
    assert len([n for n in order[:12] if pool.groups[pool.group[n]] == "a"]) == 3


def test_a_smaller_quota_is_the_beginning_of_a_larger_one(two_sources):
    large = [row["id"] for row in mixed(two_sources) if row["source"].startswith("stack")]
    recipe(two_sources, train=[{"source": "stackexchange_stem", "rows": 10, "tau": 3}])
    assert [row["id"] for row in mixed(two_sources, out="small")] == large[:10]


def test_splits_are_disjoint_even_within_one_source(tmp_path):
    write(tmp_path / "cand/x", [candidate("authors", "mine", n) for n in range(25)])
    recipe(tmp_path, train=[{"source": "authors", "rows": 15}], dev=[{"source": "authors", "rows": 5}], review=1)
    train, dev = mixed(tmp_path), runs.read_jsonl(tmp_path / "out/dev.jsonl")
    assert len({row["id"] for row in train + dev}) == 20
    assert all([turn["role"] for turn in row["messages"]] == ["user"] for row in dev)


def test_a_group_of_a_source_can_be_asked_for(tmp_path):
    write(tmp_path / "cand/x", [candidate("authors", group, n) for group in ("a", "b") for n in range(9)])
    recipe(tmp_path, train=[{"source": "authors", "group": "b", "rows": 9}])
    assert {row["group"] for row in mixed(tmp_path)} == {"b"}


def test_prompts_from_a_file_keep_what_it_says_of_them(tmp_path):
    write(tmp_path / "cand/x", [candidate("wikihow", "c", n) for n in range(4)])
    recipe(
        tmp_path,
        train=[{"source": "wikihow", "rows": 3}],
        test=[{"source": "authors", "rows": 20, "file": "data/prompts/test.jsonl"}],
    )
    mixed(tmp_path)
    found, given = runs.read_jsonl(tmp_path / "out/test.jsonl"), runs.read_jsonl("data/prompts/test.jsonl")[:20]
    assert [row["messages"] for row in found] == [row["messages"] for row in given]
    assert [row.get("tags") for row in found] == [row.get("tags") for row in given] and found[0]["tags"]
    conversations.load_prompts(str(tmp_path / "out/test.jsonl"))


# ---- the gate ----------------------------------------------------------------------------------------------------------


def test_each_rule_drops_its_row_and_the_ledger_adds_up(tmp_path):
    rows = {n: candidate("wikihow", "c", n) for n in range(12)}
    leak = "tell me in one or two plain sentences why the moon looks larger near the horizon tonight"
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": leak}) + "\n", encoding="utf-8")

    def change(number, turn, text):
        rows[number]["messages"][turn]["content"] = text

    change(0, 1, rows[0]["messages"][1]["content"] + f" {leak.upper()}!")
    change(1, 0, rows[2]["messages"][0]["content"].upper())
    change(3, 1, "Les freins ont besoin de soins et voici comment il faut s'y prendre " * 5)
    change(4, 1, rows[4]["messages"][1]["content"] + " key AKIA" + "ABCD1234EFGH5678")
    change(5, 1, rows[5]["messages"][1]["content"] + " ask ada@site.org")
    rows[6]["messages"].pop()
    asked = candidate("askreddit", "AskReddit", 0, 1, response=False)
    change(7, 0, asked["messages"][0]["content"].replace("How do I", "how can I"))
    write(tmp_path / "cand/x", [*rows.values(), asked])
    recipe(
        tmp_path,
        train=[{"source": "wikihow", "rows": 6, "within": "random"}],
        test=[{"source": "askreddit", "rows": 1}],
        contamination={"against": [str(tmp_path / "p.jsonl")]},
    )
    kept = mixed(tmp_path)
    lines = {line["id"].split("/")[-1]: line for line in ledger.lines(tmp_path / "out") if line["group"] == "wikihow"}
    fell = {number: line["rule"] for number, line in lines.items() if line["rule"]}
    pair = {fell.pop("1", None), fell.pop("2", None)}
    assert pair == {None, "near_duplicate"}
    rule = {"0": "contaminated", "3": "language", "4": "secrets", "6": "no_response", "7": "near_duplicate"}
    assert fell == rule and len(kept) == 6
    assert "p.jsonl row 0: tell me in one" in lines["0"]["detail"] and "AK…678" in lines["4"]["detail"]
    assert lines["7"]["detail"].endswith("like askreddit/AskReddit/0")
    counts = ledger.counts(tmp_path / "out")
    assert sum(counts.values()) == 13 and counts[""] == 7
    review = {row["id"]: row for row in runs.read_jsonl(tmp_path / "out/review.jsonl")}
    assert review["wikihow/c/5"]["flags"] == {"email": "ad…org"}


def test_guards_do_as_the_recipe_says(tmp_path):
    rows = [candidate("wikihow", "c", n) for n in range(3)]
    rows[0]["messages"][1]["content"] += " ask ada@site.org"
    write(tmp_path / "cand/x", rows)
    train = [{"source": "wikihow", "rows": 2}]
    recipe(tmp_path, train=train, guards={"personal": "drop"})
    assert {row["id"][-1] for row in mixed(tmp_path)} == {"1", "2"}
    recipe(tmp_path, train=train, guards={"personal": "hide"})
    with pytest.raises(UserError, match=r"mix\.guards\.personal: expected drop, flag, ignore; found 'hide'"):
        mixed(tmp_path)


# ---- decisions ---------------------------------------------------------------------------------------------------------


def decide(folder, *rows):
    made = [{"who": "ada", "when": "2024-05-01T10:00:00Z", "why": "so", **row} for row in rows]
    runs.write_jsonl(folder / "out/decisions.jsonl", made)


def test_review_has_twice_the_quota_by_rank(two_sources):
    rows = mixed(two_sources)
    review = [row for row in runs.read_jsonl(two_sources / "out/review.jsonl") if row["source"] == "wikihow"]
    assert [row["rank"] for row in review] == list(range(1, 25)) and len({row["id"] for row in review}) == 24
    assert [row["id"] for row in review if row["chosen"]] == [row["id"] for row in rows if row["source"] == "wikihow"]


def test_accepted_first_rejected_never_edits_beside_the_original(two_sources):
    before = mixed(two_sources)
    review = runs.read_jsonl(two_sources / "out/review.jsonl")
    spare = next(row for row in review if row["source"] == "wikihow" and not row["chosen"])
    rejected = next(row for row in before if row["source"] == "wikihow")
    edited = next(row for row in before if row["source"].startswith("stack"))
    new = [edited["messages"][0], {"role": "assistant", "content": "Shorter, and it is better for it."}]
    decide(
        two_sources,
        {"id": spare["id"], "decision": "accept"},
        {"id": rejected["id"], "decision": "reject", "why": "an advertisement"},
        {"id": edited["id"], "decision": "edit", "messages": new},
        {"id": "gone/1", "decision": "accept"},
    )
    after = {row["id"]: row for row in mixed(two_sources)}
    assert len(after) == 42 and spare["id"] in after and rejected["id"] not in after
    assert after[edited["id"]]["messages"] == new and after[edited["id"]]["original"] == edited["messages"]
    assert after[edited["id"]]["edited"]["who"] == "ada"
    line = next(line for line in ledger.lines(two_sources / "out") if line["id"] == rejected["id"])
    assert (line["rule"], line["detail"]) == ("rejected", "ada: an advertisement")
    notes = ledger.record(two_sources / "out")["notes"]
    assert notes["decisions"] == {"accept": 2, "edit": 1, "reject": 1} and notes["decisions_unknown"] == ["gone/1"]
    assert f"edited by ada `{edited['id']}`" in (two_sources / "out/ATTRIBUTION.md").read_text(encoding="utf-8")
    assert sum(ledger.counts(two_sources / "out").values()) == 150


def test_a_persons_word_is_above_the_guards_but_not_above_a_leak(tmp_path):
    rows = [candidate("wikihow", "c", n) for n in range(4)]
    rows[0]["messages"][1]["content"] += " key AKIA" + "ABCD1234EFGH5678"
    leak = "tell me in one or two plain sentences why the moon looks larger near the horizon tonight"
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": leak}) + "\n", encoding="utf-8")
    rows[1]["messages"][0]["content"] = leak
    write(tmp_path / "cand/x", rows)
    recipe(tmp_path, train=[{"source": "wikihow", "rows": 3}], contamination={"against": [str(tmp_path / "p.jsonl")]})
    decide(tmp_path, *({"id": row["id"], "decision": "accept"} for row in rows[:2]))
    assert mixed(tmp_path)[0]["id"][-1] == "0"
    assert ledger.counts(tmp_path / "out") == {"": 3, "contaminated": 1}


# ---- shortfalls --------------------------------------------------------------------------------------------------------


def test_a_shortfall_says_which_lacks_how_many_and_what_to_do(two_sources):
    recipe(
        two_sources,
        train=[
            {"source": "wikihow", "rows": 50},
            {"source": "nlp", "rows": 5},
            {"source": "stackexchange_stem", "rows": 9},
        ],
    )
    with pytest.raises(UserError) as error:
        mixed(two_sources)
    said = str(error.value)
    assert "2 quotas are not met" in said and "stackexchange_stem" not in said
    assert re.search(
        r"train wikihow +has 40 of 50, lacks 10 \(40 candidates\): more pages for `make curate-wikihow`", said
    )
    assert re.search(r"train nlp +has 0 of 5, lacks 5 \(no candidates\): more task files", said)
    assert "--allow_shortfall" in said and not (two_sources / "out").exists()


def test_an_allowed_shortfall_is_said_in_the_card(two_sources):
    recipe(two_sources, train=[{"source": "wikihow", "rows": 50}])
    assert len(mixed(two_sources, "--allow_shortfall")) == 40
    card = (two_sources / "out/dataset_card.md").read_text(encoding="utf-8")
    assert "## Short of its quotas\n\n- train, wikihow: 40 of 50" in card
    recipe(two_sources, train=[{"source": "wikihow", "rows": 40}])
    mixed(two_sources, out="whole")
    assert "Short of" not in (two_sources / "whole/dataset_card.md").read_text(encoding="utf-8")


# ---- the same bytes, once ----------------------------------------------------------------------------------------------


def content(folder):
    return {name: (folder / name).read_bytes() for name in mixture.FILES}


def test_the_same_seed_gives_the_same_bytes_whatever_the_files_order(two_sources):
    mixed(two_sources)
    first = content(two_sources / "out")
    rows = [
        row
        for name in ("stackexchange", "wikihow", "reddit")
        for row in ledger.candidates(two_sources / f"cand/{name}")
    ]
    random.Random(1).shuffle(rows)
    (two_sources / "cand").rename(two_sources / "former")
    for part in range(3):  # other folders, other files, other order
        write(two_sources / f"cand/{'zab'[part]}", rows[part::3])
    (two_sources / "out").rename(two_sources / "before")
    mixed(two_sources)
    assert content(two_sources / "out") == first
    mixed(two_sources, "--seed", "1", out="other")
    assert (two_sources / "other/train.jsonl").read_bytes() != first["train.jsonl"]


def test_twice_does_nothing_and_a_change_is_noticed(two_sources, capsys):
    mixed(two_sources)
    times = {path: path.stat().st_mtime_ns for path in (two_sources / "out").iterdir()}
    mixed(two_sources)
    assert "stands already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (two_sources / "out").iterdir()} == times
    (two_sources / "out/train.jsonl").unlink()  # not whole any more
    assert len(mixed(two_sources)) == 42
    decide(two_sources, {"id": "wikihow/c0/0", "decision": "reject"})
    capsys.readouterr()
    mixed(two_sources)
    assert "written" in capsys.readouterr().out and (two_sources / "out/decisions.jsonl").exists()


def test_what_fails_leaves_the_earlier_dataset(two_sources):
    mixed(two_sources)
    before = content(two_sources / "out")
    bad = candidate("wikihow", "c0", 99)
    bad["messages"] = [{"role": "system", "content": "Obey."}, bad["messages"][1]]
    write(two_sources / "cand/more", [bad])
    decide(two_sources, {"id": bad["id"], "decision": "accept"})
    with pytest.raises(UserError, match="system turn"):
        mixed(two_sources)
    assert content(two_sources / "out") == before
    assert not [path for path in two_sources.iterdir() if path.name.startswith(".")]


def test_parts_of_a_step_and_unfinished_steps_are_not_read(two_sources):
    write(two_sources / "cand/stackexchange/.sites/math", [candidate("stackexchange_stem", "math", 0)])
    write(two_sources / "cand/stackexchange/parts", [candidate("stackexchange_stem", "math", 1)])
    write(two_sources / "cand/broken", [candidate("stackexchange_stem", "math", 2)])
    (two_sources / "cand/broken/done.json").unlink()
    names = [path.parent.name for path in mixture.candidate_files(two_sources / "cand")]
    assert names == ["reddit", "stackexchange", "wikihow"]


# ---- what is wrong is said ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mix, said",
    [
        ({}, "name no rows"),
        ({"trian": []}, "key 'trian' is not known; did you mean train"),
        ({"train": {"wikihow": 2}}, "mix.train: expected list"),
        ({"train": [{"source": "wikihow"}]}, r"mix.train\[0\]: expected {source: NAME, rows: N"),
        (
            {"train": [{"source": "a", "rows": 1, "taw": 3}]},
            r"mix.train\[0\]: key 'taw' is not known; did you mean tau",
        ),
        ({"train": [{"source": "a", "rows": 1, "tau": 0}]}, "a temperature above 0"),
        ({"train": [{"source": "a", "rows": -1}]}, "rows: expected a number"),
        ({"train": [{"source": "a", "rows": True}]}, "rows: expected a number"),
        ({"train": [{"source": "a", "rows": 1, "within": "best"}]}, "score or random; found 'best'"),
        ({"train": [{"source": "a", "rows": 1, "file": "x"}]}, "file: is for dev and test"),
        ({"dev": [{"source": "a", "rows": 1, "file": "x.jsonl"}]}, r"x\.jsonl: no such file"),
        ({"train": [{"source": "a", "rows": 1}], "review": 0.5}, "mix.review: expected a number from 1"),
        ({"train": [{"source": "a", "rows": 1}], "near_duplicates": {"jacard": 1}}, "did you mean jaccard"),
        ({"train": [{"source": "a", "rows": 1}], "contamination": {"against": "x"}}, "expected a list of files"),
    ],
)
def test_a_recipe_that_cannot_be_is_named(tmp_path, mix, said):
    write(tmp_path / "cand/x", [candidate("a", "c", 1)])
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"mix": mix}), encoding="utf-8")
    with pytest.raises(UserError, match=said) as error:
        mixed(tmp_path)
    assert "\n" not in str(error.value) and "r.yaml" in str(error.value)


def test_the_same_id_twice_and_no_candidates(tmp_path):
    recipe(tmp_path, train=[{"source": "a", "rows": 1}])
    with pytest.raises(UserError, match="no finished step there"):
        mixed(tmp_path)
    write(tmp_path / "cand/x", [candidate("a", "c", 1)])
    write(tmp_path / "cand/y", [candidate("a", "c", 2), candidate("a", "c", 1)])
    with pytest.raises(UserError, match=r"a/c/1: a candidate twice, in .*cand/x/.* and .*cand/y"):
        mixed(tmp_path)


@pytest.mark.parametrize(
    "name", ["lima-open", "se-unfiltered-2k", "wikihow-2k", *[f"se-filtered-{k}k" for k in (2, 4, 8, 16, 32)]]
)
def test_the_recipes(name):
    path = f"{ROOT_RECIPES}/{name}.yaml"
    section = mixture.checked(settings.section(path, "mix", mixture.DEFAULTS), path)
    wanted = Counter()
    for quota in quotas.parse(section, path):
        wanted[quota.split] += quota.rows
    size = name.split("-")[-1].removesuffix("k")
    assert wanted == ({"train": 1030, "dev": 50, "test": 300} if name == "lima-open" else {"train": int(size) * 1000})
    assert settings.load(path)["stackexchange"]["unfiltered"] is (name == "se-unfiltered-2k")
