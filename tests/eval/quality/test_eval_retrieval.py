"""`retrieval`: trec_eval's numbers by hand, the query not found by itself, the settings, the cache."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eval_toys
import numpy as np
import pytest

from eval.quality import retrieval
from eval.quality.retrieval import cached_documents, evaluate_retrieval, rank, rank_metrics
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
        "model": make_tiny_model(**eval_toys.RULE),
        "teacher": make_tiny_model(seed=1),
        "wide": make_tiny_model(hidden_size=64),
    }
    return {
        name: load_encoder(str(eval_toys.save_toy(tmp_path / name, model))) for name, model in models.items()
    }


def test_the_settings_take_the_right_sides(encoders: dict[str, Encoder], tmp_path: Path) -> None:
    data = load_retrieval(str(eval_toys.write_beir(tmp_path / "beir")))
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
        "teacher_documents": score(model, teacher, exits, full),
    }
    rows = figures["settings"]
    found = {name: {key: row[key] for key in retrieval.METRICS} for name, row in rows.items()}
    assert found == {name: pytest.approx(row) for name, row in wanted.items()}
    assert [cut["layer"] for cut in figures["static_queries"]] == [1, 2, 3, 4, 5, 6]
    for cut in figures["static_queries"]:
        rule = full | {"max_layers": cut["layer"]}
        assert {key: cut[key] for key in retrieval.METRICS} == pytest.approx(
            score(model, teacher, rule, full)
        )

    left = {side: encode(model, texts[side]).exit_layers.mean() for side in texts}
    depths = {name: (row["mean_query_layer"], row["mean_document_layer"]) for name, row in rows.items()}
    assert depths == {
        "teacher": (None, None),
        "full_depth": (6, 6),
        "exits": (left["queries"], left["documents"]),
        "exit_queries": (left["queries"], 6),
        "teacher_documents": (left["queries"], None),
    }
    assert sum(figures["query_exit_histogram"]) == figures["queries"] == 2
    assert figures["grid"] == []


def test_further_thresholds_over_the_teachers_documents(encoders: dict[str, Encoder], tmp_path: Path) -> None:
    data = load_retrieval(str(eval_toys.write_beir(tmp_path / "beir")))
    model, teacher = encoders["model"], encoders["teacher"]
    own = model.exit_rule()[0]
    figures = evaluate_retrieval(
        model, data, teacher=teacher, thetas=[own, 1.0], cache=tmp_path / "cache", own_documents=False
    )
    same, full = figures["grid"]
    wanted = figures["settings"]["teacher_documents"]
    for key in (*retrieval.METRICS, "mean_query_layer"):
        assert same[key] == wanted[key]
    assert full["mean_query_layer"] == 6
    assert {key: full[key] for key in retrieval.METRICS} == {
        key: figures["static_queries"][-1][key] for key in retrieval.METRICS
    }
    with pytest.raises(UsageError, match=r"^--exit_threshold must be"):
        evaluate_retrieval(model, data, teacher=teacher, thetas=[2.0])


def test_settings_left_out(encoders: dict[str, Encoder], tmp_path: Path) -> None:
    data = load_retrieval(str(eval_toys.write_beir(tmp_path / "beir")))
    model, teacher = encoders["model"], encoders["teacher"]
    own = evaluate_retrieval(model, data, exit_threshold=None)
    assert list(own["settings"]) == ["full_depth"]
    assert own["static_queries"] is None
    quick = evaluate_retrieval(model, data, teacher=teacher, own_documents=False, cache=tmp_path)
    assert list(quick["settings"]) == ["teacher", "teacher_documents"]
    with pytest.raises(UsageError, match="give --teacher"):
        evaluate_retrieval(model, data, own_documents=False)
    with pytest.raises(UsageError, match="another width"):
        evaluate_retrieval(model, data, teacher=encoders["wide"])


def test_documents_are_embedded_once(
    encoders: dict[str, Encoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_retrieval(str(eval_toys.write_beir(tmp_path / "beir")))
    first = cached_documents(encoders["teacher"], data, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npy"]
    monkeypatch.setattr(retrieval, "encode", None)  # a second computation would fail
    np.testing.assert_array_equal(cached_documents(encoders["teacher"], data, tmp_path / "cache"), first)
    with pytest.raises(TypeError):
        cached_documents(encoders["model"], data, tmp_path / "cache")


def test_every_layer_of_the_documents_is_embedded_once_beside_full_depth(
    encoders: dict[str, Encoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_retrieval(str(eval_toys.write_beir(tmp_path / "beir")))
    deepest = cached_documents(encoders["model"], data, tmp_path / "cache")
    layers = cached_documents(encoders["model"], data, tmp_path / "cache", every_layer=True)
    assert layers.shape == (len(data.documents), encoders["model"].depth, deepest.shape[1])
    np.testing.assert_allclose(layers[:, -1], deepest, atol=1e-6)
    monkeypatch.setattr(retrieval, "encode_layers", None)  # a second computation would fail
    again = cached_documents(encoders["model"], data, tmp_path / "cache", every_layer=True)
    np.testing.assert_array_equal(again, layers)
