"""A small model hub on loopback: the part of the Hub's protocol that uploading to it and loading from it take.

What it answers is what `huggingface_hub` asks for, no more: a request it does not know is a 404 and is kept in
`unknown`, so that a test can tell that the protocol has moved. Large files go through git LFS; which protocol carries
them is the client's choice (HF_HUB_DISABLE_XET=1 where hf_xet is installed), which files are large is the server's.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results

LARGEST_BODY = 64 * 2**20
SECONDS_PER_REQUEST = 30
GIT_ATTRIBUTES = "".join(
    f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in ("bin", "parquet", "safetensors")
)
FOLDERS = {"models": "model", "datasets": "dataset"}


@dataclass
class Repository:
    """One repository: every commit is the whole of its files, and its .gitattributes say which are large."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch, files, message):
        parent = self.branches.get(branch, "")
        names = "".join(f"{path} {hashlib.sha1(content).hexdigest()}\n" for path, content in sorted(files.items()))
        sha = hashlib.sha1(f"{parent}\n{message}\n{len(self.messages)}\n{names}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        self.messages.append(message)
        return sha

    @property
    def files(self):
        return self.commits[self.branches["main"]]

    def is_large(self, path):
        endings = re.findall(r"^\*(\S+) filter=lfs", self.files[".gitattributes"].decode(), re.MULTILINE)
        return path.endswith(tuple(endings))

    def oid(self, path, content):
        if self.is_large(path):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """The server; `with Hub(token) as hub` runs it in a thread that ends with the block, or with the process.

    Args:
        token: The one that may write, and read what is private.
    """

    def __init__(self, token):
        self.token = token
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.unknown: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)

    def create(self, kind, name, *, private=False, attributes=GIT_ATTRIBUTES):
        repository = self.repositories[kind, name] = Repository(private)
        repository.commit("main", {".gitattributes": attributes.encode()}, "initial commit")
        return repository


