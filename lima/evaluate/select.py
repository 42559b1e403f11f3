"""Which epoch is best, by its answers to the dev prompts (section 3: picked by
hand between epochs 5 and 10, on 50 of them).

    python -m lima.evaluate.select --run runs/7b --judge gpt-4o
        each epoch against the first of them; --against SPEC for another system
    python -m lima.evaluate.select --run runs/7b --judge MODEL --all_pairs
        each against each, with strengths (Bradley and Terry's)
    python -m lima.evaluate.select --run runs/7b --from_verdicts
        by verdicts that stand in judgments/; people's come first

Writes runs/NAME/selected.json; whoever reads the run's answers then takes that
checkpoint's. The best is the epoch with the highest score on the prompts that
all were judged on: 1 for a win, 1/2 for a tie. Epochs are called different only
if their paired difference stands Holm's correction over all pairs of epochs,
for the best was picked by these same verdicts. Perplexity is shown beside and
never picks: it rises while answers get better (appendix B). Nor do the test
prompts: dev chooses, test reports.
"""

import json
import sys
import textwrap
from itertools import combinations
from pathlib import Path

from lima import UserError, exit_codes, runs
from lima.evaluate import answers, asking, bradley_terry, by_epoch, client, intervals, judge, judgments, signals
from lima.evaluate.before_after import plain
from lima.evaluate.verdicts import HUMAN, digest, outcomes

LEVEL = 0.05
TURNED = {"a": "b", "b": "a", "tie": "tie", None: None}
SCORES = {"a": 1.0, "tie": 0.5, "b": 0.0}
OUTCOMES = {1.0: "win", 0.5: "tie", 0.0: "lose"}


