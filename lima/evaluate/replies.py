"""Replies of an endpoint on disk: a file each under judgments/cache, named by all that the reply depends on."""

import datetime
import hashlib
import json
import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from lima import UserError, runs

OPENAI = "https://api.openai.com/v1"
CACHE = Path("judgments/cache")


class Reply(NamedTuple):
    """An answer. text: None only if it never came, and `error` says why. finish_reason: as the server gave it ("stop",
    "length", …). tokens: as the server counted them, estimated where it does not. cached: it cost nothing this time."""

    text: str | None
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    cached: bool
    error: str | None

    @property
    def refused(self):
        """Whether the server takes no such request, however often: one that is too long, for example."""
        return bool(re.match(r"4(?!08|09|29)\d\d ", self.error or ""))

    @property
    def lost(self):
        """Whether it did not come, but may another time."""
        return bool(self.error) and not self.refused


class NotAReply(ValueError):
    """The body of an answer that is no chat completion."""


def endpoint(base_url=None):
    """The URL that is asked: the caller's, else OPENAI_BASE_URL, else OpenAI's. Raises `UserError` if it is none."""
    url = (base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI).strip().rstrip("/")
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise UserError(f"base_url: expected a URL such as http://127.0.0.1:8000/v1, found {shown(url)!r}")
    return url


def shown(url):
    """A URL without what may be secret in it: user, password, query."""
    return re.sub(r"//[^/]*@", "//", re.split(r"[?#]", url)[0])


def path_of(request, model, url, cache):
    """Where the reply is kept: SHA-256 of the model, the URL's host and path, what is sent, and the tag. Not of the key."""
    parts = urlsplit(url)
    where = [parts.hostname, parts.port, parts.path.rstrip("/")]
    text = json.dumps([model, where, body_of(request), request.get("tag")], sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()
    return Path(cache) / name[:2] / f"{name}.json"


def body_of(request):
    """What of a request is sent."""
    return {key: value for key, value in request.items() if key != "tag" and value is not None}


def read(path):
    """The stored reply, or None; a file that a failing disk left broken is none."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["reply"]
        return Reply(*(kept[field] for field in Reply._fields[:4]), cached=True, error=None)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(path, request, model, url, reply, served):
    """Keeps a reply with what it answers, for a person to read. served: the model's name as the server gave it."""
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    answer = {field: getattr(reply, field) for field in Reply._fields[:4]}
    kept = {"reply": answer, "served": served, "date": date, "model": model, "url": shown(url), "request": request}
    runs.write_text(path, json.dumps(kept, ensure_ascii=False, indent=1))


def parse(text):
    """`(reply, the model's name as the server gave it)` from the body of an answer; raises `NotAReply`."""
    try:
        body = json.loads(text)
        choice, usage = body["choices"][0], body.get("usage") or {}
        said = choice["message"].get("content") or choice["message"].get("refusal") or ""
        counts = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or tokens(said)
        reply = Reply(whole(said), choice.get("finish_reason"), *map(int, counts), cached=False, error=None)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise NotAReply(f"an answer that is no chat completion: {text}") from None
    return reply, body.get("model")


def tokens(text):
    """A token for every 4 bytes of UTF-8, rounded up: close for English, and for scripts of 3 bytes a letter."""
    return -(-len(text.encode("utf-8", "replace")) // 4)


def whole(text):
    """The text with half surrogate pairs, which no file can hold, as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
