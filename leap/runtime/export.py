"""Write a model's ONNX files, checked, all of them or none.

python -m leap.runtime export --model . --output onnx
"""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import ModelProto

from configuration_leap import LeapConfig
from leap.encode.encoder import load_encoder
from leap.encode.exits import unit_vectors
from leap.encode.landing import Leap
from leap.folders import check_replaceable, write_folder
from leap.runtime import forms
from leap.runtime.bert import Bert, FloatArray, IntArray, Precision
from leap.runtime.ranges import widest_units
from leap.runtime.session import NEVER, SUFFIXES, WEIGHTS, file_name, open_session, rule_of, sha256

Depth = Literal["exit", "full", "leap"]
DEPTHS: tuple[Depth, ...] = ("exit", "full", "leap")
# Of embeddings of length 1, beside torch's: float32 in another order of sums, and the rounding of int8.
TOLERANCES = {"float32": 1e-4, "int8": 3e-2}


class Exporter:
    """Graphs of a checkpoint.

    Args:
        folder: with config.json and model.safetensors.

    Raises:
        ValueError: it holds no such model.
    """

    def __init__(self, folder: Path) -> None:
        encoder = load_encoder(str(folder), device="cpu", argument="--model")
        self.model = encoder.model
        self.config: LeapConfig = self.model.config
        self._wide = widest_units(encoder)
        self._weights: dict[str, FloatArray] = {
            name: tensor.numpy() for name, tensor in self.model.state_dict().items()
        }
        stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        theta, first, patience = self.config.resolve_exit_rule()
        self._facts = {
            "leap.exit_threshold": json.dumps(theta),
            "leap.min_exit_layer": str(first),
            "leap.exit_patience": str(patience),
            "leap.layers": str(self.config.num_hidden_layers),
            "leap.rule": rule_of(stored),
            "leap.model_sha256": sha256(folder / WEIGHTS),
            "leap.versions": json.dumps({name: version(name) for name in ("onnx", "onnxruntime")}),
        }

    def graph(self, depth: Depth, precision: Precision) -> ModelProto:
        """The file of a depth: "exit" with the exit inside, "full" of all layers, "leap" without the middle.

        Raises:
            ValueError: a kind of model that this cannot write.
        """
        bert = Bert(self.config.to_dict(), self._weights, precision, self._wide)
        facts = {**self._facts, "leap.precision": precision, "leap.depth": depth}
        if depth == "full":
            return forms.fixed(bert, range(1, bert.layers + 1), facts)
        leap = Leap.of(self.config)
        facts["leap.test_layer"] = str(leap.test)
        if depth == "leap":
            return forms.fixed(bert, leap.path, facts)
        theta = NEVER if leap.theta is None else leap.theta
        return forms.with_exit(bert, leap.test, leap.patience, leap.landing, theta, facts)

    def write(self, depth: Depth, precision: Precision, path: Path) -> None:
        """Write the file and hold a batch of random ids to torch.

        Raises:
            ValueError: as `graph`.
            RuntimeError: the file gives something else than torch.
        """
        model = self.graph(depth, precision)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        ids, mask = _random_batch(self.config)
        feed = {"input_ids": ids, "attention_mask": mask}
        session = open_session(path, threads=1)
        for leaps in (False, True) if depth == "exit" else (depth == "leap",):
            if depth == "exit":
                feed["exit_threshold"] = np.array([-1 if leaps else NEVER], np.float32)
            (found,) = session.run(["sentence_embedding"], feed)
            difference = np.abs(unit_vectors(found) - unit_vectors(self._in_torch(ids, mask, leaps))).max()
            if not difference <= TOLERANCES[precision]:
                raise RuntimeError(f"{path.name} differs from torch by {difference:.1e}: nothing was written")

    def _in_torch(self, ids: IntArray, mask: IntArray, leaps: bool) -> FloatArray:
        theta: list[float | None] = [None] * self.config.num_hidden_layers
        if leaps:
            theta[Leap.of(self.config).test - 1] = -1.0
        with torch.inference_mode():
            found = self.model(torch.from_numpy(ids), torch.from_numpy(mask), exit_threshold=theta)
        return found.sentence_embedding.numpy()


def _random_batch(config: LeapConfig) -> tuple[IntArray, IntArray]:
    """Ids and mask of three rows, one of them a single token."""
    width = min(12, config.max_position_embeddings)
    ids = np.random.default_rng(0).integers(1, config.vocab_size, size=(3, width))
    return ids, (np.arange(width) < np.array([[width], [4], [1]])).astype(np.int64)


def export(model: Path, output: Path, depths: Sequence[Depth] = DEPTHS) -> list[Path]:
    """Write the model with its exit, and both fixed depths, each in float32 and int8, into `output`.

    Args:
        model: folder with config.json and model.safetensors; its exit rule becomes the files' default.
        output: folder to write, usually onnx/ beside the weights. What an earlier export wrote is replaced.
        depths: those to write; any BERT encoder has the full one.

    Returns:
        The files written, relative to `output`.

    Raises:
        ValueError: the model cannot be exported, or `output` holds files of something else.
        RuntimeError: a file written gives something else than torch; nothing is kept.
    """
    check_replaceable("--output", output, lambda path: path.suffix == ".onnx")
    exporter = Exporter(model)
    if tuple(depths) != ("full",):
        Leap.of(exporter.config)  # complains before any work
    with write_folder(output) as folder:
        for precision in SUFFIXES:
            for depth in depths:
                exporter.write(depth, precision, folder / file_name(depth, precision))
        return sorted(path.relative_to(folder) for path in folder.rglob("*.onnx"))
