"""A base on the Hub, fetched by real ranks from a real server on this machine: every weight file once a node, one bar."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from conftest import ROOT, first_rows, prepared_llama
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from lima import UserError, hub
from lima.train import fetch

NAME, COMMIT = "somebody/tiny", "0123456789012345678901234567890123456789"
NO_PROXY = dict.fromkeys(["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"], "")
SCRIPT = """
import sys
from types import SimpleNamespace
sys.path.insert(0, {root!r})
from lima import exit_codes
from lima.train import fetch, ranks
with exit_codes(), ranks.failures_recorded():
    ranks.own_log({out!r})
    recipe = SimpleNamespace(model_name_or_path={name!r}, disable_tqdm=False, load_in_4bit=False, deepspeed=None, config="x")
    fetch.text(recipe)
    fetch.weights(recipe)
    from transformers import AutoConfig
    print("read", AutoConfig.from_pretrained({name!r}).hidden_size)
"""


class Hub(BaseHTTPRequestHandler):
    """Serves the files of `server.folder` as the repository NAME at `server.commit`, weights slowly; notes what is asked."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        path = self.path.split("?")[0]
        if path.startswith(f"/api/models/{NAME}/tree/"):
            files = [(file.relative_to(self.server.folder).as_posix(), file) for file in self.server.files()]
            return self._json([{"type": "file", "path": path, "size": file.stat().st_size, "oid": "0" * 40}
                               for path, file in files])  # fmt: skip
        if path.startswith(f"/api/models/{NAME}"):
            return self._json({"id": NAME, "sha": self.server.commit, "siblings": []})
        found = re.fullmatch(f"/{NAME}/resolve/[^/]+/(.+)", path)
        if not found or not (self.server.folder / found[1]).is_file():
            missing = "EntryNotFound" if found else "RepoNotFound"
            return self._send(404, b"", {"X-Error-Code": missing, "X-Repo-Commit": self.server.commit})
        self.server.asked.append((self.command, found[1]))
        body = (self.server.folder / found[1]).read_bytes()
        start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        etag = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": self.server.commit}
        ranged = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        self._send(206 if start else 200, body[start:], {**etag, **ranged})

    do_GET = do_HEAD

    def _json(self, content):
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status, body, headers):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": len(body)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        for start in range(0, len(body) if self.command == "GET" else 0, 1_000_000):
            self.wfile.write(body[start : start + 1_000_000])
            time.sleep(0.02)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    def __init__(self, folder, commit=COMMIT):
        super().__init__(("127.0.0.1", 0), Hub)
        self.folder, self.commit, self.asked = folder, commit, []

    def files(self):
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def weights(self):
        """Weight file → how often it was fetched."""
        return Counter(file for verb, file in self.asked if verb == "GET" and file.endswith(".safetensors"))


@pytest.fixture(scope="module")
def sharded(smollm2_tokenizer, tmp_path_factory):
    """A prepared base of three weight files and 25 MB."""
    return prepared_llama(tmp_path_factory.mktemp("sharded"), smollm2_tokenizer, layers=2, shard_size="5MB")


@pytest.fixture
def serve():
    """Starts a `Server`; all are stopped at the end."""
    started = []

    def start(folder, *args):
        started.append(Server(folder, *args))
        threading.Thread(target=started[-1].serve_forever, args=[0.02], daemon=True).start()
        return started[-1]

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def online(server, cache):
    """The environment of a process that may use the Hub of `server`."""
    return {**os.environ, **NO_PROXY, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}  # fmt: skip


def bars(text):
    """How often a download's bar started, and what it says last, in terminal output."""
    drawn = [part for part in re.split(r"[\r\n]", text) if "downloading" in part or "Fetching" in part]
    return [part for part in drawn if "100%" in part][-1:], Counter(part.split(":")[0] for part in drawn)


# ---- several ranks ----------------------------------------------------------------------------------------------------


def torchrun(processes, *words, **options):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *words]
    return subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=200, **options)


