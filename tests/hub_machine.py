"""A machine that knows the tests' Hub and has loaded nothing yet: what users start runs in its processes."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_hub import WRITER, FakeHub
from huggingface_hub import constants


@dataclass
class Machine:
    """A machine that knows the tests' Hub.

    Args:
        hub: its Hub.
        folder: of its cache and its working directory.
        root: of this repository.
    """

    hub: FakeHub
    folder: Path
    root: Path

    def run(
        self, *command: object, token: str | None = WRITER, here: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments, `here` in the repository or else out of its sight."""
        process = self.start(*command, token=token, here=here)
        output, errors = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def start(self, *command: object, token: str | None = WRITER, here: bool = True) -> subprocess.Popen[str]:
        """The same, without waiting for its end."""
        environment = self.hub.environment(self.folder / "home", token)
        environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        return subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=self.root if here else self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def log_in(monkeypatch: pytest.MonkeyPatch, hub: FakeHub, token: str | None = WRITER) -> None:
    """Make `hub` the Hub of this process, for uploads; what loads from a Hub needs a `Machine`.

    Args:
        monkeypatch: undoes it.
        hub: the tests' Hub.
        token: the login; None: there is none.
    """
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
