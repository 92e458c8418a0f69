"""The folder that encode_corpus.py writes: shards of vectors, whole or absent, and what they were made by.

    manifest.json              what the vectors depend on; once all are there, how many and where texts left
    shard-00000000.parquet     id, embedding (a list of fixed size) and exit_layer of consecutive rows

A shard's file is the only record that its rows are done, so a run may be killed at any moment.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from leap.corpus.source import Shard
from leap.encode.encoder import Encoding
from leap.encode.exits import FloatArray, IntArray
from leap.errors import UsageError, first_line
from leap.files import atomic_write, write_json

MANIFEST = "manifest.json"
FACTS = b"leap"  # key of a shard's own facts, in the metadata of its file


@dataclass(frozen=True)
class Vectors:
    """All vectors of a folder, in the order of the input.

    Attributes:
        ids: (N,) int64 row numbers, or strings.
        embeddings: (N, H) float32 or float16.
        exit_layers: (N,) the layer each text left at, counted from 1.
    """

    ids: NDArray[Any]
    embeddings: FloatArray
    exit_layers: IntArray

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Ids, embeddings, exit layers."""
        return iter((self.ids, self.embeddings, self.exit_layers))


class VectorStore:
    """The folder of one run.

    Args:
        folder: where the shards lie.
        identity: what the vectors depend on, as JSON values; a run goes on only where it is the same.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder, self.identity = folder, json.loads(json.dumps(identity))
        self.run = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        self.shard_size: int = identity["shard_size"]

    def begin(self, resume: bool) -> None:
        """Make the folder, or see that it is this run's; for one process to do, before the others `join`.

        Raises:
            UsageError: it holds another run, or this one and `resume` is not asked for; it cannot be written.
        """
        if self._manifest() is None:
            if self.folder.is_dir() and any(self.folder.glob("*.parquet")):
                raise UsageError(
                    f"--output: {str(self.folder)!r} holds parquet files of something else: give a new folder"
                )
            try:
                write_json(self.folder / MANIFEST, {"complete": False, "made_by": self.identity})
            except OSError as error:
                raise self._unwritable(error) from error
            return
        if not resume:
            raise UsageError(
                f"--output: {str(self.folder)!r} holds a run already: pass --resume to go on with it, or "
                "another folder"
            )
        self.join()
        for torn in self.folder.glob(".*.tmp"):  # of a killed process
            torn.unlink(missing_ok=True)

    def join(self) -> None:
        """See that the folder is of a run with the same identity.

        Raises:
            UsageError: it is not; the first thing that differs is named.
        """
        before = (self._manifest() or {}).get("made_by", {})
        for name, now in self.identity.items():
            if before.get(name) != now:
                raise UsageError(
                    f"--resume: {str(self.folder)!r} was made with {name}={_brief(before.get(name))}, now "
                    f"{_brief(now)}: pass the same arguments, model and input, or another folder"
                )

    def _manifest(self) -> dict[str, Any] | None:
        return _read_manifest(self.folder)

    def done(self, wanted: Callable[[int], bool] = lambda index: True) -> set[int]:
        """Which of the wanted shards are there; a file that is torn is left out, with a warning."""
        found = set()
        for path in sorted(self.folder.glob("shard-*.parquet")):
            number = re.fullmatch(r"shard-(\d{8,})\.parquet", path.name)
            if number is None or not wanted(int(number[1])):
                continue
            try:
                facts = _facts(path)
                if facts["run"] != self.run or facts["index"] != int(number[1]):
                    raise ValueError("of another run")
            except (OSError, ValueError, KeyError) as error:
                warnings.warn(f"{path} is broken ({first_line(error)}): encoding it again", stacklevel=2)
                continue
            found.add(int(number[1]))
        return found

    def write(self, shard: Shard, encoding: Encoding, dtype: str) -> None:
        """Write a shard, whole or not at all.

        Raises:
            UsageError: the disk is full, or does not take it for another reason.
        """
        vectors = np.ascontiguousarray(encoding.embeddings, dtype=dtype)
        embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        table = pa.table(
            {
                "id": shard.ids,
                "embedding": embedding,
                "exit_layer": pa.array(encoding.exit_layers, pa.int16()),
            }
        )
        layers, counts = np.unique(encoding.exit_layers, return_counts=True)
        facts = {
            "run": self.run,
            "index": shard.index,
            "first_row": shard.first_row,
            "rows": len(vectors),
            "blank": shard.blank,
            "exits": {str(layer): int(count) for layer, count in zip(layers, counts, strict=True)},
        }
        table = table.replace_schema_metadata({FACTS: json.dumps(facts)})
        try:
            with atomic_write(self.folder / _name(shard.index)) as file:
                # Vectors do not get smaller: neither by a dictionary nor by compression.
                pq.write_table(
                    table,
                    file,
                    compression={"id": "zstd", "embedding.list.element": "none", "exit_layer": "zstd"},
                    use_dictionary=["exit_layer"],
                    write_statistics=["id"],
                    write_page_checksum=True,
                )
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> UsageError:
        return UsageError(
            f"--output: cannot write to {str(self.folder)!r} ({first_line(error)}): make room, or allow it, "
            "and pass --resume; the shards there are whole"
        )

    def finish(self, rows: int, last_run: dict[str, Any]) -> dict[str, Any]:
        """Check that no row lacks or is there twice, and note it in the manifest, which is returned.

        Args:
            rows: of the input.
            last_run: how the run that ended the work went.

        Raises:
            UsageError: shards are missing or do not follow one another.
        """
        shards = -(-rows // self.shard_size)
        expected, exits, blank, size = 0, {}, 0, 0
        for index in range(shards):
            path = self.folder / _name(index)
            try:
                facts = _facts(path)
            except (OSError, ValueError, KeyError) as error:
                raise UsageError(
                    f"--output: {str(path)!r} is missing or broken: start again with --resume"
                ) from error
            if facts["first_row"] != expected or facts["run"] != self.run:
                raise UsageError(f"--output: {str(path)!r} is no part of this run: remove it, pass --resume")
            expected += facts["rows"]
            blank += facts["blank"]
            size += path.stat().st_size
            for layer, count in facts["exits"].items():
                exits[layer] = exits.get(layer, 0) + count
        if expected != rows:
            raise UsageError(f"--output: {expected} rows written of {rows} read: start again with --resume")
        manifest = {
            "complete": True,
            "rows": rows,
            "blank_rows": blank,
            "shards": shards,
            "bytes": size,
            "mean_exit_layer": sum(int(layer) * count for layer, count in exits.items()) / rows,
            "exit_layers": dict(sorted(exits.items(), key=lambda item: int(item[0]))),
            "made_by": self.identity,
            "last_run": last_run,
        }
        write_json(self.folder / MANIFEST, manifest)
        return manifest

    def finished(self) -> dict[str, Any] | None:
        """The manifest, if it says that all is done and every shard is there; else None."""
        manifest = self._manifest()
        if manifest and manifest["complete"] and self.done() == set(range(manifest["shards"])):
            return manifest
        return None


def read_vectors(folder: str | Path) -> Vectors:
    """All vectors that encode_corpus.py wrote into a folder, in memory, in the order of the input.

    Raises:
        UsageError: the folder holds no finished run, or a file of it is damaged.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    if manifest is None or not manifest["complete"]:
        raise UsageError(f"{str(folder)!r} holds no finished run: end it by encode_corpus.py --resume")
    made_by, rows = manifest["made_by"], manifest["rows"]
    embeddings = np.empty((rows, made_by["hidden_size"]), dtype=made_by["dtype"])
    layers = np.empty(rows, dtype=np.int64)
    ids = []
    start = 0
    for index in range(manifest["shards"]):
        path = folder / _name(index)
        try:
            # A file, no path: pyarrow takes a path with "=" in it for a partition, whose name is a column.
            with path.open("rb") as file:
                table = pq.ParquetFile(file, page_checksum_verification=True).read()
        except (OSError, pa.ArrowException) as error:
            raise UsageError(
                f"{str(path)!r} is missing or broken ({first_line(error)}): remove it and run "
                "encode_corpus.py --resume, which makes it anew"
            ) from error
        end = start + table.num_rows
        flat = table.column("embedding").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        embeddings[start:end] = flat.reshape(table.num_rows, -1)
        layers[start:end] = table.column("exit_layer").to_numpy()
        ids.append(table.column("id").to_numpy())
        start = end
    return Vectors(np.concatenate(ids), embeddings, layers)


def _name(index: int) -> str:
    return f"shard-{index:08d}.parquet"


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest["made_by"], dict) or not isinstance(manifest["complete"], bool):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--output: {str(path)!r} is no manifest of a run: give another folder") from error
    return manifest


def _facts(path: Path) -> dict[str, Any]:
    """What a shard's file says of itself; an error of some kind where it is torn."""
    metadata = pq.read_metadata(path)
    facts = json.loads((metadata.metadata or {})[FACTS])
    if facts["rows"] != metadata.num_rows:
        raise ValueError("rows are missing")
    return facts


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
