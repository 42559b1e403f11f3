"""Reading from the Hub: what goes wrong there becomes one line, and a Hub that is out of reach is noticed at once."""

import contextlib
import os
import socket
from urllib.parse import urlsplit

from lima import UserError

PATIENCE = 5  # seconds for a first connection


@contextlib.contextmanager
def reading(name, kind, instead):
    """Within it, failures to read `name` (a `kind` such as "dataset") from the Hub are `UserError`s.

    `instead`: what to give where the Hub is out of reach. Then the local cache is read, without the client's retries.
    """
    import huggingface_hub
    from huggingface_hub import errors

    if not huggingface_hub.constants.HF_HUB_OFFLINE and not _reachable(huggingface_hub.constants.ENDPOINT):
        huggingface_hub.constants.HF_HUB_OFFLINE = True
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
