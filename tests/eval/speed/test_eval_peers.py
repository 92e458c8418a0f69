"""`peers`: which texts are timed, ratios by round, and one real run of two libraries."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_data
from tiny_data import PAIRS

from eval.__main__ import main
from eval.speed import peer_runtimes
from eval.speed.peer_client import PeerProcess
from eval.speed.peer_runtimes import EXITS, FULL_DEPTH, PEERS, Sources
from eval.speed.peer_summary import summary
from eval.speed.peer_texts import Kind, cut_to, passages, sentences
from eval.speed.peer_worker import Worker, resident_mb
from eval.speed.peers import PER_TURN, Settings, evaluate_peers
from leap.distill.release import write_model
from leap.encode.encoder import Encoder
from leap.errors import UsageError
from leap.text.sets import StsData
from modeling_leap import LeapModel

TEXTS = [text for pair in PAIRS for text in pair[:2]]
ROUNDS = 3


@pytest.fixture
def encoder(make_tiny_model: Callable[..., LeapModel]) -> Encoder:
    return Encoder("tiny", make_tiny_model(**tiny_data.RULE), tiny_data.tiny_tokenizer(), 16)


@pytest.fixture
def tiny(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> Path:
    folder = tmp_path / "tiny"
    write_model(folder, make_tiny_model(**tiny_data.RULE), tiny_data.tiny_tokenizer(), max_length=16)
    return folder


def test_passages_are_cut_at_words(encoder: Encoder) -> None:
    assert cut_to(encoder, "a cat sat on the mat", 6) == "a cat sat on"
    assert cut_to(encoder, "a cat", 6) == "a cat"
    found = passages(encoder, TEXTS, 6, seed=0, at_least=2)
    assert set(found.tokens) == {6}
    assert not found.joined
    with pytest.raises(UsageError, match=r"--lengths must be at most 16 for this model, got 17"):
        passages(encoder, TEXTS, 17, seed=0, at_least=2)


def test_batches_go_on_through_the_texts(encoder: Encoder) -> None:
    kind = sentences(encoder, [*TEXTS, TEXTS[0]], seed=1)
    assert sorted(kind.texts) == sorted(set(TEXTS))
    assert kind == sentences(encoder, TEXTS, seed=1)
    first, second = kind.batches(0, 2, 4), kind.batches(1, 2, 4)
    assert first + second[:1] == [kind.texts[:4], kind.texts[4:8], kind.texts[8:12]]
    assert second[1] == kind.texts[:4]


class FakeLibrary:
    """Answers as a process does, with given milliseconds; every call is written down."""

    def __init__(
        self, name: str, milliseconds: dict[str, float], calls: list[tuple[str, str, list[Any]]]
    ) -> None:
        self.name, self.milliseconds, self.calls, self.turns = name, milliseconds, calls, 0

    def __call__(self, what: str, **request: Any) -> dict[str, Any]:
        if what == "memory":
            return {"peak_mb": 321.0}
        self.calls.append((self.name, request["variant"], request["batches"]))
        rows = sum(map(len, request["batches"][request.get("warm_up", 0) :]))
        layers = None
        if PEERS[self.name].model == "leap":
            layers = [4 if request["variant"] == EXITS else 6] * rows
        if what == "embed":
            texts = [text for batch in request["batches"] for text in batch]
            np.save(
                request["path"], np.array([[len(text), 1 + text.count("a")] for text in texts], np.float32)
            )
            return {"layers": layers}
        self.turns += 1
        # Slower from turn to turn, as a machine may become: ratios within a round must not see it.
        each = self.milliseconds[request["variant"]] * self.turns
        return {"ms": [each] * (len(request["batches"]) - request["warm_up"]), "layers": layers}


def compare(calls: list[tuple[str, str, list[Any]]]) -> dict[str, Any]:
    asks = {
        "sentence-transformers": FakeLibrary("sentence-transformers", {FULL_DEPTH: 6.0}, calls),
        "leap-transformers": FakeLibrary("leap-transformers", {FULL_DEPTH: 3.0, EXITS: 1.5}, calls),
    }
    pairs = StsData(
        "tiny/test",
        [pair[0] for pair in PAIRS],
        [pair[1] for pair in PAIRS],
        np.array([pair[2] for pair in PAIRS]),
        "sum",
    )
    kind = Kind("sentences", TEXTS, [6] * len(TEXTS))
    settings = Settings(batch_sizes=(1, 2), rounds=ROUNDS)
    return evaluate_peers(asks, [kind], pairs, 6, settings)


def test_rows_turns_and_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.speed.peers.PAUSE", 0)
    calls: list[tuple[str, str, list[Any]]] = []
    figures = compare(calls)
    order = [
        ("sentence-transformers", FULL_DEPTH),
        ("leap-transformers", FULL_DEPTH),
        ("leap-transformers", EXITS),
    ]
    assert [call[:2] for call in calls] == order + order * (1 + ROUNDS) * 2  # quality, then the turns
    for start in range(3, len(calls), 3):
        assert calls[start][2] == calls[start + 1][2] == calls[start + 2][2]  # the same texts
    assert [(row["batch_size"], row["peer"], row["variant"]) for row in figures["rows"]] == [
        (size, *key) for size in (1, 2) for key in order
    ]
    baseline, full, exits = figures["rows"][:3]
    assert (baseline["rounds"], baseline["batches"]) == (ROUNDS, ROUNDS * PER_TURN)
    assert baseline["ratios"] == [1, 1, 1]
    assert exits["p50_ms"] < exits["p95_ms"]
    assert (full["mean_layers_run"], exits["mean_layers_run"]) == (6, 4)
    assert exits["possible"] == 1.5
    assert figures["peak_mb"] == {name: 321.0 for name in ("sentence-transformers", "leap-transformers")}
    assert [row["mean_layers_run"] for row in figures["quality"]] == [None, 6, 4]
    assert len({row["spearman"] for row in figures["quality"]}) == 1
    assert [row["error"] for row in figures["quality"]] == pytest.approx([0, 0, 0], abs=1e-6)


def test_summary() -> None:
    row = {"texts": "sentences", "batch_size": 1, "p50_ms": 1.0, "p95_ms": 2.0}
    own = {"peer": "leap-transformers", "variant": EXITS, "speedup": 1.5, "possible": 1.5, "share": 1.0}
    peers = {
        name: {"title": name, "model": PEERS[name].model, "precision": "float32", "peak_mb": 1.0}
        for name in ("transformers", "leap-transformers")
    }
    figures = {
        "threads": 1,
        "peers": peers,
        "missing": {"fastembed": {"title": "fastembed", "install": "pip install fastembed"}},
        "texts": [{"name": "sentences", "mean_tokens": 6.0}],
        "quality": [
            {"peer": "transformers", "variant": FULL_DEPTH, "spearman": 0.5},
            {"peer": "leap-transformers", "variant": EXITS, "spearman": 0.5},
        ],
        "rows": [
            row | {"peer": "transformers", "variant": FULL_DEPTH, "ratio": 1.0, "ratios": [1.0, 1.0, 1.0]},
            row | own | {"ratio": 4.0, "ratios": [3.0, 4.0, 5.0]},
        ],
        "stream": [
            {"clients": None, "rate": 3.0, "peer": "transformers", "variant": FULL_DEPTH, "texts_per_s": None}
            | {"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0}
        ],
    }
    printed = summary(figures)
    assert printed.count("1 x sentences (6.0 tokens on average)") == 1
    assert "speedup 1.50 of 1.50 (100%)" in printed
    assert "3.0 texts/s arrive" in printed
    assert "missing: fastembed: pip install fastembed" in printed


def sources(folder: Path) -> Sources:
    return Sources(str(folder), str(folder), 16, threads=1)


def test_every_leap_library_gives_the_models_vectors(
    make_tiny_model: Callable[..., LeapModel], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from leap.runtime.export import export

    tiny = tmp_path / "leaping"
    write_model(tiny, make_tiny_model(**tiny_data.LEAP_RULE), tiny_data.tiny_tokenizer(), max_length=16)
    export(tiny, tiny / "onnx")
    vectors = {}
    for name in ("leap-transformers", "leap-onnx"):
        worker = Worker(name)
        assert worker.load({**vars(sources(tiny))})["load_s"] > 0
        for variant in worker.variants:
            path = tmp_path / f"{name}-{variant}.npy"
            left = worker.embed(variant, [TEXTS[:5], TEXTS[5:]], str(path))["layers"]
            vectors[name, variant] = (np.load(path), left)
            timed = worker.time(variant, [TEXTS[:2]] * 3, warm_up=1)
            assert (len(timed["ms"]), len(timed["layers"])) == (2, 4)
    for (_, variant), (found, left) in vectors.items():
        expected, layers = vectors["leap-transformers", variant]
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert left == layers
    assert len(set(vectors["leap-onnx", EXITS][1])) >= 2
    flat = PEERS["onnxruntime"].load(sources(tiny))[FULL_DEPTH](TEXTS)[0]
    np.testing.assert_allclose(flat, np.concatenate([vectors["leap-onnx", FULL_DEPTH][0]]), atol=1e-4)


def test_peak_memory_is_of_this_process() -> None:
    assert 50 < resident_mb("VmRSS") <= resident_mb("VmHWM") * 1.01


def test_a_library_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--peers: transformers cannot load: .*: fix it or leave it out$"):
        PeerProcess("transformers", sources(tmp_path))


def test_a_process_that_dies_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "library"
    library.write_text("#!/bin/sh\nread request\necho '{\"load_s\": 1}'\necho out of memory >&2\nexit 3\n")
    library.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(library))
    named = r"^--peers: transformers cannot memory: .* ended with status 3: out of memory: fix it"
    with pytest.raises(UsageError, match=named), PeerProcess("transformers", sources(tmp_path)) as process:
        process._process.wait()
        process.ask("memory")


def test_the_command(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LEAP_DATA", raising=False)
    gone = peer_runtimes.Peer("gone", "teacher", "float32", {"no_such_package": "no-such"}, (), None)
    monkeypatch.setitem(PEERS, "gone", gone)
    output, picture = tmp_path / "out.json", tmp_path / "out.png"
    command = ["peers", "--model", str(tiny), "--teacher", str(tiny), "--threads", "1", "--rounds", "1"]
    command += ["--data", str(tiny_data.write_pairs(tmp_path / "pairs.csv"))]
    command += ["--passages", str(tiny_data.write_beir(tmp_path / "beir")), "--lengths", "5"]
    command += ["--batch_sizes", "1", "2", "--stream_seconds", "0.05", "--output", str(output)]
    chosen = ["--peers", "transformers", "leap-transformers", "gone", "--baseline", "transformers"]
    assert main([*command, *chosen, "--plot", str(picture)]) == 0
    result = json.loads(output.read_text())
    figures = result["figures"]
    assert len(figures["rows"]) == 2 * 2 * 3
    assert len(figures["stream"]) == 4 * 3
    assert figures["missing"] == {"gone": {"title": "gone", "install": "pip install no-such"}}
    assert all(peer["peak_mb"] > 50 for peer in figures["peers"].values())
    scores = {(row["peer"], row["variant"]): row["spearman"] for row in figures["quality"]}
    assert scores["transformers", FULL_DEPTH] == pytest.approx(scores["leap-transformers", FULL_DEPTH])
    assert picture.stat().st_size > 10_000
    assert "gone is left out: pip install no-such" in capsys.readouterr().out

    assert main([*command, "--peers", "leap-transformers", "--baseline", "transformers"]) == 2
    assert main([*command, "--peers", "transformer"]) == 2
    assert "there is no 'transformer': choose from sentence-transformers" in capsys.readouterr().err
