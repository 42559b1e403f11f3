"""A recipe and a data folder of your own (docs/your-own-1000.md).

    python -m lima.curate.new --name mine --size 7b
                                     (make new NAME=mine SIZE=7b)

recipes/mine.yaml    extends recipes/7b.yaml and changes its data alone
data/mine/           train.jsonl, heldout.jsonl and mine-dev.jsonl with examples
                     that show the form, README.md on what makes a good one,
                     dataset_card.md for the day when the data is pushed

A folder data/mine that has a train.jsonl, .json or .parquet already stays as it
is: it is checked, and the recipe trains on it. Nothing is ever overwritten, and
all is loaded as training loads it before it is there.
"""

import argparse
import contextlib
import os
import re
import shutil
import sys
from pathlib import Path

from lima import UserError, conversations, exit_codes, recipe, runs

RECIPES, DATA = Path("recipes"), Path("data")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
PROMPTS = {"dev_prompts": "dev", "test_prompts": "test"}
OF_OTHER_DATA = ("dataset_split", "dataset_revision")  # what a size may say of its own dataset

# ---- what is written -------------------------------------------------------------------------------------------------

TRAIN = [  # (source, turns: the user's, the assistant's, …)
    (
        "howto",
        "How do I get candle wax out of a tablecloth?",
        "Candle wax comes off well as long as you leave it alone until it is hard.\n\n"
        "1. Cool the wax with an ice cube in a bag, then lift off what breaks away with a blunt knife.\n"
        "2. Lay the cloth between two sheets of plain kitchen paper and press it with a warm, dry iron. The paper takes up "
        "the melted wax; move to a clean part of it until no new spot appears.\n"
        "3. Rub a drop of washing-up liquid into whatever colour remains, and wash the cloth as its label says.\n\n"
        "Try the iron on a corner first: synthetic cloth may melt before the wax does.",
    ),
    (
        "task",
        'Make this friendlier, in two sentences at most: "Your parcel was not collected. It goes back on Friday."',
        "Your parcel is still waiting for you at our counter. Please pick it up by Thursday evening, as we have to send it "
        "back on Friday.",
    ),
    (
        "dialogue",
        "Is it worth repairing a bicycle that costs less than the repair?",
        "Often it is, if the frame fits you and is sound. Compare the repair with what an equally good bicycle would cost, "
        "not with what yours would sell for: a sale price counts the scratches, which do not slow you down.",
        "The wheel is bent and the chain skips. I paid 150 for it.",
        "Then ask for a price in two parts. A skipping chain is mostly wear, and a new chain and sprockets are a modest "
        "job. The wheel decides: if it can be trued, repair it; if the rim is creased, a new wheel may bring the bill "
        "close to those 150, and a used bicycle of the same quality becomes the better buy.",
    ),
]
HELDOUT = [
    (
        "howto",
        "How can I keep a houseplant alive while I am away for two weeks?",
        "Two weeks are no trouble for most houseplants if they start moist and lose little water.\n\n"
        "Water it well the day before you leave, and let what drains off stand away. Move it out of direct sun, because a "
        "plant in shade drinks far less. For a thirsty one, lead a cotton cord from a bowl of water into the soil: the cord "
        "carries over only as much as the soil takes up.",
    ),
]
DEV = [
    "Why does bread go stale faster in the fridge?",
    "Write a note to our neighbours: on Saturday we have a party that may get loud. Four sentences at most.",
    "Our cat wakes us at five every morning. What can we do about it?",
]

RECIPE = """\
# make base-{name} && make sft-{name}      {size}.yaml on data of our own: {folder} (docs/your-own-1000.md)
#
# hardware    that of {size}.yaml; make plan-{name} says what it needs
# time        follows from the examples; make plan-{name} estimates it
# deviations  the data; whatever else {size}.yaml says of itself
extends: {size}.yaml
"""

CARD = """\
---
pretty_name: {name}
task_categories: [text-generation]
configs:
  - config_name: default
    data_files:
      - {{split: train, path: train.jsonl}}
      - {{split: heldout, path: heldout.jsonl}}
  - config_name: prompts
    data_files:
      - {{split: dev, path: {name}-dev.jsonl}}
---

# {name}

Conversations to fine-tune on, as [LIMA](https://arxiv.org/abs/2305.11206) does it.

<!-- statistics -->
"""

