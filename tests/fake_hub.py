"""A Hub on 127.0.0.1 for the tests: models and data sets in memory, over as much of its API as they need.

A program started with `FakeHub.environment` takes it for the Hub: its own huggingface_hub makes repositories,
uploads, commits, lists and downloads. As on the Hub, a commit is taken whole or refused, every commit stays
readable by its hash, weights are sent ahead of the commit that names them, and who downloads them is sent on
to another host, which must see no token.
"""

import os
import re
import threading
from collections.abc import Callable, Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from hub_handler import Handler
from hub_repository import READER, WRITER, Repository

__all__ = ["READER", "WRITER", "FakeHub"]


class FakeHub:
    """The server, running as long as the `with` block; each test may have one of its own.

    Attributes:
        url: what HF_ENDPOINT is to be.
        repositories: by (kind, name).
        requests: of all requests so far, method and path.
        drops: asked for method and path of each request; where it says so, the connection breaks off in the
            middle of what the client sends.
    """

    def __init__(self) -> None:
        self.drops: Callable[[str, str], bool] = lambda _method, _path: False
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[tuple[str, str]] = []
        self.large: dict[str, bytes] = {}  # LFS files by sha256, sent but perhaps in no commit yet
        self.lock = threading.Lock()  # huggingface_hub sends from several threads
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{port}"
        self.storage = f"http://localhost:{port}/storage"  # another host to the client, as the Hub's CDN is

    def __enter__(self) -> "FakeHub":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def environment(self, home: Path, token: str | None = WRITER) -> dict[str, str]:
        """The variables of a process to which this is the Hub, on a machine that has never seen it.

        Args:
            home: where it caches what it loads; a folder used before is a machine that has seen it.
            token: its login; None: it has none.
        """
        # Whatever speaks of the Hub or a proxy here is not to reach that process.
        ours = re.compile(r"(?i)HF_|HUGGING|TRANSFORMERS_|SENTENCE_TRANSFORMERS|PYTHONPATH|\w+_proxy$")
        kept = {name: value for name, value in os.environ.items() if not ours.match(name)}
        login = {} if token is None else {"HF_TOKEN": token}
        return (
            kept
            | login
            | {
                "HF_ENDPOINT": self.url,
                "HF_HOME": str(home),
                "HF_HUB_OFFLINE": "0",
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
            }
        )

    def commit(self, name: str, content: Path | Mapping[str, bytes], kind: str = "models") -> str:
        """Put files into a repository, made where there is none, without HTTP; the commit's hash.

        Args:
            name: owner/name.
            content: a folder, or bytes by path. Other files of the repository stay.
            kind: "models" or "datasets".
        """
        if isinstance(content, Path):
            files = (path for path in content.rglob("*") if path.is_file())
            content = {path.relative_to(content).as_posix(): path.read_bytes() for path in files}
        with self.lock:
            repository = self.repositories.setdefault((kind, name), Repository(kind, name))
            return repository.add("put", repository.head.files | dict(content)).oid

    def model(self, name: str) -> Repository:
        """The model repository of that name."""
        return self.repositories["models", name]
