"""Candidates of all sources → a dataset: quotas by split and source (Table 1), disjoint, deduplicated, decontaminated.

    python -m lima.curate.mixture --config recipes/data/lima-open.yaml --candidates data/candidates/lima-open \\
        --out data/lima-open                                                             (make curate-mix DATA=lima-open)

Writes train.jsonl, the prompts dev.jsonl and test.jsonl, review.jsonl (twice the quota, ranked, to be judged by a person),
ATTRIBUTION.md, dataset_card.md and a ledger. What people decide, data/NAME/decisions.jsonl, is applied at the next run.
"""

import argparse
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from lima import UserError, conversations, exit_codes, runs
from lima.curate import attribution, card, contamination, decisions, ledger, quotas, settings
from lima.curate.gate import Gate
from lima.curate.sampling import Pool

DEFAULTS = {
    "train": [],
    "dev": [],
    "test": [],
    "review": 2.0,
    "near_duplicates": {"jaccard": 0.7, "shingle": 5},
    "contamination": {"ngram": 13, "against": ["data/prompts/*.jsonl", "data/heldout.jsonl"]},
    "guards": {"secrets": "drop", "personal": "flag", "language": "drop"},
}
FILES = ("train.jsonl", "dev.jsonl", "test.jsonl", "review.jsonl", "ATTRIBUTION.md", "dataset_card.md", ledger.LEDGER)
COLUMNS = ("id", "source", "messages", "url", "author", "license", "score", "group", "created", "title")


def main(argv):
    args = arguments().parse_args(argv)
    section = checked(settings.section(args.config, "mix", DEFAULTS), args.config)
    wanted = quotas.parse(section, args.config)
    decided_in = Path(args.decisions or Path(args.out) / "decisions.jsonl")
    files = candidate_files(args.candidates)
    prompts = contamination.prompt_files(section["contamination"]["against"])
    inputs = [
        *files,
        *dict.fromkeys([*prompts, *(Path(q.file) for q in wanted if q.file)]),
        *([decided_in] if decided_in.exists() else []),
    ]
    asked = {**section, "seed": args.seed, "allow_shortfall": args.allow_shortfall}
    if stands(args.out, asked, inputs):
        print(f"{args.out}: stands already, made from these candidates, decisions and settings; nothing to do")
        return
    decided = decisions.load(decided_in)
    pool = Pool(files, args.seed)
    plan(args, wanted, pool, decided, prompts)
    gate = Gate(section)
    with progress(wanted, section["review"]) as bar:
        outcomes = quotas.fill(wanted, pool, gate, decided, args.seed, section["review"], bar.update)
    short = quotas.shortfall(wanted, args.config, args.candidates)
    if short and not args.allow_shortfall:
        raise UserError(short)
    notes = {
        "name": Path(args.out).name,
        "candidates": args.candidates,
        "quotas": [summary(quota) for quota in wanted],
        "contamination_prompts": gate.prompts,
        "decisions": dict(sorted(Counter(one["decision"] for one in decided.values()).items())),
        "decisions_unknown": sorted(set(decided) - set(pool.find(args.seed, decided))),
    }
    write(args.out, wanted, pool, outcomes, asked, inputs, notes)
    report(args, wanted, notes, short)


def checked(section, where):
    """The section with its nested keys known and its numbers in range."""
    for name, default in DEFAULTS.items():
        if isinstance(default, dict):
            settings.check_keys(section[name], list(default), f"{where}: mix.{name}: key")
    near, leak = section["near_duplicates"], section["contamination"]
    for name, value, low, high in (
        ("review", section["review"], 1, 100),
        ("near_duplicates.jaccard", near["jaccard"], 0.3, 1),
        ("near_duplicates.shingle", near["shingle"], 1, 50),
        ("contamination.ngram", leak["ngram"], 2, 100),
    ):
        if type(value) not in (int, float) or not low <= value <= high:
            raise UserError(f"{where}: mix.{name}: expected a number from {low} to {high}; found {value!r}")
    if not isinstance(leak["against"], list):
        raise UserError(f"{where}: mix.contamination.against: expected a list of files; found {leak['against']!r}")
    return section


def candidate_files(folder):
    """The candidates.parquet of every finished step under a folder; a step's own parts are not read again."""
    found = []
    for place, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if {ledger.CANDIDATES, ledger.DONE} <= set(names):
            found.append(Path(place) / ledger.CANDIDATES)
            below.clear()
    if not found:
        raise UserError(f"{folder}: no finished step there; run `make curate-stackexchange` and its like first")
    return found


def stands(out, asked, inputs):
    """Whether `out` holds the whole result of exactly these settings and inputs."""
    found = ledger.record(out)
    same = {"settings": asked, "inputs": ledger.stamp(inputs)}
    whole = all((Path(out) / name).exists() for name in FILES)
    return bool(found) and whole and {k: found.get(k) for k in same} == json.loads(json.dumps(same))


def plan(args, wanted, pool, decided, prompts):
    print(f"mix: {len(pool):,} candidates in {len(pool.files)} files, {len(decided)} decisions → {args.out}")
    for quota in wanted:
        have = f"{len(pool.members(quota.source, quota.group)):>9,}   tau {quota.tau:g}, by {quota.within}"
        print(f"  {quota.split:<6}{quota.name:<22}{quota.rows:>7,} of {quota.file or have}")
    print(f"  kept clear of the prompts in {', '.join(map(str, prompts)) or 'no file'}", flush=True)


