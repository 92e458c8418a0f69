"""What evaluations of more than one folder are tested with."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_data import LEAP_RULE, save_tiny

from modeling_leap import LeapModel


@pytest.fixture
def exported(make_tiny_model: Callable[..., LeapModel], tmp_path: Path) -> Path:
    """A tiny checkpoint with its ONNX files."""
    pytest.importorskip("onnxruntime")
    export = pytest.importorskip("leap.runtime.export").export
    folder = save_tiny(tmp_path / "tiny", make_tiny_model(**LEAP_RULE))
    export(folder, folder / "onnx")
    return folder
