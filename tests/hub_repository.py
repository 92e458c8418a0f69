"""What the tests' Hub holds: repositories, their commits and files, and the errors it answers with."""

import hashlib
import json
from dataclasses import dataclass, field

OWNER = "owner"  # whom WRITER and READER belong to
ORGANISATION = "leap"  # where they may write too; there are no other namespaces
WRITER, READER = "hf_writes", "hf_reads"
ROLES = {WRITER: "write", READER: "read"}
LARGE = (".safetensors", ".parquet", ".onnx")  # sent as LFS files, with everything above LARGE_BYTES
LARGE_BYTES = 10 * 2**20
DATE = "2026-01-01T00:00:00.000Z"

Files = dict[str, bytes]


def git_oid(content: bytes) -> str:
    """What git names a file of this content by."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def is_large(path: str, size: int) -> bool:
    return path.endswith(LARGE) or size > LARGE_BYTES


class RefusalError(Exception):
    """An error the Hub answers with.

    Args:
        status: of HTTP.
        code: the Hub's own, in X-Error-Code: what huggingface_hub goes by.
        message: for people, in X-Error-Message.
    """

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class Commit:
    """A state of a repository.

    Attributes:
        oid: 40 hex digits.
        title: the first line of its message.
        files: all files by path, not just those it changed.
    """

    oid: str
    title: str
    files: Files


@dataclass
class Repository:
    """A model or a data set: its commits, oldest first. The first is empty, as the Hub's almost is.

    Args:
        kind: "models" or "datasets".
        name: owner/name.
    """

    kind: str
    name: str
    commits: list[Commit] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.add("initial commit", {})

    @property
    def head(self) -> Commit:
        """What `main` is."""
        return self.commits[-1]

    def add(self, title: str, files: Files) -> Commit:
        """Commit `files` as the whole content."""
        told = json.dumps(
            [self.kind, self.name, len(self.commits), title, sorted(map(git_oid, files.values()))]
        )
        self.commits.append(Commit(hashlib.sha1(told.encode()).hexdigest(), title, dict(files)))
        return self.head

    def at(self, revision: str) -> Commit:
        """The commit of a revision: `main` or a whole hash."""
        if revision == "main":
            return self.head
        for commit in self.commits:
            if commit.oid == revision:
                return commit
        raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
