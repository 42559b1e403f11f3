"""A loopback Weights & Biases that speaks the real protocol to the unmodified wandb client: it keeps what a client logs in
memory, and answers what `wandb.Api()` reads.

    with Wandb() as server:
        subprocess.run(…, env={**os.environ, **server.env})   # WANDB_BASE_URL, WANDB_API_KEY, WANDB_MODE=online
        server.runs["lima/abc123"].history                    # [{"_step": 1, "train/loss": 3.2, …}, …] of project/run id

In a test's own process: `server.use(monkeypatch)`, then `wandb.init` or `wandb.Api()`. The entity is `tester`.

Faults, switched at any time: `server.slow = 5` (seconds that every answer takes), `server.broken = True` (500 to every
request), `server.stop()` and `server.start()` (nobody listens on the port meanwhile); any key but `server.key` is a 401.
`server.received` holds every (method, path, body), so that a test can look for what must not be sent; `server.unknown` the
GraphQL operations that it could not answer.
"""

import base64
import contextlib
import json
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

ENTITY = "tester"
FIELDS = ("displayName", "groupName", "jobType", "tags", "host", "program", "commit", "repo", "notes")
WHEN = "2030-01-01T00:00:00Z"


@dataclass
class Run:
    """`config` {key: {"value": …}}, as the client sends it; `lines` what it streamed, by file and line number."""

    project: str
    name: str
    fields: dict = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    lines: dict = field(default_factory=dict)
    files: dict = field(default_factory=dict)
    state: str = "running"
    starts: int = 0

    @property
    def history(self):
        """Rows in the order of their lines; a line that is sent again replaces the first."""
        return [json.loads(line) for _, line in sorted(self.lines.get("wandb-history.jsonl", {}).items())]

    @property
    def summary(self):
        lines = self.lines.get("wandb-summary.json", {})
        return json.loads(lines[max(lines)]) if lines else {}


@dataclass
class Artifact:
    """`type`, `name` of its collection, `version` from 0, the run that logged it, and the manifest's `entries` by path."""

    id: str
    type: str
    name: str
    version: int
    run: str
    digest: str
    metadata: dict
    description: str
    aliases: list
    committed: bool = False
    manifest: bytes = b""

    @property
    def entries(self):
        return json.loads(self.manifest)["contents"]


