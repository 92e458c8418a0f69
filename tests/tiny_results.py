"""Small files of results/ for the tests of the card and of publishing: of a model with four layers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

RULE = {
    "exit_threshold": 0.88,
    "min_exit_layer": 1,
    "exit_patience": 1,
    "landing_layer": 4,
    "max_exit_layer": 1,
}
README = """# Tree

<!-- table of model_card.md, by `python -m eval card` -->
<!-- end of table -->

The end.
"""
Edit = Callable[[dict[str, Any]], object]


def result(evaluation: str, data: str, figures: dict[str, Any], weights: str = "w") -> dict[str, Any]:
    """A file of results/."""
    model = {"name": ".", "sha256": weights, "layers": 4, "hidden_size": 8, "max_length": 16}
    return {
        "evaluation": evaluation,
        "models": {"model": model},
        "data": {"name": data, "sha256": f"of {data}"},
        "figures": figures,
        "provenance": {
            "command": f"python -m eval {evaluation}",
            "commit": "0123456789+",
            "date": "2031-02-03T04:05:06+00:00",
            "versions": {"torch": "9.9", "transformers": "8.8"},
            "machine": {"system": "S", "processor": "P", "cores": 2, "threads": 2, "device": "cpu"},
        },
    }


def sts(with_exits: bool, weights: str = "w", name: str = "stsb") -> dict[str, Any]:
    def score(value: float, low: float, high: float, layers: float) -> dict[str, Any]:
        return {"spearman": value, "interval": [low, high], "mean_layers_run": layers}

    figures: dict[str, Any] = {"pairs": 1379, "full_depth": score(0.81, 0.1, 0.9, 4), "exits": None}
    if with_exits:
        leap = score(0.777, 0.7, 0.8, 2)
        figures |= {"exits": RULE | score(0.7902, 0.7, 0.85, 2.25), "all_leap": leap}
        figures["paths"] = [leap | {"test_layer": 1}]
    return result("sts", f"{name}/test", figures, weights)


def retrieval() -> dict[str, Any]:
    def score(value: float, query: float | None, document: float | None) -> dict[str, Any]:
        return {"ndcg@10": value, "mean_query_layers_run": query, "mean_document_layers_run": document}

    settings = {
        "teacher": score(0.66, None, None),
        "full_depth": score(0.61, 4, 4),
        "exits": score(0.58, 2.5, 3.0),
        "exit_queries": score(0.59, 2.5, 4),
        "full_queries": score(0.655, 4, None),
        "teacher_documents": score(0.60, 2.5, None),
    }
    figures = {"documents": 5183, "queries": 300, "exit_rule": RULE, "settings": settings}
    return result("retrieval", "scifact/test", figures)


def latency() -> dict[str, Any]:
    def row(size: int, tokens: int, full: float, exits: float) -> dict[str, Any]:
        return {
            "batch_size": size,
            "tokens": tokens,
            "full_depth": {"p50_ms": full},
            "exits": {"p50_ms": exits},
        }

    rows = [row(1, 16, 4.0, 2.5), row(1, 64, 8.0, 5.25), row(32, 64, 99.0, 77.0)]
    return result("latency", "stsb/test", RULE | {"threads": 1, "device": "cpu", "rows": rows})


def peers() -> dict[str, Any]:
    libraries = {
        "slow": {"model": "teacher", "precision": "float32"},
        "fast": {"model": "teacher", "precision": "float32"},
        "rounded": {"model": "teacher", "precision": "int8"},
        "leap": {"model": "leap", "precision": "float32"},
    }
    times = [("slow", "full depth", 9.0), ("fast", "full depth", 3.0), ("rounded", "full depth", 1.0)]
    times += [("leap", "full depth", 3.5), ("leap", "exits", 1.75)]
    rows = [{"texts": "sentences", "batch_size": 1, "peer": peer, "variant": variant, "p50_ms": ms}
            for peer, variant, ms in times]  # fmt: skip
    rows.append(rows[0] | {"batch_size": 32})
    figures = {"threads": 2, "baseline": "slow", "peers": libraries, "rows": rows, "texts": [], "quality": []}
    return result("peers", "stsb/test", RULE | figures)


def front() -> dict[str, Any]:
    """A mixed set and the queries of a retrieval set."""

    def errors(mean: float, p99: float, over: float) -> dict[str, float]:
        return {"mean": mean, "p95": p99 / 2, "p99": p99, "over_10": over}

    full, leap, rule = errors(0.01, 0.04, 0.0), errors(0.05, 0.3, 0.1), errors(0.03, 0.1, 0.02)
    intervals = {"mean": [0.029, 0.031], "p99": [0.09, 0.11], "over_10": [0.01, 0.03]}
    coin = errors(0.04, 0.2, 0.03) | {"difference": {"mean": [-0.011, -0.009]}}
    found = {
        "texts": 3000,
        "ends": {"full_depth": full, "all_leap": leap},
        "correlation": {"s": 0.65, "interval": [0.6, 0.7]},
        "default": rule | {"layers": 2.25, "intervals": intervals, "at_equal_layers": {"coin": coin}},
    }
    kind = {"full_depth": errors(0.02, 0, 0), "all_leap": errors(0.06, 0, 0), "correlation": {"s": 0.61}}
    scores = {"over_teacher": {"all_leap": 0.59}}
    sets = {"mixed": found | {"kinds": {"code": kind}}, "SciFact queries": found | {"ndcg@10": scores}}
    chosen = {"texts": 4000, "default": {"exit_threshold": RULE["exit_threshold"], "leap_share": 0.92}}
    content = result("front", "mixed", {"chosen_on": chosen, "sets": sets})
    return content | {"models": content["models"] | {"teacher": {"sha256": "t"}, "student3": {"sha256": "x"}}}


def run(**fields: Any) -> dict[str, Any]:
    """A training log."""
    given = {"data": ["texts.jsonl.gz"], "exclude_sources": ["anli", "dream"]}
    return {"given": given | fields, "run": {"student_layers": "1,3", "max_tokens": 2e6}, "log": []}


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def edit(path: Path, change: Edit) -> None:
    content = json.loads(path.read_text())
    change(content)
    write(path, content)


def write_required(root: Path) -> Path:
    """Write config.json, README.md and the results that a card needs into `root`; gives its results/."""
    results = root / "results"
    write(root / "config.json", RULE | {"num_hidden_layers": 4, "hidden_size": 8})
    (root / "README.md").write_text(README)
    write(results / "sts-stsb-test.json", sts(True))
    write(results / "sts-stsb-test-teacher.json", sts(False, "t"))
    write(results / "train-whole.json", run())
    return results


def write_optional(results: Path) -> None:
    """Add another similarity set, retrieval, the front, latency, peers and a picture."""
    write(results / "sts-STS12-test.json", sts(True, name="STS12"))
    write(results / "retrieval-scifact.json", retrieval())
    write(results / "front.json", front())
    write(results / "latency-cpu.json", latency())
    write(results / "peers-cpu.json", peers())
    (results / "peers-cpu.png").touch()