def main(argv):
    args = parser().parse_args(argv)
    if Path(args.prompts).stem == "test":
        raise UserError("the test prompts report, they do not choose; select on the dev prompts (--prompts dev)")
    if not (args.judge or args.from_verdicts):
        raise UserError(
            "no judge: name one (--judge MODEL --base_url URL), or judge by hand and give --from_verdicts; perplexity "
            "never picks a checkpoint"
        )
    args = (asking.placed if args.from_verdicts else asking.checked)(args)
    run, prompts = Path(args.run), args.prompts
    epochs = candidates(run, args.epochs, prompts)
    loaded = [answers.load(run / f"checkpoint-{one.step}", prompts) for one in epochs]
    systems = {one.name: epoch for one, epoch in zip(loaded, epochs, strict=True)}
    pairs, against = paired(loaded, args, prompts)
    how = "each against each" if args.all_pairs else f"each against {against.name}"
    given = {(row["prompt_id"], row["sample"], row["prompt"]) for one in loaded for row in one.rows}
    known = asking.prompt_set(args, [item[2] for item in given])
    print(f"{run}: {', '.join(one.label for one in epochs)} on {prompts}, {how}")
    found, by = standing(pairs, args, prompts) if args.from_verdicts else ask(pairs, args)
    if found is None:
        return 0 if args.dry_run else 1
    rows = table(systems, found, against, by_epoch.perplexities(run))
    best = max(rows, key=rank)  # of equals the earliest; strengths have the same order
    made = {
        "checkpoint": best["checkpoint"],
        "epoch": best["epoch"],
        "by": by,
        "against": against.name if against else "each other",
        "prompts": prompts,
        "answered": len({row["prompt_id"] for row in loaded[0].rows}),
        **compare(rows, best),
        "date": asking.now(),
    }
    made["extent"] = asking.extent(known, given, [item for item in given if item[0] in on(found)])
    show(made, args.all_pairs, made["extent"])
    path = run / "selected.json"
    runs.write_text(path, json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    print(f"wrote  {path}")
    return 0


def parser():
    """The flags of judging, of which --judge is not needed to select from what stands."""
    found = asking.arguments(__doc__, judge_needed=False)
    found.add_argument("--run", required=True, help="the run to select in (runs/NAME)")
    found.add_argument("--epochs", default="5-10", help="the epochs to choose from [%(default)s, the paper's]")
    among = found.add_mutually_exclusive_group()
    among.add_argument("--against", metavar="SPEC", help="a run, checkpoint or file of answers [the first epoch]")
    among.add_argument("--all_pairs", action="store_true", help="each epoch against each, with strengths")
    found.add_argument("--from_verdicts", action="store_true", help="ask nobody: use the verdicts in judgments/")
    return found


# ---- what is compared --------------------------------------------------------------------------------------------------


def candidates(run, epochs, prompts):
    """The complete checkpoints of the wanted epochs, as `signals.Checkpoint`s. Raises `UserError` for fewer than two, or where
    one has no answers, with the command that makes them."""
    if not run.is_dir():
        signals.checkpoints(run)  # says which runs there are
    wanted = runs.parse_epochs(epochs, "--epochs")
    known = signals.epochs_by_step(run)
    found = [
        signals.Checkpoint(step, known[step], run / "generations" / folder.name / f"{prompts}.jsonl")
        for folder in runs.checkpoints(run)
        if (step := runs.step_of(folder)) in known and wanted(known[step])
    ]
    if len(found) < 2:
        have = [f"{known[s]:g}" for s in map(runs.step_of, runs.checkpoints(run)) if s in known]
        raise UserError(
            f"{run}: {len(found)} complete checkpoints of epochs {epochs}, two are needed; it has epochs "
            + (", ".join(have) or "none")
            + (f"; EPOCHS={have[0]}-{have[-1]}" if have else "; --run names a whole run, such as runs/7b")
        )
    if lacking := [f"{one.epoch:g}" for one in found if not one.path.is_file()]:
        raise UserError(
            f"{run}: no answers to {prompts} of epoch {', '.join(lacking)}; make them: "
            f"make generate RUN={run} EPOCHS={','.join(lacking)} PROMPTS={prompts}"
        )
    return found


def paired(loaded, args, prompts):
    """`([(a, b), …], reference)`: whose answers are judged against whose; the reference is None with --all_pairs."""
    if args.all_pairs:
        return [(later, first) for first, later in combinations(loaded, 2)], None
    reference = answers.load(args.against, prompts) if args.against else loaded[0]
    return [(one, reference) for one in loaded if one.name != reference.name], reference


# ---- verdicts ----------------------------------------------------------------------------------------------------------


def ask(pairs, args):
    """`({(a, b): {prompt_id: [verdict, …]}}, the judge)`, asking for what does not stand yet; None in its place after a dry run,
    and where replies did not come."""
    instruction = asking.read_instruction(args.instruction or asking.INSTRUCTIONS / "pair.txt", judge.HOLDERS)
    work = [(a, b, answers.pair(a, b)) for a, b in pairs]
    requests = [
        asking.request(judge.question(instruction, pair, order), args)
        for _, _, both in work
        for pair in asking.first(both, args.limit)
        for order in judge.ORDERS
        if not judge.same(pair)
    ]
    total = client.estimate(requests, args.judge, args.base_url, asking.CACHE, args.price)
    cost = "" if total["cost"] is None else f", at most ${total['cost']:,.2f}"
    print(f"in all {len(work)} comparisons, {total['calls']:,} calls{cost}; {total['stored']:,} are answered already")
    found, gone = {}, 0
    for a, b, both in work if not args.dry_run else ():
        print(f"\n{a.name} against {b.name}")
        names = {"a": a.name, "b": b.name}
        path = judgments.FOLDER / f"{a.name}-vs-{b.name}.jsonl"
        rows, replies = judge.judge(asking.first(both, args.limit), both, instruction, names, path, args)
        print(*judge.summary(rows), *asking.failures(replies, bool(outcomes(rows))), sep="\n")
        found[a.name, b.name] = by_prompt(rows)
        gone += sum(reply.lost for reply in replies)
    if gone:
        what = "the same command asks for these only, --from_verdicts does without them"
        print(f"\nnothing is selected: {gone:,} replies did not come; {what}", file=sys.stderr)
    return (None if args.dry_run or gone else found), args.judge


def standing(pairs, args, prompts):
    """The same from the files of judgments, where a pair may stand either way round: people's verdicts where there are any, else
    the judge's that --judge names, or the only one's. Those on answers as they no longer are do not count."""
    instruction = asking.read_instruction(args.instruction or asking.INSTRUCTIONS / "pair.txt", judge.HOLDERS)
    rows, old = {}, 0
    for a, b in pairs:
        (here, gone), (there, left) = (up_to_date(*pair, args.prompts, instruction) for pair in ((a, b), (b, a)))
        rows[a.name, b.name] = here + [row | {"verdict": TURNED[row.get("verdict")]} for row in there]
        old += gone + left
    if old:
        print(
            f"left   {old:,} verdicts on other answers or by another instruction than {args.instruction or 'pair.txt'}"
        )
    judges = {row["judge"] for those in rows.values() for row in those}
    people = {judge for judge in judges if judge.startswith(HUMAN)}
    used = {args.judge} & judges if args.judge else people or judges
    if not used or (len(used) > 1 and used != people):
        have = plain(", ".join(sorted(judges))) or "none"
        raise UserError(
            f"verdicts on {prompts} of these checkpoints in {judgments.FOLDER}/: {have}; "
            + ("name one with --judge" if used else "judge them first (--judge MODEL without --from_verdicts)")
        )
    by, left = (plain(", ".join(sorted(judges))) for judges in (used, judges - used))
    print(f"by     verdicts of {by}" + (f"; those of {left} stand too and are not used" if left else ""))
    found = {pair: by_prompt([row for row in those if row["judge"] in used]) for pair, those in rows.items()}
    if empty := [f"{a} against {b}" for (a, b), those in found.items() if not those]:
        raise UserError(f"{by}: no verdict on {'; '.join(empty)}; judge these too, or narrow --epochs")
    return found, by


def up_to_date(a, b, prompts, instruction):
    """`(rows, left out)` of judgments/A-vs-B.jsonl: those on the answers as they are, or without a digest that says on which."""
    path = judgments.FOLDER / f"{a.name}-vs-{b.name}.jsonl"
    rows = [row for row in judgments.read(path, a=a.name, b=b.name) if row["prompts"] == prompts]
    now = {pair[:2]: digest(*pair[3:], instruction) for pair in answers.pair(a, b, partial=True)} if rows else {}
    kept = [row for row in rows if row.get("digest") in ("", None, now.get((row["prompt_id"], row["sample"])))]
    return kept, len(rows) - len(kept)


def by_prompt(rows):
    """`{prompt_id: [verdict, …]}` of all judges of `rows`, samples of a prompt together."""
    found = {}
    for one in sorted({row["judge"] for row in rows}):
        for (prompt_id, _), verdict in outcomes(rows, one).items():
            found.setdefault(prompt_id, []).append(verdict)
    return found


# ---- the table ---------------------------------------------------------------------------------------------------------


def on(found):
    """The prompts that all comparisons share."""
    return set.intersection(*(set(those) for those in found.values()))


def scored(systems, found, against):
    """`{system: {prompt_id: [score, …]}}` on the prompts that all comparisons share: 1 a win, ½ a tie, 0 a loss."""
    shared = on(found)
    if not shared:
        raise UserError("no prompt has a verdict in every comparison; judge the epochs on the same prompts")
    scores = {name: {prompt: [] for prompt in sorted(shared)} for name in systems}
    for (a, b), those in found.items():
        for prompt in shared:
            values = [SCORES[verdict] for verdict in those[prompt]]
            scores[a][prompt] += values
            if not against:
                scores[b][prompt] += [1 - value for value in values]
    if against and against.name in systems:
        scores[against.name] = {prompt: [0.5] for prompt in shared}  # against itself
    return scores


def table(systems, found, against, perplexities):
    """A row an epoch: epoch, checkpoint, n (prompts), win, tie, lose (`[share, low, high]`; None of the reference), score (mean,
    low, high), strength (the same, only with all pairs), and perplexity on held-out text, for the eye only."""
    scores = scored(systems, found, against)
    prompts = next(iter(scores.values()))
    met = [[(*pair, one) for pair, those in found.items() for one in those[prompt]] for prompt in prompts]
    strength = {} if against else bradley_terry.strengths(met)
    rows = []
    for name, one in systems.items():
        groups = list(scores[name].values())
        named = [[OUTCOMES[value] for value in group] for group in groups]
        shares = {} if against and name == against.name else intervals.shares(named)
        rows.append({"epoch": one.epoch, "checkpoint": one.path.parent.name, "n": len(groups),
                     **{key: shares.get(key) for key in ("win", "tie", "lose")}, "score": intervals.mean(groups),
                     "strength": strength.get(name), "perplexity": perplexities.get(one.step), "groups": groups})  # fmt: skip
    return rows


def compare(rows, best):
    """`significant`, `comparisons`, `said` and `table`: each row's paired difference from the best (`[difference, low, high]`)
    and `p`, by Holm's correction over all pairs."""
    each = {(x["epoch"], y["epoch"]): intervals.difference(x["groups"], y["groups"]) for x, y in combinations(rows, 2)}
    adjusted = holm({pair: found[3] for pair, found in each.items()})
    out, equal = [], []
    for row in rows:
        pair = tuple(sorted((row["epoch"], best["epoch"])))
        behind, p = None, None
        if row is not best:
            *behind, _ = intervals.difference(row["groups"], best["groups"])
            p = adjusted[pair]
            equal += [row["epoch"]] if p >= LEVEL else []
        out.append({key: value for key, value in row.items() if key != "groups"} | {"behind": behind, "p": p})
    top = [row["epoch"] for row in rows if rank(row) == rank(best)]
    return {"significant": not equal, "comparisons": len(each), "said": said(top, equal, len(each)), "table": out}


def rank(row):
    """The score by which an epoch is taken, without what adding in another order changes."""
    return round(row["score"][0], 9)


def holm(found):
    """`{pair: p}` → p corrected for that many comparisons (Holm 1979)."""
    out, most = {}, 0.0
    for rank, (pair, p) in enumerate(sorted(found.items(), key=lambda item: item[1])):
        most = max(most, min(1.0, p * (len(found) - rank)))
        out[pair] = most
    return out


def said(top, equal, comparisons):
    """The outcome as a sentence. top: the epochs with the highest score, the one taken first; equal: those no worse than it."""
    corrected = f"at {LEVEL:.0%}, Holm's correction over {comparisons} comparisons".replace("%", " %")
    if not equal:
        return f"epoch {top[0]:g} is better than every other ({corrected})"
    taken = f"epoch {top[0]:g} has the highest score and is taken"
    if len(top) > 1:
        taken = f"{listed(top)} share the highest score; the earliest is taken"
    return f"no significant difference between {listed([*equal, top[0]])} ({corrected}); {taken}"


def listed(epochs):
    """ "epochs 5, 6 and 7"."""
    *others, last = [f"{epoch:g}" for epoch in sorted(epochs)]
    return f"epochs {', '.join(others)} and {last}"


def show(made, strengths, extent):
    """Prints the table and the outcome."""
    columns = ["epoch", *(["strength"] if strengths else []), "win, %", "tie, %", "lose, %", "p", "perplexity"]
    rows = []
    for row in made["table"]:
        shares = [
            "–" if row[key] is None else "{:.0f} ({:.0f}–{:.0f})".format(*(100 * share for share in row[key]))
            for key in ("win", "tie", "lose")
        ]
        strong = [f"{row['strength'][0]:+.2f}"] if strengths else []
        p = "best" if row["checkpoint"] == made["checkpoint"] else f"{row['p']:.3f}"
        held = "–" if row["perplexity"] is None else f"{row['perplexity']:.2f}"
        rows.append([f"{row['epoch']:.4g}", *strong, *shares, p, held])
    print()
    signals.show(columns, rows)
    print(f"{extent}, judged by {made['by']}")
    print(textwrap.fill(made["said"], 80))


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
