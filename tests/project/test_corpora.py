"""docs/corpora.md: every block runs as it stands, beside a corpus, and gives the encoder's own vectors."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_model import make_model

import encode_corpus
from leap.corpus import Encoded, TextEncoder

NAME = "leap/LEAP-MiniLM-L6"
PACKAGES = {
    "datasets": "datasets",
    "Spark": "pyspark",
    "Dask": "dask",
    "FAISS": "faiss",
    "Qdrant": "qdrant_client",
    "pgvector": "pgserver",
}
# A heading, what is no heading, and a block.
BLOCK = re.compile(r"^###? ([^\n]+)\n(?:(?!^##).)*?^```python\n(.+?)^```", re.DOTALL | re.MULTILINE)
TEXTS = ["water", "stone music", "", "night water stone", "music " * 30]
IDS = ["007", "7", "1e5", "NA", "d"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> tuple[Path, Encoded]:
    """A folder with docs.parquet and vectors/, and what the encoder makes of the texts."""
    folder = tmp_path_factory.mktemp("corpora")
    make_model(folder / "model", repo_root)
    pq.write_table(pa.table({"id": IDS, "text": TEXTS}), folder / "docs.parquet")
    command = ["--model", str(folder / "model"), "--input", str(folder / "docs.parquet"), "--id_column", "id"]
    encode_corpus.main([*command, "--output", str(folder / "vectors")])
    return folder, TextEncoder(str(folder / "model"))(TEXTS)


def blocks(repo_root: Path) -> dict[str, str]:
    return dict(BLOCK.findall((repo_root / "docs" / "corpora.md").read_text()))


def run(
    name: str,
    repo_root: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    database: str = "",
) -> dict[str, Any]:
    """What the block leaves behind, run in a folder of its own beside the corpus."""
    for each in ("docs.parquet", "vectors"):
        (tmp_path / each).symlink_to(folder / each)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(repo_root))  # of Spark's workers
    left: dict[str, Any] = {}
    code = blocks(repo_root)[name].replace(NAME, str(folder / "model"))
    exec(code.replace("dbname=docs", database), left)
    return left


def start_postgres(folder: Path) -> Any:
    """A PostgreSQL of its own, with pgvector."""
    import pgserver

    server = pgserver.get_server(folder / "postgres")
    server.psql("CREATE EXTENSION vector")
    return server


def test_there_is_a_block_for_each(repo_root: Path) -> None:
    assert set(blocks(repo_root)) == {"On one machine", *PACKAGES}
    assert (repo_root / "docs" / "corpora.md").read_text().count("```python") == len(PACKAGES) + 1


def test_reading(repo_root: Path, corpus: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder, encoded = corpus
    left = run("On one machine", repo_root, folder, monkeypatch, tmp_path)
    assert left["ids"].tolist() == IDS
    np.testing.assert_allclose(left["embeddings"], encoded.embeddings, atol=1e-5)
    assert left["layers_run"].tolist() == encoded.layers_run.tolist()


@pytest.mark.parametrize(
    "library",
    [pytest.param(name, marks=pytest.mark.integrations if name != "datasets" else ()) for name in PACKAGES],
)
def test_block_gives_the_encoders_vectors(
    library: str, repo_root: Path, corpus: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not importlib.util.find_spec(PACKAGES[library]):
        pytest.skip(f"no {PACKAGES[library]}: pip install -r requirements-integrations.txt")
    if library == "Spark" and not shutil.which("java"):
        pytest.skip("no java: Spark needs it")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    folder, encoded = corpus
    server = start_postgres(tmp_path) if library == "pgvector" else None
    database = server.get_uri() if server else ""
    left = run(library, repo_root, folder, monkeypatch, tmp_path, database)
    ids = IDS
    if server:
        rows = server.psql("COPY (SELECT id, embedding FROM docs) TO STDOUT").splitlines()
        server.cleanup()
        ids, found = zip(*(row.split("\t") for row in rows), strict=True)
        vectors, ids = [json.loads(vector) for vector in found], list(ids)
    elif library == "datasets":
        vectors, layers = left["rows"]["embeddings"], left["rows"]["layers_run"]
        assert list(layers) == encoded.layers_run.tolist()
        ids = list(left["rows"]["id"])
    elif library == "Spark":
        rows = pq.read_table(tmp_path / "vectors-of-spark").to_pydict()
        left["spark"].stop()
        order = np.argsort([IDS.index(key) for key in rows["id"]])
        vectors, ids = [rows["embedding"][at] for at in order], [rows["id"][at] for at in order]
        assert [rows["exit_layer"][at] for at in order] == encoded.exit_layers.tolist()
    elif library == "Dask":
        vectors, ids = left["docs"]["embedding"].tolist(), left["docs"]["id"].tolist()
    elif library == "FAISS":
        vectors = left["index"].reconstruct_n(0, left["index"].ntotal)
        ids = left["ids"].tolist()
    else:
        points = left["client"].query_points("docs", encoded.embeddings[3].tolist(), limit=1).points
        assert points[0].payload == {"id": "NA"} and points[0].score == pytest.approx(1, abs=1e-5)
        vectors, ids = left["embeddings"], left["ids"].tolist()
    assert ids == IDS
    np.testing.assert_allclose(np.array(vectors), encoded.embeddings, atol=1e-5)
