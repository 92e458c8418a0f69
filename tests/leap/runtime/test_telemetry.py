"""Encoding opens no connection and writes nothing into the home folder, as the kernel sees it.

Python's sockets see nothing of it: ONNX Runtime's telemetry, in Linux wheels from 1.29 on, is native code.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WAIT = 14  # seconds: ONNX Runtime sends ten seconds after its first session
# Variables by which ONNX Runtime takes a machine for one of its makers' tests and stays silent by itself.
OF_MACHINES = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "JENKINS_URL", "BUILD_ID", "ORT_DISABLE_TELEMETRY")
ENCODER = """
from leap.runtime import LeapEncoder
for precision in ("float32", "int8"):
    encoder = LeapEncoder.from_pretrained({folder!r}, precision=precision, threads=1)
    encoder.encode(["a cat", "the dog"])
    next(encoder.encode_stream(["a cat"])).embeddings
"""
EXPORT = """
import leap  # as every program of the project does, before
import onnxruntime
session = onnxruntime.InferenceSession({folder!r} + "/onnx/model_full.onnx")
"""
# What shows that the test would see it: the same library, asked by somebody who has not set the variable.
BARE = """
import onnxruntime
session = onnxruntime.InferenceSession({folder!r} + "/onnx/model.onnx")
"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("strace"), reason="no strace: apt-get install strace"
)


def seen(program: str, folder: Path, home: Path, repo_root: Path, wait: int) -> tuple[list[str], list[Path]]:
    """System calls of a program that reach for the network, and the files it has written below its home."""
    trace = home.parent / "trace.txt"
    environment = {name: value for name, value in os.environ.items() if name not in OF_MACHINES}
    home.mkdir()
    environment |= {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("XDG_CACHE_HOME", None)
    code = f"{program.format(folder=str(folder))}\nimport time\ntime.sleep({wait})"
    calls = "trace=socket,connect,sendto,sendmsg,sendmmsg"
    subprocess.run(
        ["strace", "-f", "-qq", "-e", calls, "-o", str(trace), sys.executable, "-c", code],
        cwd=repo_root, env=environment, check=True, capture_output=True, timeout=240,
    )  # fmt: skip
    reached = re.findall(r".*(?:AF_INET|AF_UNIX|connect\().*", trace.read_text())
    return reached, [path for path in home.rglob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("program", [ENCODER, EXPORT], ids=["encoder", "session of its own"])
def test_nothing_is_sent_and_nothing_left(
    folder: Path, tmp_path: Path, repo_root: Path, program: str
) -> None:
    assert seen(program, folder, tmp_path / "home", repo_root, WAIT) == ([], [])


@pytest.mark.slow
def test_without_the_variable_it_would_be_seen(folder: Path, tmp_path: Path, repo_root: Path) -> None:
    reached, written = seen(BARE, folder, tmp_path / "home", repo_root, WAIT)
    if not reached and not written:
        pytest.skip("this ONNX Runtime has no telemetry")
    assert reached and written


def test_the_variable_is_set_before_any_import(repo_root: Path) -> None:
    program = "import sys, leap, os; print(os.environ['ORT_DISABLE_TELEMETRY'], 'onnxruntime' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name not in OF_MACHINES}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=repo_root, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["1", "False"], done.stderr
