"""encode_corpus.py --ray on a Ray of this machine: a local run's vectors, nothing lost by a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest

from leap.corpus import read_vectors
from leap.corpus.documents import Documents

pytest.importorskip("ray", reason="no ray: pip install 'ray[data]'")
pytestmark = [pytest.mark.integrations, pytest.mark.slow]

ROWS, PART = 600, 40
# Ray ranks its workers behind everything else on the machine; a busy one would never run them.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Path:
    """A folder with a tiny model, a corpus in two files, and its vectors as a local run makes them."""
    from corpus_model import make_model

    folder = tmp_path_factory.mktemp("cluster")
    make_model(folder / "model", repo_root)
    texts = ["water " * (i % 20) + f"stone {i}" for i in range(ROWS)]
    for name, some in (("a", texts[: ROWS // 3]), ("b", texts[ROWS // 3 :])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in some))
    done = start(repo_root, folder, "local").wait()
    assert done == 0
    return folder


def start(
    repo_root: Path, work: Path, output: str, *arguments: str, source: str = "*.jsonl"
) -> subprocess.Popen:
    command = [sys.executable, "encode_corpus.py", "--model", str(work / "model"), "--batch_size", "1"]
    command += ["--input", str(work / source), "--output", str(work / output), "--part_size", str(PART)]
    log = (work / f"{output}.log").open("w")
    environment = os.environ | ENVIRONMENT
    return subprocess.Popen([*command, *arguments], cwd=repo_root, env=environment, stdout=log, stderr=log)


RAY = ("--ray", "local", "--ray_workers", "2")


def wait_for(seen: Callable[[], object], process: subprocess.Popen) -> None:
    while not seen():
        assert process.poll() is None, "it ended before"
        time.sleep(0.05)


def check_the_same(work: Path, output: str) -> None:
    one, other = read_vectors(work / "local"), read_vectors(work / output)
    assert other.ids.tolist() == one.ids.tolist() == list(range(ROWS))
    np.testing.assert_allclose(other.embeddings, one.embeddings, atol=1e-5)
    assert other.embeddings.dtype == one.embeddings.dtype
    assert np.array_equal(other.exit_layers, one.exit_layers)
    assert np.array_equal(other.layers_run, one.layers_run)


def test_a_killed_worker_loses_nothing(repo_root: Path, work: Path) -> None:
    run = start(repo_root, work, "worker", *RAY)

    def workers() -> Sequence[psutil.Process]:
        below = psutil.Process(run.pid).children(recursive=True)
        return [
            each
            for each in below
            if "MapBatches" in " ".join(each.cmdline()) and "__init__" not in each.name()
        ]

    wait_for(lambda: len(list((work / "worker").glob("*.parquet"))) >= 1, run)
    workers()[0].kill()
    assert run.wait() == 0, (work / "worker.log").read_text()
    check_the_same(work, "worker")
    assert start(repo_root, work, "worker", *RAY, "--resume").wait() == 0
    assert "nothing to do" in (work / "worker.log").read_text()


def test_tasks_share_a_file(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from leap.corpus import cluster

    monkeypatch.setattr(cluster, "BLOCK", 64)
    documents = Documents.find([str(work / "b.jsonl")], "train", ["text"], None)
    of = documents, documents.sources[0], 1, 7
    whole, *shares = (
        [row for block in cluster._blocks(*of, *share) for row in block.to_pylist()]
        for share in [(0, 1), (0, 3), (1, 3), (2, 3)]
    )
    assert all(len(share) >= 64 for share in shares)
    assert sorted((row for share in shares for row in share), key=lambda row: row["row"]) == whole
    assert [row["id"] for row in whole] == list(range(7, 7 + ROWS - ROWS // 3))


def test_a_killed_driver_goes_on(repo_root: Path, work: Path) -> None:
    run = start(repo_root, work, "driver", *RAY)
    wait_for(lambda: len(list((work / "driver").glob("*.parquet"))) >= 2, run)
    below = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGKILL)
    run.wait()
    psutil.wait_procs(below, timeout=60)
    made = set((work / "driver").glob("*.parquet"))
    run = start(repo_root, work, "driver", *RAY, "--resume")
    assert run.wait() == 0, (work / "driver.log").read_text()
    check_the_same(work, "driver")
    assert made & set((work / "driver").glob("*.parquet")), "it began anew"


def test_a_bad_file_is_one_line(repo_root: Path, work: Path) -> None:
    (work / "bad.jsonl.gz").write_bytes(b"no gzip")
    run = start(repo_root, work, "bad", *RAY, source="bad.jsonl.gz")
    assert run.wait() == 1
    last = (work / "bad.log").read_text().strip().splitlines()[-1]
    assert last.startswith("encode_corpus.py: error: --input: '") and "bad.jsonl.gz" in last
    (work / "late.jsonl").write_text('{"text": "a"}\n' * 20 + '{"text": 1}\n')
    run = start(repo_root, work, "late", *RAY, source="late.jsonl")
    assert run.wait() == 1
    log = (work / "late.log").read_text()
    assert "encode_corpus.py: error: --input: '" in log.strip().splitlines()[-1]
    assert "line 21: column 'text' holds a number, no text" in log.strip().splitlines()[-1]
