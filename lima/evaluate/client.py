"""Questions to an OpenAI-compatible endpoint, each paid for once.

Every reply is a file under judgments/cache, written before anything else is done with it; what is there is never asked for
again, by this process or another. OPENAI_API_KEY is the key (servers other than OpenAI's may want none), OPENAI_BASE_URL the
endpoint where the caller names none.
"""

import asyncio
import contextlib
import email.utils
import errno
import fcntl
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from lima import UserError
from lima.evaluate.before_after import plain
from lima.evaluate.replies import (
    CACHE,
    OPENAI,
    NotAReply,
    Reply,
    body_of,
    endpoint,
    parse,
    path_of,
    read,
    shown,
    tokens,
    write,
)

NO_KEY = "none"  # what is sent as the key where there is none
TRIES = 6
BACKOFF = 1.0  # seconds before the second try, doubled before each further one
LONGEST_WAIT = 600  # seconds that a server may ask us to wait
TIMEOUT = 600  # seconds without a byte of an answer
POLL = 0.2  # seconds between looks at what another process is asking
UNLIMITED = 4096  # tokens counted for a request that sets no max_tokens


def ask(requests, model, base_url=None, cache=CACHE, concurrency=16, rate=None, tick=None):
    """The replies to `requests`, in their order.

    A request: `messages`, any sampling parameters (`temperature`, `top_p`, `max_tokens`, `seed`, …; None is not sent), and
    `tag`, which is not sent: it makes repeated askings of the same distinct. At most `concurrency` calls at a time and
    `rate` a minute. `tick(reply)` is called for each request, when its reply is on disk or given up. Raises `UserError` for
    what ends everything (key, credit, unknown model, no server); what came until then stays.
    """
    if concurrency < 1:
        raise UserError(f"concurrency: expected 1 or more, found {concurrency}")
    if rate is not None and not rate > 0:
        raise UserError(f"rate: expected a number above 0, found {rate:g}")
    url, found, again = endpoint(base_url), {}, set()
    paths = [path_of(request, model, url, cache) for request in requests]
    asked, times = dict(zip(paths, requests, strict=True)), Counter(paths)  # what is the same is asked once

    def done(path, reply):
        found[path] = reply
        for number in range(times[path] if tick else 0):
            tick(reply if number == 0 or reply.error else reply._replace(cached=True))

    for path in asked:
        if reply := read(path):
            done(path, reply)
    missing = {path: request for path, request in asked.items() if path not in found}
    if missing:
        try:
            asyncio.run(_Asking(url, model, Path(cache), concurrency, rate).all(missing, done))
        except (UserError, KeyboardInterrupt) as error:
            came = sum(not reply.error for reply in found.values())
            kept = f"{came:,} of {len(asked):,} replies are kept; the same command goes on"
            if isinstance(error, UserError):
                raise UserError(f"{error}; {kept}" if came else error) from None
            from tqdm import tqdm

            tqdm.write(f"\n{kept}", file=sys.stderr)
            raise
    replies = []
    for path in paths:
        repeated = path in again and not found[path].error
        replies.append(found[path]._replace(cached=True) if repeated else found[path])
        again.add(path)
    return replies


def estimate(requests, model, base_url=None, cache=CACHE, price=None):
    """What `ask` would take: `{calls, stored, prompt_tokens, completion_tokens, cost}`, tokens of what is not stored yet.

    Prompt tokens are estimated (`replies.tokens`, and 4 a message), completion tokens are the most that max_tokens allows.
    price: "IN,OUT", dollars a million tokens; `cost` is None without one.
    """
    url = endpoint(base_url)
    asked = {path_of(request, model, url, cache): request for request in requests}
    missing = [request for path, request in asked.items() if read(path) is None]
    prompt = sum(3 + sum(4 + tokens(message["content"]) for message in request["messages"]) for request in missing)
    completion = sum(request.get("max_tokens") or UNLIMITED for request in missing)
    return {
        "calls": len(missing),
        "stored": len(asked) - len(missing),
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "cost": None if price is None else dollars(prompt, completion, price),
    }


