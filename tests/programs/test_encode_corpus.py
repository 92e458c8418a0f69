"""encode_corpus.py as it is started by users: formats, vectors, kills and resuming, refusals."""

import gzip
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from corpus_model import make_model
from datasets import load_dataset
from transformers import AutoTokenizer

import encode_corpus
from leap.corpus import TextEncoder, parts, read_vectors
from leap.errors import UsageError
from leap.text.reading import Progress
from modeling_leap import LeapModel

WORDS = ["water", "stone", "music", "night"]
ROWS = [
    {"_id": f"d{i}", "title": None if i % 3 else f"title {i}", "text": " ".join(WORDS[: i % 5])}
    for i in range(50)
]
Run = Callable[..., str]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Path:
    """A folder with a model and a corpus."""
    folder = tmp_path_factory.mktemp("corpus")
    make_model(folder / "model", repo_root)
    (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


@pytest.fixture
def run(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> Iterator[Run]:
    """Run the program in this process, one thread; what it printed, or said as it gave up."""

    def start(*arguments: str, output: str = "out", source: Path | str = work / "docs.jsonl") -> str:
        command = ["--model", str(work / "model"), "--input", str(source)]
        command += ["--output", str(tmp_path / output), "--part_size", "8", "--batch_size", "4", *arguments]
        try:
            encode_corpus.main(command)
        except SystemExit as stop:
            return str(stop.code) if isinstance(stop.code, str) else capsys.readouterr().err
        return capsys.readouterr().out

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield start
    torch.set_num_threads(threads)


def expected(model: Path, texts: list[str], **call: object) -> tuple[np.ndarray, list[int], list[int]]:
    """One text at a time through the model: vectors, exit layers, layers run."""
    network = LeapModel.from_pretrained(model).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    with torch.inference_mode():
        outputs = [network(**tokenizer(text, return_tensors="pt"), **call) for text in texts]
    vectors = np.concatenate([output.sentence_embedding.numpy() for output in outputs])
    layers = [[int(output[name]) for output in outputs] for name in ("exit_layer", "layers_run")]
    return vectors, *layers


def test_rows_come_back_in_order_with_the_models_own_vectors(work: Path, run: Run, tmp_path: Path) -> None:
    assert run("--text_columns", "title", "text").startswith("50 vectors in ")
    ids, embeddings, exit_layers, layers_run = read_vectors(tmp_path / "out")
    assert ids.tolist() == [row["_id"] for row in ROWS]
    texts = [" ".join(filter(None, (row["title"], row["text"]))) for row in ROWS]
    vectors, layers, cost = expected(work / "model", texts)
    np.testing.assert_allclose(embeddings, vectors, atol=1e-5)
    assert (exit_layers.tolist(), layers_run.tolist()) == (layers, cost)
    assert len(set(layers)) > 1  # or leaving early was not tried

    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["rows"], manifest["parts"], manifest["complete"]) == (50, 7, True)
    assert manifest["mean_layers_run"] == pytest.approx(np.mean(cost))
    assert str(work) not in json.dumps(manifest)


@pytest.mark.parametrize("call", [{}, {"max_layers": 3}, {"max_layers": 2}, {"exit_threshold": None}])
def test_layers_run_are_the_models_own_with_a_landing(
    repo_root: Path, tmp_path: Path, call: dict[str, Any]
) -> None:
    rule = {"landing_layer": 3, "min_exit_layer": 1, "max_exit_layer": 1, "exit_threshold": 0.88}
    model = make_model(tmp_path / "model", repo_root, **rule)
    texts = [row["text"] for row in ROWS]
    vectors, layers, cost = expected(model, texts, **call)
    found = TextEncoder(str(model), runtime="torch", **call)(texts)
    np.testing.assert_allclose(found.embeddings, vectors, atol=1e-5)
    assert (found.exit_layers.tolist(), found.layers_run.tolist()) == (layers, cost)
    assert call or len(set(cost)) > 1


def test_onnx_where_the_model_has_it_gives_the_vectors_of_torch(
    repo_root: Path, tmp_path: Path, run: Run
) -> None:
    export = pytest.importorskip("leap.runtime.export").export
    rule = {"landing_layer": 3, "min_exit_layer": 1, "max_exit_layer": 1, "exit_threshold": 0.88}
    model = make_model(tmp_path / "model", repo_root, **rule)
    export(model, model / "onnx")
    for runtime, output in (("auto", "one"), ("torch", "other")):
        assert run("--model", str(model), "--runtime", runtime, output=output).startswith("50 vectors")
    assert run("--model", str(model), "--mixed_precision", "int8", output="int8").startswith("50 vectors")
    one, other, int8 = (read_vectors(tmp_path / name) for name in ("one", "other", "int8"))
    np.testing.assert_allclose(one.embeddings, other.embeddings, atol=1e-5)
    differences = np.abs(int8.embeddings - one.embeddings)
    assert 1e-4 < differences.max() and np.median(differences) < 0.02
    assert np.array_equal(one.layers_run, other.layers_run) and len(set(one.layers_run)) == 2
    made_by = json.loads((tmp_path / "one" / "manifest.json").read_text())["made_by"]
    assert made_by["runtime"] == "onnx"
    assert "was made with runtime='onnx'" in run(
        "--model", str(model), "--runtime", "torch", "--resume", output="one"
    )
    assert "exit_threshold" in run("--model", str(model), "--exit_threshold", "2", output="never")
    assert "max_length" in run("--model", str(model), "--max_length", "65", output="never")


def test_the_encoder_travels(work: Path) -> None:
    encoder = TextEncoder(str(work / "model"), normalize=True)
    copy = pickle.loads(pickle.dumps(encoder))  # noqa: S301 - what an engine does to send it
    found = copy(("water", "stone music"))
    assert np.array_equal(found.embeddings, encoder(["water", "stone music"]).embeddings)
    np.testing.assert_allclose(np.linalg.norm(found.embeddings, axis=1), 1, rtol=1e-6)
    assert encoder([]).embeddings.shape == (0, 32)


def test_the_documented_ways_to_read_them(run: Run, tmp_path: Path) -> None:
    run("--dtype", "float16", "--normalize", "--exit_threshold", "none")
    ids, embeddings, exit_layers, layers_run = read_vectors(tmp_path / "out")
    files = str(tmp_path / "out" / "*.parquet")
    rows = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "c"))
    rows = rows.with_format("numpy")
    assert rows["id"][:].tolist() == ids.tolist()
    assert embeddings.dtype == np.float16
    assert np.array_equal(rows["embedding"][:], embeddings)
    np.testing.assert_allclose(np.linalg.norm(embeddings.astype(float), axis=1), 1, atol=1e-3)
    assert set(exit_layers) == set(layers_run) == {4}
    column = pq.read_schema(tmp_path / "out" / "part-00000000.parquet").field("embedding").type
    assert str(column).startswith("fixed_size_list") and column.list_size == 32


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.csv", "t.txt.gz", "t.parquet"])
def test_every_kind_of_file_and_several_of_them(run: Run, tmp_path: Path, name: str) -> None:
    texts = [f"{word} {number}" for number in range(5) for word in WORDS]
    for folder, part in (("a", texts[:11]), ("b", texts[11:])):
        path = tmp_path / folder / name
        path.parent.mkdir()
        rows = [{"text": text, "n": i} for i, text in enumerate(part)]
        if name == "t.parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
            continue
        lines = ["text"] * (name == "t.csv") + part
        content = "\n".join(json.dumps(row) for row in rows) if name == "t.jsonl" else "\n".join(lines)
        content = json.dumps(rows) if name == "t.json" else content
        path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    run(source=tmp_path / "*" / name)
    run("--input", str(tmp_path / "a"), str(tmp_path / "b"), output="named")
    one, other = read_vectors(tmp_path / "out"), read_vectors(tmp_path / "named")
    assert one.ids.tolist() == other.ids.tolist() == list(range(20))
    assert np.array_equal(one.embeddings, other.embeddings)


