"""A prepared base on the Hub, fetched once a node: its few small files before the plan, its weights after it.

The first rank of each node asks the Hub; the others wait, then read the cache. That is before the ranks form their process
group, whose time-out (30 minutes) a node with a slower line would overrun.
"""

import functools
import json
import os
import shutil
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

from huggingface_hub import constants

from lima import UserError, hub
from lima.train import base, ranks

PATIENCE = timedelta(days=7)  # the launcher stops those who wait when a rank fails
DEEPER = ["*/*"]  # a repository's sub-folders: other formats, earlier checkpoints
INSTEAD = "give a local folder: ARGS='--model_name_or_path path/to/base'"


def text(recipe):
    """Brings config, tokenizer and the index of weights into the cache: a few MB. Nothing to do for a folder.

    Raises `UserError` for what the Hub refuses, a Hub out of reach, and weights that are not safetensors.
    """
    name = recipe.model_name_or_path
    if hub.is_name(name):
        with hub.reading(name, "model", INSTEAD):  # on every rank: each learns at once where the Hub is out of reach
            _once_a_node("text", lambda: _text(name))


def weights(recipe):
    """Brings the weights into the cache, with one bar on the first rank's terminal; from then on the Hub is not asked.

    Raises `UserError` as `text` does, where the disk has no room, where `base.check_base` finds fault, and where the
    repository was changed while nodes fetched it.
    """
    if not hub.is_name(recipe.model_name_or_path):
        return
    _once_a_node("weights", lambda: _weights(recipe))
    constants.HF_HUB_OFFLINE = True


def _text(name):
    """Fetches the small files; returns the commit that they are of."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    with disable_progress_bars():
        folder = Path(snapshot_download(name, allow_patterns=base.TEXT, ignore_patterns=DEEPER))
    sizes = _sizes(name, folder)
    if sizes is not None and not set(_weight_files(folder)) <= sizes.keys():
        raise UserError(f"{name}: no {_weight_files(folder)[0]} in it; pickled weights (.bin) are not read")
    return folder.name


def _weights(recipe):
    """Fetches the weights of the commit that `_text` found; returns it."""
    from huggingface_hub import snapshot_download

    name = recipe.model_name_or_path
    with hub.reading(name, "model", INSTEAD):
        folder = Path(snapshot_download(name, allow_patterns=base.TEXT, ignore_patterns=DEEPER, local_files_only=True))
        missing = [file for file in _weight_files(folder) if not (folder / file).exists()]
        if missing:
            sizes = _sizes(name, folder)
            size = sum(sizes[file] for file in missing) if sizes else None
            _check_room(name, size or 0)
            shown = ranks.place()[0] == 0 and not recipe.disable_tqdm
            bar = _bar(f"downloading {name}", size, shown)
            snapshot_download(name, revision=folder.name, allow_patterns=missing, tqdm_class=bar)
    try:
        base.check_base(SimpleNamespace(**{**vars(recipe), "model_name_or_path": str(folder)}))
    except UserError as error:
        raise UserError(str(error).replace(str(folder), name)) from None
    return folder.name


def _weight_files(folder):
    """The files that transformers will load, of what a repository may hold besides."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return ["model.safetensors"]
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def _sizes(name, folder):
    """File → bytes in the repository, as listed when the snapshot `folder` was fetched; None if another program fetched it."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return {file.path: file.size for file in get_cached_repo_tree(name, revision=folder.name)}
    except CachedRepoTreeNotFoundError:
        return None


def _check_room(name, size):
    free = shutil.disk_usage(constants.HF_HUB_CACHE).free
    if size > free:
        raise UserError(
            f"{name}: its weights need {size / 1e9:,.1f} GB and {free / 1e9:,.1f} GB are free on the disk of the Hub's "
            "cache; free some, or name a larger disk with HF_HOME"
        )


def _bar(title, size, shown):
    """Of the three bars of `snapshot_download` the one that counts bytes on disk; of `size` in all, which it would sum up."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        total = property(lambda self: size, lambda self, value: None)

        def __init__(self, *args, name=None, **kwargs):
            wanted = shown and name == "huggingface_hub.snapshot_download"
            super().__init__(name=name, desc=title, unit="B", unit_scale=True, mininterval=1, disable=not wanted)

        def set_description(self, *args, **kwargs):
            self.refresh()  # without the client's word, "Reconstruction complete"

    return Bar


def _once_a_node(stage, fetch):
    """Calls `fetch` on the first rank of every node; returns on every rank when all nodes are ready.

    `fetch` returns a commit. Raises `UserError` where nodes got different ones.
    """
    rank, count = ranks.place()
    first = rank - int(os.environ.get("LOCAL_RANK", 0))
    commit = fetch() if rank == first else None
    if count == 1:
        return
    store = _store()
    commit = commit or store.get(f"lima/{stage}/{first}").decode()
    store.set(f"lima/{stage}/{rank}", commit)
    for other in range(count):
        theirs = store.get(f"lima/{stage}/{other}").decode()
        if theirs != commit:
            raise UserError(
                f"the base changed on the Hub meanwhile: rank {rank} has commit {commit[:12]}, rank {other} {theirs[:12]}; "
                "start again"
            )


@functools.cache  # kept: without torchrun the first rank serves it, to the process group too
def _store():
    """The key-value store at MASTER_ADDR:MASTER_PORT, where the ranks meet."""
    from torch.distributed.rendezvous import rendezvous

    return next(rendezvous("env://", timeout=PATIENCE))[0]
