"""What answers show without any judge: whether they end, how long they are, how
much they repeat, refuse, say nothing, or leave the prompt's language. Nothing
here says that an answer is good.

    python -m lima.evaluate.signals --run runs/7b
        every checkpoint with answers to the dev prompts
    python -m lima.evaluate.signals --run runs/7b --epochs 5-10 --prompts test
    python -m lima.evaluate.signals --answers runs/7b other.json \\
        --tokenizer runs/7b

With --run the figures are also kept in runs/NAME/generations/signals.json, by
prompt set and checkpoint. Tokens are those that the answers' files state;
--tokenizer counts those of all systems alike.
"""

import argparse
import functools
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from lima import UserError, exit_codes, runs, turns
from lima.evaluate import answers
from lima.evaluate.before_after import plain
from lima.evaluate.run_sources import json_rows
from lima.evaluate.spans import distinct, longest_repeat, words

NONE = "–"
CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.S)
AS_TEXT = {"add_special_tokens": False, "split_special_tokens": True}
STEP = re.compile(r"checkpoint-\d+")
SURE = 0.8  # py3langid's probability below which a text's language counts as unknown (short texts, code)

# ---- measures ----------------------------------------------------------------------------------------------------------


def measures(rows, tokenizer=None):
    """The figures of answers (`prompt`, `response`, `finish_reason`, `tokens`), as they stand in signals.json:

    answers; eot_share of those whose finish_reason is known; empty_share; refusal_share; tokens and words as `spread`;
    distinct, by n (`distinct`); repeat: median, longest, prompt_id of the longest (`longest_repeat`, in words);
    language: judged (answers where it can be told of both prompt and answer), same_share (of these, in the prompt's;
    a prompt that asks for a translation counts against it). None where there is nothing to measure.
    """
    texts = [row["response"] for row in rows]
    spoken = [words(text) for text in texts]
    repeats = [longest_repeat(answer)[0] for answer in spoken]
    most = int(np.argmax(repeats)) if repeats else None
    languages = [(language(row.get("prompt") or ""), language(row["response"])) for row in rows]
    judged = [one == two for one, two in languages if one and two]
    return {
        "answers": len(rows),
        "eot_share": eot_share(rows),
        "empty_share": share(not text.strip() for text in texts),
        "refusal_share": share(map(refuses, texts)),
        "tokens": spread(token_counts(rows, tokenizer)),
        "words": spread([len(answer) for answer in spoken]),
        "distinct": distinct(spoken),
        "repeat": {
            "median": float(np.median(repeats)) if repeats else None,
            "longest": max(repeats, default=None),
            "prompt_id": rows[most].get("prompt_id") if repeats else None,
        },
        "language": {"judged": len(judged), "same_share": share(judged)},
    }


def share(values):
    """The share of true ones; None of none."""
    values = list(values)
    return sum(values) / len(values) if values else None


def spread(counts):
    """`{"p10", "median", "p90"}` of numbers; None of none."""
    if not counts:
        return None
    low, middle, high = np.percentile(counts, [10, 50, 90]).tolist()
    return {"p10": low, "median": middle, "p90": high}


def eot_share(rows):
    """Of the answers whose finish_reason is known."""
    return share(row["finish_reason"] == "eot" for row in rows if row.get("finish_reason"))


def token_counts(rows, tokenizer=None):
    """Of each answer that states it; with a tokenizer, of all."""
    if tokenizer:
        return [len(tokenizer.encode(row["response"], **AS_TEXT)) for row in rows]
    return [row["tokens"] for row in rows if row.get("tokens") is not None]


# ---- refusals and language ---------------------------------------------------------------------------------------------

CANNOT = (
    r"i(?:'m| am| must| have to)? (?:can't|cannot|can not|won't|will not|not able to|unable to|not going to|decline to)"
)
REFUSAL = re.compile(
    r"(?:(?:i'm |i am )?(?:very |so |really |terribly )?sorry[,.;:]? (?:but )?|i apologi[sz]e,? but |unfortunately,? |no[,.] "
    r"|[^\"“]{1,150}?[,;]? but |as an ai\b[^,.]{0,60},? )?(?:"
    rf"{CANNOT}(?: and (?:won't|will not))?(?: in good conscience)? (?:"
    r"help(?=[.,!;]|$| (?:you|with|anyone|somebody|someone)\b)|assist|comply|condone|participate in|engage in|fulfil|"
    r"answer (?:that|this|your)\b|do that for you|write (?:that|this)\b|discuss (?:that|this)\b|"
    r"suggest (?:anything|ways?|how)\b|(?:provide|create|generate|share|offer)\b"
    r"(?! (?:you )?(?:with )?(?:an?|the|any|more|much)? ?(?:exact|precise|specific|definit\w+|single|certain|better|more)\b))"
    r"|i(?:'m| am) not comfortable|i (?:don't|do not) feel comfortable|i must decline|i have to decline|i decline to)"
    r"|(?:i'm |i am )?(?:very |so |really |terribly )?sorry,? but (?:as an ai\b|i (?:don't|do not|am not|'m not|'m unable|can't"
    r"|cannot|won't|will not)\b)"
)