def used(replies, price=None):
    """A line on what replies cost that came now, as the server counted their tokens; in a list, empty where none did."""
    paid = [reply for reply in replies if not (reply.cached or reply.error)]
    read, wrote = sum(reply.prompt_tokens for reply in paid), sum(reply.completion_tokens for reply in paid)
    cost = f", ${dollars(read, wrote, price):,.2f}" if price else ""
    return [f"used     {read:,} tokens in, {wrote:,} out{cost}"] if paid else []


def dollars(prompt, completion, price):
    """The cost of so many tokens at "IN,OUT" dollars a million."""
    try:
        into, out = map(float, price.split(","))
    except ValueError:
        into = out = -1.0
    if not (into >= 0 and out >= 0):
        raise UserError(f"price: expected IN,OUT in dollars a million tokens, such as 2.5,10; found {price!r}")
    return (prompt * into + completion * out) / 1e6


def api_key(url):
    """OPENAI_API_KEY, or `NO_KEY` where a server that is not OpenAI's is asked without one."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key and urlsplit(url).hostname == urlsplit(OPENAI).hostname:
        raise UserError("OPENAI_API_KEY is not set; set it, or name another server with --base_url http://…/v1")
    if not (key.isascii() and key.isprintable()):
        raise UserError("OPENAI_API_KEY holds characters that no key has; set it again")
    return key or NO_KEY


class _Asking:
    """One call of `ask`: the connection, its pace, and what stopped it."""

    def __init__(self, url, model, cache, concurrency, rate):
        import openai  # half a second, which a full cache need not wait for

        self.openai, self.url, self.model, self.cache = openai, url, model, cache
        self.key, self.where, self.concurrency = api_key(url), shown(url), concurrency
        self.gap, self.next = (60 / rate if rate else 0.0), 0.0  # seconds between calls; when the next may go out
        self.heard = 0.0  # when the server last answered anything
        self.stop, self.limit = None, "max_tokens"

    async def all(self, missing, done):
        """Asks for all of `missing` ({path: request}); calls `done(path, reply)` as they come."""
        self.slots, self.stopped = asyncio.Semaphore(self.concurrency), asyncio.Event()
        local = urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1")
        client = self.openai.AsyncOpenAI(
            api_key=self.key,
            base_url=self.url,
            max_retries=0,  # `answer` retries: all calls share what one is told
            timeout=self.openai.Timeout(TIMEOUT, connect=10),
            http_client=self.openai.DefaultAsyncHttpxClient(trust_env=not local),  # a proxy cannot reach this machine
        )
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            self.lock = open(self.cache / ".lock", "a", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{self.cache}: replies cannot be kept there ({error.strerror})") from None
        with self.lock:
            async with client as self.client:
                await asyncio.gather(*(self.one(path, request, done) for path, request in missing.items()))
        if self.stop:
            raise self.stop

    async def one(self, path, request, done):
        """Sees to one request, unless everything stops. While another process asks the same, its reply is waited for."""
        while not self.stop:
            async with self.slots:
                with self.mine(path) as mine:
                    reply = mine and (read(path) or await self.answer(path, request))
            if reply:
                return done(path, reply)
            await self.wait(POLL)

    @contextlib.contextmanager
    def mine(self, path):
        """Whether no other process asks this now. The lock is a byte of one file, and is free again when we die."""
        at = int(path.stem[:15], 16)
        try:
            fcntl.lockf(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, at)
        except OSError as error:
            yield error.errno not in (errno.EACCES, errno.EAGAIN)  # any other: a file system without locks
            return
        try:
            yield True
        finally:
            fcntl.lockf(self.lock, fcntl.LOCK_UN, 1, at)

    async def answer(self, path, request):
        """Asks with patience; a reply is on disk when this returns. None if everything stops first."""
        started, tries = time.monotonic(), 0
        while await self.turn():
            try:
                return await self.call(path, request)
            except UserError as error:
                return self.end(error)
            except (self.openai.APIError, NotAReply) as error:
                tries += 1
                self.heard = time.monotonic() if hasattr(error, "status_code") else self.heard
                reason, pause = self.said(error), self.pause(error, tries, started)
            if pause is None or tries == TRIES:
                return None if self.stop else Reply(None, None, 0, 0, False, reason)
            await self.wait(pause)
        return None

    async def call(self, path, request):
        """One call; its reply, stored. Raises what the `openai` client does, `NotAReply`, and `UserError` for a full disk."""
        body, limit = body_of(request), self.limit
        if "max_tokens" in body:
            body[limit] = body.pop("max_tokens")
        try:
            answer = await self.client.chat.completions.with_raw_response.create(
                model=self.model, messages=body.pop("messages"), extra_body=body
            )
        except self.openai.BadRequestError as error:
            if (error.param, error.code, limit) != ("max_tokens", "unsupported_parameter", "max_tokens"):
                raise
            self.limit = "max_completion_tokens"  # the name that OpenAI's newer models insist on
            return await self.call(path, request)
        reply, served = parse(answer.http_response.text)
        try:
            write(path, request, self.model, self.url, reply, served)
        except OSError as error:
            raise UserError(f"{self.cache}: a reply cannot be kept there ({error.strerror}); make room") from None
        self.heard = time.monotonic()
        return reply

    def pause(self, error, tries, started):
        """Seconds until the next try, None if there is no use in one. Ends everything where no call can succeed."""
        status, code, said = getattr(error, "status_code", 0), getattr(error, "code", None), self.said(error)
        unreachable = "Connect" in type(error.__cause__).__name__ and self.heard < started
        if status in (401, 403):
            refuses = "wants a key; set OPENAI_API_KEY" if self.key == NO_KEY else "refuses the key in OPENAI_API_KEY"
            return self.end(f"{self.where} {refuses}: {said}")
        if status == 402 or code == "insufficient_quota":
            return self.end(f"{self.where}: no credit left: {said}; top up and run this again")
        if status == 404:
            return self.end(f"{self.where}: no model {self.model!r} there, or not the URL that ends in /v1: {said}")
        if str(code).startswith("unsupported"):
            return self.end(f"{self.where}: {self.model!r} does not take such requests: {said}")
        if unreachable and tries >= (TRIES if self.heard else TRIES // 2):
            return self.end(f"{self.where}: nothing answers there; start the server, then run this again")
        if 400 <= status < 500 and status not in (408, 409, 429):
            return None
        asked = self.asked_to_wait(error)
        self.next = max(self.next, time.monotonic() + asked)  # for all calls
        return asked or BACKOFF * 2 ** (tries - 1) * random.uniform(0.75, 1.25)

    def asked_to_wait(self, error):
        """The seconds of Retry-After, which is a number or a date; 0 without one. Ends everything if that is too long."""
        header = getattr(getattr(error, "response", None), "headers", {}).get("retry-after", "")
        try:
            seconds = float(header)
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
            except (TypeError, ValueError):
                return 0
        if seconds > LONGEST_WAIT:
            self.end(f"{self.where} asks to wait {seconds:.0f} s; run this again then")
            return 0
        if seconds > 10:
            from tqdm import tqdm

            tqdm.write(f"{self.where} asks to wait {seconds:.0f} s", file=sys.stderr)
        return seconds if seconds > 0 else 0  # NaN too

    def said(self, error):
        """What went wrong as one line, without control characters and without the key."""
        status, body = getattr(error, "status_code", None), getattr(error, "body", None)
        text = (body.get("message") or body.get("detail")) if isinstance(body, dict) else body
        text = plain(str(text or f"{error} {error.__cause__ or ''}")).removeprefix(f"Error code: {status}")
        text = (text.replace(self.key, "***") if len(self.key) > 7 else text)[:200].strip()
        return f"{status} {text}" if status else text

    def end(self, error):
        """Lets no further call out. Those that are out are waited for, as they are paid."""
        self.stop = self.stop or (error if isinstance(error, UserError) else UserError(error))
        self.stopped.set()

    async def turn(self):
        """Waits until a call may go out: `rate` a minute, none while the server has asked to wait. False once all stops."""
        while (left := self.next - time.monotonic()) > 0 and not self.stop:
            await self.wait(left)
        self.next = max(self.next, time.monotonic()) + self.gap
        return not self.stop

    async def wait(self, seconds):
        """Sleeps, or until everything stops."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.stopped.wait(), seconds)
