"""A Hub on 127.0.0.1 that speaks the real protocol to the unmodified huggingface_hub client (HF_HUB_DISABLE_XET=1).

    with Hub(folder) as hub:       # what it stores lies in `folder`: another Hub on the same folder goes on from there
        hub.fail("put", 500)       # the next upload of a large file is answered with a 500
        hub.fail("put", "cut", at=2, times=3)   # the second to fourth break off in the middle of the body
        hub.fail("commit", 2.5)    # the next commit is answered after 2.5 seconds
        ...                        # with HF_ENDPOINT=hub.url and HF_TOKEN=hub.token
    hub.log                        # every request: its kind, path, status, bytes received, and what it brought

Kinds: whoami, create, yaml, info, refs, commits, branch, tree, paths, preupload, batch, put, commit, resolve.
"""

import contextlib
import hashlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from servers.hub_answers import Answers, Stop

BLOCK = 2**14


class Hub:
    """`token` belongs to the user `somebody`, who may write to `org` too. `slow`: seconds for each 16 KiB received.
    Files of `large` bytes or more, and safetensors and Parquet, are stored apart from the commits (LFS), as on the Hub."""

    def __init__(self, folder, large=10 * 2**20, slow=0.0):
        self.folder, self.large, self.slow = Path(folder), large, slow
        self.token = "hf_" + "somebodysomebodysomebodysomebody12"
        self.users = {self.token: ("somebody", ["org"])}
        self.log, self.faults, self.received, self.lock = [], [], 0, threading.RLock()
        for part in ("lfs", "blobs"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        saved = self.folder / "repos.json"
        self.repos = json.loads(saved.read_text()) if saved.exists() else {}

    def __enter__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.server.daemon_threads, self.server.hub = True, self
        # Small buffers at both ends: what is not read yet is not sent yet, and dies with the client.
        self.server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BLOCK)
        self.server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def fail(self, kind, how, at=1, times=1):
        """`how`: a status, "cut" or seconds (a float), for requests `at` to `at + times - 1` of that kind from now on."""
        self.faults.append({"kind": kind, "how": how, "after": at - 1, "times": times})

    def fault(self, kind):
        """What the next request of `kind` suffers, or None."""
        with self.lock:
            for fault in [f for f in self.faults if f["kind"] == kind and f["times"]]:
                if fault["after"]:
                    fault["after"] -= 1
                    continue
                fault["times"] -= 1
                return fault["how"]
        return None

    def asked(self, kind):
        return [line for line in self.log if line["kind"] == kind]

    def create(self, name, private=False, type="model"):
        """A repository with the Hub's own first commit; `name` is org/name."""
        self.repos[f"{type}s/{name}"] = {"private": private, "branches": {}, "commits": {}}
        self.commit(
            f"{type}s/{name}", "main", {".gitattributes": self.blob(b"*.safetensors filter=lfs\n")}, "initial commit"
        )

    def commit(self, key, branch, files, title):
        repo = self.repos[key]
        parent = repo["branches"].get(branch)
        sha = hashlib.sha1(json.dumps([key, branch, parent, files, len(repo["commits"])]).encode()).hexdigest()
        repo["commits"][sha] = {"parent": parent, "files": files, "title": title}
        repo["branches"][branch] = sha
        (self.folder / "repos.json").write_text(json.dumps(self.repos))
        return sha

    def blob(self, content):
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        (self.folder / "blobs" / oid).write_bytes(content)
        return {"oid": oid, "size": len(content), "lfs": None}

    def files(self, name, revision="main", type="model"):
        """`{path: bytes}` of a repository at a branch or commit."""
        repo = self.repos[f"{type}s/{name}"]
        at = repo["commits"][repo["branches"].get(revision, revision)]
        return {path: self.content(entry).read_bytes() for path, entry in at["files"].items()}

    def content(self, entry):
        return self.folder / ("lfs" if entry["lfs"] else "blobs") / (entry["lfs"] or entry["oid"])


class _Handler(Answers, BaseHTTPRequestHandler):
    """Reads a request, suffers it to fail where a test wants that, and answers it."""

    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True  # or each answer waits 40 ms

    def handle(self):
        with contextlib.suppress(ConnectionError):  # the client was killed
            super().handle()

    def handle_one(self):
        hub, self.body, self.brought = self.server.hub, b"", None
        kind, *rest = self.route()
        fault = hub.fault(kind)
        line = {"kind": kind, "method": self.command, "path": self.path, "status": None}
        hub.log.append(line)
        if not self.read_body(line, fault == "cut") or fault == "cut":
            self.close_connection = True
            return self.connection.close()
        if isinstance(fault, float):
            time.sleep(fault)
        try:
            if isinstance(fault, int):
                raise Stop(fault, said="a fault")
            with hub.lock:
                status, headers, body = 200, {}, getattr(self, "on_" + kind)(*rest)
        except Stop as stop:
            status, headers, body = stop.status, stop.headers, {"error": stop.headers["X-Error-Message"]}
        if isinstance(body, tuple):
            status, headers, body = body
        line.update(status=status, brought=self.brought if status < 300 else None)
        self.answer(status, headers, body)

    do_GET = do_HEAD = do_POST = do_PUT = handle_one

    def read_body(self, line, half):
        """Reads the body (half of it where it is to break off); False where the client went away."""
        left, line["bytes"] = int(self.headers.get("Content-Length") or 0), 0
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        left, blocks = left // 2 if half else left, []
        while left or chunked:
            if chunked and not left:
                left = int(self.rfile.readline() or b"0", 16)
                if not left:
                    self.rfile.readline()
                    break
            block = self.rfile.read(min(left, BLOCK))
            if not block:
                return False
            left -= len(block)
            if chunked and not left:
                self.rfile.readline()
                if half:
                    break
            blocks.append(block)
            line["bytes"] += len(block)
            with self.server.hub.lock:
                self.server.hub.received += len(block)
            time.sleep(self.server.hub.slow)
        self.body = b"".join(blocks)
        return True

    def answer(self, status, headers, body):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(raw)), "Content-Type": "application/json", **headers}.items():
            if value:
                self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def log_message(self, *_):
        pass