class Wandb:
    def __init__(self):
        self.key, self.port, self.slow, self.broken = "0123456789" * 4, 0, 0, False
        self.runs, self.artifacts, self.blobs = {}, {}, {}
        self.received, self.sent, self.unknown = [], Counter(), []
        self.lock, self.stopped = threading.RLock(), True

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self.stop()

    def start(self):
        self.http = ThreadingHTTPServer(("127.0.0.1", self.port), type("Handler", (_Handler,), {"wandb": self}))
        self.http.daemon_threads, self.port = True, self.http.server_port
        self.stopped = False
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        if not self.stopped:
            self.http.shutdown()
            self.http.server_close()
        self.stopped = True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self):
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": self.key, "WANDB_MODE": "online"}

    def use(self, monkeypatch):
        for name, value in self.env.items():
            monkeypatch.setenv(name, value)

    # ---- what a client writes ------------------------------------------------------------------------------------------

    def _UpsertBucket(self, v):
        if v.get("summaryMetrics"):  # the public API's summary.update sends all of it
            run = next(run for run in self.runs.values() if self._bucket(run)["id"] == v["id"])
            run.lines["wandb-summary.json"] = {0: v["summaryMetrics"]}
            return {"upsertBucket": {"bucket": self._bucket(run)}}
        if v.get("id") in {run.name for run in self.runs.values()}:
            run = next(run for run in self.runs.values() if run.name == v["id"])
        else:
            key = f"{v.get('project')}/{v['name']}"
            run = self.runs.setdefault(key, Run(v.get("project"), v["name"]))
        run.starts += 1
        run.state = v.get("state") or "running"
        run.fields.update({name: v[name] for name in FIELDS if v.get(name)})
        run.config.update(json.loads(v.get("config") or "{}"))
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": run.starts == 1}}

    def _RunResumeStatus(self, v):
        run = self.runs.get(f"{v['project']}/{v['name']}")
        return {"model": {**self._project_of(v["project"]), "bucket": run and self._bucket(run)}}

    def _CreateRunFiles(self, v):
        files = [{"name": name, "uploadUrl": f"{self.url}/run/{v['project']}/{v['run']}/{name}"} for name in v["files"]]
        return {"createRunFiles": {"runID": v["run"], "uploadHeaders": [], "files": files}}

    def stream(self, project, name, body):
        run = self.runs[f"{project}/{name}"]
        for file, chunk in (body.get("files") or {}).items():
            run.lines.setdefault(file, {}).update(enumerate(chunk["content"], chunk["offset"]))
        if body.get("complete"):
            run.state = "failed" if body.get("exitcode") else "finished"
        return {}

    def _CreateArtifact(self, v):
        spec = v["input"]
        name, digest = spec["artifactCollectionName"], spec["digest"]
        kept = [a for a in self.artifacts.values() if a.name == name]
        found = next((a for a in kept if a.digest == digest), None)
        if found is None:
            number = str(len(self.artifacts) + 1)
            found = self.artifacts[number] = Artifact(
                id=number,
                type=spec["artifactTypeName"],
                name=name,
                version=len(kept),
                run=f"{spec['projectName']}/{spec.get('runName')}",
                digest=digest,
                metadata=json.loads(spec.get("metadata") or "{}"),
                description=spec.get("description") or "",
                aliases=[alias["alias"] for alias in spec.get("aliases") or []],
            )
        return {"createArtifact": {"artifact": self._artifact(found)}}

    def _CreateArtifactManifest(self, v):
        file = {
            "id": v["artifactID"],
            "uploadUrl": f"{self.url}/manifest/{v['artifactID']}",
            "uploadHeaders": [],
        }
        return {"createArtifactManifest": {"artifactManifest": {"id": v["artifactID"], "file": file}}}

    def _CreateArtifactFiles(self, v):
        nodes = []
        for spec in v["input"]["artifactFiles"]:
            path = f"blob/{spec['artifactID']}/{spec['name']}"
            nodes.append(
                {
                    "storagePath": path,
                    "uploadUrl": f"{self.url}/{path}",
                    "uploadHeaders": [],
                    "uploadMultipartUrls": None,
                    "artifact": {"id": spec["artifactID"]},
                }
            )
        return {"createArtifactFiles": {"files": _edges(nodes)}}

    def _CommitArtifact(self, v):
        self.artifacts[v["artifactID"]].committed = True
        return {"commitArtifact": {"artifact": self._artifact(self.artifacts[v["artifactID"]])}}

    def _UseArtifact(self, v):
        return {"useArtifact": {"artifact": {"id": v["input"]["artifactID"]}}}

    def _UpdateArtifact(self, v):
        return {"updateArtifact": {"artifact": {"id": v["artifactID"]}}}

    # ---- what it reads -------------------------------------------------------------------------------------------------

    def _Viewer(self, v):
        who = {
            "id": "1",
            "entity": ENTITY,
            "username": ENTITY,
            "name": ENTITY,
            "email": f"{ENTITY}@localhost",
            "flags": "{}",
        }
        return {"viewer": {**who, "teams": _edges([]), "admin": False, "apiKeys": _edges([])}}

    _GetDefaultEntity = _GetViewer = _Viewer

    def _ServerFeaturesQuery(self, v):
        return {"serverInfo": {"features": []}}

    def _OrganizationCoreWeaveOrganizationID(self, v):
        return {"entity": None}

    def _ArtifactType(self, v):
        found = self._named(v["name"])
        return {"project": {"artifact": found and {"artifactType": {"name": found.type}}}}

    def _named(self, name):
        """The newest committed version of `collection`, or the one that `collection:vN` or `collection:alias` names."""
        name, _, which = name.rpartition("/")[2].partition(":")
        kept = [a for a in self.artifacts.values() if a.name == name and a.committed]
        if which not in ("", "latest"):
            kept = [a for a in kept if which == f"v{a.version}" or which in a.aliases]
        return kept[-1] if kept else None

    def _Runs(self, v):
        wanted = json.loads(v.get("filters") or "{}")
        found = [run for run in self.runs.values() if run.project == v["project"] and _matches(wanted, run)]
        if v.get("order", "").startswith("-"):
            found.reverse()
        known = any(run.project == v["project"] for run in self.runs.values())
        page = {"internalId": "1", "readOnly": False, "runCount": len(found), "runs": _edges(map(self._bucket, found))}
        return {"project": page if known else None}

    def _run(self, v):
        run = self.runs.get(f"{v['project']}/{v.get('name') or v.get('run') or v.get('runName')}")
        return run, lambda **more: {"project": {"internalId": "1", "run": run and {**self._bucket(run), **more}}}

    def _Run(self, v):
        return self._run(v)[1]()

    _RunState = _RunHistoryKeys = _QueryRunInfo = _Run

    def _HistoryPage(self, v):
        run, answer = self._run(v)
        rows = [row for row in run.history if v["minStep"] <= row["_step"] < v["maxStep"]]
        return answer(history=[json.dumps(row) for row in rows])

    def _RunFullHistory(self, v):
        run, answer = self._run(v)
        return answer(history=[json.dumps(row) for row in run.history], events=[])

    def _RunSampledHistory(self, v):
        run, answer = self._run(v)
        keys = [json.loads(spec)["keys"] for spec in v["specs"]]
        return answer(sampledHistory=[[row for row in run.history if row.keys() >= set(k)] for k in keys])

    def _SampledHistoryPage(self, v):
        spec = json.loads(v["spec"])
        run, answer = self._run(v)
        rows = [row for row in run.history if row.keys() >= set(spec["keys"])]
        low, high = spec.get("minStep", 0), spec.get("maxStep", 1 << 60)
        return answer(sampledHistory=[[row for row in rows if low <= row["_step"] <= high]])  # both ends count

    def _RunParquetHistory(self, v):
        run, answer = self._run(v)
        return answer(parquetHistory={"parquetUrls": [], "liveData": run.history})

    def _RunFiles(self, v):
        run, answer = self._run(v)
        names = [name for name in sorted(run.files) if name in (v.get("fileNames") or run.files)]
        nodes = [
            {
                "id": name,
                "name": name,
                "url": f"{self.url}/run/{run.project}/{run.name}/{name}",
                "directUrl": f"{self.url}/run/{run.project}/{run.name}/{name}",
                "sizeBytes": len(run.files[name]),
                "mimetype": "",
                "updatedAt": WHEN,
                "md5": "",
            }
            for name in names
        ]
        return answer(fileCount=len(nodes), files=_edges(nodes))

    # ---- objects, with every field that any client asks for ------------------------------------------------------------

    def _project_of(self, name):
        return {"id": "1", "name": name, "entity": {"id": "1", "name": ENTITY}}

    def _bucket(self, run):
        lines = run.lines.get("wandb-history.jsonl", {})
        last = [lines[max(lines)]] if lines else []
        keys = {key: {"typeCounts": [{"type": "number"}]} for row in run.history for key in row}
        return {
            **{name: run.fields.get(name) for name in FIELDS},
            "id": run.name,
            "name": run.name,
            "displayName": run.fields.get("displayName") or run.name,
            "group": run.fields.get("groupName"),
            "tags": run.fields.get("tags") or [],
            "state": run.state,
            "config": json.dumps(run.config),
            "wandbConfig": json.dumps({"t": 1}),
            "summaryMetrics": json.dumps(run.summary),
            "systemMetrics": "{}",
            "historyLineCount": len(lines),
            "eventsLineCount": len(run.lines.get("wandb-events.jsonl", {})),
            "logLineCount": len(run.lines.get("output.log", {})),
            "historyTail": json.dumps(last),
            "eventsTail": "[]",
            "historyKeys": {"lastStep": run.history[-1]["_step"] if last else -1, "keys": keys},
            "project": self._project_of(run.project),
            "projectId": "1",
            "user": {"name": ENTITY, "username": ENTITY},
            "sweepName": None,
            "readOnly": False,
            "createdAt": WHEN,
            "heartbeatAt": WHEN,
            "description": "",
        }

    def _artifact(self, artifact):
        return {
            "id": artifact.id,
            "digest": artifact.digest,
            "state": "COMMITTED" if artifact.committed else "PENDING",
            "versionIndex": artifact.version,
            "artifactSequence": {"id": artifact.name, "name": artifact.name, "latestArtifact": None},
        }

    # ---- HTTP ----------------------------------------------------------------------------------------------------------

    def graphql(self, body):
        operation = (re.search(r"(?:query|mutation)\s+(\w+)", body["query"]) or ["", ""])[1]
        self.sent[operation] += 1
        answer = getattr(self, f"_{operation}", None)
        if answer is None:
            self.unknown.append((operation, body["query"], body.get("variables")))
            return {"errors": [{"message": f"this server does not know {operation}"}]}
        return {"data": answer(body.get("variables") or {})}

    def put(self, path, content):
        kind, *rest = path.split("/", 3)
        if kind == "run":
            self.runs[f"{rest[0]}/{rest[1]}"].files[rest[2]] = content
        elif kind == "manifest":
            self.artifacts[rest[0]].manifest = content
        else:
            self.blobs[path] = content

    def get(self, path):
        kind, *rest = path.split("/", 3)
        if kind == "run":
            return self.runs[f"{rest[0]}/{rest[1]}"].files.get(rest[2])
        return self.blobs.get(path)


