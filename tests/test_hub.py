"""Reading from the Hub, against a real server on this machine and against a port where nobody listens."""

import errno
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import run

from lima import UserError, hub

FILE = b'{"id": "1", "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}\n'
READ = """
import time
from huggingface_hub import hf_hub_download
from lima import UserError, hub
started = time.perf_counter()
try:
    with hub.reading("somebody/something", "dataset", "give a local copy"):
        print(open(hf_hub_download("somebody/something", "train.jsonl", repo_type="dataset")).read(), end="")
except UserError as error:
    print(f"said: {error}")
print(f"{time.perf_counter() - started:.3f}")
"""
LOAD = """
from lima import UserError, conversations
try:
    print(len(conversations.load("somebody/something").rows), "rows")
except UserError as error:
    print(f"said: {error}")
"""


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does, with the server's `status` and `code`; with "drop", it hangs up amid the file."""

    def do_HEAD(self):
        if "/resolve/" in self.path:  # a file; the client asks for a list of its own too
            self.server.asked.append(f"{self.command} {self.path}")
        if self.server.status == "hang up":
            return self.connection.close()
        self.send_response(200 if self.server.status == "drop" else self.server.status)
        if self.server.code:
            self.send_header("X-Error-Code", self.server.code)
        self.send_header("ETag", '"0123456789"')
        self.send_header("X-Repo-Commit", "0123456789012345678901234567890123456789")
        self.send_header("Content-Length", str(len(FILE)))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        if self.server.status != "hang up":
            self.wfile.write(FILE[:20] if self.server.status == "drop" else FILE)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    """A Hub on a free port of this machine, in a thread."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.status, server.code, server.asked = 200, None, []
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def closed_port():
    with socket.socket() as taken:  # bound, so that nobody takes it; not listening, so that nobody answers
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def read(tmp_path):
    """Runs a script in a process that may use the Hub at `port`; returns its lines."""

    def read_at(port, script=READ):
        nobody = dict.fromkeys(["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"], "")
        done = run("-c", script, HF_ENDPOINT=f"http://127.0.0.1:{port}", HF_HUB_OFFLINE="0", HF_HOME=tmp_path,
                   HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_XET="1", **nobody)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return read_at


def test_a_file_on_the_hub_is_read(server, read):
    assert read(server.server_port)[0] == FILE.decode().strip()
    path = "/datasets/somebody/something/resolve/main/train.jsonl"
    assert server.asked == [f"HEAD {path}", f"GET {path}"]


def test_a_hub_out_of_reach_is_noticed_within_a_second_and_said_in_one_line(closed_port, read):
    said, seconds = read(closed_port)
    assert said.startswith("said: somebody/something: the Hub cannot be reached (LocalEntryNotFoundError); give a loc")
    assert float(seconds) < 1


def test_what_is_in_the_cache_is_read_where_the_hub_is_out_of_reach(server, closed_port, read):
    read(server.server_port)
    line, seconds = read(closed_port)
    assert line == FILE.decode().strip() and float(seconds) < 1


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (
            401,
            "GatedRepo",
            "somebody/something is gated: accept its conditions on the Hub, then `hf auth login`; or give",
        ),
        (
            403,
            "GatedRepo",
            "somebody/something is gated: accept its conditions on the Hub, then `hf auth login`; or give",
        ),
        (
            404,
            "RepoNotFound",
            "somebody/something: no such dataset on the Hub, or no right to see it (`hf auth login`)",
        ),
        (404, "RevisionNotFound", "somebody/something: no such dataset on the Hub, or no right to see it"),
        (403, None, "somebody/something: the Hub cannot be reached"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line_and_asked_once(server, read, status, code, said):
    server.status, server.code = status, code
    lines = read(server.server_port)
    assert len(lines) == 2 and lines[0].startswith(f"said: {said}")
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", ["hang up", "drop"])
def test_a_hub_that_hangs_up_before_or_amid_a_file_is_said_in_one_line(server, read, status):
    server.status = status
    lines = read(server.server_port)
    assert len(lines) == 2 and lines[0].startswith("said: somebody/something: the Hub cannot be reached")


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (200, None, "1 rows"),
        (401, "GatedRepo", "said: somebody/something is gated"),
        (404, "RepoNotFound", "said: somebody/something: no such dataset on the Hub"),
    ],
)
def test_a_dataset_goes_the_same_way(server, read, status, code, said):
    server.status, server.code = status, code
    lines = read(server.server_port, LOAD)
    assert len(lines) == 1 and lines[0].startswith(said)


def test_a_dataset_out_of_reach_names_a_local_copy(closed_port, read):
    (line,) = read(closed_port, LOAD)
    assert line.startswith("said: somebody/something: the Hub cannot be reached") and "--dataset train.jsonl" in line


def test_a_full_disk_is_not_the_hubs_doing():
    with (
        pytest.raises(OSError) as error,
        hub.reading("somebody/something", "dataset", "give a local copy"),
        open("/dev/full", "w") as full,
    ):
        full.write("no room")
        full.flush()
    assert error.value.errno == errno.ENOSPC and not isinstance(error.value, UserError)


def test_an_error_without_a_number_is_the_hubs():
    with (
        pytest.raises(UserError, match=r"^a/b: the Hub cannot be reached \(OSError\); give a local copy$"),
        hub.reading("a/b", "dataset", "give a local copy"),
    ):
        raise OSError("the connection broke")


def test_a_proxy_is_asked_by_the_client_alone(monkeypatch):
    """What lies behind a proxy cannot be seen from here: only where there is none does a closed port mean out of reach."""
    for key in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(key, raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        started = time.perf_counter()
        assert not hub._reachable(endpoint) and time.perf_counter() - started < 1
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
        assert hub._reachable(endpoint)
