"""Provenance of a result: command, commit, versions, machine, data."""

import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from leap.encode.encoder import Encoder
from leap.text.sets import RetrievalData, StsData, TextData

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "evaluate",
    "numpy",
    "scipy",
    "sentence-transformers",
    "pytrec-eval-terrier",
    "onnxruntime",
    "onnx",
    "openvino",
    "fastembed",
)


@dataclass(frozen=True)
class Report:
    """One evaluation.

    Attributes:
        figures: what was measured, ready for JSON.
        summary: the same for a reader at a terminal.
        models: the encoders it is of, by their role.
        data: the set it was measured on.
        seed: of everything drawn; None where nothing is.
    """

    figures: dict[str, Any]
    summary: str
    models: dict[str, Encoder]
    data: StsData | RetrievalData | TextData
    seed: int | None = None

    def to_json(self, command: Sequence[str]) -> dict[str, Any]:
        """The content of a file in results/: the figures and everything they depend on.

        Args:
            command: NAME and its arguments, as given after `python -m eval`.
        """
        device = next(iter(self.models.values())).model.device
        return {
            "evaluation": command[0],
            "models": {role: encoder.facts() for role, encoder in self.models.items()},
            "data": {"name": self.data.name, "sha256": self.data.sha256},
            "figures": self.figures,
            "provenance": {
                "command": shlex.join(["python", "-m", "eval", *command]),
                "commit": _commit(),
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "seed": self.seed,
                "versions": {"python": platform.python_version()} | _versions(),
                "machine": _machine(device),
            },
        }


def rounded(figures: Any) -> Any:
    """Nested figures with floats rounded to five decimals, for large files."""
    if isinstance(figures, dict):
        return {key: rounded(value) for key, value in figures.items()}
    if isinstance(figures, list):
        return [rounded(value) for value in figures]
    return round(figures, 5) if isinstance(figures, float) else figures


def _commit() -> str | None:
    """The commit of this tree, "+" behind it if tracked files differ, results apart; None outside git."""
    status = ["status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)results"]
    try:
        root = Path(__file__).parent
        commit, changed = (
            subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout
            for arguments in (["rev-parse", "HEAD"], status)
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.strip() + ("+" if changed else "")


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _machine(device: torch.device) -> dict[str, Any]:
    machine = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
    }
    if device.type == "cuda":
        machine["accelerator"] = torch.cuda.get_device_name(device)
    return machine


def processor_name() -> str:
    """The processor's name if the system reports it, otherwise its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