README = """\
# {name}

`train.jsonl` is trained on; `heldout.jsonl` is for the held-out loss, which is watched and decides nothing; the prompts of
`{name}-dev.jsonl` are answered after every epoch and decide which one is best. Replace the examples: they only show the form.

A row is a JSON object on one line:

| key | |
|---|---|
| `messages` | `[{{"role": "user", "content": …}}, {{"role": "assistant", "content": …}}]`; a dialogue goes on in turn |
| `id` | your name for the row, once in the file |
| `source` | its kind; `exclude_sources: [kind]` in the recipe leaves a kind out |
| `author`, `url`, `license` | whose words they are; the cards of the data and of the model read `license` |

Short forms are read too: `{{"prompt": …, "response": …}}`, or `{{"conversations": [user, assistant, …]}}`. There is no system turn.
A conversation ends on the assistant's turn; a row of `{name}-dev.jsonl` on the user's.

Six habits of a good set (sections 2 and 5 of the paper):

1. **Prompts differ** in topic, task, length and wording, as people's do. Variety of prompts helped; more of the same kind did not.
2. **Answers sound alike**: one helpful voice, which takes up the question before it answers.
3. **An answer stands alone.** It does not point at links, pictures or other answers, nor tell of its writer.
4. **It is whole**: as long as its reader needs, with lists, code and steps where they help. Drop a weak answer rather than keep it.
5. **What should be declined is in it**, declined with reasons and what can be offered instead: 13 of the paper's 1,000.
6. **Rare forms are in it too**: a prescribed structure (6 of the 1,000), and some dialogues (30 made the paper's model far
   better at them). What no example shows, the model has to guess.
"""


def row(number, name, source, *texts):
    """A conversation, or a prompt where `texts` is one, as a line of a file has it."""
    turns = [{"role": conversations.ROLES[n % 2], "content": text} for n, text in enumerate(texts)]
    return {"id": f"{name}-{number:03}", "source": source, "messages": turns}


def write_data(folder, name):
    """The data folder with its examples; `folder` is there and empty."""
    runs.write_jsonl(folder / "train.jsonl", [row(n, name, *one) for n, one in enumerate(TRAIN, 1)])
    runs.write_jsonl(folder / "heldout.jsonl", [row(n, f"{name}-heldout", *one) for n, one in enumerate(HELDOUT, 1)])
    runs.write_jsonl(folder / f"{name}-dev.jsonl", [row(n, f"{name}-dev", "dev", one) for n, one in enumerate(DEV, 1)])
    runs.write_text(folder / "README.md", README.format(name=name))
    runs.write_text(folder / "dataset_card.md", CARD.format(name=name))


def changes(folder, found, name, size):
    """`{key: value}`: what the recipe changes. `folder`: where the data will be; `found`: where it is now."""
    files = {"dataset": _file(found, "train"), "heldout": _file(found, "heldout")}
    for key, kind in PROMPTS.items():
        files[key] = _file(found, f"{name}-{kind}") or _file(found, kind)
    lines = {key: (folder / file.name).as_posix() for key, file in files.items() if file}
    lines["exclude_sources"] = None  # always, so that another size is another word after `extends`
    return lines | {key: None for key in OF_OTHER_DATA if size.given.get(key) is not None}


def recipe_text(name, size, folder, lines):
    """The recipe file: its head, as the other recipes have it, and a line a change."""
    said = [f"{key}: {'null' if value is None else value}\n" for key, value in lines.items()]
    return RECIPE.format(name=name, size=size, folder=folder) + "".join(said)


def _file(folder, stem):
    return next((file for end in conversations.SUFFIXES if (file := folder / f"{stem}{end}").is_file()), None)


# ---- checks ------------------------------------------------------------------------------------------------------------


def check_name(name):
    """Raises `UserError` for a name that no recipe, run and folder can have."""
    if not name:
        raise UserError("NAME is missing: make new NAME=mine (SIZE=135m, 7b …)")
    if not NAME.fullmatch(name):
        raise UserError(
            f"NAME={name}: expected up to 40 lower-case letters, digits, - and _, with a letter or digit first, such as mine"
        )


def check_size(name):
    """Raises `UserError` for a recipe that is not there, or that is no model's (lima.yaml)."""
    sizes = sorted(path.stem for path in RECIPES.glob("[!.]*.yaml") if path.stem != "lima")
    if not sizes:
        raise UserError("recipes/: no recipe there; run this in the folder of the repo, where the Makefile lies")
    if name not in sizes:
        raise UserError(f"SIZE={name}: no such recipe; there are: {', '.join(sizes)}")


