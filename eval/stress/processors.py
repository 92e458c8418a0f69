"""Do the ONNX files give the same vectors on other processors as on this one?

python -m eval processors --model . --on "Haswell=qemu-x86_64 -cpu Haswell $(which python)"

A processor is a command that runs Python, such as that of an emulator. The same mixed texts are encoded there
and here, one at a time. Processors multiply int8 in different ways, some of which overflow 16 bits.
"""

import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from eval.frame import OfModel
from eval.quality.text_sets import data_folder, mixed_set
from eval.report import Report
from eval.stress.correctness import Reference, compare
from eval.stress.processor_worker import PRECISIONS
from leap.arguments import check_at_least, option
from leap.encode.encoder import Encoding, find_model
from leap.encode.exits import row_cosines
from leap.errors import UsageError

HERE = "here"
Vectors: TypeAlias = dict[str, np.ndarray]
WORKER = Path(__file__).with_name("processor_worker.py")


@dataclass(kw_only=True)
class Options(OfModel):
    """Options of this evaluation."""

    on: list[str] = option("processors, each as NAME=COMMAND, a command that runs Python on it")
    data: Path | None = option("folder laid out like LEAP_DATA; none: LEAP_DATA", None)
    max_texts: int = option("about so many of the mixed texts", 200)

    def __post_init__(self) -> None:
        """See `eval.frame.Options`."""
        super().__post_init__()
        check_at_least(self, 1, "max_texts")
        data_folder(self.data)
        self.commands()

    def commands(self) -> dict[str, list[str]]:
        """The command of each processor, this one's first."""
        found = {HERE: [sys.executable]}
        for each in self.on:
            name, _, command = each.partition("=")
            if not command or name in found:
                raise UsageError(f"--on: give each processor once, as NAME=COMMAND, not {each!r}")
            found[name] = shlex.split(command)
        return found


def compare_processors(
    model: str, texts: Sequence[str], commands: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Encode texts on every processor and compare with the first.

    Args:
        model: folder with an onnx/, or Hub id.
        texts: N texts.
        commands: run Python on each processor, by its name.

    Returns:
        `texts`, their number, and `processors`: for each but the first, and each precision, `machine` and
        `onnxruntime`, as named there; how many texts have an `other_exit_layer`; and of those that have the
        same, how many have an `other_embedding`, the `largest_difference` of a component, and the
        `cosine_lowest`.

    Raises:
        UsageError: a command fails; the message has its last line.
    """
    with tempfile.TemporaryDirectory(prefix="leap-processors-") as work:
        path = Path(work) / "texts.json"
        path.write_text(json.dumps(list(texts)), encoding="utf-8")
        found = {name: _encode(name, command, model, path) for name, command in commands.items()}
    here, *others = found
    rows = [
        {"name": name, "precision": precision, **_compare(found[here], found[name], precision)}
        for name in others
        for precision in PRECISIONS
    ]
    return {"texts": len(texts), "processors": rows}


def _encode(name: str, command: Sequence[str], model: str, texts: Path) -> Vectors:
    output = texts.with_suffix(".npz")
    try:
        line = [*command, str(WORKER), model, str(texts), str(output)]
        done = subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        reason = done.returncode and (done.stderr.strip().splitlines() or ["no word of why"])[-1]
    except OSError as error:
        reason = str(error)
    if reason:
        raise UsageError(f"--on: {name}: {shlex.join(command)} ended with: {reason}")
    with np.load(output, allow_pickle=False) as arrays:
        return dict(arrays)


def _compare(expected: Vectors, found: Vectors, precision: str) -> dict[str, Any]:
    here, there = (
        Encoding(vectors[f"{precision}_embeddings"], vectors[f"{precision}_exit_layers"])
        for vectors in (expected, found)
    )
    counts = compare(Reference(here, tied=np.zeros(len(here.exit_layers), bool)), there)
    same = here.exit_layers == there.exit_layers
    return {
        "machine": str(found["machine"]),
        "onnxruntime": str(found["onnxruntime"]),
        **{name: counts[name] for name in ("other_exit_layer", "other_embedding", "largest_difference")},
        "cosine_lowest": float(row_cosines(here.embeddings, there.embeddings)[same].min(initial=1.0)),
    }


def run(options: Options) -> Report:
    """Compare the processors asked for."""
    encoder, data = options.encoder(), mixed_set(data_folder(options.data), options.max_texts)
    figures = compare_processors(find_model(options.model), data.texts, options.commands())
    lines = [f"{figures['texts']} texts, compared with this processor"]
    for row in figures["processors"]:
        lines.append(
            f"  {row['name']} ({row['machine']}), {row['precision']}: other exit layer "
            f"{row['other_exit_layer']}, other embedding {row['other_embedding']}, largest difference "
            f"{row['largest_difference']:.1e}, lowest cosine {row['cosine_lowest']:.6f}"
        )
    return Report(figures, "\n".join(lines), {"model": encoder}, data)
