"""A machine that knows the tests' Hub and has loaded nothing yet: what users start runs in its processes."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fake_hub import WRITER, FakeHub


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
