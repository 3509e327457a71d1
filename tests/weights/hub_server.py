"""As much of the hub as huggingface_hub needs: listing, download by parts, and upload, of public and private models."""

import base64
import hashlib
import http.server
import json
import re
import threading
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import yaml

TOKEN, OWNER = "hf_secret", "me"
PART = 2**14  # bytes written at a time


@dataclass
class Repository:
    """commits: the files of each, by its name; revisions: the commit of a branch or tag."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)

    def commit(self, revision: str, files: dict[str, bytes]) -> str:
        """Changes files; returns the new commit."""
        whole = {**self.commits.get(self.revisions.get(revision, ""), {}), **files}
        name = hashlib.sha1(repr((len(self.commits), sorted(whole))).encode()).hexdigest()
        self.commits[name], self.revisions[revision] = whole, name
        return name

    def named(self, revision: str) -> str:
        """The commit that a revision, or its own name, stands for."""
        return self.revisions.get(revision, revision)


class HubServer(http.server.ThreadingHTTPServer):
    """The hub, on a free port of this machine.

    Attributes:
        repositories: by id.
        fetched: path and first byte of every file that was asked for.
        breaks: how many more downloads end in the middle.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.fetched: list[tuple[str, int]] = []
        self.breaks = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: HubServer

    def do_HEAD(self):
        self.route()

    do_GET = do_POST = do_PUT = do_HEAD

    def route(self):
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for pattern, action in ROUTES:
            if found := re.fullmatch(pattern, path):
                return action(self, body, **found.groupdict())
        return self.answer(404)

    @property
    def is_known(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def repository(self, id):
        """None, after an answer, where it does not exist or may not be seen."""
        found = self.server.repositories.get(id)
        if found is None or (found.private and not self.is_known):
            self.answer(401, headers={"X-Error-Code": "RepoNotFound", "X-Error-Message": "no such repository"})
            return None
        return found

    def files(self, id, revision):
        """The commit and its files."""
        repository = self.repository(id)
        if repository is None:
            return None, None
        commit = repository.named(revision)
        if commit not in repository.commits:
            self.answer(404, headers={"X-Error-Code": "RevisionNotFound", "X-Error-Message": "no such revision"})
            return None, None
        return commit, repository.commits[commit]

    def describe(self, _, id, revision="main"):
        commit, files = self.files(id, revision)
        if files is not None:
            siblings = [{"rfilename": name} for name in files]
            self.answer(200, {"id": id, "sha": commit, "siblings": siblings})

    def tree(self, _, id, revision):
        _, files = self.files(id, revision)
        if files is not None:
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
            self.answer(200, entries)

    def download(self, _, id, revision, name):
        commit, files = self.files(id, revision)
        if files is None:
            return None
        if name not in files:
            return self.answer(404, headers={"X-Error-Code": "EntryNotFound", "X-Error-Message": "no such file"})
        content = files[name]
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
        }
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        if self.command == "GET":
            self.server.fetched.append((name, first))
        if asked:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        return self.answer(206 if asked else 200, content[first:], headers)

    def whoami(self, _):
        self.answer(200, {"name": OWNER, "type": "user", "orgs": []}) if self.is_known else self.answer(401)

    def create(self, body):
        fields = json.loads(body)
        id = f"{fields.get('organization') or OWNER}/{fields['name']}"
        if not self.is_known:
            return self.answer(401)
        exists = id in self.server.repositories
        if not exists:
            self.server.repositories[id] = Repository(
                bool(fields.get("private") or fields.get("visibility") == "private")
            )
            self.server.repositories[id].commit("main", {})
        return self.answer(409 if exists else 200, {"url": f"{self.server.address}/{id}", "id": id})

    def validate(self, body):
        """A model card needs metadata, between two lines of dashes at its top."""
        _, front, _ = json.loads(body)["content"].split("---\n", 2)
        wrong = not isinstance(yaml.safe_load(front), dict)
        errors = [{"message": "the card has no metadata"}] if wrong else []
        self.answer(400 if wrong else 200, {"errors": errors, "warnings": []})

    def preupload(self, body, id, revision):
        """Weights go the way of large files."""
        modes = [
            {
                "path": each["path"],
                "uploadMode": "lfs" if "safetensors" in each["path"] else "regular",
                "shouldIgnore": False,
            }
            for each in json.loads(body)["files"]
        ]
        self.answer(200, {"files": modes})

    def large_files(self, body, id):
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.server.address}/objects/{each['oid']}"}}}
            for each in json.loads(body)["objects"]
        ]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def store(self, body, oid):
        self.server.objects[oid] = body
        self.answer(200 if hashlib.sha256(body).hexdigest() == oid else 400)

    def commit(self, body, id, revision):
        repository = self.repository(id)
        if repository is None or not self.is_known:
            return self.answer(401)
        files = {}
        for line in body.decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            if entry["key"] == "lfsFile":
                files[entry["value"]["path"]] = self.server.objects[entry["value"]["oid"]]
        commit = repository.commit(revision, files)
        url = f"{self.server.address}/{id}/commit/{commit}"
        return self.answer(200, {"success": True, "commitOid": commit, "commitUrl": url})

    def answer(self, status, content=b"", headers=()):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {**dict(headers), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.breaks and len(body) > 2 * PART:
            self.server.breaks -= 1
            body, self.close_connection = body[:PART], True
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ID, REVISION = r"(?P<id>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
ROUTES = [
    (r"/api/whoami-v2", Handler.whoami),
    (r"/api/repos/create", Handler.create),
    (r"/api/validate-yaml", Handler.validate),
    (rf"/api/models/{ID}/preupload/{REVISION}", Handler.preupload),
    (rf"/api/models/{ID}/commit/{REVISION}", Handler.commit),
    (rf"/api/models/{ID}/tree/{REVISION}", Handler.tree),
    (rf"/api/models/{ID}/revision/{REVISION}", Handler.describe),
    (rf"/api/models/{ID}", Handler.describe),
    (rf"/{ID}\.git/info/lfs/objects/batch", Handler.large_files),
    (r"/objects/(?P<oid>\w+)", Handler.store),
    (rf"/{ID}/resolve/{REVISION}/(?P<name>.+)", Handler.download),
]
