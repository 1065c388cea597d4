"""A hub of models on loopback: just enough of the Hub's protocol to push one and to load it again.

Every file is small, so all of them are sent inside the commit (the server chooses that in `preupload`), and every
revision is the latest one.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import huggingface_hub
import transformers.utils.hub

REPOSITORY = r"/api/models/([^/]+/[^/]+)"
ROUTES = {
    r"POST /api/repos/create": "create",
    r"POST /api/validate-yaml": "validate",
    rf"POST {REPOSITORY}/preupload/[^/]+": "preupload",
    rf"POST {REPOSITORY}/commit/[^/]+": "commit",
    rf"GET {REPOSITORY}(?:/revision/[^/]+)?": "info",
    rf"GET {REPOSITORY}/tree/[^/]+(?:/(.+))?": "tree",
    r"GET /([^/]+/[^/]+)/resolve/[^/]+/(.+)": "resolve",
}


class Hub:
    """The server; `with Hub(token) as hub` runs it in a thread for the length of the block. Only the token writes."""

    def __init__(self, token):
        self.token = token
        self.files = {}  # name: {path: content}
        self.messages = {}  # name: of the commits
        self.private = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


def connect(monkeypatch, hub, cache_folder):
    """Point this process's client, which read its settings when it was imported, at a hub for the length of a test."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.endpoint)  # behind the module's functions
    # transformers keeps a client of its own, made on first use.
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache_folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", hub.token)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.body = self._read()
        self.may_write = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        request = f"{self.command.replace('HEAD', 'GET')} {urlsplit(self.path).path}"
        status, content, *headers = 404, {"error": "no such endpoint"}
        for pattern, name in ROUTES.items():
            if match := re.fullmatch(pattern, request):
                status, content, *headers = getattr(self, name)(*map(unquote, match.groups(default="")))
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | dict(*headers)).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_POST = do_GET

    def _read(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _files(self, name):
        """The files of a repository; none of one that does not exist or may not be read."""
        return self.hub.files.get(name, {}) if name not in self.hub.private or self.may_write else {}

    def create(self):
        if not self.may_write:
            return 401, {"error": "Invalid username or password."}
        request = json.loads(self.body)
        name = f"{request.get('organization') or 'user'}/{request['name']}"
        if name in self.hub.files:
            return 409, {"error": "You already created this repo", "url": f"{self.hub.endpoint}/{name}"}
        if request.get("visibility") == "private" or request.get("private"):
            self.hub.private.add(name)
        self.hub.files[name], self.hub.messages[name] = {".gitattributes": b""}, []
        return 200, {"url": f"{self.hub.endpoint}/{name}", "name": name}

    def validate(self):
        huggingface_hub.ModelCard(
            json.loads(self.body)["content"]
        )  # the client's own reading: it raises, and we hang up
        return 200, {"errors": [], "warnings": []}

    def preupload(self, name):
        paths = [file["path"] for file in json.loads(self.body)["files"]]
        return 200, {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}

    def commit(self, name):
        if not self.may_write:
            return 401, {"error": "Invalid username or password."}
        header, *files = map(json.loads, self.body.splitlines())
        self.hub.messages[name].append(header["value"]["summary"])
        contents = self.hub.files[name]
        contents |= {file["value"]["path"]: base64.b64decode(file["value"]["content"]) for file in files}
        return 200, {"success": True, "commitOid": _sha(contents), "commitUrl": f"{self.hub.endpoint}/{name}/commit/0"}

    def info(self, name):
        files = self._files(name)
        if not files:  # as the Hub does: what is private cannot be told from what does not exist
            return 401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        siblings = [{"rfilename": path} for path in sorted(files)]
        return 200, {"id": name, "sha": _sha(files), "private": False, "tags": [], "siblings": siblings}

    def tree(self, name, folder):
        files = {path: content for path, content in self._files(name).items() if path.startswith(folder)}
        return 200, [{"type": "file", "path": path, "size": len(content), "oid": _sha(content)}
                     for path, content in sorted(files.items())]  # fmt: skip

    def resolve(self, name, path):
        files = self._files(name)
        if path not in files:
            code = "EntryNotFound" if files else "RepoNotFound"
            return 404 if files else 401, {"error": code}, {"X-Error-Code": code, "X-Repo-Commit": _sha(files)}
        return 200, files[path], {"ETag": f'"{_sha(files[path])}"', "X-Repo-Commit": _sha(files)}


def _sha(content):
    return hashlib.sha1(repr(content).encode()).hexdigest()
