"""Pushes a run's verified checkpoints: a revision an epoch (`epoch-05` …) and `main`, the selected one, each with its card.

    python -m lima.publish.push --run runs/7b --hub org/name|dir:PATH [--epochs 5-10] [--private] [--force]

Only what a user of the model needs is sent. Run again, it sends what is missing and nothing else.
"""

import argparse
import fnmatch
import json
import shlex
import sys
from pathlib import Path

from lima import UserError, exit_codes, runs
from lima.publish import card, curve, data, evaluation, licences, send, verify
from lima.publish.revision import Revision
from lima.publish.secrets import refuse_secrets

NEEDED = (  # by a user of the model; everything else in a checkpoint is the trainer's
    *("*.safetensors", "model.safetensors.index.json", "config.json", "generation_config.json", "chat_template.jinja"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "vocab.json", "merges.txt", verify.RECORD),
)
OURS = (*NEEDED, card.CURVE)  # what a push may remove where a later one no longer has it


def collect(run, epochs=None, force=False, while_training=False):
    """`(revisions, markers)`: what is to be pushed, main last, and for each its checkpoint's `{step, epoch}`.

    Raises `UserError` for a run that still trains, that holds nothing, whose checkpoints are not its own, were not verified
    or hold adapters only. `force` lets the not verified and the not its own pass, `while_training` the one that trains.
    """
    run = Path(run)
    home = run if not (run / "config.json").is_file() else run.parent
    record = card.read_record(home)
    if not while_training:
        refuse_training(home)
    chosen = {"main": run} if home != run else _by_epoch(run, epochs)
    if while_training:
        chosen["main"] = next(iter(chosen.values()))  # not the newest, which may not be verified yet
    revisions, markers = [], {}
    for name, folder in chosen.items():
        verified = _check(folder, record, force)
        marker = runs.marker(folder) or _marker_of(folder, home)
        markers[name] = {"step": marker["step"], "epoch": marker["epoch"]}
        files = {p.name: p for p in sorted(folder.iterdir()) if p.is_file() and needed(p.name)}
        says = f"{folder.name}, epoch {marker['epoch']:.4g}"
        revisions.append(Revision(name, files, _digests(folder) if verified else {}, says))
    return revisions, markers


def needed(name):
    return any(fnmatch.fnmatch(name, pattern) for pattern in NEEDED)


def _by_epoch(run, epochs):
    """Revision → checkpoint: those of whole epochs in `epochs` (all without), and main."""
    found = runs.checkpoints(run)
    if not found:
        half = sorted(p.name for p in run.glob("checkpoint-*"))
        why = f"{half[-1]} has no {runs.MARKER}: half-written, or of another repo" if half else "it has none"
        raise UserError(f"{run}: no complete checkpoint ({why}); train one with `make sft-NAME`")
    wanted = runs.parse_epochs(epochs or "all", "EPOCHS")
    whole = {round(e): p for p in found if abs((e := runs.marker(p)["epoch"]) - round(e)) < 1e-4 and round(e) > 0}
    chosen = {f"epoch-{epoch:02}": folder for epoch, folder in sorted(whole.items()) if wanted(epoch)}
    if epochs and not chosen:
        have = ", ".join(map(str, sorted(whole))) or "none"
        raise UserError(f"{run}: no checkpoint of EPOCHS={epochs}; its whole epochs: {have}")
    chosen["main"] = _selected(run, found) or (whole[max(whole)] if whole else found[-1])
    return chosen


def _selected(run, found):
    path = run / "selected.json"
    if not path.exists():
        return None
    try:
        name = json.loads(path.read_text(encoding="utf-8"))["checkpoint"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: cannot be read; select a checkpoint again, or remove it") from None
    folder = next((p for p in found if p.name == name), None)
    if folder is None:
        raise UserError(f"{path}: names {name}, which is not among the run's complete checkpoints; select again")
    return folder


def _marker_of(folder, home):
    """Step and epoch of a model that a checkpoint was merged into."""
    try:
        source = json.loads((folder / "lima_merge.json").read_text(encoding="utf-8"))["checkpoint"]
    except (OSError, ValueError, KeyError):
        source = ""
    marker = runs.marker(home / Path(source).name) if source else None
    if not marker:
        raise UserError(f"{folder}: not a checkpoint of a run of this repo (no {runs.MARKER}); give RUN=runs/NAME")
    return marker


def _check(folder, record, force):
    """Whether a checkpoint is verified; raises `UserError` for one that may not be pushed (as it is, unless `force`)."""
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder}: holds adapters, which are of no use without {card.portable(record['recipe']['model_name_or_path'])}; "
            f"`make merge RUN={folder.parent}`, verify and push RUN={folder.parent}/merged"
        )
    marker = runs.marker(folder) or {}
    theirs, ours = marker.get("dataset"), record["dataset"]["fingerprint"]
    if theirs and theirs != ours and not force:
        raise UserError(
            f"{folder}: was trained on other data ({theirs}) than {folder.parent}/recipe.yaml says ({ours}): a "
            "checkpoint of another run; FORCE=1 pushes it all the same"
        )
    why = verify.why_not(folder)
    if why and not force:
        raise UserError(f"{why}; FORCE=1 pushes it all the same")
    return not why