def check_free(name):
    """Raises `UserError` where something else has this name already."""
    for path in (RECIPES / f"{name}.yaml", RECIPES / "data" / f"{name}.yaml", Path("runs") / name):
        if os.path.lexists(path):
            raise UserError(
                f"{path}: stands already, and nothing was changed; choose another NAME, or edit what is there"
            )
    folder = DATA / name
    if os.path.lexists(folder) and not (folder.is_dir() and _file(folder, "train")):
        raise UserError(f"{folder}: stands already, without a train.jsonl; put one there, or choose another NAME")


def check_data(lines, place):
    """Loads what the recipe names, as training does, from `place(path)`; `(examples, dialogues, notes)` of the training data."""
    data = conversations.load(str(place(lines["dataset"])))
    if "heldout" in lines:
        conversations.load(str(place(lines["heldout"])))
    for key in PROMPTS:
        if key in lines:
            conversations.load_prompts(str(place(lines[key])))
    return len(data.rows), sum(len(row["messages"]) > 2 for row in data.rows), data.notes


# ---- the command -------------------------------------------------------------------------------------------------------


def make(name, size_name):
    """Writes `recipes/NAME.yaml` and, unless it is there, `data/NAME`; returns what the recipe changes, and `check_data`'s counts.

    Both are written beside and checked first; what ends in between, ends with neither of them there.
    """
    check_name(name)
    check_size(size_name)
    with contextlib.ExitStack() as undo, runs.locked(RECIPES):
        check_free(name)
        size = recipe.load(["--config", str(RECIPES / f"{size_name}.yaml")])
        folder, target = DATA / name, RECIPES / f"{name}.yaml"
        found = folder
        if not folder.is_dir():
            found = DATA / f".{name}.partial"
            undo.callback(shutil.rmtree, found, ignore_errors=True)
            shutil.rmtree(found, ignore_errors=True)  # of a process that was killed
            found.mkdir(parents=True)
            write_data(found, name)
        lines = changes(folder, found, name, size)
        counts = check_data(lines, lambda path: found / Path(path).name)
        beside = RECIPES / f".{name}.partial"
        undo.callback(beside.unlink, missing_ok=True)
        beside.write_text(recipe_text(name, size_name, folder, lines), encoding="utf-8")
        recipe.load(["--config", str(beside)])
        if found != folder:
            undo.callback(_withdraw, found, folder, target)
            os.rename(found, folder)
        os.rename(beside, target)
    return lines, counts


def _withdraw(found, folder, target):
    """Takes the new data folder back where it came from `found`, but its recipe did not get there."""
    if not found.exists() and not target.exists():
        shutil.rmtree(folder, ignore_errors=True)


def show(name, size, lines, counts):
    examples, dialogues, notes = counts
    print(f"recipe   recipes/{name}.yaml: {size}.yaml with its own {', '.join(key for key in lines if lines[key])}")
    print(f"data     {lines['dataset']}: {examples:,} example{'s' * (examples != 1)}, {dialogues:,} of them dialogues")
    for note in notes:
        print(f"         {note}")
    prompts, guide = lines.get("dev_prompts", "dev"), DATA / name / "README.md"
    for command, why in (
        (f"edit {lines['dataset']}", f"your examples; {guide} says what makes a good one" if guide.is_file() else ""),
        (f"make base-{name}", "the base with its end-of-turn token, once"),
        (f"make show-{name}", "what is trained on, token by token"),
        (f"make plan-{name}", "what it needs and takes"),
        (f"make sft-{name}", f"train it: runs/{name}"),
        (f"make chat RUN=runs/{name}", "talk to it"),
        (f"make generate RUN=runs/{name} PROMPTS={prompts}", ""),
        ("docs/your-own-1000.md", "the way from here to a pushed checkpoint"),
    ):
        print(f"{'next' if command.startswith('edit') else '':<8} {command:<{32 if why else 0}} {why}".rstrip())


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the recipe, the data folder and the run")
    parser.add_argument("--size", default="135m", help="the recipe to extend: 135m, 7b, 65b-qlora … [%(default)s]")
    args = parser.parse_args(argv)
    show(args.name, args.size, *make(args.name, args.size))


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
