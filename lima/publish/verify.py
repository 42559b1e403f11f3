"""Checks a run's checkpoints before anyone else gets them, and writes into each what came of it: verification.json.

    python -m lima.publish.verify --run runs/7b [--epochs 5-10] [--again]

Every byte is read twice, a little at a time: for the digests and for the tensors. Then the model is loaded, on CPU, and
what does not fit into memory is used from disk. A later change to any file makes the checkpoint unverified.
"""

import argparse
import datetime
import json
import sys
import warnings
from pathlib import Path

from lima import UserError, exit_codes, runs
from lima.publish import alone, weights

RECORD = "verification.json"
SMALL = 2**20  # bytes; a file as small as this is read even where only sizes are compared


def why_not(checkpoint, deep=False):
    """None for a checkpoint that was verified and is unchanged since, else one line that says why it does not count.

    Compares the presence and size of every file, and what small files (configs, index, marker) hold; with `deep` the SHA-256
    of all of them. What the run lets go of later, the optimiser's state, it takes from complete.json first: that is no change.
    """
    return _why_not(Path(checkpoint), deep)


def _why_not(folder, deep, tick=None):
    again = f"run `make verify RUN={folder}`"
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files, sizes, identity, verified = (record[key] for key in ("files", "bytes", "identity", "verified"))
        failed = [f"{check['name']}: {check['detail']}" for check in record["checks"] if not check["ok"]]
    except FileNotFoundError:
        return f"{folder}: not verified yet; {again}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{folder / RECORD}: cannot be read; {again}"
    if verified is not True or failed:
        return f"{folder}: failed its verification: {'; '.join(failed[:1]) or 'it does not say why'}"
    marker, present = runs.marker(folder), listed(folder)
    if _identity(marker) != identity:
        return f"{folder / runs.MARKER}: changed since it was verified; {again}"
    kept = {**marker["files"], runs.MARKER: None} if marker else files
    for name, digest in files.items():
        if name not in present and name in kept:
            return f"{folder / name}: gone since it was verified; {again}"
        if name not in present or name == runs.MARKER:
            continue
        size = present[name].stat().st_size
        if size != sizes[name] or ((deep or size <= SMALL) and runs.sha256(present[name], tick) != digest):
            return f"{folder / name}: changed since it was verified; {again}"
    new = sorted((present.keys() | kept.keys()) - files.keys())
    return f"{folder / new[0]}: added since it was verified; {again}" if new else None


def _identity(marker):
    """A digest of what complete.json says beside its list of files, which shrinks when a run lets go of state."""
    said = {key: value for key, value in (marker or {}).items() if key != "files"}
    return runs.content_digest(said)


def listed(folder):
    """Relative path → `Path` of every file of a checkpoint; verification.json and hidden files aside."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if name != RECORD and "/." not in f"/{name}"}


def check_files(model, tick):
    """Every file that complete.json lists, with its bytes and digest, and no other. Leaves both in `model.files`."""
    model.files = {}
    for name, path in listed(model.folder).items():
        model.files[name] = {"bytes": path.stat().st_size, "sha256": runs.sha256(path, tick)}
    total = f"{len(model.files)} files, {sum(file['bytes'] for file in model.files.values()) / 1e6:,.1f} MB"
    if model.merged:
        return f"{total}; a merged model has no {runs.MARKER} to compare with"
    problems, wanted = [], runs.marker(model.folder)["files"]
    for name in sorted(wanted.keys() | model.files.keys() - {runs.MARKER}):
        expected, found = wanted.get(name), model.files.get(name)
        if not found:
            problems.append(f"{name}: missing, expected {expected['bytes']:,} bytes")
        elif not expected:
            problems.append(f"{name}: not in {runs.MARKER}; move it out of the checkpoint")
        elif found["bytes"] != expected["bytes"]:
            problems.append(f"{name}: {found['bytes']:,} bytes, expected {expected['bytes']:,}")
        elif found["sha256"] != expected["sha256"]:
            problems.append(f"{name}: SHA-256 is {found['sha256'][:12]}…, expected {expected['sha256'][:12]}…")
    weights.refuse(problems)
    return f"{total}, as {runs.MARKER} has them"


CHECKS = {
    "files": check_files,
    "tensors": weights.check_tensors,
    "finite": weights.check_finite,
    "EOT row": weights.check_eot_row,
    "stop tokens": alone.check_stop_tokens,
    "template": alone.check_template,
    "loads": alone.check_loading,
    "stops": alone.check_stopping,
}


def verify(folder, bar):
    """Runs every check on a checkpoint or merged model, a line each above `bar`, a tqdm of bytes; returns what
    verification.json then holds."""
    (folder / RECORD).unlink(missing_ok=True)
    model, checks = weights.Model(folder), []
    for name, check in CHECKS.items():
        bar.set_description(f"{folder.name} · {name}")
        try:
            ok, detail = True, check(model, bar.update)
        except UserError as error:
            ok, detail = False, str(error)
        except Exception as error:  # whatever a broken file makes a library raise, the other checks still run
            ok, detail = False, f"{type(error).__name__}: {error}"
        checks.append({"name": name, "ok": ok, "detail": _published(detail, model)})
        bar.write(f"  {'ok   ' if ok else 'WRONG'}  {name:<11}  {checks[-1]['detail']}")
    record = {
        "verified": all(check["ok"] for check in checks),
        "checks": checks,
        "files": {name: file["sha256"] for name, file in model.files.items()},
        "bytes": {name: file["bytes"] for name, file in model.files.items()},
        "identity": _identity(runs.marker(folder)),
        "versions": runs.versions(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    runs.write_text(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False))
    return record


def _published(detail, model):
    """One line without this machine's paths: the record goes where the checkpoint goes."""
    for path in filter(None, (model.folder.resolve(), model.folder, model.base, Path.cwd(), Path.home())):
        if len(path.parts) > 1:
            detail = detail.replace(f"{path}/", "").replace(str(path), path.name)
    return " ".join(detail.split())[:600]