def refuses(text):
    """Whether the first sentence opens with a refusal of a short, cautious list ("I can't help with", "I'm sorry, but I cannot").

    "I can't recommend the red one" is none. A refusal in other words is missed: the share is a lower bound, and the safety
    judge's word counts.
    """
    text = text.strip().lower().replace("’", "'")
    first = re.split(r"(?<=[.!?])(?<!sorry[.!])\s|\n", text, maxsplit=1)[0]  # "I'm sorry. I can't help with that."
    return bool(REFUSAL.match(" ".join(first.split())[:400]))


@functools.cache
def _identifier():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def language(text):
    """The ISO 639 code of the text's language, code and addresses aside; None where it is too short or mixed to tell."""
    prose = CODE.sub(" ", text)
    if not any(char.isalpha() for char in prose):
        return None
    code, sure = _identifier().classify(prose)
    return code if sure >= SURE else None


# ---- which answers -----------------------------------------------------------------------------------------------------


class Checkpoint(NamedTuple):
    """A checkpoint's answers to a prompt set. epoch: how many were done, None where no file says."""

    step: int
    epoch: float | None
    path: Path

    @property
    def label(self):
        """`epoch 5`, or the step where that is not the end of an epoch."""
        whole = self.epoch is not None and abs(self.epoch - round(self.epoch)) < 1e-3
        return f"epoch {self.epoch:.0f}" if whole else f"step {self.step}"


def checkpoints(run, prompts="dev", epochs="all"):
    """The run's `Checkpoint`s that have answers to `prompts`, of these epochs. Raises `UserError` if there is none."""
    wanted = runs.parse_epochs(epochs, "--epochs")
    every = answered(run, prompts)
    found = [one for one in every if epochs == "all" or (one.epoch is not None and wanted(one.epoch))]
    if not found and (Path(run) / f"{prompts}.jsonl").is_file():
        raise UserError(f"{run}: another model's answers, not a run; give --answers {run}")
    if not found:
        among = "" if epochs == "all" else f" of epochs {epochs}"
        make = f"python -m lima.evaluate.generate --run {run} --prompts data/prompts/{prompts}.jsonl"
        raise UserError(f"{run}: no checkpoint{among} has answers to {prompts!r}; make them: {make}")
    return found


def answered(run, prompts):
    """The run's `Checkpoint`s that have answers to `prompts`, by step, also where weights are gone; none may have any."""
    run = Path(run)
    if not run.is_dir():
        have = ", ".join(sorted(path.name for path in Path("runs").glob("*") if path.is_dir())) or "none yet"
        raise UserError(f"{run}: no run there; runs here: {have}")
    if STEP.fullmatch(run.resolve().name):
        raise UserError(f"{run}: a checkpoint; give its run ({run.parent}) to --run, or it to --answers")
    known = epochs_by_step(run)
    folders = [path for path in run.glob("generations/checkpoint-*") if STEP.fullmatch(path.name)]
    found = [(runs.step_of(folder), folder / f"{prompts}.jsonl") for folder in folders]
    return [Checkpoint(step, known.get(step), path) for step, path in sorted(found) if path.is_file()]


def epochs_by_step(run):
    """`{step: epochs done}` as the run's metrics and its checkpoints' markers say."""
    rows = json_rows(Path(run) / "metrics.jsonl", {"step", "epoch"}, [])
    known = {row["step"]: row["epoch"] for row in rows}
    marked = [runs.marker(folder) for folder in runs.checkpoints(run)]
    return known | {marker["step"]: marker["epoch"] for marker in marked if "epoch" in marker}


