"""How much of the answers stands word for word in what the run was trained on.

    python -m lima.evaluate.copied --run runs/7b
        every checkpoint with answers to the dev prompts
    python -m lima.evaluate.copied --run runs/7b --epochs 5-10 \\
        --answers other.json
    python -m lima.evaluate.copied --answers answers.jsonl \\
        --dataset data/starter.jsonl

For each answer: the longest span of words that a training response holds too,
and that row's id; the same for training prompts and for the answer's own
prompt; and the share of its runs of 8 words that stand in a training response.
A span below 8 words counts as none. Another system's answers (--answers) say
how much any text shares with the data. Rows that the recipe dropped as too long
do not count; those that it trimmed count whole. With --run, all is kept in
runs/NAME/generations/copied.json.
"""

import sys
import textwrap
from pathlib import Path

import numpy as np
import yaml
from tqdm import tqdm

from lima import UserError, conversations, exit_codes, runs, turns
from lima.evaluate import signals
from lima.evaluate.before_after import plain
from lima.evaluate.spans import longer, numbered, words

GRAM = 8  # words: spans are found by their runs of so many
COPIED = 20  # words in a row from which an answer counts as copied
SHOWN = 5  # of the longest spans

# ---- spans -------------------------------------------------------------------------------------------------------------


def overlaps(answers, texts):
    """For each of `answers`, the longest span of words that stands in one of `texts` too (both are lists of lists of words).

    Returns `[(length, start, text, seen), …]`: words, and where the span starts in the answer; the number of the text (the
    first of several); `seen`: the share of the answer's 8-grams that stand in any text. (0, 0, None, seen) below 8 words.
    """
    spans, _ = numbered([*texts, *answers])
    for by in (1, 2, 4):
        spans = longer(spans, by)
    starts = np.cumsum([0] + [len(text) + 1 for text in texts])
    theirs = spans[: starts[-1]]
    order = np.argsort(theirs, kind="stable")
    ranked, found, begin = theirs[order], [], starts[-1]
    for answer in answers:
        own = spans[begin : begin + max(0, len(answer) - GRAM + 1)]
        found.append(_longest(own, ranked, order, starts))
        begin += len(answer) + 1
    return found


def _longest(own, ranked, order, starts):
    """Of the pairs of equal 8-grams (place in the answer, place in the texts): neighbours in both make a span."""
    low = np.searchsorted(ranked, own)
    count = np.searchsorted(ranked, own, side="right") - low
    if not count.any():
        return 0, 0, None, 0.0
    here = np.repeat(np.arange(len(own)), count)
    there = order[np.arange(len(here)) + np.repeat(low - np.cumsum(count) + count, count)]
    by_span = np.lexsort((here, there - here))
    here, there = here[by_span], there[by_span]
    new = np.flatnonzero((np.diff(there - here, prepend=-len(order)) != 0) | (np.diff(here, prepend=-2) != 1))
    lengths = np.diff(np.append(new, len(here)))
    first = new[np.argmax(lengths)]
    text = int(np.searchsorted(starts, there[first], side="right")) - 1
    return int(lengths.max()) + GRAM - 1, int(here[first]), text, float((count > 0).mean())


# ---- answers and training data -----------------------------------------------------------------------------------------


def measures(rows, data):
    """`(figures, spans)` of answers and training rows (`conversations.load`'s).

    figures: answers; copied_share (a span of 20 words or more from a training response), longest, prompt_id and row of the
    longest; seen_share (the mean share of 8-grams seen in training, over answers that have one); prompt_longest,
    own_prompt_longest. spans: a row an answer, `{prompt_id, sample, words, span, row, text, seen, prompt_span, prompt_row,
    own_prompt_span}`; row and prompt_row are ids of training rows.
    """
    said = [words(row["response"]) for row in rows]
    responses, responders = _turns(data, 1)
    prompts, askers = _turns(data, 0)
    out = []
    for row, answer, one, two in zip(rows, said, overlaps(said, responses), overlaps(said, prompts), strict=True):
        length, start, text, seen = one
        out.append(
            {
                "prompt_id": row["prompt_id"],
                "sample": row.get("sample", 0),
                "words": len(answer),
                "span": length,
                "row": None if text is None else responders[text],
                "text": " ".join(answer[start : start + length]),
                "seen": round(seen, 4),
                "prompt_span": two[0],
                "prompt_row": None if two[2] is None else askers[two[2]],
                "own_prompt_span": overlaps([answer], [words(row["prompt"])])[0][0],
            }
        )
    most = max(out, key=lambda one: one["span"], default={"span": None, "prompt_id": None, "row": None})
    judged = [one["seen"] for one in out if one["words"] >= GRAM]
    figures = {
        "answers": len(out),
        "copied_share": signals.share(one["span"] >= COPIED for one in out),
        "longest": most["span"],
        "prompt_id": most["prompt_id"],
        "row": most["row"],
        "seen_share": signals.share(judged),
        "prompt_longest": max((one["prompt_span"] for one in out), default=None),
        "own_prompt_longest": max((one["own_prompt_span"] for one in out), default=None),
    }
    return figures, out


