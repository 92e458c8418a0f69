"""Token ids to embeddings and exit layers, one class for each form a model comes in."""

from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime import InferenceSession, OrtValue, SessionOptions
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument

from leap.runtime.checkpoint import FloatArray
from leap.runtime.layout import exits_path, flat_path, segments_path
from leap.runtime.rule import ExitRule

IntArray = NDArray[np.int64]
NEVER = 2.0  # a threshold that no cosine reaches
ERRORS_ONLY = 3  # of ONNX Runtime's levels of logging

_value = OrtValue.ortvalue_from_numpy  # shares the array's memory; keeps it alive


class Runner(Protocol):
    """A network that may be called from several threads at once."""

    facts: dict[str, str]

    def run(self, ids: IntArray, mask: NDArray[np.int32], rule: ExitRule) -> tuple[FloatArray, IntArray]:
        """Encode a batch.

        Args:
            ids: (B, T) int64 token ids.
            mask: (B, T) int32, 1 for a token and 0 for padding.
            rule: where rows may leave.

        Returns:
            (B, H) float32 embeddings, not normalised, and (B,) int64 layers the rows left at.
        """


@cache
def _share_memory() -> None:
    """Register, once in a process, the arena that all sessions opened here take their memory from."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    as_asked = {"arena_extend_strategy": 1}  # kSameAsRequested; the default doubles at every growth
    with suppress(Fail, InvalidArgument):  # the program around us has registered one: then it is that one
        onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg(as_asked))


def open_session(path: Path, threads: int | None) -> InferenceSession:
    """A session on the CPU that writes nothing to the terminal.

    Args:
        path: of the file.
        threads: to compute with; None: as many as there are cores.
    """
    options = SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = ERRORS_ONLY
    # Threads that wait for work in a loop make an operator start faster, but those of one segment must not
    # take the cores from the next one: they stop with the run.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # One arena for all segments, as only one of them runs at a time, and no plan of memory for each of the
    # many shapes that batches come in: a third of the memory, in the same time.
    _share_memory()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.enable_mem_pattern = False
    onnxruntime.set_default_logger_severity(ERRORS_ONLY)
    return InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _facts(session: InferenceSession) -> dict[str, str]:
    return dict(session.get_modelmeta().custom_metadata_map)


class SegmentRunner:
    """The segments, with rows dropped between them: each leaves at the first layer where it has converged.

    A batch shrinks as its rows leave. States stay ONNX Runtime's own from segment to segment, and are copied
    only when some rows leave and others stay.

    Args:
        folder: of the export.
        precision: "float32" or "int8".
        threads: as of `open_session`.
    """

    def __init__(self, folder: Path, precision: str, threads: int | None) -> None:
        path = folder / segments_path(precision)
        self._start = open_session(path / "start.onnx", threads)
        self.facts = _facts(self._start)
        self._cut = int(self.facts["leap.start"])
        self._layers = int(self.facts["leap.layers"])
        self._patience = int(self.facts["leap.exit_patience"])
        self._later = {
            number: open_session(path / f"layer_{number:02d}.onnx", threads)
            for number in range(self._cut + 1, self._layers + 1)
        }

    def run(self, ids: IntArray, mask: NDArray[np.int32], rule: ExitRule) -> tuple[FloatArray, IntArray]:
        """As `Runner.run`."""
        rows = _Rows(mask)
        self._run_start(ids, rows, rule)
        for number in range(self._cut + 1, self._layers + 1):
            if rows.all_left:
                break
            self._run_layer(number, rows, rule)
        return rows.gather(self._layers)

    def _run_start(self, ids: IntArray, rows: "_Rows", rule: ExitRule) -> None:
        """The layers up to the cut; a rule with an earlier exit is followed, only its time is not saved."""
        exits = [number for number in rule.exits if number <= self._cut]
        # What exits and later layers need: p of the exits themselves, and the last k.
        needed = sorted({*exits, *range(max(1, self._cut - self._patience + 1), self._cut + 1)})
        names = ["hidden", "weights", *(f"pooled_{number}" for number in needed)]
        names += [f"similarity_{number}" for number in exits]
        found = self._start.run_with_ort_values(
            names, {"input_ids": _value(ids), "attention_mask": rows.mask}
        )
        values = dict(zip(names, found, strict=True))
        rows.hidden, rows.weights = values["hidden"], values["weights"]
        rows.pooled = {number: values[f"pooled_{number}"] for number in needed}
        for number in exits:
            similarity = values[f"similarity_{number}"].numpy()[rows.here_of_start]
            rows.let_leave(number, similarity >= rule.exits[number])
            if rows.all_left:
                return

    def _run_layer(self, number: int, rows: "_Rows", rule: ExitRule) -> None:
        inputs = {"hidden": rows.hidden, "attention_mask": rows.mask, "weights": rows.weights}
        if number == self._layers:
            (rows.pooled[number],) = self._later[number].run_with_ort_values(["pooled"], inputs)
            return
        inputs["before"] = rows.pooled[number - self._patience]
        names = ["hidden_out", "pooled", "similarity"]
        rows.hidden, rows.pooled[number], similarity = self._later[number].run_with_ort_values(names, inputs)
        del rows.pooled[number - self._patience]
        theta = rule.exits.get(number)
        if theta is not None:
            rows.let_leave(number, similarity.numpy() >= theta)


class _Rows:
    """The rows on their way through the segments: b of the caller's B."""

    def __init__(self, mask: NDArray[np.int32]) -> None:
        self.count = len(mask)
        self.mask: OrtValue = _value(mask)  # (b, T) int32
        self.hidden: Any = None  # (b, T, H), the last layer's output
        self.weights: Any = None  # (b, 1, T), of the mean over tokens
        self.pooled: dict[int, Any] = {}  # p of the layers that are still needed, each (b, H)
        self.rows: IntArray | None = None  # (b,) the caller's index of each row; None: all are here
        self.left: list[tuple[IntArray | None, FloatArray, int]] = []  # of the others: rows, p, layer
        self.all_left = False

    @property
    def here_of_start(self) -> Any:
        """Index that takes the rows still here from what the first segment gave of all."""
        return slice(None) if self.rows is None else self.rows

    def let_leave(self, number: int, leaving: NDArray[np.bool_]) -> None:
        """Take out the rows that leave at layer `number`, (b,) bool."""
        if leaving.all():
            self.left.append((self.rows, self.pooled[number].numpy(), number))
            self.all_left = True
        elif leaving.any():
            stay = np.flatnonzero(~leaving)
            gone = np.flatnonzero(leaving)
            rows = np.arange(self.count) if self.rows is None else self.rows
            self.left.append((rows[gone], self.pooled[number].numpy()[gone], number))
            self.rows = rows[stay]
            self.hidden, self.weights, self.mask = (
                _value(value.numpy()[stay]) for value in (self.hidden, self.weights, self.mask)
            )
            self.pooled = {layer: _value(value.numpy()[stay]) for layer, value in self.pooled.items()}

    def gather(self, depth: int) -> tuple[FloatArray, IntArray]:
        """Embeddings and exit layers of all rows, in order; who is still here leaves at `depth`."""
        if not self.all_left:
            self.left.append((self.rows, self.pooled[depth].numpy(), depth))
        if len(self.left) == 1:
            _, embeddings, number = self.left[0]
            return embeddings, np.full(self.count, number)
        embeddings = np.empty((self.count, self.left[0][1].shape[1]), np.float32)
        layers = np.empty(self.count, np.int64)
        for rows, pooled, number in self.left:
            embeddings[rows] = pooled
            layers[rows] = number
        return embeddings, layers


