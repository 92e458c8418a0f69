"""Toy files of results/ for the tests of the model card."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.card.card import render
from eval.card.card_results import read_results

RULE = {"exit_threshold": 0.88, "min_exit_layer": 2, "exit_patience": 1}
SPEARMAN = [0.6, 0.75, 0.8, 0.81]  # by layer
Edit = Callable[[dict[str, Any]], None]


def result(evaluation: str, data: str, figures: dict[str, Any], weights: str = "w") -> dict[str, Any]:
    """A file of results/."""
    return {
        "evaluation": evaluation,
        "models": {
            "model": {"name": ".", "sha256": weights, "layers": 4, "hidden_size": 8, "max_length": 16}
        },
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


def sts(exits: dict[str, Any] | None, weights: str = "w", name: str = "stsb") -> dict[str, Any]:
    scores = [{"layer": n, "spearman": value, "interval": [0.1, 0.9]} for n, value in enumerate(SPEARMAN, 1)]
    figures = {"pairs": 1379, "full_depth": scores[-1], "exits": exits, "static": scores}
    return result("sts", f"{name}/test", figures, weights)


def pareto(split: str) -> dict[str, Any]:
    grid = [
        {"exit_threshold": theta, "min_exit_layer": first, "mean_exit_layer": mean, "spearman": spearman}
        for theta, first, mean, spearman in [
            (0.5, 2, 2.0, 0.7501),
            (0.88, 2, 2.5, 0.7902),
            (0.9, 2, 2.6, 0.7903),
            (0.95, 2, 3.5, 0.8056),
            (0.95, 3, 3.8, 0.8057),
        ]
    ]
    kept = {"fidelity_mean": 0.95004, "fidelity_p5": 0.9}
    beside = {"static_at_mean_layer": {"fidelity_mean": 0.95, "fidelity_p5": 0.91}}
    chosen = grid[1] | kept | beside | {"max_mean_layer": 2.75, "max_loss": None}
    return result("pareto", f"stsb/{split}", {"pairs": 9, "exit_patience": 1, "grid": grid, "chosen": chosen})


def retrieval() -> dict[str, Any]:
    def score(value: float, query: float | None, document: float | None) -> dict[str, Any]:
        return {"ndcg@10": value, "mean_query_layer": query, "mean_document_layer": document}

    settings = {
        "teacher": score(0.66, None, None),
        "full_depth": score(0.61, 4, 4),
        "exits": score(0.58, 2.5, 3.0),
        "exit_queries": score(0.59, 2.5, 4),
        "teacher_documents": score(0.60, 2.5, None),
    }
    static = [{"layer": layer, "ndcg@10": value} for layer, value in enumerate([0.2, 0.5, 0.55, 0.62], 1)]
    figures = {"documents": 5183, "queries": 300, "exit_rule": RULE, "settings": settings}
    return result("retrieval", "scifact/test", figures | {"static_queries": static})


def latency() -> dict[str, Any]:
    times = {name: dict.fromkeys(("p50_ms", "p95_ms", "p99_ms"), 1.25) for name in ("full_depth", "exits")}
    row = times | {
        "exits_together": {"p50_ms": 2.5, "p95_ms": 3.5, "p99_ms": 4.5},
        "texts": 1000,
        "joined": False,
        "mean_exit_layer": 2.5,
        "mean_exit_layer_together": 3.25,
        "exit_test_ms": 0.05,
        "speedup_together": 1.1,
        "speedup_possible": 1.6,
        "share_of_possible": 0.9,
    }
    rows = [
        row | {"batch_size": size, "tokens": tokens, "speedup": speedup}
        for size, tokens, speedup in [(1, 16, 1.45), (1, 64, 1.35), (32, 64, 0.97)]
    ]
    return result(
        "latency", "stsb/test", {"threads": 1, "device": "cpu", "dtype": "float32", "rows": rows} | RULE
    )


def run(student: str | None, **fields: Any) -> dict[str, Any]:
    """A training log."""
    said = {
        "student": student,
        "student_layers": "1,3",
        "train_word_embeddings": False,
        "frozen_layers": 0,
        "exclude_sources": ["anli", "dream"],
        "max_length": 40,
        "batch_size": 32,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.0005,
        "schedule": "cosine",
        "warmup": 0.05,
        "mixed_precision": "no",
        "recipe": "leap",
        "objective": {"alpha": 0.0, "beta": 1.0},
        "texts": 5000,
        "steps": 100,
        "processes": 1,
    }
    return {"run": said | fields, "log": []}


def write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


def exits(spearman: float, mean_layer: float) -> dict[str, Any]:
    histogram = {"exit_histogram": [0, 1800, 400, 558]}
    return {"spearman": spearman, "mean_exit_layer": mean_layer, "interval": [0.7, 0.85]} | histogram


def edit(path: Path, change: Edit) -> None:
    content = json.loads(path.read_text())
    change(content)
    write(path, content)


def rendered(folder: Path) -> str:
    return render(read_results(folder, folder.parent / "config.json")).text


def write_required(root: Path) -> Path:
    """Write config.json and results/ with the required results into `root`, and give results/."""
    results = root / "results"
    results.mkdir()
    write(root / "config.json", RULE | {"num_hidden_layers": 4, "hidden_size": 8})
    write(results / "sts-stsb-test.json", sts(RULE | exits(0.7902, 2.5)))
    write(results / "sts-stsb-test-teacher.json", sts(None, "t"))
    write(results / "pareto-stsb-validation.json", pareto("validation"))
    write(results / "train-whole.json", run(None))
    return results


def write_optional(folder: Path) -> None:
    """Add a grid on the test split, retrieval, latency and a picture to the required results."""
    write(folder / "pareto-stsb-test.json", pareto("test"))
    write(folder / "retrieval-scifact.json", retrieval())
    write(folder / "latency.json", latency())
    (folder / "pareto-stsb-validation.png").touch()


def diagnosis(early: bool, weights: str = "w") -> dict[str, Any]:
    """Of a model that exits early or does not; in its matrices layers 2 and 4 go badly together."""
    matrix = [[0.6, 0.5, 0.5, 0.5], [0.5, 0.75, 0.76, 0.7], [0.5, 0.77, 0.8, 0.79], [0.5, 0.74, 0.8, 0.81]]
    random = [[0.5, 0.4, 0.3, 0.2], [0.4, 0.3, 0.2, 0.1], [0.3, 0.2, 0.08, 0.06], [0.2, 0.1, 0.06, 0.05]]
    reasons = [
        {"diagnostic": name, "text": f"{name}, {'holds' if early else 'fails'}: because"}
        for name in ("similarity curve", "exit rate", "cost of watching")
    ]
    rate = [0.0, 0.91, 0.08, 0.01] if early else [0.0, 0.0, 0.25, 0.75]
    figures = {
        "exit_threshold": 0.95,
        "min_exit_layer": 2,
        "similarity_curve": [0.4, 0.9, 0.97, 1.0] if early else [0.2, 0.3, 0.4, 1.0],
        "exits": {"rate": rate, "mean_exit_layer": 2.1 if early else 3.75},
        "comparability": {"spearman": matrix, "random_cosine": random},
        "verdict": {"exits_early": early, "reasons": reasons},
    }
    return result("diagnose", "stsb/test", figures, weights)


def calibration(theta: float | list[float | None], alpha: float, data: str) -> dict[str, Any]:
    figures = RULE | {"exit_threshold": theta, "alpha": alpha, "delta": 0.1, "n": 2758}
    return result("calibrate", data, figures | {"risk": 0.0417, "mean_exit_layer": 2.4})


def certificate(theta: float | list[float | None]) -> dict[str, Any]:
    """What `calibrate --write` puts into config.json."""
    written = calibration(theta, 0.05, "mine.txt")
    return written["figures"] | {"data": written["data"], "model_sha256": "w"}


def baselines() -> dict[str, Any]:
    """LEAP is above "output only" everywhere but at full depth, and above "3 layers" everywhere."""

    def method(what: str, scores: list[float], exits_at_3: float | None) -> dict[str, Any]:
        static = [{"layer": n, "spearman": value, "spearman_sd": 0.002} for n, value in enumerate(scores, 1)]
        point = exits_at_3 and {"max_mean_layer": 3, "spearman": exits_at_3, "spearman_sd": 0.001}
        runs = [{"seed": seed, "exited_095": share} for seed, share in ((0, 0.4), (1, 0.5))]
        return {"what": what, "runs": runs, "static_mean": static, "exits_mean": [None, point]}

    methods = {
        "LEAP": method("the recipe", [0.6, 0.7, 0.75, 0.76], 0.74),
        "output only": method("L_final alone", [0.6, 0.69, 0.7, 0.77], 0.72),
        "3 layers": method("small", [0.6, 0.7, 0.74], None),
    }
    scores = {"LEAP": 0.75, "output only": 0.73, "3 layers": 0.74}
    ranking = {
        "by": "Spearman at mean depth at most 3.5",
        "scores": {name: {"mean": value, "sd": 0.003} for name, value in scores.items()},
        "order": ["LEAP", "3 layers", "output only"],
        "stable": False,
        "swaps": [["LEAP", "3 layers"]],
    }
    figures = {
        "steps": 300,
        "batch_size": 64,
        "texts": 19200,
        "max_length": 32,
        "learning_rate": 0.0005,
        "seeds": [0, 1],
        "start": "1,3,6",
        "budgets": [2.5, 3.0],
        "teacher": {"validation": 0.86, "test": 0.82},
        "methods": methods,
        "ranking": ranking,
    }
    return of_teacher_alone(result("baselines", "texts/some.jsonl.gz", figures, "t"))


def ablation() -> dict[str, Any]:
    def variant(first: float) -> dict[str, Any]:
        values = [first, first + 0.1, first + 0.2, first + 0.3]
        return {"cosine_to_teacher": values, "spearman": [value / 2 for value in values], "mixed": first / 2}

    figures = {
        "texts": 6400,
        "learning_rate": 0.0005,
        "runs": {"teacher": variant(0.3), "leap": variant(0.5)},
    }
    return of_teacher_alone(result("ablation", "texts/some.jsonl.gz", figures, "t"))


def front() -> dict[str, Any]:
    """Exits above the line on STS-B and below it beyond noise on SciFact."""

    def compared(name: str, metric: str, documents: str | None, difference: float) -> dict[str, Any]:
        interval = [difference - 0.001, difference + 0.001]
        worst = {"mean_layer": 2.5, "difference": difference, "interval": interval}
        worst |= {"below": int(interval[1] < 0), "above": int(interval[0] > 0)}
        found = {"name": name, "metric": metric, "documents": documents, "points": [{}, {}, {}]}
        return found | {"worst": dict.fromkeys(("cut", "line", "coin"), worst)}

    sets = [
        compared("stsb/test", "Spearman", None, 0.0021),
        compared("scifact/test", "nDCG@10", "teacher's documents", -0.0032),
    ]
    content = result("front", "stsb/test", {"resamples": 500, "sets": sets})
    return content | {"models": content["models"] | {"teacher": {"sha256": "t"}}}


def _over(mean: float, sd: float | None = 0.002) -> dict[str, float | None]:
    return {"mean": mean, "sd": sd}


def seeds() -> dict[str, Any]:
    figures = {
        "max_steps": 900,
        "training": "--beta 1.5",
        "max_mean_layer": 3.0,
        "static": [_over(0.6), _over(0.75), _over(0.8)],
        "full_depth": _over(0.8),
        "with_exits": _over(0.7801),
        "mean_exit_layer": _over(2.5),
        "gain": _over(-0.0012),
        "runs": [{"seed": 0}, {"seed": 1}, {"seed": 2}],
    }
    return of_teacher_alone(result("seeds", "stsb/test", figures, "t"))


def paper_protocol() -> dict[str, Any]:
    """A run without L_exit that nothing leaves, and one of LEAP."""

    def run(exited: list[float], spearman: float) -> dict[str, Any]:
        layers = [
            {"layer": layer, "cosine": 0.9, "exited": share, "spearman": spearman}
            for layer, share in zip(range(6, 13), exited, strict=True)
        ]
        thetas = [
            {"exit_threshold": theta, "spearman": spearman, "layer_ratio": 1.5, "mean_exit_layer": 8.0}
            for theta in (0.9, 0.95, 0.99)
        ]
        time = [
            {"batch_size": size, "full_depth_ms": 9.0, "speedup": 1.4, "speedup_together": 1.2}
            for size in (1, 8, 32)
        ]
        return {
            "full_depth": _over(0.82, None),
            "with_exits": _over(spearman, None),
            "mean_exit_layer": _over(8.0, None),
            "exited_soon": _over(exited[1], None),
            "seeds": [{"seed": 0, "layers": layers, "thetas": thetas}],
            "time": time,
        }

    figures = {
        "max_steps": 450,
        "training": "--max_length 64",
        "exit_threshold": 0.95,
        "teacher": 0.8203,
        "teacher_layers": 6,
        "runs": {
            "no L_exit": run([0.0] * 6 + [1.0], 0.82),
            "LEAP": run([0.4, 0.9123, 0.95, 0.96, 0.97, 0.98, 1.0], 0.8077),
        },
    }
    return of_teacher_alone(result("paper_l12", "stsb/test", figures, "t"))


def of_teacher_alone(content: dict[str, Any]) -> dict[str, Any]:
    """The same result with its model in the role of the teacher."""
    return content | {"models": {"teacher": content["models"]["model"]}}


def write_evidence(folder: Path) -> None:
    """Add everything else that the card knows."""
    for name in ("STS12", "STS15"):
        write(folder / f"sts-{name}-test.json", sts(RULE | exits(0.7902, 2.5), name=name))
    write(folder / "sts-STS12-test-teacher.json", sts(None, "t", name="STS12"))
    write(folder / "diagnose-stsb.json", diagnosis(True))
    write(folder / "diagnose-stsb-teacher.json", diagnosis(False, "t"))
    write(folder / "calibrate-stsb.json", calibration(0.8, 0.1, "stsb/test"))
    tried = calibration([0.1, 0.9, 0.7, None], 0.05, "mine.txt")
    tried["figures"]["simulation"] = {"resamples": 1000, "texts": 551, "holding": 0.969}
    write(folder / "calibrate-mine.json", tried)
    write(folder / "baselines.json", baselines())
    write(folder / "ablation.json", ablation())
    write(folder / "front.json", front())
    write(folder / "seeds.json", seeds())
    write(folder / "paper-l12.json", paper_protocol())
    for picture in (
        "diagnose-stsb.png",
        "diagnose-stsb.svg",
        "diagnose-stsb-teacher.svg",
        "baselines.png",
        "front.png",
    ):
        (folder / picture).touch()
