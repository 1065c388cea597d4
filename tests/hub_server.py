"""A hub of models on loopback: just enough of the Hub's protocol to push one and to load it again.

Every file is sent inside the commit (the server chooses that in `preupload`), and every revision is the latest one.
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

MODEL = r"/api/models/([^/]+/[^/]+)"
ROUTES = {
    r"POST /api/repos/create": "create",
    r"POST /api/validate-yaml": "validate",
    rf"POST {MODEL}/preupload/[^/]+": "preupload",
    rf"POST {MODEL}/commit/[^/]+": "commit",
    rf"(?:GET|HEAD) {MODEL}(?:/revision/[^/]+)?": "info",
    r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/[^/]+/(.+)": "resolve",
}


class Hub(ThreadingHTTPServer):
    """The server; `with Hub(token, monkeypatch, cache) as hub` points this process's client at it, too."""

    daemon_threads = True

    def __init__(self, token, monkeypatch, cache_folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.token = token
        self.files = {}  # name: {path: content}
        self.private = set()
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        constants = huggingface_hub.constants  # read from the environment when it was imported
        monkeypatch.setattr(constants, "ENDPOINT", self.endpoint)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", self.endpoint)  # behind the module's functions
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)  # a client of its own, made on first use
        template = self.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache_folder))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", token)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.body = self.read()
        status, content, headers = 404, {"error": "no such endpoint"}, {}
        for pattern, name in ROUTES.items():
            if match := re.fullmatch(pattern, f"{self.command} {urlsplit(self.path).path}"):
                if self.command == "POST" and self.headers.get("Authorization") != f"Bearer {self.server.token}":
                    status, content = 401, {"error": "Invalid username or password."}
                else:
                    status, content, headers = getattr(self, name)(*map(unquote, match.groups()))
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_POST = do_GET

    def read(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def create(self):
        request = json.loads(self.body)
        name = f"{request.get('organization') or 'user'}/{request['name']}"
        self.server.files.setdefault(name, {".gitattributes": b""})
        if request.get("visibility") == "private":
            self.server.private.add(name)
        return 200, {"url": f"{self.server.endpoint}/{name}", "name": name}, {}

    def validate(self):
        huggingface_hub.ModelCard(json.loads(self.body)["content"])  # the client's reading: it raises, and we hang up
        return 200, {"errors": [], "warnings": []}, {}

    def preupload(self, name):
        paths = [file["path"] for file in json.loads(self.body)["files"]]
        return 200, {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]}, {}

    def commit(self, name):
        _, *files = map(json.loads, self.body.splitlines())
        contents = self.server.files[name]
        contents |= {file["value"]["path"]: base64.b64decode(file["value"]["content"]) for file in files}
        return 200, {"success": True, "commitOid": sha(contents), "commitUrl": f"{self.server.endpoint}/{name}"}, {}

    def info(self, name):
        files = self.server.files[name]
        return 200, {"id": name, "sha": sha(files), "tags": [], "siblings": [{"rfilename": p} for p in files]}, {}

    def resolve(self, name, path):
        files = self.server.files[name]
        headers = {"X-Repo-Commit": sha(files)}
        if path not in files:
            return 404, {}, headers | {"X-Error-Code": "EntryNotFound"}
        return 200, files[path], headers | {"ETag": f'"{sha(files[path])}"'}


def sha(content):
    return hashlib.sha1(repr(content).encode()).hexdigest()
