"""Where the files of an export lie, below the folder onnx/ of a model."""

from pathlib import Path

FOLDER = "onnx"
# By precision. transformers.js looks for its int8 files under this very name.
SUFFIXES = {"float32": "", "int8": "_quantized"}


def flat_path(precision: str) -> Path:
    """The flat model of full depth."""
    return Path(f"model{SUFFIXES[precision]}.onnx")


def exits_path(precision: str) -> Path:
    """The one model with the exits inside."""
    return Path(f"model_exits{SUFFIXES[precision]}.onnx")


def segments_path(precision: str) -> Path:
    """The folder of the segments."""
    return Path(f"segments{SUFFIXES[precision]}")