def _turns(data, side):
    """Words of every response (side 1) or prompt (0) of the data, and for each the id of its row."""
    turns = [(words(turn["content"]), row["id"]) for row in data for turn in row["messages"][side::2]]
    return [text for text, _ in turns], [name for _, name in turns]


def training_rows(run):
    """The rows that a run was trained on, by its recipe.yaml: without those that `over_length: drop` dropped. Raises `UserError`
    where the data is gone or is not the same now, or where no tokenizer is left that tells which were dropped."""
    path = Path(run) / "recipe.yaml"
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
        given, before = record["recipe"], record["dataset"]
        name = given.get("dataset") or before["name"]
        wanted = [given.get("dataset_split") or "train", given.get("dataset_revision"), given.get("exclude_sources")]
    except OSError:
        raise UserError(f"{run}: not a run (no recipe.yaml); name folders such as runs/7b") from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError):
        raise UserError(f"{path}: not the record of a run; it holds `recipe:`, `dataset:`, …") from None
    data = conversations.load(str(name), *wanted)
    if before.get("fingerprint") not in (None, data.fingerprint):
        raise UserError(
            f"{name} is not what {run} was trained on (fingerprint {data.fingerprint}, then {before['fingerprint']}); "
            "put that file back, or name a copy of it with --dataset"
        )
    if given.get("over_length") != "drop":
        return data.rows
    tokenizer = turns.load_tokenizer((runs.checkpoints(run) or [given.get("model_name_or_path")])[-1])
    return turns.encode_all(tokenizer, data.rows, given["max_length"], over_length="drop").kept


# ---- the command line --------------------------------------------------------------------------------------------------


def main(argv):
    parser = signals.arguments(__doc__)
    parser.add_argument("--dataset", help="training data to compare with [the run's, by its recipe.yaml]")
    args = parser.parse_args(argv)
    if not (args.run or args.dataset):
        raise UserError("no training data to compare with; give --run runs/NAME, or --dataset FILE")
    given = signals.read(args)
    data = conversations.load(args.dataset).rows if args.dataset else training_rows(args.run)
    print(f"{sum(len(rows) for _, _, rows in given):,} answers beside {len(data):,} training rows")
    bar = tqdm(given, "compared", leave=False, unit="system")
    found = [(name, one, *measures(rows, data)) for name, one, rows in bar]
    wrote = signals.keep(args, "copied.json", [(one, {**figures, "spans": spans}) for _, one, figures, spans in found])
    _print(found)
    if wrote:
        print(f"\nwrote  {wrote}")


def _print(found):
    rows = [
        (name, one["answers"], signals.percent(one["copied_share"]), one["longest"], one["prompt_longest"],
         one["own_prompt_longest"], signals.NONE if one["seen_share"] is None else f"{100 * one['seen_share']:.1f} %")
        for name, _, one, _ in found
    ]  # fmt: skip
    signals.show(["", "answers", f"≥ {COPIED} words", "longest", "prompts", "own", "8-grams"], rows)
    print("longest span, in words, that stands in a training response, a training prompt,")
    print("the own prompt · 8-grams: the mean share that stands in a training response")
    spans = [(one["span"], name, one) for name, _, _, each in found for one in each if one["span"]]
    for length, name, one in sorted(spans, key=lambda item: -item[0])[:SHOWN]:
        print(f"\n{length} words  {plain(name)}, {plain(one['prompt_id'])} · training row {plain(one['row'])}")
        print(f"  {textwrap.shorten(plain(one['text']), 76, placeholder=' …')}")


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