@pytest.mark.slow
def test_two_ranks_fetch_every_file_once_with_one_bar(sharded, serve, tmp_path):
    server = serve(sharded)
    (tmp_path / "script.py").write_text(SCRIPT.format(root=str(ROOT), out=str(tmp_path / "run"), name=NAME))
    done = torchrun(2, tmp_path / "script.py", env=online(server, tmp_path / "hf"))
    assert done.returncode == 0, done.stderr[-3000:]
    fetched = Counter(file for verb, file in server.asked if verb == "GET")
    assert set(server.weights()) == {path.name for path in sharded.glob("*.safetensors")} and len(server.weights()) == 3
    assert set(fetched.values()) == {1}  # the small files too
    assert server.asked.count(("HEAD", "model-00001-of-00003.safetensors")) == 1  # the other rank has not even asked
    order = [file.endswith(".safetensors") for verb, file in server.asked if verb == "GET"]
    assert order == sorted(order)  # weights come last
    last, drawn = bars(done.stdout + done.stderr)
    size = sum(path.stat().st_size for path in sharded.glob("*.safetensors"))
    assert "\x1b[A" not in done.stdout + done.stderr  # the cursor moves up where bars stand one above the other
    assert set(drawn) == {f"downloading {NAME}"} and f"{size / 1e6:.1f}M/{size / 1e6:.1f}M" in last[0]
    assert done.stdout.count("read 64") == 1
    other = (tmp_path / "run/logs/rank-01.log").read_text()
    assert "read 64" in other and not bars(other)[1]


def on_nodes(servers, tmp_path):
    """A rank on each of several nodes without torchrun, every node with a cache and a server of its own."""
    (tmp_path / "script.py").write_text(SCRIPT.format(root=str(ROOT), out=str(tmp_path / "run"), name=NAME))
    where = {"WORLD_SIZE": str(len(servers)), "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    started = [
        subprocess.Popen([sys.executable, tmp_path / "script.py"], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, env={**online(server, tmp_path / f"hf-{rank}"), **where, "RANK": str(rank)})
        for rank, server in enumerate(servers)
    ]  # fmt: skip
    said = [process.communicate(timeout=200) for process in started]
    return [SimpleNamespace(code=p.returncode, text="".join(s)) for p, s in zip(started, said, strict=True)]


def free_port():
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as taken:
        return str(taken.server_port)


def test_every_node_fetches_for_itself_and_one_terminal_has_the_bar(sharded, serve, tmp_path):
    server = serve(sharded)
    first, second = on_nodes([server, server], tmp_path)
    assert (first.code, second.code) == (0, 0), first.text + second.text
    assert set(server.weights().values()) == {2}
    assert bars(first.text)[0] and not bars(second.text + (tmp_path / "run/logs/rank-01.log").read_text())[1]


def test_nodes_that_got_different_commits_stop(sharded, serve, tmp_path):
    found = on_nodes([serve(sharded), serve(sharded, "f" * 40)], tmp_path)
    assert [node.code for node in found] == [2, 2]
    said = "error: the base changed on the Hub meanwhile: rank 0 has commit 012345678901, rank 1 ffffffffffff; start"
    assert said in found[0].text and "Traceback" not in found[0].text + found[1].text


