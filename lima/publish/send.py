"""Sends revisions to the Hub or to a folder, after a plan; what is there already is not sent again."""

from lima import UserError
from lima.publish.revision import identity
from lima.publish.to_folder import Folder
from lima.publish.to_hub import Hub


def target(hub, kind, private, again):
    """`org/name` or `dir:PATH` as what sends there."""
    if hub.startswith("dir:"):
        if private:
            raise UserError("PRIVATE is for the Hub; a folder is as private as its place")
        if not hub[4:]:
            raise UserError("HUB: dir: needs a path, such as dir:out/my-model")
        return Folder(hub[4:])
    return Hub(hub, kind, private, again)


def push(to, revisions, mark, force, ours, extra=()):
    """Shows the plan, then sends what is missing. `mark`: the line by which a card is known as ours. `ours`: whether a path
    that the target has and we have not is ours to remove. `extra`: lines for the plan. Returns the bytes that were missing."""
    to.look(revisions, mark, force, ours)
    missing = show(to, revisions, extra)
    if to.on_hub:
        to.create()
    for revision in revisions:
        if revision.files.keys() - revision.there or revision.stale:
            to.send(revision)
        print(f"  {revision.name:<10} is there", flush=True)
    to.check(revisions)
    return missing


def show(to, revisions, extra):
    """Prints what will be sent where; returns the bytes. A file that two revisions share is counted, and sent, once."""
    print(f"\npush → {to.shown}")
    wide, seen, total = max(len(r.says) for r in revisions), set(), 0
    for revision in revisions:
        missing = [path for path in revision.files if path not in revision.there]
        new = {
            identity(revision, path): revision.size(path) for path in missing if identity(revision, path) not in seen
        }
        seen |= new.keys()
        total += sum(new.values())
        count, size = len(revision.files), sum(map(revision.size, revision.files))
        sends = f"sends {gigabytes(sum(new.values()))}" if missing or revision.stale else "is there already"
        gone = f", removes {len(revision.stale)} files of an earlier push" if revision.stale else ""
        print(f"  {revision.name:<10} {revision.says:<{wide}}  {count:>3} files {gigabytes(size):>10}  {sends}{gone}")
    for line in extra:
        print(f"  {line}")
    print(f"  in all     {gigabytes(total)} to send; should it break off, the same command goes on", flush=True)
    return total


def gigabytes(count):
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
