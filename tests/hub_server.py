"""A hub of models on loopback: just enough of the Hub's protocol to push one and to load it again.

Every file is small, so all of them are sent inside the commit (the server chooses that in `preupload`), and every
revision is the latest one. A request that it does not know is a 404, and is kept in `Hub.unknown`.
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
import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results

REPOSITORY = r"/api/models/([^/]+/[^/]+)"
ROUTES = (
    ("POST", r"/api/repos/create", "create"),
    ("GET", r"/api/agent-harnesses", "harnesses"),  # only fills in the client's user agent
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", REPOSITORY + r"/preupload/[^/]+", "preupload"),
    ("POST", REPOSITORY + r"/commit/[^/]+", "commit"),
    ("GET", REPOSITORY + r"/tree/[^/]+(?:/(.+))?", "tree"),
    ("GET", r"/api/models/([^/]+(?:/[^/]+)?)(?:/revision/[^/]+)?", "info"),
    ("GET", r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", "resolve"),
)


class Hub:
    """The server; `with Hub(token) as hub` runs it in a thread for the length of the block. Only the token writes."""

    def __init__(self, token):
        self.token = token
        self.files = {}  # name: {path: content}
        self.messages = {}  # name: of the commits
        self.private = set()
        self.unknown = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
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


def check_card(content):
    """Check a card's metadata by the Hub's rules for `model-index`: the errors, as messages."""
    match = re.match(r"---\s*\n(.*?)\n---\s*\n", content, re.DOTALL)
    if match is None:
        return []
    try:
        data = yaml.safe_load(match.group(1))
    except yaml.YAMLError as error:
        return [f"The metadata are no YAML: {error}"]
    errors = []
    for name in ("tags", "metrics", "datasets"):
        values = data.get(name, [])
        if not all(isinstance(value, str) for value in values):
            errors.append(f'"{name}" must be an array of strings')
    index = data.get("model-index", [])
    try:
        _, results = model_index_to_eval_results(index) if index else (None, [])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return [*errors, f'"model-index" lacks {error}']
    for result in results:
        for name in ("task_type", "dataset_type", "dataset_name", "metric_type"):
            if not (isinstance(getattr(result, name), str) and getattr(result, name)):
                errors.append(f'"model-index": {name} must be a text')
        if isinstance(result.metric_value, bool) or not isinstance(result.metric_value, (int, float, str)):
            errors.append(f'"model-index": {result.metric_type} must have a value')
    return errors


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer("GET")

    def do_HEAD(self):
        self._answer("GET")

    def do_POST(self):
        self._answer("POST")

    def _answer(self, method):
        self.body = self._read()
        path = urlsplit(self.path).path
        for route_method, pattern, name in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and route_method == method:
                status, content, *headers = getattr(self, name)(*map(unquote, map(str, match.groups(default=""))))
                break
        else:
            self.hub.unknown.append((self.command, self.path))
            status, content, headers = 404, {"error": f"no such endpoint: {path}"}, []
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | dict(*headers)).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

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
        return self.hub.files.get(name, {}) if name not in self.hub.private or self._may_write() else {}

    def _may_write(self):
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def harnesses(self):
        return 200, {"standardEnvVars": [], "harnesses": {}}

    def create(self):
        if not self._may_write():
            return 401, {"error": "Invalid username or password."}
        request = json.loads(self.body)
        name = f"{request.get('organization') or 'user'}/{request['name']}"
        url = f"{self.hub.endpoint}/{name}"
        if name in self.hub.files:
            return 409, {"error": "You already created this repo", "url": url}
        if request.get("visibility") == "private" or request.get("private"):
            self.hub.private.add(name)
        self.hub.files[name], self.hub.messages[name] = {".gitattributes": b""}, []
        return 200, {"url": url, "name": name}

    def validate(self):
        errors = check_card(json.loads(self.body)["content"])
        return 400 if errors else 200, {"errors": [{"message": message} for message in errors], "warnings": []}

    def preupload(self, name):
        paths = [file["path"] for file in json.loads(self.body)["files"]]
        return 200, {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}

    def commit(self, name):
        files = self._files(name)
        if not self._may_write():
            return 401, {"error": "Invalid username or password."}
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                self.hub.messages[name].append(value["summary"])
            elif operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
            else:
                return 400, {"error": f"unknown operation {operation['key']}"}
        url = f"{self.hub.endpoint}/{name}/commit/{_sha(files)}"
        return 200, {"success": True, "commitOid": _sha(files), "commitUrl": url}

    def info(self, name):
        files = self._files(name)
        if not files:  # as the Hub does: what is private cannot be told from what does not exist
            return 401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        siblings = [{"rfilename": path} for path in sorted(files)]
        return 200, {"id": name, "sha": _sha(files), "private": False, "tags": [], "siblings": siblings}

    def tree(self, name, folder):
        files = self._files(name)
        return 200, [_entry(path, files[path]) for path in sorted(files) if path.startswith(folder)]

    def resolve(self, name, path):
        files = self._files(name)
        if path not in files:
            code = "EntryNotFound" if files else "RepoNotFound"
            return 404 if files else 401, {"error": code}, {"X-Error-Code": code, "X-Repo-Commit": _sha(files)}
        return 200, files[path], {"ETag": f'"{_entry(path, files[path])["oid"]}"', "X-Repo-Commit": _sha(files)}


def _entry(path, content):
    return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


def _sha(files):
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
