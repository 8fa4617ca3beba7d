"""A small server that speaks the calls of the Hugging Face hub which models need: create, upload by LFS, commit, info, resolve.

It keeps repositories in memory: of each branch its commits, of each commit its files.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_right"


class Hub:
    """What the server holds, and what it was asked."""

    def __init__(self):
        self.repos, self.blobs, self.asked, self.private = {}, {}, [], {}
        self.lock = threading.Lock()

    def add(self, repo, files, branch="main"):
        """A commit on a branch; its hash."""
        branches = self.repos.setdefault(repo, {})
        history = branches.setdefault(branch, [])
        before = dict(history[-1][1]) if history else {}
        before.update(files)
        text = json.dumps(
            [repo, branch, len(history), sorted((name, hashlib.sha1(data).hexdigest()) for name, data in before.items())]
        )
        history.append((hashlib.sha1(text.encode()).hexdigest(), before))
        return history[-1][0]

    def find(self, repo, revision):
        """(commit, files) of a branch or of a commit."""
        branches = self.repos[repo]
        if revision in branches:
            return branches[revision][-1]
        return next((one for history in branches.values() for one in history if one[0] == revision), None)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    @property
    def hub(self):
        return self.server.hub

    def answer(self, status, body=b"", **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status, message, code=None):
        self.answer(status, {"error": message}, X_Error_Message=message, **({"X_Error_Code": code} if code else {}))

    def do(self):
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        with self.hub.lock:
            self.hub.asked.append((self.command, path))
            if token not in ("", TOKEN):
                return self.refuse(401, "Invalid credentials in Authorization header")
            return self.route(path, body, bool(token))

    do_GET = do_POST = do_PUT = do_HEAD = do

    def route(self, path, body, known):
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.create(json.loads(body), known)
        if match := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            assert hashlib.sha256(body).hexdigest() == match[1]
            self.hub.blobs[match[1]] = body
            return self.answer(200)
        if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self.batch(json.loads(body), known)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w+)/([^/]+))?(?:/.*)?", path):
            return self.api(match[1], match[2], match[3], body, known)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.resolve(*match.groups(), known)
        return self.refuse(404, f"no such page: {path}")

    def create(self, asked, known):
        if not known:
            return self.refuse(401, "Invalid username or password.")
        owner = asked.get("organization") or "mia"
        if owner not in ("mia", "lab"):
            return self.refuse(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
        repo = f"{owner}/{asked['name']}"
        address = {"url": f"{self.server.address}/{repo}", "name": repo}
        if repo in self.hub.repos:
            return self.answer(409, {"error": "You already created this model repo", **address})
        self.hub.add(repo, {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.hub.private[repo] = asked.get("visibility") == "private" or asked.get("private") is True
        return self.answer(200, address)

    def batch(self, asked, known):
        if not known:
            return self.refuse(401, "Invalid username or password.")
        upload = lambda one: {"upload": {"href": f"{self.server.address}/lfs/{one['oid']}"}}  # noqa: E731
        objects = [{**one, "actions": upload(one)} for one in asked["objects"]]
        return self.answer(200, {"transfer": "basic", "objects": objects})

    def api(self, repo, what, revision, body, known):
        if repo not in self.hub.repos or (self.hub.private.get(repo) and not known):
            return self.refuse(404 if known else 401, "Repository not found", "RepoNotFound")
        if what == "branch":
            if revision in self.hub.repos[repo]:
                return self.refuse(409, "Reference already exists")
            self.hub.repos[repo][revision] = list(self.hub.repos[repo]["main"])
            return self.answer(200, {})
        found = self.hub.find(repo, revision or "main")
        if found is None:
            return self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if what == "preupload":
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        if what == "commit":
            files = {}
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.hub.blobs[value["oid"]]
            commit = self.hub.add(repo, files, revision)
            return self.answer(
                200, {"success": True, "commitOid": commit, "commitUrl": f"{self.server.address}/{repo}/commit/{commit}"}
            )
        if what == "tree":
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in found[1].items()
            ]
            return self.answer(200, rows)
        siblings = [{"rfilename": name} for name in found[1]]
        return self.answer(
            200, {"_id": "1", "id": repo, "modelId": repo, "sha": found[0], "private": False, "tags": [], "siblings": siblings}
        )

    def resolve(self, repo, revision, name, known):
        if repo not in self.hub.repos or (self.hub.private.get(repo) and not known):
            return self.refuse(404 if known else 401, "Repository not found", "RepoNotFound")
        found = self.hub.find(repo, revision)
        if found is None or name not in found[1]:
            return self.refuse(404, "Entry not found", "RevisionNotFound" if found is None else "EntryNotFound")
        data = found[1][name]
        return self.answer(200, data, X_Repo_Commit=found[0], ETag=f'"{hashlib.sha1(data).hexdigest()}"')


@contextmanager
def serve():
    """(the address, what it holds) of a server that runs inside the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub, server.address = Hub(), f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.address, server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
