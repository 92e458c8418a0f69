"""Write a model's ONNX files, checked, all of them or none.

python -m leap.runtime export --model . --output onnx
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from leap.folders import write_folder
from leap.runtime import forms
from leap.runtime.checkpoint import Checkpoint, read_checkpoint
from leap.runtime.graph import OPSETS, Bert
from leap.runtime.layout import SUFFIXES, exits_path, flat_path, segments_path
from leap.runtime.rule import first_exit, resolve
from leap.runtime.runners import FlatRunner, Runner, SegmentRunner, SingleRunner

# Of embeddings of length 1: what float32 in another order of sums may differ by between two forms.
TOLERANCE = 1e-4


def export(model: Path, output: Path) -> list[Path]:
    """Write the flat model, the model with exits and the segments, in float32 and int8, into `output`.

    Args:
        model: folder with config.json and model.safetensors; its exit rule becomes the files' default.
        output: folder to write, usually onnx/ beside the weights. What an earlier export wrote is replaced.

    Returns:
        The files written, relative to `output`.

    Raises:
        ValueError: the model cannot be exported, or `output` holds files of something else.
        RuntimeError: the files written do not agree with each other; nothing is kept.
    """
    _check_output(output)
    checkpoint = read_checkpoint(model)
    resolve(checkpoint.config)  # complains about a rule out of its range
    with write_folder(output) as folder:
        for precision in SUFFIXES:
            _write(checkpoint, precision, folder)
            _check(checkpoint, precision, folder)
        return sorted(path.relative_to(folder) for path in folder.rglob("*.onnx"))


def _check_output(output: Path) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise ValueError(f"--output: {str(output)!r} is a file: give a folder")
    others = [path.name for path in output.rglob("*") if path.is_file() and path.suffix != ".onnx"]
    if others:
        raise ValueError(
            f"--output: {str(output)!r} holds {others[0]!r}, and the whole folder would be replaced: "
            "give a folder for ONNX files alone"
        )


def _write(checkpoint: Checkpoint, precision: str, folder: Path) -> None:
    bert = Bert(checkpoint, precision)
    config = checkpoint.config
    rule = resolve(config)
    first = first_exit(config)
    thetas = [forms.NEVER] * bert.layers
    every_layer = resolve(config, min_exit_layer=min(rule.patience + 1, bert.layers))
    for number, theta in every_layer.exits.items():
        thetas[number - 1] = theta
    facts = {
        "leap.precision": precision,
        "leap.exit_threshold": json.dumps(config.get("exit_threshold")),
        "leap.min_exit_layer": str(first),
        "leap.exit_patience": str(rule.patience),
        "leap.layers": str(bert.layers),
        "leap.start": str(first),
        "leap.model_sha256": checkpoint.sha256,
        "leap.opsets": json.dumps(OPSETS),
        "leap.versions": json.dumps({name: version(name) for name in ("onnx", "onnxruntime")}),
    }
    _save(forms.flat(bert, facts), folder / flat_path(precision))
    _save(forms.with_exits(bert, thetas, first, rule.patience, facts), folder / exits_path(precision))
    for name, segment in forms.segments(bert, first, rule.patience, facts).items():
        _save(segment, folder / segments_path(precision) / f"{name}.onnx")


def _save(model: ModelProto, path: Path) -> None:
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def _check(checkpoint: Checkpoint, precision: str, folder: Path) -> None:
    """Run one text through the three forms, at full depth and with exits: they have to agree.

    With torch they are compared by `python -m eval parity`: an export does without torch.
    """
    config = checkpoint.config
    ids = np.random.default_rng(0).integers(1, config["vocab_size"], size=(1, 12))
    mask = np.ones_like(ids, dtype=np.int32)
    runners: dict[str, Runner] = {
        "flat": FlatRunner(folder, precision, threads=1),
        "exits": SingleRunner(folder, precision, threads=1),
        "segments": SegmentRunner(folder, precision, threads=1),
    }
    full = resolve(config, None)
    expected = runners.pop("flat").run(ids, mask, full)[0]
    expected = expected / np.linalg.norm(expected)
    for name, runner in runners.items():
        found = runner.run(ids, mask, full)[0]
        difference = np.abs(found / np.linalg.norm(found) - expected).max()
        # int8 rounds differently where float32 differs in its last digit.
        if not difference <= (TOLERANCE if precision == "float32" else 100 * TOLERANCE):
            raise RuntimeError(f"the {precision} {name} differ from the flat model by {difference:.1e}")
    first, second = (runner.run(ids, mask, resolve(config))[1] for runner in runners.values())
    if precision == "float32" and first != second:
        raise RuntimeError(f"the exits leave at layer {first}, the segments at {second}")