def progress(wanted, review):
    from tqdm import tqdm

    return tqdm(total=int(sum(quota.rows for quota in wanted) * review), unit="row", disable=None, leave=False)


def summary(quota):
    kept = ("split", "source", "group", "rows", "tau", "within", "available")
    counts = {"chosen": len(quota.chosen), "review": len(quota.admitted), "dropped": dict(quota.dropped)}
    return {**{key: getattr(quota, key) for key in kept}, **counts}


# ---- what is written ---------------------------------------------------------------------------------------------------


def write(out, wanted, pool, outcomes, asked, inputs, notes):
    """All files, made beside `out` and then renamed into it, done.json last."""
    out = Path(out)
    beside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    rows = {split: [row for q in wanted if q.split == split for row in q.chosen] for split in quotas.SPLITS}
    try:
        with ledger.Step(beside, asked, inputs) as step:
            fill_ledger(step, pool, outcomes, wanted)
            for split, chosen in rows.items():
                runs.write_jsonl(beside / f"{split}.jsonl", [published(row) for row in chosen])
            runs.write_jsonl(beside / "review.jsonl", [line for quota in wanted for line in review(quota)])
            if rows["train"]:
                notes["fingerprint"] = conversations.load(str(beside / "train.jsonl")).fingerprint
            everything = [row for chosen in rows.values() for row in chosen]
            runs.write_text(beside / "ATTRIBUTION.md", attribution.page(notes["name"], everything))
            runs.write_text(beside / "dataset_card.md", card.page(notes, rows, step.counts))
            step.notes.update(notes)
        out.mkdir(parents=True, exist_ok=True)
        (out / ledger.DONE).unlink(missing_ok=True)  # from here to the last line the folder is not done
        for name in (*FILES, ledger.DONE):
            os.replace(beside / name, out / name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def fill_ledger(step, pool, outcomes, wanted):
    """A line a candidate: those looked at in their order, then the rest by id. `group` is the source, or the prompts' file.

    `beyond_quota`: admitted, in review.jsonl, and not needed. `not_drawn`: never looked at.
    """
    chosen = {row["id"] for quota in wanted for row in quota.chosen}
    ids, drawn = pool.ids(), range(len(pool))
    for number, (quota, rule, detail, excerpt) in outcomes.items():
        id = ids[number].as_py() if number in drawn else number
        if not rule and id not in chosen:
            rule = "beyond_quota"
        step.drop(
            id,
            pool.source_of(number) if number in drawn else quota.file,
            rule,
            detail or (quota.split if quota else ""),
            excerpt,
        )
    looked_at = pa.array(sorted(set(outcomes).intersection(drawn)), type=pa.int64())
    numbers = pa.array(drawn, type=pa.int64())
    rest = numbers.filter(pc.invert(pc.is_in(numbers, value_set=looked_at)))
    names = ids.take(rest)
    for place in pc.sort_indices(names).to_pylist():
        step.drop(names[place].as_py(), pool.source_of(rest[place].as_py()), "not_drawn")


def published(row):
    """A row as it is published: the candidate's columns; where a person edited it, the `original` and who did; what a file
    of prompts says beside."""
    row = {**row, "license": attribution.licence(row)}
    more = [key for key in row if key not in (*COLUMNS, "flags", "by_hand")]
    return {key: row[key] for key in (*COLUMNS, *more)}


def review(quota):
    """The lines of review.jsonl: rows of this quota by rank, what the guards found, and whether they are chosen now."""
    for rank, row in enumerate(quota.admitted, 1):
        beside = {"split": quota.split, "rank": rank, "chosen": rank <= quota.rows, "by_hand": row["by_hand"]}
        yield {**published(row), **beside, "flags": row["flags"]}


def report(args, wanted, notes, short):
    print(f"\n{args.out}: written, dataset {notes.get('fingerprint', 'without a train split')}")
    for quota in wanted:
        fell = ", ".join(f"{count} {rule}" for rule, count in quota.dropped.most_common())
        flagged = sum(bool(row["flags"]) for row in quota.chosen)
        more = "; ".join(filter(None, (fell and f"fell: {fell}", flagged and f"{flagged} flagged")))
        print(f"  {quota.split:<6}{quota.name:<22}{len(quota.chosen):>7,} of {quota.rows:<7,}{more}")
    if notes["decisions_unknown"]:
        names = notes["decisions_unknown"]
        print(f"  {len(names)} decisions name no candidate: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}")
    if short:
        print(f"\nshort, and the card says so:\n{short}")
    print(f"  look at it: make data-report DATA={Path(args.out).name}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="the data recipe: recipes/data/NAME.yaml")
    parser.add_argument("--candidates", required=True, help="the folder under which the steps wrote their candidates")
    parser.add_argument("--out", required=True, help="the dataset's folder, such as data/lima-open")
    parser.add_argument("--decisions", help="what people decided (default: OUT/decisions.jsonl)")
    parser.add_argument("--seed", type=int, default=0, help="what is drawn at random follows it (default: 0)")
    parser.add_argument("--allow_shortfall", action="store_true", help="write what there is where a quota is not met")
    return parser


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