@pytest.mark.slow
@pytest.mark.parametrize("config", ["None", "ds_configs/zero3_cpu.json"])
def test_a_run_of_two_ranks_trains_on_a_base_from_the_hub(config, sharded, serve, tmp_path):
    server = serve(sharded)
    words = ["lima_sft.py", "--config", "recipes/135m.yaml", "--base", "None", "--model_name_or_path", NAME, "--dataset",
             first_rows(tmp_path / "six.jsonl", 6), "--output_dir", tmp_path / "run", "--exclude_sources", "None",
             "--eval_on_start", "false", "--heldout", "None", "--report_to", "none", "--global_batch_size", 4,
             "--max_steps", 2, "--deepspeed", config]  # fmt: skip
    done = torchrun(2, *words, env=online(server, tmp_path / "hf"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(server.weights()) == 3 and set(server.weights().values()) == {1}
    assert set(bars(done.stdout + done.stderr)[1]) == {f"downloading {NAME}"}
    assert done.stdout.index("plan · 135m") and "done · 135m · 2 steps" in done.stdout
    assert not bars((tmp_path / "run/logs/rank-01.log").read_text())[1]


@pytest.mark.slow
def test_a_base_that_does_not_fit_is_refused_before_its_weights_come(sharded, serve, tmp_path):
    shutil.copytree(sharded, tmp_path / "huge")
    config = json.loads((sharded / "config.json").read_text())
    huge = {"hidden_size": 16384, "intermediate_size": 65536, "num_hidden_layers": 100}
    (tmp_path / "huge/config.json").write_text(json.dumps({**config, **huge}))
    server = serve(tmp_path / "huge")
    words = ["--config", "recipes/135m.yaml", "--base", "None", "--model_name_or_path", NAME]
    done = subprocess.run([sys.executable, "lima_sft.py", *map(str, words)], cwd=ROOT, capture_output=True, text=True,
                          env=online(server, tmp_path / "hf"), timeout=200)  # fmt: skip
    assert done.returncode == 2 and "135m does not fit" in done.stderr, done.stderr
    assert not server.weights() and ("GET", "config.json") in server.asked


# ---- one rank, and what goes wrong ------------------------------------------------------------------------------------


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """Points this process's Hub client at a server and an empty cache."""
    for key in (*NO_PROXY, "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def use(server):
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + template)
        return tmp_path / "cache"

    return use


def recipe(name=NAME):
    return SimpleNamespace(model_name_or_path=name, disable_tqdm=True, load_in_4bit=False, deepspeed=None, config="x")


def get(server, use):
    """Fetches all; returns the snapshot's folder."""
    folder = use(server)
    fetch.text(recipe())
    fetch.weights(recipe())
    return folder / f"models--somebody--tiny/snapshots/{server.commit}"


def test_what_is_fetched_is_the_base_and_nothing_else(sharded, serve, cache, tmp_path):
    shutil.copytree(sharded, tmp_path / "more")
    (tmp_path / "more/checkpoint-5").mkdir()
    for other in ("consolidated.safetensors", "pytorch_model.bin", "checkpoint-5/a.json", "checkpoint-5/b.safetensors"):
        (tmp_path / "more" / other).write_bytes(b"x")
    snapshot = get(serve(tmp_path / "more"), cache)
    fetched = {path.relative_to(snapshot).as_posix(): path for path in snapshot.rglob("*") if path.is_file()}
    assert fetched.keys() == {path.name for path in sharded.iterdir()}
    assert all(path.read_bytes() == (sharded / name).read_bytes() for name, path in fetched.items())
    assert constants.HF_HUB_OFFLINE  # the Hub is not asked again


def test_what_is_there_is_not_fetched_again_and_serves_without_the_hub(sharded, serve, cache, monkeypatch):
    server = serve(sharded)
    snapshot = get(server, cache)
    (snapshot / "model-00002-of-00003.safetensors").unlink()
    server.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    get(server, cache)
    assert set(server.weights()) <= {"model-00002-of-00003.safetensors"}
    assert (snapshot / "model-00002-of-00003.safetensors").is_file()
    server.shutdown()
    server.server_close()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    get(server, cache)


@pytest.mark.parametrize("name", ["bases/llama-7b", "runs/x", "runs/x/checkpoint-5", "tests/none", "./none", "/none/x"])
def test_a_folder_that_is_missing_is_not_looked_for_on_the_hub(name, serve, cache, tmp_path):
    server = serve(tmp_path)
    cache(server)
    assert not hub.is_name(name)
    fetch.text(recipe(name))
    fetch.weights(recipe(name))
    assert not server.asked and not constants.HF_HUB_OFFLINE


def test_a_base_that_is_not_there_is_one_line(serve, cache, tmp_path):
    cache(serve(tmp_path))
    with pytest.raises(UserError, match=r"^some/other: no such model on the Hub, .*--model_name_or_path path/to/ba"):
        fetch.text(recipe("some/other"))


def test_a_hub_out_of_reach_is_one_line(serve, cache, tmp_path):
    server = serve(tmp_path)
    cache(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=f"^{NAME}: the Hub cannot be reached"):
        fetch.text(recipe())


def test_pickled_weights_are_refused_before_anything_large_comes(sharded, serve, cache, tmp_path):
    (tmp_path / "pickled").mkdir()
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(sharded / file, tmp_path / "pickled")
    (tmp_path / "pickled/pytorch_model.bin").write_bytes(b"x")
    server = serve(tmp_path / "pickled")
    cache(server)
    with pytest.raises(UserError, match=f"^{NAME}: no model.safetensors in it; pickled"):
        fetch.text(recipe())
    assert ("GET", "pytorch_model.bin") not in server.asked


def test_a_disk_without_room_is_said_before_the_weights_come(sharded, serve, cache, monkeypatch):
    server = serve(sharded)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**7))
    with pytest.raises(UserError, match=f"^{NAME}: its weights need 0.0 GB and 0.0 GB are free .*HF_HOME$"):
        get(server, cache)
    assert not server.weights()


def test_a_base_that_lacks_tensors_is_said_by_its_name_on_the_hub(sharded, serve, cache, tmp_path):
    shutil.copytree(sharded, tmp_path / "less")
    (tmp_path / "less/model.safetensors.index.json").unlink()
    for path in (tmp_path / "less").glob("model-*"):
        path.unlink()
    weights = {name: tensor for path in sharded.glob("model-*") for name, tensor in load_file(path).items()}
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "less/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=f"^{NAME}: lacks 1 tensors, such as model.layers.1.mlp.up_proj.weight; prepare"
    ):
        get(serve(tmp_path / "less"), cache)
