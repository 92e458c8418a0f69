"""The folder that encode_corpus.py writes: parts of vectors, whole or absent, and how they were made.

manifest.json             what the vectors depend on; once all are there, how many and what they cost
part-00000000.parquet     id, embedding (a list of fixed size), exit_layer, layers_run
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from leap.corpus.encoder import Encoded
from leap.encode.exits import FloatArray, IntArray
from leap.errors import UsageError, first_line
from leap.files import atomic_write, write_json

MANIFEST = "manifest.json"
TORN = (f".{MANIFEST}.*.tmp", ".part-*.tmp")  # what `atomic_write` leaves of a killed process


class Vectors(NamedTuple):
    """All vectors of a folder, in the order of the input: `Encoded` with ids.

    Attributes:
        ids: (N,) int64 row numbers, or strings.
        embeddings: (N, H) float32 or float16.
        exit_layers: (N,) the layer after which each text had converged, counted from 1.
        layers_run: (N,) how many layers each text ran.
    """

    ids: NDArray[Any]
    embeddings: FloatArray
    exit_layers: IntArray
    layers_run: IntArray


def as_table(ids: Sequence[Any] | pa.Array, encoded: Encoded, dtype: str) -> pa.Table:
    """The vectors as columns; `dtype` is that of the embeddings."""
    vectors = np.ascontiguousarray(encoded.embeddings, dtype=dtype)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    layers = (pa.array(column, pa.int16()) for column in encoded[1:])
    return pa.table([pa.array(ids), embedding, *layers], ["id", "embedding", "exit_layer", "layers_run"])


def begin(folder: Path, identity: dict[str, Any], resume: bool) -> bool:
    """Create the folder, or check that it belongs to this run; returns whether all is done already.

    Raises:
        UsageError: it holds another run, or this one and `resume` is not asked for; it cannot be written.
    """
    now, manifest = json.loads(json.dumps(identity)), folder / MANIFEST
    try:
        torn = [path for name in TORN for path in folder.glob(name)]
        if not manifest.exists() and not (folder.exists() and set(folder.iterdir()).difference(torn)):
            write_json(manifest, {"complete": False, "made_by": now})
            _remove(torn)
            return False
        before = json.loads(manifest.read_text()) if manifest.exists() else {}
        made_by, complete = dict(before["made_by"]), bool(before["complete"])
    except OSError as error:
        raise _unwritable(folder, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--output: {str(folder)!r} holds no run: give a new folder") from error
    if not resume:
        raise UsageError(f"--output: {str(folder)!r} holds a run: pass --resume, or give a new folder")
    name = next((name for name in now if made_by.get(name) != now[name]), None)
    if name is not None:
        raise UsageError(
            f"--resume: {str(folder)!r} was made with {name}={repr(made_by.get(name))[:60]}, now "
            f"{repr(now[name])[:60]}: pass the same arguments, model and input, or another folder"
        )
    _remove(torn)
    return complete and (before["parts"] == len(done_parts(folder)) or now["ray"])


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def done_parts(folder: Path) -> dict[int, int]:
    """The row count of every whole part, by number; broken parts are left out, with a warning."""
    found = {}
    for path in sorted(folder.glob("part-*.parquet")):
        number = int(path.stem.removeprefix("part-"))
        try:
            metadata = pq.read_metadata(path)
            if metadata.metadata[b"part"] != b"%d" % number:
                raise ValueError("it is another part")
            found[number] = metadata.num_rows
        except (OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{path} is broken ({first_line(error)}): encoding it again", stacklevel=2)
    return found


def write_part(folder: Path, number: int, table: pa.Table) -> None:
    """Write a part, whole or not at all.

    Raises:
        UsageError: the disk is full, or does not take it for another reason.
    """
    # Vectors do not get smaller: neither by a dictionary nor by compression.
    compression = {"id": "zstd", "embedding.list.element": "none", "exit_layer": "zstd", "layers_run": "zstd"}
    options = {"compression": compression, "use_dictionary": ["exit_layer", "layers_run"]}
    try:
        with atomic_write(folder / f"part-{number:08d}.parquet") as file:
            table = table.replace_schema_metadata({"part": str(number)})
            pq.write_table(table, file, write_page_checksum=True, **options)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"--output: cannot write to {str(folder)!r} ({first_line(error)}): make room, or allow it, and pass "
        "--resume; the parts there are whole"
    )


def finish(folder: Path, identity: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Record in the manifest, which is returned, that all is done, with totals and time."""
    paths = sorted(folder.glob("*.parquet"))
    rows = layers = 0
    for path in paths:
        run = _read(path, ["layers_run"])["layers_run"].to_numpy()
        rows, layers = rows + len(run), layers + int(run.sum(dtype=np.int64))
    manifest = {
        "complete": True,
        "rows": rows,
        "parts": len(paths),
        "bytes": sum(path.stat().st_size for path in paths),
        "mean_layers_run": layers / max(1, rows),
        "seconds": seconds,
        "made_by": identity,
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def read_vectors(folder: str | Path) -> Vectors:
    """All vectors that encode_corpus.py wrote into a folder, in memory, in the order of the input.

    Raises:
        UsageError: the folder holds no finished run, or a file of it is damaged.
    """
    manifest = Path(folder) / MANIFEST
    if not manifest.is_file() or not json.loads(manifest.read_text())["complete"]:
        raise UsageError(f"{str(folder)!r} holds no finished run: end it by encode_corpus.py --resume")
    table = pa.concat_tables([_read(path) for path in sorted(Path(folder).glob("*.parquet"))])
    if "row" in table.column_names:  # of Ray, whose parts come as they were ready
        table = table.sort_by("row")
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    columns = (table[name].to_numpy() for name in ("exit_layer", "layers_run"))
    return Vectors(table["id"].to_numpy(), flat.reshape(len(table), -1), *columns)


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        with path.open("rb") as file:  # by its path pyarrow would take a "=" in it for a partition
            return pq.ParquetFile(file, page_checksum_verification=True).read(columns)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(
            f"{str(path)!r} is broken ({first_line(error)}): remove it and run encode_corpus.py --resume"
        ) from error
