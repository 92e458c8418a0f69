"""Requests to the tests' Hub, and its answers: over as much of the Hub's API as the tests need."""

import base64
import json
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from hub_repository import (
    DATE,
    ORGANISATION,
    OWNER,
    ROLES,
    Files,
    RefusalError,
    Repository,
    git_oid,
    is_large,
    sha256,
)


def _entry(path: str, content: bytes) -> dict[str, object]:
    """A file in a listing."""
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
    if is_large(path, len(content)):
        entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
    return entry


def _listing(files: Files, folder: str, recursive: bool) -> Iterator[dict[str, object]]:
    """The entries below a folder ("" for all), or just those in it."""
    start = f"{folder}/" if folder else ""
    folders: set[str] = set()
    for path in sorted(files):
        if not path.startswith(start):
            continue
        parts = path.removeprefix(start).split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            above = start + "/".join(parts[:depth])
            if above not in folders:
                folders.add(above)
                yield {"type": "directory", "path": above, "size": 0, "oid": git_oid(above.encode())}
        if recursive or len(parts) == 1:
            yield _entry(path, files[path])


@dataclass(frozen=True)
class Reply:
    """What is sent back, where it is not JSON with status 200.

    Attributes:
        status: of HTTP.
        content: the body; its length is the Content-Length of a HEAD request too.
        headers: all others.
    """

    status: int
    content: bytes
    headers: dict[str, str]


