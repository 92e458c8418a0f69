"""Files of texts in all formats, for the tests of the reader."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from leap.text.reading import TextSource

FORMATS = ["t.csv", "t.csv.gz", "t.json", "t.json.gz", "t.jsonl", "t.jsonl.gz", "t.parquet", "t.parquet.gz"]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows in the format that the path's ending names."""
    kind = Path(path.name.removesuffix(".gz")).suffix
    if kind == ".csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        return write(path, text.getvalue())
    if kind == ".parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return write(path, sink.getvalue())
    if kind == ".json":
        return write(path, json.dumps(rows))
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def read(path: Path | str, *columns: str) -> list[tuple[str, ...]]:
    """Ids of the columns called id, texts of the others."""
    rows = TextSource(str(path)).rows(columns)
    return [tuple(row.id(name) if name == "id" else row.text(name) for name in columns) for row in rows]