def _edges(nodes):
    edges = [{"node": node, "cursor": str(number)} for number, node in enumerate(nodes)]
    return {"edges": edges, "pageInfo": {"hasNextPage": False, "endCursor": None}, "totalCount": len(edges)}


def _matches(wanted, run):
    """The part of W&B's MongoDB filters that our code uses: equality, `$in` and `$and`."""
    facts = {"group": run.fields.get("groupName"), "state": run.state, "jobType": run.fields.get("jobType")}
    facts |= {"display_name": run.fields.get("displayName"), "name": run.name, "tags": run.fields.get("tags") or []}
    for key, value in wanted.items():
        if key == "$and":
            if not all(_matches(part, run) for part in value):
                return False
            continue
        have = facts[key] if isinstance(facts[key], list) else [facts[key]]
        if not set(have) & set(value["$in"] if isinstance(value, dict) else [value]):
            return False
    return True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def handle(self):
        with contextlib.suppress(ConnectionError):  # a client that did not wait
            super().handle()

    def handle_any(self):
        server, path = self.wandb, unquote(self.path.split("?")[0].lstrip("/"))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(server.slow)
        with server.lock:
            server.received.append((self.command, path, body))
            if server.broken:
                return self.answer(500, {"errors": [{"message": "internal error"}]})
            if path == "graphql" or path.startswith("files/"):
                key = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
                if key != f"api:{server.key}":
                    return self.answer(
                        401, {"errors": [{"message": "user is not logged in", "code": "PERMISSION_ERROR"}]}
                    )
            if path == "graphql":
                return self.answer(200, server.graphql(json.loads(body)))
            if path.endswith("/file_stream"):
                _, _, project, run, _ = path.split("/")
                return self.answer(200, server.stream(project, run, json.loads(body)))
            if self.command == "PUT":
                server.put(path, body)
                return self.answer(200, b"")
            found = server.get(path)
            return self.answer(404, b"") if found is None else self.answer(200, found)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def answer(self, status, content):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
