"""`front`: thresholds and rivals on texts of known errors, and the whole command on tiny models and sets."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_data

from eval.__main__ import main
from eval.quality.front_measure import Measured, correlations, ends, point, predicted_closeness
from eval.quality.front_rules import Rule, choose_bulk, front, leap_shares, strictest_theta
from eval.quality.policies import resamples
from eval.quality.ridge import fit_ridge
from eval.quality.text_sets import RETRIEVAL, SIMILARITY
from leap.encode.encoder import encode, load_encoder
from leap.encode.metrics import distances, error_statistics
from leap.encode.paths import Paths
from modeling_leap import LeapModel

RELEASE = {"landing_layer": 5, "min_exit_layer": 1, "max_exit_layer": 1}


def made_up(count: int = 2000, signal: float = 0.05, seed: int = 0) -> tuple[Paths, np.ndarray]:
    """Texts with the state (s, noise) and an error of the leap that falls with s, up to noise of `signal`."""
    random = np.random.default_rng(seed)
    s = random.uniform(0, 1, count)
    leap = np.exp(-2 - 2 * s + signal * random.normal(size=count))
    vectors = np.zeros((count, 2, 2), dtype=np.float32)
    tested = np.stack([s, random.normal(size=count)], axis=1)[:, None].astype(np.float32)
    tokens = random.integers(3, 200, count)
    paths = Paths(vectors, s[:, None].astype(np.float32), tested, tokens, np.array([1]), np.array([3, 6]))
    return paths, np.stack([leap, np.full(count, 0.005)], axis=1)


def measured(count: int = 2000, signal: float = 0.05) -> Measured:
    paths, errors = made_up(count, signal)
    ridge, _ = fit_ridge(paths.tested[:, 0], np.log(errors[:, 0]))
    students = {3: errors[:, 0] * 0.9, 4: errors[:, 0] * 0.4}
    return Measured(paths, errors, students, 6, predicted_closeness(ridge, paths))


@pytest.mark.parametrize("share", [0.919, 0.5, 1.0, 0.9999])
def test_theta_is_the_strictest_at_which_the_share_leaps(share: float) -> None:
    cosines = made_up(4000)[0].cosines
    theta = strictest_theta(cosines, share)
    assert (cosines >= np.float32(theta)).mean() >= share
    assert (cosines >= np.float32(theta + 1.5e-4)).mean() < share
    assert theta == round(theta, 4)


def test_with_several_test_layers_a_text_leaps_by_the_best_of_them() -> None:
    cosines = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.4], [0.5, 0.5]], dtype=np.float32)
    assert strictest_theta(cosines, 0.5) == pytest.approx(0.8)
    assert strictest_theta(cosines, 1.0) == pytest.approx(0.4)


def test_the_front_goes_from_all_leap_to_full_depth() -> None:
    paths, _ = made_up()
    theta = strictest_theta(paths.cosines, 0.919)
    rules = front(paths.cosines, theta)
    shares = [leap_shares(rule, [paths])[0] for rule in rules]
    assert Rule(theta) in rules
    assert (shares[0], shares[-1]) == (1, 0)
    assert shares == sorted(shares, reverse=True)


def test_a_good_signal_beats_every_rival_and_reaches_the_oracle() -> None:
    found = measured()
    theta = strictest_theta(found.paths.cosines, 0.8)
    counts = resamples(100, 2000, 0)
    result = point(found, Rule(theta), counts, ("layers", "token_layers"))
    assert result["leap_share"] == pytest.approx(0.8, abs=0.01)
    assert result["layers"] == pytest.approx(3.6, abs=0.03)
    others = result["at_equal_layers"]
    for name in ("coin", "shortest first", "students", "student and teacher", "ridge", "oracle"):
        assert others[name]["layers"] == pytest.approx(result["layers"])
        budget = result["at_equal_token_layers"][name]["token_layers"]
        assert budget == pytest.approx(result["token_layers"])
    for name in ("coin", "shortest first"):
        low, high = others[name]["difference"]["p99"]
        assert high < 0, name  # the rule's less the rival's
        assert low <= result["p99"] - others[name]["p99"] <= high
    assert others["oracle"]["mean"] <= result["mean"] <= 1.05 * others["oracle"]["mean"]
    assert others["ridge"]["mean"] == pytest.approx(result["mean"], rel=0.02)
    assert correlations(found)["s"] > 0.95
    assert correlations(found)["ridge"] > 0.95


def test_without_signal_a_rule_is_a_coin() -> None:
    paths, errors = made_up()
    shuffled = errors[np.random.default_rng(5).permutation(len(errors))]
    found = Measured(paths, shuffled, {}, 6, np.zeros(len(errors)))
    result = point(found, Rule(0.3), resamples(200, 2000, 0))
    low, high = result["at_equal_layers"]["coin"]["difference"]["mean"]
    assert low < 0 < high
    assert set(result["at_equal_layers"]) == {"coin", "shortest first", "ridge", "oracle"}  # no students
    assert abs(correlations(found)["s"]) < 0.1


def test_students_are_mixed_up_to_four_layers_and_the_teacher_beyond() -> None:
    found = measured()
    three, four = (error_statistics(found.students[layers])["mean"] for layers in (3, 4))
    means = {
        budget: found.rivals(budget, "layers")["students"].statistics()[0, 0] for budget in (3, 3.5, 4, 5, 6)
    }
    assert means == {
        3: pytest.approx(three),
        3.5: pytest.approx((three + four) / 2),
        4: pytest.approx(four),
        5: pytest.approx(four / 2),
        6: pytest.approx(0),
    }


def test_ends_are_the_statistics_of_each_path() -> None:
    found, rows = measured(), np.arange(50)
    result = ends(found, rows)
    assert result["all_leap"] == error_statistics(found.errors[:50, 0])
    assert result["full_depth"]["mean"] == pytest.approx(0.005)
    assert set(result) == {"all_leap", "full_depth", "student_of_3", "student_of_4"}


def test_where_length_alone_costs_the_bulk_rule_looks_at_it() -> None:
    """Errors do not depend on length here, so long texts should leap sooner: they cost the most."""
    paths, errors = made_up(4000, signal=0.5)
    default = Rule(strictest_theta(paths.cosines, 0.85))
    rule, tried = choose_bulk(paths, errors, default)
    assert rule.slope > 0
    assert tried[0]["slope"] == 0
    best = next(row for row in tried if row["slope"] == rule.slope)
    assert best["mean"] < tried[0]["mean"]
    assert best["token_layers"] == pytest.approx(tried[0]["token_layers"])
    staying = rule.taken(paths) == 1
    assert paths.tokens[staying].mean() < paths.tokens[~staying].mean()


def test_ridge_finds_a_line_and_no_line_in_noise() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(2000, 20))
    targets = vectors @ random.normal(size=20) + 3
    ridge, predicted = fit_ridge(vectors, targets)
    np.testing.assert_allclose(ridge.predict(vectors), targets, atol=0.05)
    assert np.corrcoef(predicted, targets)[0, 1] > 0.99
    noise = random.normal(size=2000)
    _, predicted = fit_ridge(vectors, noise)
    assert abs(np.corrcoef(predicted, noise)[0, 1]) < 0.1


@pytest.fixture
def command(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> list[str]:
    """A command line on tiny models and a tiny folder of data."""
    data = tiny_data.write_data(tmp_path / "data")
    models = {
        "model": make_tiny_model(**RELEASE, exit_threshold=0.3),
        "teacher": make_tiny_model(),  # of the same weights, so that full depth is exact
        "three": make_tiny_model(seed=2, num_hidden_layers=3),
        "four": make_tiny_model(seed=3, num_hidden_layers=4),
    }
    paths = {name: str(tiny_data.save_tiny(tmp_path / name, model)) for name, model in models.items()}
    return [
        *("front", "--model", paths["model"], "--teacher", paths["teacher"], "--data", str(data)),
        *("--student3", paths["three"], "--student4", paths["four"], "--max_texts", "60", "--held_out", "60"),
        *(
            "--resamples",
            "20",
            "--timings",
            "1",
            "--cache",
            str(tmp_path / "cache"),
            "--output",
            str(tmp_path / "front.json"),
        ),
    ]


def test_the_command(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert main([*command, "--write", "--plot", str(tmp_path / "front.png")]) == 0
    result = json.loads((tmp_path / "front.json").read_text())
    assert list(result["models"]) == ["model", "teacher", "student3", "student4"]
    figures = result["figures"]
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["exit_threshold"] == figures["chosen_on"]["default"]["exit_threshold"]
    parts = [f"{name} {part}" for name in RETRIEVAL for part in ("queries", "documents")]
    assert list(figures["sets"]) == ["mixed", *SIMILARITY, *parts]
    for name, found in figures["sets"].items():
        assert found["ends"]["full_depth"]["p99"] == pytest.approx(0, abs=1e-6), name
        assert found["default"]["exit_threshold"] == figures["chosen_on"]["default"]["exit_threshold"]
        assert set(found["default"]["at_equal_layers"]) == set(figures["rivals"]) | set(figures["bounds"])
        layers = [point["layers"] for point in found["front"]]
        assert (layers[0], layers[-1]) == (3, 6)
        assert layers == sorted(layers)
    # The front's ends and the rule are what the model itself gives.
    data = (tmp_path / "data" / "stsb" / "test.csv").read_text().splitlines()[1:]
    texts = [line.split(",")[side] for side in (0, 1) for line in data]
    model, teacher = (load_encoder(str(tmp_path / name)) for name in ("model", "teacher"))
    wanted, found = encode(teacher, texts).embeddings, figures["sets"]["STS-B test"]
    for theta, key in (
        (-1, found["ends"]["all_leap"]),
        (found["default"]["exit_threshold"], found["default"]),
    ):
        errors = distances(encode(model, texts, exit_threshold=theta).embeddings, wanted)
        assert key["mean"] == pytest.approx(errors.mean(), abs=1e-4)
    assert found["spearman"]["teacher"] == pytest.approx(found["spearman"]["full_depth"])
    scores = figures["sets"]["SciFact queries"]["ndcg@10"]
    assert (
        scores["over_teacher"]["full_depth"]
        == scores["over_teacher"]["teacher"]
        == scores["over_own"]["full_depth"]
    )
    assert set(figures["sets"]["mixed"]["kinds"]) >= {"sentences", "passages", "queries", "code", "languages"}
    for found in figures["time"].values():
        assert list(found["speedup"]) == ["all_leap", "rule", "full_depth", "teacher", "student3", "student4"]
        assert found["speedup"]["full_depth"] == 1
    printed = capsys.readouterr().out
    assert "on the mixed set, at the layers of the default rule" in printed
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--data nowhere", "--data: there is no folder 'nowhere'"),
        ("--teacher nowhere", "--teacher: 'nowhere' is neither"),
        ("--student4 nowhere", "--student4: 'nowhere' is neither"),
        ("--leap_share 1.5", "--leap_share: must be in (0, 1), got 1.5"),
        ("--max_texts 3", "--max_texts: must be at least 50, got 3"),
        ("--plot front.txt", "--plot: 'front.txt' must end in one of .png, .svg, .pdf"),
    ],
)
def test_one_line_for_a_wrong_argument(
    tmp_path: Path,
    make_tiny_model: Callable[..., LeapModel],
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    complaint: str,
) -> None:
    folder = str(tiny_data.save_tiny(tmp_path / "m", make_tiny_model()))
    line = ["front", "--model", folder, "--teacher", folder, "--data", str(tmp_path)]
    assert main([*line, *arguments.split()]) == 2
    printed = capsys.readouterr().err
    assert complaint in printed
    assert printed.count("\n") == 1