def chosen(run, epochs="all"):
    """The folders to verify: of a run its complete checkpoints of `epochs`, or `run` itself, a checkpoint or merged model."""
    run = Path(run)
    if not run.is_dir():
        have = ", ".join(sorted(path.name for path in Path("runs").glob("*"))) or "none yet"
        raise UserError(f"{run}: no such folder; runs here: {have}")
    if runs.marker(run) or (run / weights.MERGED).is_file():
        return [run]
    if (run / "config.json").is_file() or (run / weights.ADAPTER).is_file():
        raise UserError(f"{run}: no {runs.MARKER} in it: another program wrote it, or its save was cut off")
    found = runs.checkpoints(run)
    others = [path.name for path in sorted(run.glob("checkpoint-*")) if path not in found]
    if others:
        said = f"no {runs.MARKER} in {', '.join(others)}: another program wrote it, or its save was cut off"
        if not found:
            raise UserError(f"{run}: {said}")
        print(f"{run}: passed over: {said}")
    if not found:
        is_run = (run / "recipe.yaml").is_file()
        raise UserError(f"{run}: {'has no checkpoint yet' if is_run else 'not a run'}; train one with `make sft-NAME`")
    wanted = runs.parse_epochs(epochs, "--epochs")
    numbers = {folder: round(runs.marker(folder)["epoch"]) for folder in found}
    if not any(wanted(number) for number in numbers.values()):
        raise UserError(f"{run}: no checkpoint of epochs {epochs}; it has {', '.join(map(str, numbers.values()))}")
    return [folder for folder in found if wanted(numbers[folder])]


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a run (runs/NAME), one of its checkpoints, or a merged model")
    parser.add_argument("--epochs", default="all", help="of a run, such as 5-10, 5 or 1,4-6 [%(default)s]")
    parser.add_argument("--again", action="store_true", help="check what was verified and is unchanged once more")
    args = parser.parse_args(argv)
    folders = chosen(args.run, args.epochs)
    failed = [folder.name for folder in folders if not _stands(folder, args.again)]
    if failed:
        raise UserError(f"{args.run}: not verified: {', '.join(failed)}; the lines marked WRONG say why")


def _stands(folder, again):
    """Whether a checkpoint passes, or passed before and has every byte that it had then."""
    from tqdm import tqdm

    size = sum(path.stat().st_size for path in listed(folder).values())
    tensors = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    settings = {"unit": "B", "unit_scale": True, "leave": False, "desc": f"{folder.name} · files"}
    if not again and why_not(folder) is None:
        with tqdm(total=size, **settings) as bar:
            if _why_not(folder, deep=True, tick=bar.update) is None:
                bar.write(f"{folder}: verified before, and every file is as it was")
                return True
    with tqdm(total=size + tensors, **settings) as bar:
        bar.write(str(folder))
        record = verify(folder, bar)
    print("  verified\n" if record["verified"] else "  NOT verified\n", flush=True)
    return record["verified"]


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=FutureWarning)
    with exit_codes():
        main(sys.argv[1:])
