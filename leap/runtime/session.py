"""The files of an export below a model's folder, and sessions of ONNX Runtime over them."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxruntime import InferenceSession, SessionOptions

FOLDER = "onnx"
WEIGHTS = "model.safetensors"
# By precision. transformers.js looks for its int8 files under this very name.
SUFFIXES = {"float32": "", "int8": "_quantized"}
NEVER = 2.0  # a threshold that no cosine reaches
_ERRORS_ONLY = 3  # of ONNX Runtime's levels of logging


def file_name(depth: str, precision: str) -> str:
    """The file of a depth, "exit", "full" or "leap". Clients load the plain name by default."""
    return f"model{'' if depth == 'exit' else f'_{depth}'}{SUFFIXES[precision]}.onnx"


def rule_of(config: Mapping[str, Any]) -> str:
    """What a graph is built by, apart from its threshold, which a call may replace."""
    fields = ("exit_patience", "min_exit_layer", "max_exit_layer", "landing_layer")
    return json.dumps({field: config.get(field) for field in fields})


def sha256(path: Path) -> str:
    """Hex digest of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def usable_cores() -> int:
    """How many cores this process may run on: in a container or under taskset fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_session(path: Path, threads: int | None) -> InferenceSession:
    """A session on the CPU that writes nothing to the terminal.

    Args:
        path: of the file.
        threads: to compute with; None: as many as there are cores that this process may run on.
    """
    options = SessionOptions()
    # ONNX Runtime by itself counts cores that the process may not run on; threads then wait for each other.
    cores = usable_cores()
    options.intra_op_num_threads = threads or (cores if cores < (os.cpu_count() or 1) else 0)
    options.log_severity_level = _ERRORS_ONLY
    # No plan of memory for each of the many shapes that batches come in: less memory, in the same time.
    options.enable_mem_pattern = False
    return InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
