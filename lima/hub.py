"""Reading from the Hub: what goes wrong there becomes one line, and a Hub that is out of reach is noticed at once."""

import contextlib
import os
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

from lima import UserError

PATIENCE = 5  # seconds for a first connection
OURS = ("bases", "runs")  # folders of this repo: what is missing there must never be read from a stranger of that name


def is_name(name):
    """Whether `name` means OWNER/NAME on the Hub rather than a folder, be it one that is missing."""
    here = Path(name).exists() or Path(name).parent.is_dir() or Path(name).parts[0] in OURS
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", str(name))) and not here


@contextlib.contextmanager
def reading(name, kind, instead):
    """Within it, failures to read `name` (a `kind` such as "dataset") from the Hub are `UserError`s.

    `instead`: what to give where the Hub is out of reach. Then the local cache is read, without the client's retries.
    """
    from huggingface_hub import constants, errors

    if not constants.HF_HUB_OFFLINE and not _reachable(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    except errors.GatedRepoError:
        raise UserError(
            f"{name} is gated: accept its conditions on the Hub, then `hf auth login`; or {instead}"
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
        raise UserError(
            f"{name}: no such {kind} on the Hub, or no right to see it (`hf auth login`); or {instead}"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # a full disk or a read-only cache is not the Hub's doing
            raise
        raise UserError(f"{name}: the Hub cannot be reached ({type(error).__name__}); {instead}") from None


def _reachable(endpoint):
    """Whether somebody listens at `endpoint`; True where a proxy stands between, which only the client can ask."""
    if any(
        os.environ.get(key)
        for key in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
    ):
        return True
    url = urlsplit(endpoint)
    try:
        socket.create_connection((url.hostname, url.port or (443 if url.scheme == "https" else 80)), PATIENCE).close()
        return True
    except OSError:
        return False
