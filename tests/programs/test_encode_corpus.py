"""encode_corpus.py as it is started by users: formats, two processes, refusals, reading."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import load_dataset
from transformers import AutoTokenizer

import encode_corpus
from leap.corpus import read_vectors
from modeling_leap import LeapModel

WORDS = ["water", "stone", "music", "night"]
ROWS = [
    {"_id": f"d{i}", "title": None if i % 3 else f"title {i}", "text": " ".join(WORDS[: i % 5])}
    for i in range(50)
]
Run = Callable[..., str]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Path:
    """A folder with a tiny model whose texts leave at several layers, and a corpus."""
    folder = tmp_path_factory.mktemp("corpus")
    torch.manual_seed(0)
    config = LeapModel.config_class(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.1,
        exit_threshold=0.93,
        min_exit_layer=2,
    )
    LeapModel(config).save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(repo_root).save_pretrained(folder / "model")
    (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


@pytest.fixture
def run(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Iterator[Run]:
    """Run the program in this process, one thread; what it printed, or said as it gave up."""

    def start(*arguments: str, output: str = "out", source: Path | str = work / "docs.jsonl") -> str:
        command = ["encode_corpus.py", "--model", str(work / "model"), "--input", str(source)]
        command += ["--output", str(tmp_path / output), "--shard_size", "8", "--batch_size", "4", *arguments]
        monkeypatch.setattr(sys, "argv", command)
        AcceleratorState._reset_state(True)
        try:
            encode_corpus.main()
        except SystemExit as stop:
            return str(stop.code) if isinstance(stop.code, str) else capsys.readouterr().err
        return capsys.readouterr().out

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    yield start
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(True)


def expected(work: Path, texts: list[str], **call: object) -> tuple[np.ndarray, list[int]]:
    """One text at a time through the model."""
    model = LeapModel.from_pretrained(work / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(work / "model")
    with torch.inference_mode():
        outputs = [model(**tokenizer(text, return_tensors="pt"), **call) for text in texts]
    vectors = np.concatenate([output.sentence_embedding.numpy() for output in outputs])
    return vectors, [int(output.exit_layer) for output in outputs]


def test_rows_come_back_in_order_with_the_models_own_vectors(work: Path, run: Run, tmp_path: Path) -> None:
    said = run("--text_columns", "title", "text")
    assert said.startswith("50 vectors in ")
    ids, embeddings, exit_layers = read_vectors(tmp_path / "out")
    assert ids.tolist() == [row["_id"] for row in ROWS]
    texts = [" ".join(filter(None, (row["title"], row["text"]))) for row in ROWS]
    vectors, layers = expected(work, texts)
    np.testing.assert_allclose(embeddings, vectors, atol=1e-5)
    assert exit_layers.tolist() == layers
    assert len(set(layers)) > 1  # or leaving early was not tried

    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["rows"], manifest["shards"], manifest["complete"]) == (50, 7, True)
    assert manifest["mean_exit_layer"] == pytest.approx(np.mean(layers))
    assert manifest["blank_rows"] == sum(not text for text in texts) > 0
    assert manifest["last_run"]["texts"] == 50
    assert set(manifest["last_run"]["seconds"]) == {
        "start", "read", "tokenise", "wait for input", "encode", "write"
    }  # fmt: skip


def test_the_documented_ways_to_read_them(run: Run, tmp_path: Path) -> None:
    run("--dtype", "float16", "--normalize", "--exit_threshold", "none")
    ids, embeddings, exit_layers = read_vectors(tmp_path / "out")
    rows = load_dataset(
        "parquet",
        data_files=str(tmp_path / "out" / "*.parquet"),
        split="train",
        cache_dir=str(tmp_path / "c"),
    ).with_format("numpy")
    assert rows["id"][:].tolist() == ids.tolist()
    assert embeddings.dtype == np.float16
    assert np.array_equal(rows["embedding"][:], embeddings)
    np.testing.assert_allclose(np.linalg.norm(embeddings.astype(float), axis=1), 1, atol=1e-3)
    assert set(exit_layers) == {4}
    column = pq.read_schema(tmp_path / "out" / "shard-00000000.parquet").field("embedding").type
    assert str(column).startswith("fixed_size_list") and column.list_size == 32


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.csv", "t.txt", "t.parquet"])
def test_every_kind_of_file_and_several_of_them(run: Run, tmp_path: Path, name: str) -> None:
    texts = [f"{word} {number}" for number in range(5) for word in WORDS]
    for folder, part in (("a", texts[:11]), ("b", texts[11:])):
        path = tmp_path / folder / name
        path.parent.mkdir()
        if ".json" in name:
            content = "".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(part))
        else:
            content = "\n".join(["text"] * name.endswith(".csv") + part) + "\n"
        if name.endswith(".parquet"):
            import pyarrow as pa

            pq.write_table(pa.table({"text": part}), path)
        else:
            path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    run(source=tmp_path / "*" / name)
    together = read_vectors(tmp_path / "out")
    assert together.ids.tolist() == list(range(20))


def test_several_names_make_one_input(run: Run, tmp_path: Path) -> None:
    for name, count in (("a", 11), ("b", 9)):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {i}\n" for i in range(count)))
    run(source=tmp_path / "[ab].txt")
    run("--input", str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), output="named")
    one, other = read_vectors(tmp_path / "out"), read_vectors(tmp_path / "named")
    assert other.ids.tolist() == list(range(20))
    assert np.array_equal(one.embeddings, other.embeddings)


def test_resuming_makes_only_what_lacks_and_the_same_bits(run: Run, tmp_path: Path) -> None:
    run()
    before = read_vectors(tmp_path / "out")
    shards = sorted((tmp_path / "out").glob("*.parquet"))
    written = {shard: shard.read_bytes() for shard in shards}
    shards[2].unlink()
    shards[4].write_bytes(written[shards[4]][:-100])
    (tmp_path / "out" / ".shard-00000002.parquet.abc.tmp").write_bytes(b"torn")
    with pytest.warns(UserWarning, match=r"shard-00000004.parquet is broken .*encoding it again"):
        assert run("--resume").startswith("50 vectors")
    assert {shard: shard.read_bytes() for shard in shards} == written
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["last_run"]["texts"] == 16
    assert np.array_equal(read_vectors(tmp_path / "out").embeddings, before.embeddings)
    assert not list((tmp_path / "out").glob(".*.tmp"))
    assert run("--resume").startswith("nothing to do")


def test_another_run_is_refused(work: Path, run: Run, tmp_path: Path) -> None:
    run()
    assert "--output: " in run() and "pass --resume" in run()
    for arguments, named in (
        (["--exit_threshold", "none"], "exit_threshold"),
        (["--normalize"], "normalize"),
        (["--dtype", "float16"], "dtype"),
        (["--max_length", "10"], "max_length"),
        (["--shard_size", "9"], "shard_size"),
        (["--id_column", "_id"], "input"),
        (["--model", ".", "--exit_threshold", "0.93", "--min_exit_layer", "2"], "max_layers"),
    ):
        said = run("--resume", *arguments)
        assert f"was made with {named}=" in said, said
        assert "\n" not in said
    other = tmp_path / "docs.jsonl"
    other.write_text((work / "docs.jsonl").read_text().replace("water", "paper", 1))
    assert "was made with input=" in run("--resume", source=other)
    assert run("--resume", "--batch_size", "7").startswith("nothing to do")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--input", "./nowhere/*.txt"], "--input"),
        (["--text_columns", "body"], "--text_columns: no column 'body'; the input has _id, title, text"),
        (["--id_column", "key"], "--id_column: no column 'key'"),
        (["--model", "./nowhere"], "--model"),
        (["--exit_threshold", "2"], "--exit_threshold"),
        (["--max_layers", "5"], "--max_layers"),
        (["--max_length", "65"], "--max_length"),
        (["--max_length", "2"], "--max_length"),
        (["--shard_size", "0"], "--shard_size"),
    ],
)
def test_wrong_arguments_end_in_one_line(run: Run, tmp_path: Path, arguments: list[str], named: str) -> None:
    said = run(*arguments)
    assert named in said, said
    assert "\n" not in said.strip()
    assert not list(tmp_path.glob("out/*.parquet"))


def test_an_input_that_breaks_off_is_named_and_can_be_mended(work: Path, run: Run, tmp_path: Path) -> None:
    content = gzip.compress((work / "docs.jsonl").read_bytes() * 50)
    (tmp_path / "a.jsonl.gz").write_bytes(content[: len(content) // 2])
    said = run(source=tmp_path / "a.jsonl.gz")
    assert "--input: cannot read" in said and "a.jsonl.gz" in said and "breaks off" in said, said
    with pytest.raises(ValueError, match="no finished run"):
        read_vectors(tmp_path / "out")


def test_a_damaged_shard_is_not_read(run: Run, tmp_path: Path) -> None:
    run()
    shard = tmp_path / "out" / "shard-00000001.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 4] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"shard-00000001.parquet' is missing or broken"):
        read_vectors(tmp_path / "out")


def test_two_processes_make_what_one_does(work: Path, run: Run, repo_root: Path, tmp_path: Path) -> None:
    # On CPUs accelerate launch starts several processes only through MPI, and just one where it has none.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["encode_corpus.py", "--model", str(work / "model"), "--input", str(work / "docs.jsonl")]
    command += ["--output", str(tmp_path / "two"), "--shard_size", "8", "--batch_size", "4"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=repo_root, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("50 vectors in ") == 1
    assert "exit layer=" in done.stderr and "sentences/s" in done.stderr
    run()
    one, two = read_vectors(tmp_path / "out"), read_vectors(tmp_path / "two")
    assert two.ids.tolist() == one.ids.tolist()
    assert np.array_equal(one.embeddings, two.embeddings)
    assert np.array_equal(one.exit_layers, two.exit_layers)
    manifest = json.loads((tmp_path / "two" / "manifest.json").read_text())
    assert manifest["last_run"]["processes"] == 2
    assert manifest["last_run"]["texts"] == 26  # shards 0, 2, 4, 6
