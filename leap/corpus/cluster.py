"""The same work on Ray Data: its scheduling, retries, autoscaling, progress and checkpoints.

Files are read by the one reader, a task each, so that ids and errors are those of a local run.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, count, islice
from typing import Any

import pyarrow as pa

from leap.corpus.documents import Documents
from leap.corpus.encoder import Encoded, TextEncoder
from leap.corpus.parts import as_table
from leap.errors import UsageError, first_line
from leap.text.reading import TextSource

try:
    import ray
    from ray.data import ActorPoolStrategy, Datasource, ReadTask
    from ray.data.block import BlockMetadata
    from ray.data.checkpoint import CheckpointConfig
except ImportError as error:
    raise UsageError("--ray: Ray Data is not installed: pip install 'ray[data]'") from error

BLOCK = 4096  # rows that travel together
LEAST_TASKS = 16  # that read; files fewer than that are read by several, a share of the blocks each
LEAST_CPUS = 8  # of a Ray of this machine's own; they are logical, and its checkpoints wait for ever on fewer


class _Files(Datasource):
    """Documents as blocks of row, id and text; `row` is unique, which ids need not be."""

    def __init__(self, documents: Documents, files: Sequence[TextSource]) -> None:
        self.documents, self.files = documents, files
        self.first = [0] * len(files)
        if not documents.id_column and len(files) > 1:  # the ids are row numbers
            counts = ray.get([ray.remote(_count).remote(documents, file) for file in files[:-1]])
            self.first = [0, *accumulate(counts)]

    def get_name(self) -> str:
        return "ReadTexts"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: object, **__: object) -> list[ReadTask]:
        nothing = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        # What a task gives goes to one worker: reading a local file again costs less than idle workers.
        spread = -(-parallelism // len(self.files))
        return [
            ReadTask(partial(_blocks, self.documents, file, number, first, share, shares), nothing)
            for number, (file, first) in enumerate(zip(self.files, self.first, strict=True))
            for shares in [spread if os.path.isfile(file.name) else 1]
            for share in range(shares)
        ]


def _count(documents: Documents, file: TextSource) -> int:
    return sum(1 for _ in documents.rows(sources=[file]))


def _blocks(
    documents: Documents, file: TextSource, number: int, first: int, share: int, shares: int
) -> Iterator[pa.Table]:
    """Every `shares`-th block of a file, from block `share` on."""
    rows = documents.rows(sources=[file], first=first)
    for block in count():
        found = list(islice(rows, BLOCK))
        if not found:
            return
        if block % shares == share:
            ids, texts = zip(*found, strict=True)
            key = (number << 40) + block * BLOCK  # a file has fewer rows than 2^40
            keys = pa.array(range(key, key + len(ids)), pa.int64())
            yield pa.table({"row": keys, "id": pa.array(ids), "text": pa.array(texts, pa.large_string())})


class _Actor:
    """An encoder with its model loaded, in its own process."""

    def __init__(self, encoder: TextEncoder, dtype: str) -> None:
        self.encoder, self.dtype = encoder, dtype

    def __call__(self, block: pa.Table) -> pa.Table:
        encoded: Encoded = self.encoder(block["text"].to_pylist())
        found = as_table(block["id"].combine_chunks(), encoded, self.dtype)
        return found.append_column("row", block["row"].combine_chunks())


def encode_on_ray(documents: Documents, encoder: TextEncoder, options: Any) -> None:
    """Encode documents into parts, continuing where an earlier run ended.

    Args:
        documents: the input.
        encoder: whose model's folder, or Hub id, every machine knows.
        options: of encode_corpus.py: `ray`, `ray_workers`, `output`, `part_size`, `dtype`.

    Raises:
        UsageError: a file cannot be read as it is, or the model cannot be loaded.
    """
    local, output = options.ray == "local", options.output.resolve()
    cores = os.cpu_count() or 1
    ray.init(options.ray, num_cpus=max(LEAST_CPUS, cores) if local else None, log_to_driver=False)
    try:
        sources = documents.sources
        files = [replace(each, name=file) for each in sources for file in each.files() or [each.name]]
        # Beside the output: what Ray clears away there it would find by its name in here, too.
        checkpoint = CheckpointConfig("row", str(output.with_name(f".{output.name}.checkpoint")))
        ray.data.DataContext.get_current().checkpoint_config = checkpoint
        workers = ActorPoolStrategy(
            min_size=options.ray_workers or 1, max_size=options.ray_workers or (cores if local else None)
        )
        ray.data.read_datasource(
            _Files(documents, files), override_num_blocks=max(LEAST_TASKS, len(files))
        ).map_batches(
            _Actor,
            fn_constructor_args=(replace(encoder, threads=1), options.dtype),
            batch_size=64 * encoder.batch_size,
            batch_format="pyarrow",
            compute=workers,
            **{"num_gpus" if (encoder.device or "").startswith("cuda") else "num_cpus": 1},
        ).write_parquet(str(output), min_rows_per_file=options.part_size)
    except Exception as error:
        found: BaseException | None = error
        while found is not None and type(found) is not UsageError:
            found = getattr(found, "cause", None) or found.__cause__
        if found is None:
            raise
        raise UsageError(first_line(found)) from error  # Ray adds lines of its own
    finally:
        ray.shutdown()
