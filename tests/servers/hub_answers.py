"""What the loopback Hub answers: the part of the real protocol that the client uses for what this repo does."""

import base64
import hashlib
import json
from urllib.parse import parse_qs, unquote, urlsplit

ROUTES = {  # the last part of the path that names what is asked, after the repository's name
    **{("GET", word): word for word in ("refs", "tree", "commits", "revision", "resolve")},
    **{("POST", word): word for word in ("branch", "preupload", "commit")},
    ("HEAD", "resolve"): "resolve",
    ("POST", "paths-info"): "paths",
    ("POST", "info"): "batch",
}
DATE = "2025-01-01T00:00:00.000Z"


class Stop(Exception):
    """Ends a request with a status and what the Hub says with it."""

    def __init__(self, status, code="", said=""):
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": said}


class Answers:
    """For a request handler with `server.hub`, `command`, `path`, `headers` and the `body` that was read."""

    # ---- who asks for what -----------------------------------------------------------------------------------------
    def route(self):
        """The request's kind, and for a repository its key (models/org/name), revision and path."""
        words = [unquote(word) for word in urlsplit(self.path).path.strip("/").split("/")]
        if words[0] == "lfs":
            return "put", words[1]
        fixed = {"whoami-v2": "whoami", "validate-yaml": "yaml", "repos": "create"}.get(
            words[1] if len(words) > 1 else ""
        )
        if words[0] == "api" and fixed:
            return (fixed,)
        api = words[0] == "api"
        words = words[1:] if api else words
        type = words.pop(0) if words[0] in ("models", "datasets") else "models"
        key = f"{type}/{'/'.join(words[:2])}".removesuffix(".git")
        word = ROUTES.get((self.command, words[2] if len(words) > 2 else "revision"))
        if not word or len(words) < 2:
            return ("unknown",)
        revision, path = (words[3] if len(words) > 3 else "main"), "/".join(words[4:])
        return "info" if word == "revision" else word, key, revision, path

    def user(self):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.server.hub.users:
            raise Stop(401, said="Invalid credentials in Authorization header")
        return self.server.hub.users.get(token, (None, []))

    def repo(self, key, write=False):
        repo, (name, orgs) = self.server.hub.repos.get(key), self.user()
        mine = name and key.split("/")[1] in [name, *orgs]
        if repo is None or (repo["private"] and not mine):
            raise Stop(401 if name is None else 404, "RepoNotFound", "Repository not found")
        if write and not mine:
            raise Stop(403, said="You don't have the required permissions to perform this action")
        return repo

    def at(self, key, revision):
        """The commit's id and its files."""
        repo = self.repo(key)
        sha = repo["branches"].get(revision, revision)
        if sha not in repo["commits"]:
            raise Stop(404, "RevisionNotFound", "Invalid rev id: " + revision)
        return sha, repo["commits"][sha]["files"]

    # ---- what is answered ------------------------------------------------------------------------------------------
    def on_unknown(self):
        raise Stop(404, "EntryNotFound", "no such address")

    def on_whoami(self):
        name, orgs = self.user()
        if name is None:
            raise Stop(401, said="Invalid credentials in Authorization header")
        return {"type": "user", "name": name, "orgs": [{"name": org} for org in orgs], "auth": {}}

    def on_yaml(self):
        fine = json.loads(self.body)["content"].startswith("---\n")
        return {"errors": [], "warnings": [] if fine else [{"message": "empty or missing yaml metadata"}]}

    def on_create(self):
        asked, (name, orgs) = json.loads(self.body), self.user()
        owner, type = asked.get("organization") or name, asked.get("type") or "model"
        if owner is None:
            raise Stop(401, said="Invalid username or password.")
        if owner not in [name, *orgs]:
            raise Stop(403, said=f'You don\'t have the rights to create a {type} under the namespace "{owner}"')
        url = f"{self.server.hub.url}/{'datasets/' if type == 'dataset' else ''}{owner}/{asked['name']}"
        if f"{type}s/{owner}/{asked['name']}" in self.server.hub.repos:
            return 409, {}, {"error": "You already created this repo", "url": url}
        private = asked.get("visibility") == "private"
        self.server.hub.create(f"{owner}/{asked['name']}", private, type)
        return {"url": url}

    def on_info(self, key, revision, _):
        sha, files = self.at(key, revision)
        name, siblings = key.split("/", 1)[1], [{"rfilename": path} for path in files]
        return {"id": name, "sha": sha, "private": self.repo(key)["private"], "siblings": siblings, "tags": [],
                "createdAt": DATE, "lastModified": DATE, "downloads": 0, "likes": 0, "gated": False}  # fmt: skip

    def on_refs(self, key, *_):
        heads = self.repo(key)["branches"].items()
        return {
            "branches": [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in heads],
            "converts": [],
            "tags": [],
        }

    def on_commits(self, key, revision, _):
        sha, out, commits = self.at(key, revision)[0], [], self.repo(key)["commits"]
        while sha:
            out.append({"id": sha, "authors": [], "date": DATE, "title": commits[sha]["title"], "message": ""})
            sha = commits[sha]["parent"]
        return out

    def on_branch(self, key, branch, _):
        repo = self.repo(key, write=True)
        if branch in repo["branches"]:
            raise Stop(409, said="Reference already exists")
        repo["branches"][branch] = self.at(key, json.loads(self.body or b"{}").get("startingPoint", "main"))[0]
        return {}

    @staticmethod
    def entry(path, file):
        lfs = {"oid": file["lfs"], "size": file["size"], "pointerSize": 130} if file["lfs"] else None
        return {"type": "file", "path": path, "oid": file["oid"], "size": file["size"], **({"lfs": lfs} if lfs else {})}

    def on_tree(self, key, revision, path):
        files, deep = self.at(key, revision)[1], "recursive=true" in self.path.lower()
        inside = {p: f for p, f in files.items() if not path or p.startswith(path + "/")}
        cut = len(path) + 1 if path else 0
        here = [self.entry(p, f) for p, f in inside.items() if deep or "/" not in p[cut:]]
        folders = {p[:cut] + p[cut:].split("/")[0] for p in inside if "/" in p[cut:]}
        if path and not inside:
            raise Stop(404, "EntryNotFound", "no such folder")
        return here + [{"type": "directory", "path": p, "oid": "0" * 40, "size": 0} for p in sorted(folders)]

    def on_paths(self, key, revision, _):
        files = self.at(key, revision)[1]
        asked = parse_qs(self.body.decode()).get("paths") or json.loads(self.body or b"{}").get("paths", [])
        return [self.entry(path, files[path]) for path in asked if path in files]

    def on_preupload(self, key, revision, _):
        self.repo(key, write=True)
        there, out = self.at(key, revision)[1], []
        for file in json.loads(self.body)["files"]:
            large = file["size"] >= self.server.hub.large or file["path"].endswith((".safetensors", ".parquet"))
            known = there.get(file["path"])
            oid = known and (known["lfs"] or known["oid"])
            out.append(
                {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}
            )
        return {"files": out}

    def on_batch(self, key, *_):
        self.repo(key, write=True)
        out = []
        for wanted in json.loads(self.body)["objects"]:
            action = {"upload": {"href": f"{self.server.hub.url}/lfs/{wanted['oid']}"}}
            there = (self.server.hub.folder / "lfs" / wanted["oid"]).exists()
            out.append({**wanted, **({} if there else {"actions": action})})
        return {"transfer": "basic", "objects": out}

    def on_put(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Stop(400, said="the content is not what its digest says")
        (self.server.hub.folder / "lfs" / oid).write_bytes(self.body)
        self.brought = [oid]
        return b""

    def on_commit(self, key, revision, _):
        self.repo(key, write=True)
        hub, files, self.brought = self.server.hub, dict(self.at(key, revision)[1]), []
        lines = [json.loads(line) for line in self.body.splitlines()]
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = hub.blob(base64.b64decode(value["content"]))
                self.brought.append(f"{revision}:{value['path']}:{files[value['path']]['oid']}")
            elif line["key"] == "lfsFile":
                stored = hub.folder / "lfs" / value["oid"]
                if not stored.exists():
                    raise Stop(400, said=f"LFS pointer of {value['path']} refers to nothing")
                pointer = f"oid sha256:{value['oid']}\nsize {stored.stat().st_size}\n".encode()
                files[value["path"]] = {**hub.blob(pointer), "size": stored.stat().st_size, "lfs": value["oid"]}
            else:  # deletedFile
                files.pop(value["path"])
        sha = hub.commit(key, revision, files, lines[0]["value"]["summary"])
        return {"commitUrl": f"{hub.url}/{key}/commit/{sha}", "commitOid": sha, "success": True}

    def on_resolve(self, key, revision, path):
        sha, files = self.at(key, revision)
        if path not in files:
            raise Stop(404, "EntryNotFound", "Entry not found")
        file = files[path]
        content, etag = self.server.hub.content(file).read_bytes(), file["lfs"] or file["oid"]
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": sha, "X-Linked-Size": str(len(content)), "Accept-Ranges": "bytes",
                   "Content-Type": "application/octet-stream"}  # fmt: skip
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        if not wanted:
            return 200, headers, content
        first, last = wanted.split("-")
        part = content[int(first) : int(last) + 1 if last else None]
        return 206, {**headers, "Content-Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"}, part
