"""The arms of the ablations (sections 5 and 6, and what the paper leaves open): what each file of recipes/ablations/ changes, on a
model of any size."""

import argparse
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lima import UserError, conversations, hub, recipe
from lima.evaluate import report_arms

FOLDER = Path("recipes/ablations")
DATA = {"dataset", "exclude_sources"}
OURS = {"--config", "--run_name", "--seed", "--output_dir"}  # flags that tell arms and seeds apart


class Ablation(NamedTuple):
    """asks: the question. keys: what its arms may change. prompts: the set that is answered, `samples` times each. kind: what a
    judge is asked, None where code measures."""

    asks: str
    where: str
    keys: set
    arms: tuple
    prompts: str = "test"
    samples: int = 5
    kind: str | None = "grade"


ABLATIONS = {
    "quality": Ablation("does filtering pay?", "section 5, figure 5", DATA, report_arms.ABLATIONS["quality"]),
    "diversity": Ablation("do diverse prompts pay?", "section 5, figure 5", DATA, report_arms.ABLATIONS["diversity"]),
    "quantity": Ablation("do more examples pay?", "section 5, figure 6", DATA, report_arms.ABLATIONS["quantity"]),
    "dialogue": Ablation(
        "do 30 dialogues pay?",
        "section 6, figure 7",
        DATA,
        report_arms.ABLATIONS["dialogue"],
        "dialogue",
        1,
        "level",
    ),
    "structure": Ablation(
        "do six examples with a dictated structure pay?",
        "appendix E",
        DATA | {"exclude_rows"},
        report_arms.ABLATIONS["structure"],
        "structure",
        kind=None,
    ),
    "open-questions": Ablation(
        "what the paper leaves open",
        "ours",
        {"loss_on", "residual_dropout", "eot_token", "model_name_or_path", "packed", "num_train_epochs"},
        report_arms.ABLATIONS["open-questions"],
    ),
}


def ablation(name):
    """Raises `UserError` for a name that is none."""
    if name not in ABLATIONS:
        raise UserError(f"no ablation {name!r}; there are {', '.join(ABLATIONS)}")
    return ABLATIONS[name]


def trained_as(arm):
    """The arm whose training this one is: itself, or what it extends without changing anything."""
    path, own = recipe.read_chain(FOLDER / f"{arm}.yaml")[-1]
    above = recipe.read_chain(path)[-2][0]
    return above.stem if not own and above.parent == FOLDER else arm


def changes(arm):
    """What an arm's file, and those of this folder that it extends, set: `{key: value}`."""
    return {key: value for path, own in recipe.read_chain(FOLDER / f"{arm}.yaml") if path.parent == FOLDER
            for key, value in own.items()}  # fmt: skip


def check(name):
    """Raises `UserError` for an arm that changes more than its ablation is about."""
    for arm in ablation(name).arms:
        if more := sorted(changes(arm).keys() - ABLATIONS[name].keys):
            allowed = ", ".join(sorted(ABLATIONS[name].keys))
            raise UserError(f"{FOLDER / arm}.yaml: changes {more[0]}; the arms of {name} may differ in {allowed} alone")


def words(arm, size, seed, given=()):
    """The recipe of an arm on the size's base, as `lima_sft.py` takes it: `--config recipes/SIZE.yaml` and flags. `given`: flags
    for all arms alike; what an arm changes stands above them."""
    if taken := OURS & {word.split("=")[0] for word in given}:
        raise UserError(f"{sorted(taken)[0]}: arms have their own; SIZE= and SEEDS= say which")
    path = FOLDER.parent / f"{size}.yaml"
    if not path.is_file():
        have = ", ".join(sorted(one.stem for one in FOLDER.parent.glob("*.yaml") if one.stem != "lima"))
        raise UserError(f"SIZE={size}: no {path}; there are {have}")
    changed = changes(arm)
    if "model_name_or_path" in changed:  # another preparation of the base: the size's own name with the arm's ending
        of_size, of_arm = (
            _value(recipe.read_chain(one), "model_name_or_path") for one in (path, FOLDER / "baseline.yaml")
        )
        changed["model_name_or_path"] = of_size + changed["model_name_or_path"].removeprefix(of_arm)
    flags = [word for key, value in changed.items() for word in recipe.tokens(key, value)]
    own = ["--run_name", run_name(arm, size, seed), "--seed", str(seed), "--keep_epochs", "none"]
    return ["--config", str(path), *given, *flags, *own]


def run_name(arm, size, seed):
    return f"{size}-{arm}-s{seed}"


def _value(chain, key):
    return next(own[key] for _, own in reversed(chain) if key in own)


def dataset(arm, size, given=()):
    """The dataset that an arm trains on; `given` as in `words`."""
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    flags.add_argument("--dataset")
    of_all = flags.parse_known_args(list(given))[0].dataset
    return changes(arm).get("dataset") or of_all or _value(recipe.read_chain(FOLDER.parent / f"{size}.yaml"), "dataset")


def missing(name, size, given=()):
    """Lines on the datasets of an ablation that cannot be had, with what makes them."""
    lines = {}
    for arm in ABLATIONS[name].arms:
        path = Path(dataset(arm, size, given))
        if (FOLDER.parent / "data" / f"{path.name}.yaml").is_file() and not path.exists():
            source = "wikihow RAW=pages/" if path.name.startswith("wikihow") else "stackexchange RAW=dumps/"
            own = f" DATA={path.name}" if "unfiltered" in path.name else ""
            lines[path] = f"{path}: make curate-{source}{own} && make curate-mix DATA={path.name}"
        elif hub.is_name(str(path)) and (why := _unreachable(str(path))):
            lines[path] = why
    return list(lines.values())


@cache
def _unreachable(name):
    """Why a dataset cannot be read from the Hub, or None; what was read is in its cache then."""
    try:
        conversations.load(name)
    except UserError as error:
        return str(error)
