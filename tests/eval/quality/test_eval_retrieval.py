"""`retrieval`: trec_eval's numbers by hand, the query not found by itself, the settings, the cache."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_data

from eval.quality import cache, retrieval
from eval.quality.cache import cached_embeddings, cached_paths
from eval.quality.retrieval import evaluate_retrieval, rank, rank_metrics
from leap.encode.encoder import Encoder, encode, load_encoder
from leap.errors import UsageError
from leap.text.sets import load_retrieval
from modeling_leap import LeapModel


def test_ndcg_and_recall_by_hand() -> None:
    qrels = {"q1": {"d1": 2, "d3": 1}, "q2": {"d2": 1}}
    ranking = {"q1": {"d3": 0.9, "d2": 0.5, "d1": 0.1}, "q2": {"d1": 0.2, "d3": 0.1}}
    # q1 has gains 1, 0, 2 at ranks 1, 2, 3; at best 2, 1. q2 finds nothing.
    ndcg = (1 / math.log2(2) + 2 / math.log2(4)) / (2 / math.log2(2) + 1 / math.log2(3))
    found = rank_metrics(qrels, ranking)
    assert found == {"ndcg@10": pytest.approx(ndcg / 2), "recall@100": pytest.approx(0.5)}


def test_rank_is_by_cosine_and_drops_the_query_itself() -> None:
    documents = np.array([[9, 9], [1, 0.1], [0, 1], [1, 0]], dtype=np.float32)
    found = rank(np.array([[2, 0]], dtype=np.float32), documents, ["q"], ["far", "near", "across", "q"])
    assert list(found["q"]) == ["near", "far", "across"]
    assert found["q"]["far"] == pytest.approx(math.sqrt(0.5))


def test_rank_keeps_a_hundred_besides_the_query() -> None:
    random = np.random.default_rng(0)
    documents = random.normal(size=(300, 8)).astype(np.float32)
    ids = [f"d{number}" for number in range(300)]
    found = rank(documents[:2], documents, ["d0", "other"], ids)
    assert {query: len(scores) for query, scores in found.items()} == {"d0": 100, "other": 100}
    assert "d0" not in found["d0"]
    unit = documents / np.linalg.norm(documents, axis=1, keepdims=True)
    wanted = [ids[at] for at in np.argsort(-(unit @ unit[1]))[:100]]
    assert list(found["other"]) == wanted


@pytest.fixture
def encoders(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> dict[str, Encoder]:
    models = {
        "model": make_tiny_model(**tiny_data.RULE),
        "teacher": make_tiny_model(seed=1),
        "wide": make_tiny_model(hidden_size=64),
    }
    return {
        name: load_encoder(str(tiny_data.save_tiny(tmp_path / name, model))) for name, model in models.items()
    }


def test_the_settings_take_the_right_sides(encoders: dict[str, Encoder], tmp_path: Path) -> None:
    data = load_retrieval(str(tiny_data.write_beir(tmp_path / "beir")))
    model, teacher = encoders["model"], encoders["teacher"]
    figures = evaluate_retrieval(model, data, teacher=teacher, cache=tmp_path / "cache")
    texts = {"queries": list(data.queries.values()), "documents": list(data.documents.values())}

    def score(
        queries: Encoder, documents: Encoder, query_rule: dict, document_rule: dict
    ) -> dict[str, float]:
        asked = encode(queries, texts["queries"], **query_rule).embeddings
        index = encode(documents, texts["documents"], **document_rule).embeddings
        return rank_metrics(data.qrels, rank(asked, index, list(data.queries), list(data.documents)))

    exits: dict[str, Any] = {}
    full: dict[str, Any] = {"exit_threshold": None}
    wanted = {
        "teacher": score(teacher, teacher, full, full),
        "full_depth": score(model, model, full, full),
        "exits": score(model, model, exits, exits),
        "exit_queries": score(model, model, exits, full),
        "full_queries": score(model, teacher, full, full),
        "teacher_documents": score(model, teacher, exits, full),
    }
    rows = figures["settings"]
    found = {name: {key: row[key] for key in retrieval.METRICS} for name, row in rows.items()}
    assert found == {name: pytest.approx(row) for name, row in wanted.items()}

    left = {side: encode(model, texts[side]).layers_run.mean() for side in texts}
    depths = {
        name: (row["mean_query_layers_run"], row["mean_document_layers_run"]) for name, row in rows.items()
    }
    assert depths == {
        "teacher": (None, None),
        "full_depth": (6, 6),
        "exits": (left["queries"], left["documents"]),
        "exit_queries": (left["queries"], 6),
        "full_queries": (6, None),
        "teacher_documents": (left["queries"], None),
    }
    assert figures["queries"] == 2


def test_settings_left_out(encoders: dict[str, Encoder], tmp_path: Path) -> None:
    data = load_retrieval(str(tiny_data.write_beir(tmp_path / "beir")))
    model, teacher = encoders["model"], encoders["teacher"]
    own = evaluate_retrieval(model, data, exit_threshold=None, cache=tmp_path)
    assert list(own["settings"]) == ["full_depth"]
    quick = evaluate_retrieval(model, data, teacher=teacher, own_documents=False, cache=tmp_path)
    assert list(quick["settings"]) == ["teacher", "full_queries", "teacher_documents"]
    with pytest.raises(UsageError, match="another width"):
        evaluate_retrieval(model, data, teacher=encoders["wide"])


def test_texts_are_embedded_once(
    encoders: dict[str, Encoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, folder = ["a cat sat", "the dog", "rain"], tmp_path / "cache"
    vectors = cached_embeddings(encoders["teacher"], texts, folder)
    paths = cached_paths(encoders["model"], texts, folder)
    np.testing.assert_array_equal(vectors, encode(encoders["teacher"], texts).embeddings)
    assert sorted(path.suffix for path in folder.iterdir()) == [".npy", ".npz"]
    monkeypatch.setattr(cache, "encode", None)  # a second computation would fail
    monkeypatch.setattr(cache, "encode_paths", None)
    np.testing.assert_array_equal(cached_embeddings(encoders["teacher"], texts, folder), vectors)
    again = cached_paths(encoders["model"], texts, folder)
    for name, value in vars(paths).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    for other in (encoders["model"], encoders["teacher"]):
        with pytest.raises(TypeError):
            cached_embeddings(other, ["the dog", "a cat sat", "rain"], folder)
    encoders["model"].model.config.landing_layer = 6  # another form of the same weights
    with pytest.raises(TypeError):
        cached_paths(encoders["model"], texts, folder)


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda _: b"junk"])
def test_a_damaged_cache_is_one_line(
    encoders: dict[str, Encoder], tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    for cached, model in ((cached_embeddings, "teacher"), (cached_paths, "model")):
        cached(encoders[model], ["a cat sat"], tmp_path / "cache")
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(damage(path.read_bytes()))
    for cached, model in ((cached_embeddings, "teacher"), (cached_paths, "model")):
        with pytest.raises(UsageError, match=r"^--cache: '.*' is damaged \(.*\): remove it$") as error:
            cached(encoders[model], ["a cat sat"], tmp_path / "cache")
        assert "allow_pickle" not in str(error.value)