def test_ids_are_kept_byte_for_byte(run: Run, tmp_path: Path) -> None:
    ids = ["007", "7", "1e5", "100000", "9223372036854775808", "None", "2024-01-01", " 7 "]
    (tmp_path / "t.csv").write_text("key,text\n" + "".join(f"{key},null\n" for key in ids))
    assert "8 vectors" in run("--id_column", "key", source=tmp_path / "t.csv")
    assert read_vectors(tmp_path / "out").ids.tolist() == ids


def test_resuming_makes_only_what_lacks_and_the_same_bits(run: Run, tmp_path: Path) -> None:
    run()
    before = read_vectors(tmp_path / "out")
    files = sorted((tmp_path / "out").glob("*.parquet"))
    written = {file: file.read_bytes() for file in files}
    files[2].unlink()
    files[4].write_bytes(written[files[4]][:-100])
    (tmp_path / "out" / ".part-00000002.parquet.abc.tmp").write_bytes(b"torn")
    stamps = {file: file.stat().st_mtime_ns for file in files if file.exists()}
    with pytest.warns(UserWarning, match=r"part-00000004.parquet is broken .*encoding it again"):
        assert run("--resume").startswith("50 vectors")
    assert {file: file.read_bytes() for file in files} == written
    made = {file for file in files if stamps.get(file) != file.stat().st_mtime_ns}
    assert made == {files[2], files[4]}
    assert np.array_equal(read_vectors(tmp_path / "out").embeddings, before.embeddings)
    assert not list((tmp_path / "out").glob(".*.tmp"))
    assert run("--resume").startswith("nothing to do")