def _digests(folder):
    """SHA-256 of the files as they were verified."""
    return json.loads((folder / verify.RECORD).read_text(encoding="utf-8"))["files"]


def refuse_training(run):
    """Raises `UserError` while a process trains the run."""
    if who := runs.trained_by(run):
        raise UserError(f"{run}: still trains ({who}); push when it is done, or train with --push_each_epoch HUB")


def add_cards(run, revisions, markers, name, on_hub, stated=()):
    """Gives every revision its README.md, the run's curve, and the base's licence where it lies there."""
    record = card.read_record(run)
    epochs = sorted({marker["epoch"] for key, marker in markers.items() if key != "main"})
    picture = curve.svg(card.read_metrics(run), f"{Path(run).resolve().name}: loss over epochs", epochs)
    base = Path(record["recipe"]["model_name_or_path"])
    found = evaluation.read(run)
    for revision in revisions:
        shown = name if on_hub else f"{name}/{revision.name}"
        judged = found if revision.name == "main" else []  # of the checkpoint that was selected
        told = evaluation.section(judged), evaluation.metadata(judged)
        made = card.model_card(run, record, shown, revision.name, markers, stated, on_hub, *told)
        revision.files["README.md"] = made.encode()
        if picture:
            revision.files[card.CURVE] = picture.encode()
        for path in base.glob("LICENSE*") if base.is_dir() else ():
            revision.files[path.name] = path


def stated_licences(to, record):
    """What the dataset says of its own licence: the rows of a file that is here, or its card on the Hub."""
    name = record["dataset"]["name"]
    if licences.of_data(name):
        return ()
    if Path(name).is_file():
        return data.distinct(data.raw_rows(name), "license")
    return to.licence_of(name) if card.is_hub_dataset(name) else ()


def licence_lines(record, stated, name):
    """What the plan says of the licence."""
    licence = card.licence_of(record, stated)
    lines = [f"licence    {licence.word}"]
    if licence.word.startswith("llama3") and not name.split("/")[-1].lower().startswith("llama"):
        lines.append("           it asks for a name that begins with Llama")
    return lines


def main(argv):
    args = arguments().parse_args(argv)
    if not args.hub:
        raise UserError("HUB is missing: where to push, org/name on the Hub or dir:PATH for the same tree in a folder")
    given = {"RUN": args.run, "HUB": args.hub, "EPOCHS": args.epochs}
    flags = {"PRIVATE": args.private, "FORCE": args.force}
    again = [
        "make push",
        *[f"{k}={shlex.quote(v)}" for k, v in given.items() if v],
        *[f"{k}=1" for k, v in flags.items() if v],
    ]
    to = send.target(args.hub, "model", args.private, " ".join(again))
    revisions, markers = collect(args.run, args.epochs, args.force, args.while_training)
    run = Path(args.run).parent if (Path(args.run) / "config.json").is_file() else Path(args.run)
    record = card.read_record(run)
    name = args.hub if to.on_hub else to.path.name
    stated = stated_licences(to, record)
    add_cards(run, revisions, markers, name, to.on_hub, stated)
    refuse_secrets(revisions)
    ours = lambda path: any(fnmatch.fnmatch(path, pattern) for pattern in OURS)  # noqa: E731
    known_by = card.mark("run", run.resolve().name)
    send.push(to, revisions, known_by, args.force, ours, licence_lines(record, stated, name))
    print(f"\npushed · {to.shown}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="runs/NAME, or a single model in it, such as runs/NAME/merged")
    parser.add_argument("--hub", help="org/name, or dir:PATH for the same tree in a folder")
    parser.add_argument("--epochs", help="epochs to push, such as 5-10; all that stand without it")
    parser.add_argument("--private", action="store_true", help="create the repository private")
    parser.add_argument(
        "--force", action="store_true", help="push what is not verified; replace what somebody else put there"
    )
    parser.add_argument("--while_training", action="store_true", help="push although the run still trains")
    return parser


if __name__ == "__main__":
    with exit_codes():
        main(sys.argv[1:])
