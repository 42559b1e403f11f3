"""How W&B is begun so that it sends nothing of this machine, cannot hold up a run, and finds a run again: `wandb.json`."""

import atexit
import contextlib
import fcntl
import json
import os
import re
import secrets
import sys
import tempfile
from pathlib import Path

from lima import runs

IDENTITY = "wandb.json"  # of a run: `id`, `project`, `entity` and `url` (None before it was online), `via`
DEFAULTS = {"SILENT": "true", "ERROR_REPORTING": "false", "INIT_TIMEOUT": "20", "FINISH_TIMEOUT": "60"}
SETTINGS = {
    # W&B would send the paths, names and addresses of this machine, the repository's remote and every installed package
    "console": "off",
    "disable_git": True,
    "program": "lima_sft.py",
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_save_requirements": False,
    # a lost connection may take hours to come back
    "x_file_stream_retry_max": 100_000,
    "x_file_transfer_retry_max": 100_000,
    "x_graphql_retry_max": 100_000,
    "x_transaction_log_flush_interval": 1.0,
    "finish_timeout_raises": True,
}

_links = set()  # made by `via` in this process


def begin(folder, mode, **about):
    """Begins, or goes on with, the W&B run of `folder`; raises whatever wandb does."""
    os.environ["WANDB_DISABLE_CODE"] = "true"
    for name, value in DEFAULTS.items():
        os.environ.setdefault(f"WANDB_{name}", value)
    import wandb

    known = identity(folder)
    ours = {"id": secrets.token_hex(4), "project": os.environ.get("WANDB_PROJECT", "lima"), "entity": None, "url": None}
    ours |= known
    ours["via"] = via(folder, known.get("via"))
    os.environ["WANDB_DATA_DIR"] = f"{ours['via']}/wandb"  # the staged files of tables, whose paths are sent
    run = wandb.init(
        mode=mode,
        dir=ours["via"],
        **{key: ours[key] for key in ("id", "project", "entity")},
        resume="allow",
        settings=wandb.Settings(**SETTINGS),
        **about,
    )
    if mode == "online":
        ours |= {"entity": run.entity, "url": run.url}
    note(folder, **ours)
    return run


def identity(folder):
    """What `wandb.json` says of a run; `{}` without one."""
    try:
        return json.loads((Path(folder) / IDENTITY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def note(folder, **what):
    """Adds to what `wandb.json` says of a run."""
    runs.write_text(Path(folder) / IDENTITY, json.dumps({**identity(folder), **what}, indent=1))


def via(folder, path=None):
    """A link to `folder` outside everyone's home, for the paths that W&B sends: at `path` again, if that is ours or free."""
    parent = Path(path).parent if path else Path(tempfile.mkdtemp(prefix="lima-wandb-"))
    parent.mkdir(mode=0o700, exist_ok=True)
    if parent.stat().st_uid != os.getuid():
        return via(folder)
    link = parent / "run"
    _links.add(link)
    link.unlink(missing_ok=True)
    link.symlink_to(Path(folder).resolve())
    return str(link)


@atexit.register  # before W&B's own, so that it comes after it
def _remove_links():
    for link in _links:
        with contextlib.suppress(OSError):
            link.unlink()
            link.parent.rmdir()


def log_of(folder):
    """W&B's own log of the newest part of a run (each resumption begins one), or None."""
    found = Path(folder).glob(f"wandb/*run-*-*/run-{identity(folder).get('id')}.wandb")
    return max(found, key=lambda path: (path.parent.name.removeprefix("offline-"), path.stat().st_mtime), default=None)


def lock(folder):
    """An open file that says, until its process ends, that the run is being logged; None if another process's says so."""
    file = (Path(folder) / "wandb/lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:  # a file system without locks
        pass
    return file


def mark_sent(log):
    """Leaves the marker that `wandb sync` leaves, and heeds."""
    log.with_suffix(".wandb.synced").touch()


def is_sent(log):
    return log.with_suffix(".wandb.synced").exists()


def has_key():
    """Whether W&B has a key for us; one that it cannot read is said and counts as none."""
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    try:
        return wandb.login(prompt=False, verify=False)  # asking the server may hang; `begin` is bounded
    except Exception as error:  # an unreadable netrc or a malformed key must not cost a run
        say(f"the key cannot be used ({reason(error)})")
        return False


def private(value):
    """`value` with `~` for the home folder in every text of it."""
    home = str(Path.home())
    if isinstance(value, dict):
        return {private(key): private(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [private(item) for item in value]
    return re.sub(rf"{re.escape(home)}(?=/|$)", "~", value) if isinstance(value, str) and home != "/" else value


def reason(error):
    """An exception in a few words."""
    return private(" ".join(str(error).split())[:200] or type(error).__name__)


def say(text):
    print(f"note: W&B: {text}", file=sys.stderr, flush=True)
