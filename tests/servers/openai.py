"""An OpenAI-compatible endpoint on 127.0.0.1: chat completions and the list of models.

    with OpenAI(lambda messages: "[[A]]", latency=0.2) as server:
        server.fail(503, at=2, times=3)         # the second to fourth call from now on
        server.fail("cut")                      # breaks off in the middle of the body
        server.fail(429, retry_after=1)         # or retry_after="Wed, 21 Oct 2099 07:28:00 GMT"
        ...                                     # base_url=server.url
    server.calls                                # every call: its body, when it came, its status (None: not answered)

How a call fails: a status; "quota" (429, insufficient_quota), "credit" (402), "model" (404), "cut", "garbled" (no JSON),
"html" (a page, with 200), "empty" (no choices), or seconds (a float) by which the answer is late. A token is a word here;
an answer of more than max_tokens words is cut there. What a client sends as its key is compared, and never kept.

    python tests/servers/openai.py --latency 0.2        alone, in a process of its own; prints its URL
"""

import argparse
import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ERRORS = {
    400: ("the request is wrong", "invalid_request_error", None),
    401: ("the key is wrong", "invalid_request_error", "invalid_api_key"),
    402: ("the credit is used up", "billing_error", None),
    403: ("this country is not served", "request_forbidden", None),
    404: ("this model does not exist", "invalid_request_error", "model_not_found"),
    429: ("too many requests", "requests", "rate_limit_exceeded"),
    500: ("the server had an error", "server_error", None),
    503: ("the engine is overloaded", "server_error", None),
}
QUOTA = ("the quota is used up", "insufficient_quota", "insufficient_quota")


class OpenAI:
    """answer: messages → text. latency: seconds before each answer. key: the only one that is let in; None for any.
    models: those that exist; None for any. renamed: max_tokens is refused, as OpenAI's newer models do."""

    def __init__(self, answer=lambda messages: "fine", latency=0.0, key=None, models=None, renamed=False):
        self.answer, self.latency, self.key, self.models, self.renamed = answer, latency, key, models, renamed
        self.calls, self.faults, self.lock = [], [], threading.Lock()
        self.now = self.most = 0  # calls that are being answered; the most there ever were

    def __enter__(self, port=0):
        self.server = _Server(("127.0.0.1", port), _Handler)
        self.server.stand_in = self
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def fail(self, how, at=1, times=1, retry_after=None, error=None):
        """Calls `at` to `at + times - 1` from now on fail. error: (message, type, code, param) in place of the usual one."""
        first = len(self.calls) + at
        span = range(first, first + times)
        self.faults.append({"span": span, "how": how, "retry_after": retry_after, "error": error})

    def fault(self, number):
        """What call `number`, from 1, suffers."""
        return next((fault for fault in self.faults if number in fault["span"]), {"how": None})

    @property
    def answered(self):
        """The bodies of the calls that were answered in full."""
        return [call["body"] for call in self.calls if call["status"] == 200]


class _Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 256


class _Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm, wbufsize = "HTTP/1.1", True, -1

    def handle(self):
        with contextlib.suppress(ConnectionError):  # the client was killed
            super().handle()

    def do_GET(self):
        names = [{"id": name, "object": "model"} for name in self.server.stand_in.models or ()]
        self.say(200, {"object": "list", "data": names}) if self.path == "/v1/models" else self.refuse(404)

    def do_POST(self):
        server = self.server.stand_in
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            return self.refuse(404, ("no such page", None, None))
        call = {"body": body, "at": time.monotonic(), "status": None}
        with server.lock:
            server.calls.append(call)
            server.now += 1
            server.most = max(server.most, server.now)
            fault = server.fault(len(server.calls))
        try:
            call["status"] = self.suffer(body, **fault) if fault["how"] else self.complete(body)
        finally:
            with server.lock:
                server.now -= 1

    def suffer(self, body, how, retry_after, error, **_):
        named = {"quota": (429, QUOTA), "credit": (402, None), "model": (404, None)}
        if isinstance(how, float):
            time.sleep(how)
            return self.complete(body)
        if how in named or isinstance(how, int):
            status, usual = named.get(how) or (how, None)
            return self.refuse(status, error or usual, retry_after)
        if how == "cut":
            return self.complete(body, cut=True)
        wrong = {"garbled": b'{"choices": [{"mess', "html": b"<html>Welcome</html>", "empty": b'{"choices": []}'}
        self.say(200, wrong[how], "text/html" if how == "html" else "application/json")
        return how

    def complete(self, body, cut=False):
        """Answers, or says what is wrong with the call; returns the status."""
        server, sent = self.server.stand_in, self.headers.get("Authorization", "").removeprefix("Bearer ")
        time.sleep(server.latency)
        if server.key and sent != server.key:
            return self.refuse(401, (f"Incorrect API key provided: {sent}", "invalid_request_error", "invalid_api_key"))
        if server.models and body["model"] not in server.models:
            return self.refuse(404)
        if server.renamed and "max_tokens" in body:
            return self.refuse(
                400, ("use 'max_completion_tokens'", "invalid_request_error", "unsupported_parameter", "max_tokens")
            )
        text, most = server.answer(body["messages"]), body.get("max_tokens") or body.get("max_completion_tokens")
        short = most and len(text.split()) > most
        text = " ".join(text.split()[:most]) if short else text
        asked = sum(len(message["content"].split()) for message in body["messages"])
        said = len(text.split())
        choice = {"index": 0, "message": {"role": "assistant", "content": text}}
        choice["finish_reason"] = "length" if short else "stop"
        usage = {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
        self.say(
            200, {"object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage}, cut=cut
        )
        return "cut" if cut else 200

    def refuse(self, status, error=None, retry_after=None):
        message, kind, code, param = (*(error or ERRORS[status]), None)[:4]
        error = {"message": message, "type": kind, "code": code, "param": param}
        self.say(status, {"error": error}, retry_after=retry_after)
        return status

    def say(self, status, body, kind="application/json", retry_after=None, cut=False):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        self.end_headers()
        self.wfile.write(raw[: len(raw) // 2] if cut else raw)
        self.wfile.flush()
        self.close_connection = self.close_connection or cut

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer [%(default)s]")
    parser.add_argument("--answer", default="fine", help="what it always says [%(default)s]")
    args = parser.parse_args()
    with OpenAI(lambda messages: args.answer, args.latency) as server:
        print(server.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