class Handler(BaseHTTPRequestHandler):
    """One connection. `routes` maps requests to methods; what they return is sent as JSON."""

    hub: Any  # the FakeHub that it answers for
    protocol_version = "HTTP/1.1"  # connections are kept, as the Hub keeps them
    NAME = r"(?P<name>[^/]+/[^/]+)"
    KIND = r"/api/(?P<kind>models|datasets)/"
    routes = (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("POST", rf"{KIND}{NAME}/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", rf"/(?P<kind>datasets/)?{NAME}\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/storage/(?P<oid>\w+)", "store"),
        ("POST", rf"{KIND}{NAME}/commit/(?P<revision>[^/]+)", "commit"),
        ("GET", rf"{KIND}{NAME}(/revision/(?P<revision>[^/]+))?", "info"),
        ("GET", rf"{KIND}{NAME}/tree/(?P<revision>[^/]+)(/(?P<folder>.*))?", "tree"),
        ("POST", rf"{KIND}{NAME}/paths-info/(?P<revision>[^/]+)", "paths_info"),
        ("GET", rf"/(?P<kind>datasets/)?{NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
        ("GET", r"/storage/(?P<oid>\w+)", "stored"),
    )

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - the names that http.server looks for

    def log_message(self, *arguments: object) -> None:
        """Nothing: `hub.requests` has it."""

    def _answer(self) -> None:
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        if self.hub.drops(self.command, address.path):
            self._break_off()
            return
        self.body = self._read()
        try:
            with self.hub.lock:
                self.hub.requests.append((self.command, address.path))
                method, arguments = self._route(address.path)
                found = method(**arguments)
        except RefusalError as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            found = Reply(refusal.status, json.dumps({"error": refusal.message}).encode(), headers)
        # Outside of the lock: a client may read a stream slowly, and ask for something else meanwhile.
        reply = found if isinstance(found, Reply) else Reply(200, json.dumps(found).encode(), {})
        self.send_response(reply.status)
        for name, value in ({"Content-Length": str(len(reply.content))} | reply.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.content)

    def _route(self, path: str) -> tuple[Callable[..., object], dict[str, str | None]]:
        asked = "GET" if self.command == "HEAD" else self.command
        for method, pattern, name in self.routes:
            match = re.fullmatch(pattern, path)
            if match and method == asked:
                found = {key: value and unquote(value) for key, value in match.groupdict().items()}
                if "kind" in found:
                    found["kind"] = (found["kind"] or "models").rstrip("/")
                return getattr(self, f"_{name}"), found
        raise RefusalError(404, message=f"the tests' Hub knows no {self.command} {path}")

    def _break_off(self) -> None:
        """Read half of the body, and hang up."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    # Who asks, and for what

    def _role(self) -> str:
        """What the token of the request may do."""
        role = ROLES.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))
        if role is None:
            raise RefusalError(401, message="Invalid username or password.")
        return role

    def _writes(self) -> None:
        if self._role() != "write":
            raise RefusalError(403, message="this token cannot write")

    def _repository(self, kind: str | None, name: str) -> Repository:
        found = self.hub.repositories.get((kind, name))
        if found is None:
            raise RefusalError(404, "RepoNotFound", "Repository not found")
        return found

    # The routes, named as in `routes`

    def _whoami(self) -> object:
        access = {"displayName": "tests", "role": self._role()}
        orgs = [{"type": "org", "name": ORGANISATION, "roleInOrg": "write"}]
        return {"type": "user", "name": OWNER, "orgs": orgs, "auth": {"accessToken": access}}

    def _create(self) -> object:
        self._writes()
        asked = json.loads(self.body)
        kind, owner = f"{asked.get('type') or 'model'}s", asked["organization"] or OWNER
        if owner not in (OWNER, ORGANISATION):
            raise RefusalError(403, message=f"You don't have the rights to create a {kind} under {owner}")
        name = f"{owner}/{asked['name']}"
        url = f"{self.hub.url}/{'' if kind == 'models' else f'{kind}/'}{name}"
        if (kind, name) in self.hub.repositories:
            return Reply(409, json.dumps({"error": "You already created this repo", "url": url}).encode(), {})
        self.hub.repositories[kind, name] = Repository(kind, name)
        return {"url": url, "name": name}

    def _validate(self) -> object:
        card = json.loads(self.body)["content"]
        if not card.startswith("---\n"):
            return {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}
        return {"errors": [], "warnings": []}

    def _preupload(self, kind: str, name: str, revision: str) -> object:
        self._writes()
        there = self._repository(kind, name).at(revision).files
        answers = []
        for file in json.loads(self.body)["files"]:
            path, content = file["path"], there.get(file["path"])
            large = is_large(path, file["size"])
            oid = None if content is None else (sha256 if large else git_oid)(content)
            mode = "lfs" if large else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": answers}

    def _batch(self, kind: str, name: str) -> object:
        self._writes()
        self._repository(kind, name)
        objects = []
        for file in json.loads(self.body)["objects"]:
            upload = {"actions": {"upload": {"href": f"{self.hub.url}/storage/{file['oid']}"}}}
            objects.append(file | ({} if file["oid"] in self.hub.large else upload))
        return {"transfer": "basic", "objects": objects}

    def _store(self, oid: str) -> object:
        if sha256(self.body) != oid:
            raise RefusalError(400, message="the content is not that of its sha256")
        self.hub.large[oid] = self.body
        return {}

    def _commit(self, kind: str, name: str, revision: str) -> object:
        self._writes()
        repository = self._repository(kind, name)
        if repository.at(revision) is not repository.head:
            raise RefusalError(412, message="A commit has happened since")
        files, title = dict(repository.head.files), ""
        for line in self.body.splitlines():
            step = json.loads(line)
            value = step["value"]
            if step["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, repository.head.oid):
                    raise RefusalError(412, message="A commit has happened since")
            elif step["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif step["key"] == "lfsFile":
                if value["oid"] not in self.hub.large:
                    raise RefusalError(400, message=f"{value['path']} has not been sent")
                files[value["path"]] = self.hub.large[value["oid"]]
            elif step["key"] in ("deletedFile", "deletedFolder"):
                gone = value["path"].rstrip("/")
                kept = (path for path in files if not f"{path}/".startswith(f"{gone}/"))
                files = {path: files[path] for path in kept}
            else:
                raise RefusalError(400, message=f"the tests' Hub knows no {step['key']}")
        oid = repository.add(title, files).oid
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"}

    def _info(self, kind: str, name: str, revision: str | None) -> object:
        commit = self._repository(kind, name).at(revision or "main")
        told = {
            "_id": "0" * 24,
            "id": name,
            "author": OWNER,
            "sha": commit.oid,
            "private": False,
            "gated": False,
        }
        told |= {"tags": [], "downloads": 0, "likes": 0, "lastModified": DATE, "createdAt": DATE}
        return told | {"siblings": [{"rfilename": path} for path in sorted(commit.files)]}

    def _tree(self, kind: str, name: str, revision: str, folder: str | None) -> object:
        files = self._repository(kind, name).at(revision).files
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        found = list(_listing(files, folder or "", recursive))
        if folder and not found:
            raise RefusalError(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        return found

    def _paths_info(self, kind: str, name: str, revision: str) -> object:
        files = self._repository(kind, name).at(revision).files
        entries = {str(entry["path"]): entry for entry in _listing(files, "", True)}
        asked = parse_qs(self.body.decode())["paths"]
        return [entries[path] for path in asked if path in entries]

    def _resolve(self, kind: str, name: str, revision: str, path: str) -> Reply:
        commit = self._repository(kind, name).at(revision)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            raise RefusalError(404, "EntryNotFound", "Entry not found")
        content = commit.files[path]
        if not is_large(path, len(content)):
            return self._file(content, headers | {"ETag": f'"{git_oid(content)}"'})
        oid = sha256(content)
        self.hub.large[oid] = content
        headers |= {"Location": f"{self.hub.storage}/{oid}", "ETag": f'"{git_oid(content)}"'}
        headers |= {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        return Reply(302, f"Found. Redirecting to {quote(headers['Location'])}".encode(), headers)

    def _stored(self, oid: str) -> Reply:
        if self.headers.get("Authorization"):
            raise RefusalError(400, message="a token has left the Hub")
        if oid not in self.hub.large:
            raise RefusalError(404, message="no such file")
        return self._file(self.hub.large[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def _file(self, content: bytes, headers: dict[str, str]) -> Reply:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not match:
            return Reply(200, content, headers)
        first, last = int(match[1]), min(int(match[2] or len(content) - 1), len(content) - 1)
        if first > last:
            return Reply(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        span = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
        return Reply(206, content[first : last + 1], headers | span)
