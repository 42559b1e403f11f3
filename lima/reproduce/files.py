"""Which files a stage reads and which it makes, as `stages.Stage.files` gives them. All raise `UserError` where there is no
checkpoint or no answer yet."""

from pathlib import Path

from lima import runs
from lima.evaluate import answers, asking, generate, judgments

PAIR = asking.INSTRUCTIONS / "pair.txt"


def answering(run, prompts, epochs=None):
    """Checkpoints and prompts → answers."""
    chosen = generate.chosen(run, epochs)
    made = [folder.parent / "generations" / folder.name / f"{prompts}.jsonl" for folder in chosen]
    return [*(folder / runs.MARKER for folder in chosen), asking.PROMPTS / f"{prompts}.jsonl"], made


def rating(run, prompts, kind):
    """Answers → their ratings."""
    path, name = answers.find(Path(run), prompts)
    return [path, asking.INSTRUCTIONS / f"{kind}.txt"], [judgments.FOLDER / f"{answers.file_name(name)}.{kind}.jsonl"]


def comparing(run, spec, prompts):
    """The answers of two systems → verdicts on them."""
    a, b = answers.find(Path(run), prompts), answers.load(spec, prompts)
    return [a[0], b.path, PAIR], [judgments.FOLDER / f"{answers.file_name(a[1])}-vs-{b.name}.jsonl"]


def selecting(run, prompts, epochs):
    """The answers of several checkpoints → the one that is selected."""
    return [*answering(run, prompts, epochs)[1], PAIR], [Path(run) / "selected.json"]


def measuring(run, prompts, name):
    """Answers → what code measures of them."""
    return [answers.find(Path(run), prompts)[0]], [Path(run) / "generations" / f"{name}.json"]