class SingleRunner:
    """The one file with the exits inside, a text at a time: its rows would have to leave together.

    Args:
        folder: of the export.
        precision: "float32" or "int8".
        threads: as of `open_session`.
    """

    def __init__(self, folder: Path, precision: str, threads: int | None) -> None:
        self._session = open_session(folder / exits_path(precision), threads)
        self.facts = _facts(self._session)

    def run(self, ids: IntArray, mask: NDArray[np.int32], rule: ExitRule) -> tuple[FloatArray, IntArray]:
        """As `Runner.run`."""
        thetas = np.array([rule.exits.get(number, NEVER) for number in range(1, rule.layers + 1)], np.float32)
        first = np.array(1)
        found = []
        for row, length in zip(ids, mask.sum(axis=1), strict=True):
            here = np.ascontiguousarray(row[None, :length])
            feed = {
                "input_ids": here,
                "attention_mask": np.ones_like(here),
                "token_type_ids": np.zeros_like(here),
                "exit_threshold": thetas,
                "min_exit_layer": first,
            }
            found.append(self._session.run(["sentence_embedding", "exit_layer"], feed))
        embeddings, layers = zip(*found, strict=True)
        return np.concatenate(embeddings), np.concatenate(layers)


class FlatRunner:
    """The flat model: full depth whatever the rule, for comparison; the mean over tokens is taken here.

    Args:
        folder: of the export.
        precision: "float32" or "int8".
        threads: as of `open_session`.
    """

    def __init__(self, folder: Path, precision: str, threads: int | None) -> None:
        self._session = open_session(folder / flat_path(precision), threads)
        self.facts = _facts(self._session)

    def run(self, ids: IntArray, mask: NDArray[np.int32], rule: ExitRule) -> tuple[FloatArray, IntArray]:
        """As `Runner.run`; every row leaves at the last layer."""
        feed = {
            "input_ids": ids,
            "attention_mask": mask.astype(np.int64),
            "token_type_ids": np.zeros_like(ids),
        }
        (hidden,) = self._session.run(["last_hidden_state"], feed)
        weights = mask / np.maximum(mask.sum(axis=1, keepdims=True), 1)
        pooled = (weights.astype(np.float32)[:, None] @ hidden)[:, 0]
        return pooled, np.full(len(ids), rule.layers)


class TorchRunner:
    """`LeapModel` itself, on the CPU.

    Args:
        folder: of the checkpoint.
        threads: for all of torch in this process; None: as torch is set.
    """

    def __init__(self, folder: Path, threads: int | None) -> None:
        # Here: no other runner needs torch, and it takes seconds to import.
        import torch

        from modeling_leap import LeapModel

        if threads is not None:
            torch.set_num_threads(threads)
        self._torch = torch
        self._model = LeapModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
        self.facts: dict[str, str] = {}

    def run(self, ids: IntArray, mask: NDArray[np.int32], rule: ExitRule) -> tuple[FloatArray, IntArray]:
        """As `Runner.run`."""
        thetas = [rule.exits.get(number) for number in range(1, rule.layers + 1)]
        lowest = min(rule.patience + 1, rule.layers)
        with self._torch.inference_mode():
            found = self._model(
                input_ids=self._torch.from_numpy(ids),
                attention_mask=self._torch.from_numpy(mask),
                exit_threshold=thetas if rule.exits else None,
                min_exit_layer=lowest,
            )
        return found.sentence_embedding.numpy(), found.exit_layer.numpy()