def test_another_run_is_refused(work: Path, run: Run, tmp_path: Path, repo_root: Path) -> None:
    run()
    assert "--output: " in run() and "pass --resume" in run()
    make_model(tmp_path / "other", repo_root, num_hidden_layers=3)
    for arguments, named in (
        (["--exit_threshold", "none"], "exit_threshold"),
        (["--normalize"], "normalize"),
        (["--dtype", "float16"], "dtype"),
        (["--max_length", "10"], "max_length"),
        (["--part_size", "9"], "part_size"),
        (["--id_column", "title"], "input"),
        (["--text_columns", "title"], "input"),
        (["--split", "test"], "input"),
        (["--model", str(tmp_path / "other")], "model_sha256"),
    ):
        said = run("--resume", *arguments)
        assert f"was made with {named}=" in said, said
        assert "\n" not in said
    other = tmp_path / "docs.jsonl"
    other.write_text((work / "docs.jsonl").read_text().replace("water", "paper", 1))
    assert "was made with input=" in run("--resume", source=other)
    copy = tmp_path / "copy" / "docs.jsonl"
    copy.parent.mkdir()
    copy.write_text((work / "docs.jsonl").read_text())
    assert run("--resume", "--batch_size", "7", source=copy).startswith("nothing to do")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--input", "./nowhere/*.txt"], "--input"),
        (["--text_columns", "body"], "no column 'body'; it has '_id', 'title', 'text'"),
        (["--text_columns", "text", "text"], "--text_columns: 'text' is given twice"),
        (["--id_column", "key"], "no column 'key'"),
        (["--id_column", "title"], "line 2: column 'title' holds no id"),
        (["--model", "./nowhere"], "--model"),
        (["--exit_threshold", "2"], "exit_threshold"),
        (["--exit_threshold", "high"], "--exit_threshold: must be a number, none or config, got 'high'"),
        (["--max_layers", "5"], "--max_layers must be in [1, 4], got 5"),
        (["--max_length", "65"], "--max_length must be in [3, 64], got 65"),
        (["--max_length", "2"], "--max_length"),
        (["--part_size", "0"], "--part_size: must be at least 1, got 0"),
        (["--runtime", "onnx"], "python -m leap.runtime export"),
        (["--runtime", "onnx", "--max_layers", "2"], "pass --runtime torch"),
        (["--runtime", "torch", "--mixed_precision", "int8"], "int8 needs ONNX Runtime"),
        (["--mixed_precision", "int8"], "python -m leap.runtime export"),
        (["--mixed_precision", "int8", "--device", "cuda"], "--device: ONNX Runtime encodes on the CPU"),
        (["--nothing"], "--nothing"),
    ],
)
def test_wrong_arguments_end_in_one_line(run: Run, tmp_path: Path, arguments: list[str], named: str) -> None:
    said = run(*arguments)
    assert named in said, said
    assert "\n" not in said.strip()
    assert not list(tmp_path.glob("out/*.parquet"))


def test_the_output_is_not_read_as_input(work: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "t.txt").write_text("one\ntwo\n")
    for output in ("in", "in/vectors", "in/sub", "in/sub/vectors"):
        assert "is among the input" in run(source=tmp_path / "in", output=output)
    assert "is among the input" in run(source=tmp_path / "in" / "*" / "*.txt", output="in")
    assert run(source=tmp_path / "in", output="in-vectors").startswith("2 vectors")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.md").write_text("mine")
    assert "holds no run" in run(output="full")
    (tmp_path / "file").write_text("mine")
    assert "--output: " in run(output="file")


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_run_killed_in_its_first_write_starts_again(run: Run, tmp_path: Path, resume: list[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".manifest.json.a1b2.tmp").write_text('{"comp')
    assert run(*resume).startswith("50 vectors")
    assert not list((tmp_path / "out").glob(".*"))


def test_an_input_that_breaks_off_is_named_and_can_be_mended(work: Path, run: Run, tmp_path: Path) -> None:
    content = gzip.compress((work / "docs.jsonl").read_bytes() * 50)
    (tmp_path / "a.jsonl.gz").write_bytes(content[: len(content) // 2])
    said = run(source=tmp_path / "a.jsonl.gz")
    assert "--input: " in said and "a.jsonl.gz" in said and "breaks off" in said, said
    with pytest.raises(UsageError, match="no finished run"):
        read_vectors(tmp_path / "out")


@pytest.mark.parametrize("arguments", [[], ["--id_column", "text"]])
def test_an_input_without_rows_is_one_line(run: Run, tmp_path: Path, arguments: list[str]) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "t.parquet")
    assert "--input: no row in" in run(*arguments, source=tmp_path / "t.parquet")
    assert not (tmp_path / "out").exists()


def test_ids_that_only_some_rows_have(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"_id": "x", "text": "b"}\n')
    assert "line 2: a column '_id', which the first row has not" in run(source=tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text('{"_id": "x", "text": "b"}\n{"text": "a"}\n')
    assert "line 2: column '_id' holds no id" in run(source=tmp_path / "b.jsonl", output="b")


def test_a_damaged_part_is_not_read(run: Run, tmp_path: Path) -> None:
    run()
    part = tmp_path / "out" / "part-00000001.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 4] ^= 1
    part.write_bytes(bytes(content))
    with pytest.raises(UsageError, match=r"part-00000001.parquet' is broken"):
        read_vectors(tmp_path / "out")


def test_a_full_disk_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parts.pq, "write_table", full)
    said = run()
    assert "--output: cannot write" in said and "No space left" in said and "--resume" in said


def test_progress_tells_speed_depth_and_time_left(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = "".join(json.dumps({"text": "water " * 30}) + "\n" for _ in range(3000))
    (tmp_path / "t.jsonl").write_text(rows)
    command = ["--model", str(work / "model"), "--input", str(tmp_path / "t.jsonl"), "--part_size", "500"]
    encode_corpus.main([*command, "--output", str(tmp_path / "out")])
    shown = capsys.readouterr().err
    assert "3000/3000" in shown and "texts/s" in shown and "layers=" in shown
    progress = Progress()
    documents = encode_corpus.Documents.find([str(tmp_path / "t.jsonl")], "train", ["text"], None)
    for _ in zip(range(1500), documents.rows(progress), strict=False):
        pass
    assert progress.rows / progress.share == pytest.approx(3000, rel=0.05)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(work: Path, tmp_path: Path, repo_root: Path) -> None:
    code = "import resource, sys, encode_corpus as e; e.main(sys.argv[1:])"
    code += "; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    peaks = []
    for rows in (1000, 8000):
        source = tmp_path / f"{rows}.txt"
        source.write_text(("water " * 10 + "\n") * rows)
        command = ["--model", str(work / "model"), "--input", str(source), "--part_size", "500"]
        done = subprocess.run(
            [sys.executable, "-c", code, *command, "--output", str(tmp_path / str(rows))],
            cwd=repo_root, capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 30, peaks  # MiB; the vectors and texts alone are five