def connect(monkeypatch, hub, cache_folder):
    """Point this process's client, which read its settings when it was imported, at a hub for the length of a test."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache_folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", hub.token)


class _Refusal(Exception):
    def __init__(self, status, message, code=None, body=None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.body = {"error": message} if body is None else body


def check_card(content):
    """Check a card's metadata by the Hub's rules for `model-index`: the errors, as messages."""
    match = re.match(r"---\s*\n(.*?)\n---\s*\n", content, re.DOTALL)
    if match is None:
        return []
    try:
        data = yaml.safe_load(match.group(1))
    except yaml.YAMLError as error:
        return [f"The metadata are no YAML: {error}"]
    if not isinstance(data, dict):
        return ["The metadata must be an object."]
    errors = []
    for name in ("tags", "metrics", "datasets"):
        if not isinstance(data.get(name, []), (list, str)) or not all(
            isinstance(one, str) for one in data.get(name, [])
        ):
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
    timeout = SECONDS_PER_REQUEST
    hub: Hub

    ROUTES = (
        ("POST", r"/api/repos/create", "create"),
        ("GET", r"/api/whoami-v2", "whoami"),
        ("GET", r"/api/agent-harnesses", "harnesses"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("POST", r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)/branch/(?P<revision>[^/]+)", "branch"),
        ("POST", r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)/paths-info/(?P<revision>[^/]+)", "paths"),
        (
            "GET",
            r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(/(?P<path>.+))?",
            "tree",
        ),
        ("GET", r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+(/[^/]+)?)(/revision/(?P<revision>[^/]+))?", "info"),
        ("POST", r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "upload"),
        ("POST", r"/lfs/verify", "verify"),
        ("GET", r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    )

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer("GET")

    def do_HEAD(self):
        self._answer("GET")

    def do_POST(self):
        self._answer("POST")

    def do_PUT(self):
        self._answer("PUT")

    def _answer(self, method):
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        try:
            self.body = self._read()
            for route_method, pattern, name in self.ROUTES:
                match = re.fullmatch(pattern, url.path)
                if match and route_method == method:
                    options = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                    with self.hub.lock:
                        getattr(self, f"_{name}")(**options)
                    return
            self.hub.unknown.append((self.command, self.path))
            raise _Refusal(404, f"no such endpoint: {self.command} {url.path}")
        except _Refusal as refusal:
            headers = {"X-Error-Message": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self._reply(refusal.body, refusal.status, headers)

    def _read(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
                self._check_size(sum(map(len, parts)))
            self.rfile.readline()
            return b"".join(parts)
        size = int(self.headers.get("Content-Length", 0))
        self._check_size(size)
        return self.rfile.read(size)

    def _check_size(self, size):
        if size > LARGEST_BODY:
            self.close_connection = True
            raise _Refusal(413, "payload too large")

    def _reply(self, content, status=200, headers=None):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.hub.requests.append((self.command, urlsplit(self.path).path, status))
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # Who may do what

    @property
    def _authorized(self):
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _check_writer(self):
        if not self._authorized:
            raise _Refusal(401, "Invalid username or password.")

    def _repository(self, kind, name):
        found = self.hub.repositories.get((FOLDERS[kind.rstrip("/")], name))
        if found is None or (found.private and not self._authorized):
            # As the Hub does: what is private cannot be told from what does not exist.
            raise _Refusal(404 if self._authorized else 401, "Repository not found", "RepoNotFound")
        return found

    def _files(self, repository, revision):
        sha = repository.branches.get(revision, revision)
        if sha not in repository.commits:
            raise _Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha, repository.commits[sha]

    # The endpoints

    def _harnesses(self):
        # Only fills in the client's user agent.
        self._reply({"standardEnvVars": [], "harnesses": {}})

    def _whoami(self):
        self._check_writer()
        self._reply({"type": "user", "name": "user", "orgs": [], "auth": {"type": "access_token"}})

    def _create(self):
        self._check_writer()
        request = json.loads(self.body)
        kind = request.get("type") or "model"
        name = f"{request.get('organization') or 'user'}/{request['name']}"
        url = f"{self.hub.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if (kind, name) in self.hub.repositories:
            raise _Refusal(
                409, "You already created this repo", body={"error": "You already created this repo", "url": url}
            )
        private = request.get("visibility") == "private" or bool(request.get("private"))
        self.hub.create(kind, name, private=private)
        self._reply({"url": url, "name": name})

    def _branch(self, kind, name, revision):
        self._check_writer()
        repository = self._repository(kind, name)
        if revision in repository.branches:
            raise _Refusal(409, "Reference already exists")
        repository.branches[revision] = repository.branches["main"]
        self._reply({})

    def _validate(self):
        errors = check_card(json.loads(self.body)["content"])
        answer = {"errors": [{"message": message} for message in errors], "warnings": []}
        self._reply(answer, 400 if errors else 200)

    def _preupload(self, kind, name, revision):
        self._check_writer()
        repository = self._repository(kind, name)
        _, files = self._files(repository, revision)
        answer = []
        for wanted in json.loads(self.body)["files"]:
            path = wanted["path"]
            answer.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if repository.is_large(path) else "regular",
                    "shouldIgnore": False,
                    "oid": repository.oid(path, files[path]) if path in files else None,
                }
            )
        self._reply({"files": answer})

    def _batch(self, name, kind="models"):
        self._check_writer()
        self._repository(kind, name)
        request = json.loads(self.body)
        objects = []
        for wanted in request["objects"]:
            one = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.objects:
                one["actions"] = {
                    "upload": {"href": f"{self.hub.endpoint}/lfs/{wanted['oid']}"},
                    "verify": {"href": f"{self.hub.endpoint}/lfs/verify"},
                }
            objects.append(one)
        self._reply({"transfer": "basic", "objects": objects})

    def _upload(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refusal(400, "the content is not what its name says")
        self.hub.objects[oid] = self.body
        self._reply({})

    def _verify(self):
        self._check_writer()
        request = json.loads(self.body)
        if len(self.hub.objects.get(request["oid"], b"")) != request["size"]:
            raise _Refusal(400, "not uploaded")
        self._reply({})

    def _commit(self, kind, name, revision):
        self._check_writer()
        repository = self._repository(kind, name)
        _, files = self._files(repository, revision)
        files = dict(files)
        message = None
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                message = value["summary"]
            elif operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
            elif operation["key"] == "deletedFolder":
                folder = value["path"].rstrip("/") + "/"
                files = {path: content for path, content in files.items() if not path.startswith(folder)}
            else:
                raise _Refusal(400, f"unknown operation {operation['key']}")
        sha = repository.commit(revision, files, message)
        prefix = "datasets/" if kind == "datasets" else ""
        self._reply(
            {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.endpoint}/{prefix}{name}/commit/{sha}"}
        )

    def _info(self, kind, name, revision="main"):
        repository = self._repository(kind, name)
        sha, files = self._files(repository, revision)
        self._reply(
            {
                "id": name,
                "sha": sha,
                "private": repository.private,
                "tags": [],
                "siblings": [{"rfilename": path} for path in sorted(files)],
            }
        )

    def _entry(self, repository, path, content):
        entry = {"type": "file", "path": path, "size": len(content), "oid": repository.oid(path, content)}
        if repository.is_large(path):
            entry["lfs"] = {"oid": entry["oid"], "size": len(content), "pointerSize": 130}
        return entry

    def _tree(self, kind, name, revision, path=""):
        repository = self._repository(kind, name)
        sha, files = self._files(repository, revision)
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        prefix = path.rstrip("/") + "/" if path else ""
        inside = {file: content for file, content in files.items() if file.startswith(prefix)}
        if path and not inside:
            raise _Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound")
        folders = set()
        for file in inside:
            parts = file[len(prefix) :].split("/")[:-1]
            folders |= {
                prefix + "/".join(parts[: depth + 1])
                for depth in range(len(parts) if recursive else min(1, len(parts)))
            }
        entries = [
            {"type": "directory", "path": folder, "oid": hashlib.sha1(folder.encode()).hexdigest(), "size": 0}
            for folder in sorted(folders)
        ]
        entries += [
            self._entry(repository, file, content)
            for file, content in sorted(inside.items())
            if recursive or "/" not in file[len(prefix) :]
        ]
        self._reply(entries, headers={"X-Repo-Commit": sha})

    def _paths(self, kind, name, revision):
        repository = self._repository(kind, name)
        _, files = self._files(repository, revision)
        if self.headers.get("Content-Type", "").startswith("application/json"):
            wanted = json.loads(self.body)["paths"]
        else:
            wanted = parse_qs(self.body.decode()).get("paths", [])
        wanted = [wanted] if isinstance(wanted, str) else wanted
        found = []
        for path in wanted:
            if path in files:
                found.append(self._entry(repository, path, files[path]))
            elif any(file.startswith(path.rstrip("/") + "/") for file in files):
                oid = hashlib.sha1(path.encode()).hexdigest()
                found.append({"type": "directory", "path": path, "oid": oid, "size": 0})
        self._reply(found)

    def _resolve(self, name, revision, path, kind="models"):
        repository = self._repository(kind, name)
        sha, files = self._files(repository, revision)
        if path not in files:
            refusal = _Refusal(404, "Entry not found", "EntryNotFound")
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message, "X-Repo-Commit": sha}
            self._reply(refusal.body, 404, headers)
            return
        content = files[path]
        oid = repository.oid(path, content)
        headers = {"ETag": f'"{oid}"', "X-Repo-Commit": sha}
        if repository.is_large(path):
            headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        self._reply(content, headers=headers)