def arguments(doc):
    """The flags by which programs that measure answers are told which."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="a run (runs/NAME): each of its checkpoints that has answers")
    parser.add_argument("--epochs", default="all", help="of RUN only these, such as 5-10 [%(default)s]")
    parser.add_argument("--answers", nargs="+", default=[], metavar="SPEC", help="runs (their selected or newest "
                        "checkpoint), checkpoints, .jsonl files, AlpacaEval's .json")  # fmt: skip
    parser.add_argument("--prompts", default="dev", help="prompt set: dev, test or the stem of your file [%(default)s]")
    return parser


def read(args):
    """`[(name, Checkpoint or None, rows), …]`: the checkpoints of --run, then --answers; all are read before any is measured."""
    if not (args.run or args.answers):
        raise UserError("nothing to measure; give --run runs/NAME, or --answers with files of answers")
    args.prompts = Path(args.prompts).stem
    own = checkpoints(args.run, args.prompts, args.epochs) if args.run else []
    found = [(one.label, one, answers.load(one.path).rows) for one in own]
    others = [answers.load(spec, args.prompts) for spec in args.answers]
    names = [one.name for one in others]
    return found + [(one.name if names.count(one.name) == 1 else str(one.path), None, one.rows) for one in others]


def keep(args, file, found):
    """Adds the figures of --run's checkpoints to `file` in runs/NAME/generations/, by prompt set and checkpoint; what else
    stands there stays. `found`: `[(Checkpoint or None, figures), …]`. Returns the path, None without a checkpoint."""
    own = {one.path.parent.name: {"epoch": one.epoch, "step": one.step, **figures} for one, figures in found if one}
    if not own:
        return None
    path = Path(args.run) / "generations" / file
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        kept[args.prompts] = {**kept.get(args.prompts, {}), **own}
    except (OSError, ValueError, AttributeError, TypeError):  # none yet, or spoilt by hand: all of it can be made again
        kept = {args.prompts: own}
    runs.write_text(path, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    return path


# ---- the terminal ------------------------------------------------------------------------------------------------------


def show(columns, rows):
    """Prints a table of text; where the terminal is narrow the first column gives way, to 8 columns; then the table runs over."""
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[plain(str(cell)) for cell in row] for row in rows]
    longest = max(cell_len(text) for text in [columns[0], *(row[0] for row in cells)])
    least = min(longest, 8)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, column in enumerate(columns):
        how = {"justify": "right", "no_wrap": True} if number else {"min_width": least, "overflow": "fold"}
        table.add_column(column, **how)
    for row in cells:
        table.add_row(*map(Text, row))
    needed = Console(width=10_000).measure(table).maximum - longest + least
    Console(highlight=False, width=max(Console().width, needed)).print(table)


def percent(value):
    return NONE if value is None else f"{100 * value:.0f} %"


def _span(found):
    return NONE if found is None else f"{found['p10']:.0f}/{found['median']:.0f}/{found['p90']:.0f}"


def _print(found):
    ends = [
        (name, one["answers"], *(percent(one[key]) for key in ("eot_share", "empty_share", "refusal_share")),
         _span(one["tokens"]), _span(one["words"]))
        for name, one in found
    ]  # fmt: skip
    show(["", "answers", "EOT", "empty", "refuse", "tokens", "words"], ends)
    says = [
        (name, *(NONE if value is None else f"{value:.3f}" for value in one["distinct"].values()),
         *(NONE if one["repeat"][key] is None else f"{one['repeat'][key]:.0f}" for key in ("median", "longest")),
         (one["repeat"]["longest"] and one["repeat"]["prompt_id"]) or NONE,
         f"{round((one['language']['same_share'] or 0) * one['language']['judged'])}/{one['language']['judged']}")
        for name, one in found
    ]  # fmt: skip
    show(["", "dist-1", "dist-2", "dist-3", "repeat", "longest", "in", "language"], says)
    print("tokens, words: 10/50/90 % · repeat: words in a row that an answer has twice,")
    print("median and longest · language: the prompt's, of those where both can be told")


def main(argv):
    parser = arguments(__doc__)
    parser.add_argument("--tokenizer", help="a run or prepared base whose tokenizer counts the tokens of all answers")
    args = parser.parse_args(argv)
    given = read(args)
    tokenizer = turns.load_tokenizer(runs.newest_checkpoint(args.tokenizer)) if args.tokenizer else None
    bar = tqdm(given, "measured", leave=False, unit="system")
    found = [(name, one, measures(rows, tokenizer)) for name, one, rows in bar]
    wrote = keep(args, "signals.json", [(one, figures) for _, one, figures in found])  # `| head` ends the printing
    _print([(name, figures) for name, _, figures in found])
    if wrote:
        print(f"wrote  {wrote}")


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
