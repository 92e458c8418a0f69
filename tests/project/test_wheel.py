"""The wheel: built from this tree, installed into an empty environment, its encoder run there."""

import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_data

from leap import LeapEncoder
from leap.runtime.__main__ import main as export
from modeling_leap import LeapModel

TEXTS = ["a cat sat on the mat", "the dog", "a man plays guitar in the rain"]
ENCODE = """
import importlib.util, sys
import numpy as np
from leap import LeapEncoder

assert not importlib.util.find_spec("torch") and not importlib.util.find_spec("transformers")
for module in ("modeling_leap", "configuration_leap", "leap.page"):
    assert importlib.util.find_spec(module), module
folder, out, *texts = sys.argv[1:]
np.save(out, LeapEncoder.from_pretrained(folder, threads=1).encode(texts))
"""


@pytest.mark.slow
def test_the_wheel_encodes_without_torch(
    repo_root: Path, tmp_path: Path, make_tiny_model: Callable[..., LeapModel]
) -> None:
    source = tmp_path / "source"  # a copy, as a build leaves folders behind
    shutil.copytree(repo_root / "leap", source / "leap", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "modeling_leap.py", "configuration_leap.py"):
        shutil.copy(repo_root / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, source]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")

    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
    folder = tiny_data.save_tiny(tmp_path / "model", make_tiny_model(**tiny_data.LEAP_RULE))
    assert export(["export", "--model", str(folder), "--output", str(folder / "onnx")]) == 0
    out = tmp_path / "vectors.npy"
    subprocess.run([python, "-I", "-c", ENCODE, folder, out, *TEXTS], check=True, cwd="/")
    expected = LeapEncoder.from_pretrained(folder, threads=1).encode(TEXTS)
    np.testing.assert_array_equal(np.load(out, allow_pickle=False), expected)
