"""`calibrate`: the bound, the loosest threshold that passes, the promise kept, the certificate written."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_data
from scipy.stats import binomtest

from eval.__main__ import main
from eval.quality.calibrate import THETAS, calibrate
from eval.quality.certificate import check_promise, passing, upper_bound
from leap.encode.encoder import encode, load_encoder
from leap.encode.metrics import distances
from leap.encode.paths import Paths
from leap.errors import NothingQualifiesError
from modeling_leap import LeapModel


@pytest.mark.parametrize(("exceeding", "count"), [(0, 59), (3, 100), (50, 1000), (99, 100), (100, 100)])
def test_the_bound_is_scipys(exceeding: int, count: int) -> None:
    wanted = binomtest(exceeding, count, alternative="less").proportion_ci(0.95, "exact").high
    assert float(upper_bound(exceeding, count, 0.05)) == pytest.approx(wanted)


def test_without_any_failure_it_takes_59_texts_at_five_per_cent() -> None:
    assert passing(np.array([0]), 59, 0.05, 0.05) == 1
    assert passing(np.array([0]), 58, 0.05, 0.05) == 0


def test_a_rule_passes_when_its_bound_is_at_most_alpha() -> None:
    for exceeding in range(60):
        bound = upper_bound(exceeding, 500, 0.05)
        assert passing(np.array([exceeding]), 500, 0.08, 0.05) == int(bound <= 0.08)


def test_the_sequence_stops_at_the_first_that_fails() -> None:
    counts = np.array([[0, 1, 90, 0], [90, 0, 0, 0], [0, 0, 0, 0]])
    assert passing(counts, 500, 0.05, 0.05).tolist() == [2, 0, 4]


def population(count: int, seed: int = 0) -> tuple[Paths, np.ndarray]:
    """Texts whose error after a leap is the larger the smaller s is, and without one next to nothing."""
    random = np.random.default_rng(seed)
    s = random.uniform(-0.2, 1, count).astype(np.float32)
    leap = 0.02 + 0.15 * (1 - s) * random.uniform(0.2, 1.2, count)
    vectors = np.zeros((count, 2, 2), dtype=np.float32)
    tokens = random.integers(3, 200, count)
    paths = Paths(vectors, s[:, None], vectors[:, :1], tokens, np.array([1]), np.array([3, 6]))
    return paths, np.stack([leap, np.full(count, 0.005)], axis=1)


def test_the_loosest_threshold_that_passes() -> None:
    paths, errors = population(2000)
    found = calibrate(paths, errors, tau=0.1, alpha=0.05, delta=0.05)
    theta = found["exit_threshold"]
    exceeding = int((errors[paths.cosines[:, 0] >= np.float32(theta), 0] > 0.1).sum())
    assert (found["exceeding"], found["n"]) == (exceeding, 2000)
    assert found["bound"] == pytest.approx(float(upper_bound(exceeding, 2000, 0.05)))
    assert found["bound"] <= 0.05
    looser = THETAS[THETAS.index(theta) + 1]
    assert upper_bound((errors[paths.cosines[:, 0] >= looser, 0] > 0.1).sum(), 2000, 0.05) > 0.05
    assert 3 < found["layers"] < 6
    assert sum(row["n"] for row in found["by_length"]) == 2000
    assert sum(row["exceeding"] for row in found["by_length"]) == exceeding
    assert [row["tokens_at_most"] for row in found["by_length"]] == [8, 16, 32, 64, 128, paths.tokens.max()]
    assert found["all_leap"]["share"] == (errors[:, 0] > 0.1).mean()
    assert found["full_depth"]["exceeding"] == 0


def test_all_may_leap_where_all_are_close_and_nobody_where_none_is() -> None:
    paths, errors = population(500)
    assert calibrate(paths, errors, tau=0.5, alpha=0.05, delta=0.05)["exit_threshold"] == -1
    with pytest.raises(
        NothingQualifiesError, match=r"at full depth 500 of 500 texts are further than 0\.001"
    ):
        calibrate(paths, errors, tau=0.001, alpha=0.05, delta=0.05)
    few, errors = population(50)
    with pytest.raises(NothingQualifiesError, match="never less than 59"):
        calibrate(few, errors, tau=0.1, alpha=0.05, delta=0.05)


def test_a_stricter_demand_gives_a_stricter_threshold() -> None:
    paths, errors = population(2000)
    demands = [(0.08, 0.05), (0.1, 0.05), (0.1, 0.1), (0.12, 0.1)]
    thetas = [
        calibrate(paths, errors, tau=tau, alpha=alpha, delta=0.05)["exit_threshold"] for tau, alpha in demands
    ]
    assert thetas == sorted(thetas, reverse=True)
    assert len(set(thetas)) == 4


@pytest.mark.parametrize("delta", [0.05, 0.2])
def test_the_promise_is_kept_on_resamples(delta: float) -> None:
    paths, errors = population(1000)
    check = calibrate(paths, errors, tau=0.1, alpha=0.05, delta=delta, resamples=1000)["check"]
    assert (check["resamples"], check["texts"]) == (1000, 1000)
    assert check["holding"] >= 1 - delta - 0.02  # 1,000 resamples, three standard deviations
    assert check["holding"] < 1  # else nothing was at stake


def test_a_promise_that_is_not_kept_shows() -> None:
    """Without a confidence bound, half of the resamples would choose a rule that breaks the promise."""
    paths, errors = population(1000)
    exceeds = np.stack([errors[np.arange(1000), paths.taken(theta)] > 0.1 for theta in THETAS])
    careless = check_promise(exceeds, alpha=0.05, delta=0.6, resamples=300, seed=0)
    assert careless["holding"] < 0.7


@pytest.fixture
def command(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> list[str]:
    form = {"landing_layer": 5, "min_exit_layer": 1, "max_exit_layer": 1, "note": {"of": "others"}}
    tiny_data.save_tiny(tmp_path / "model", make_tiny_model(**form))
    tiny_data.save_tiny(tmp_path / "teacher", make_tiny_model())  # of the same weights: full depth is exact
    random = np.random.default_rng(0)
    lines = [" ".join(random.choice(tiny_data.WORDS, size=random.integers(1, 9))) for _ in range(400)]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    paths = {name: str(tmp_path / name) for name in ("model", "teacher")}
    return ["calibrate", "--model", paths["model"], "--teacher", paths["teacher"], "--resamples", "20"]


def test_the_certificate_is_written_and_kept(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "model", tmp_path / "out.json"
    before = json.loads((folder / "config.json").read_text())
    more = ["--data", str(tmp_path / "texts.txt"), "--tau", "0.3", "--alpha", "0.3"]
    assert main([*command, *more, "--write", "--output", str(output)]) == 0
    config = json.loads((folder / "config.json").read_text())
    certificate = config["exit_certificate"]
    changed = {"exit_threshold": config["exit_threshold"], "exit_certificate": certificate}
    assert config == before | changed
    result = json.loads(output.read_text())
    figures = result["figures"]
    for name in ("exit_threshold", "tau", "alpha", "delta", "n", "exceeding", "bound", "layers"):
        assert certificate[name] == figures[name], name
    encoder, teacher = load_encoder(str(folder)), load_encoder(str(tmp_path / "teacher"))
    assert certificate["model_sha256"] == encoder.fingerprint() == result["models"]["model"]["sha256"]
    assert certificate["teacher"]["sha256"] == teacher.fingerprint()
    assert certificate["data"] == result["data"]
    assert (certificate["landing_layer"], certificate["min_exit_layer"]) == (5, 1)
    # The model as it now stands does what was certified.
    texts = (tmp_path / "texts.txt").read_text().splitlines()
    errors = distances(encode(encoder, texts).embeddings, encode(teacher, texts).embeddings)
    assert int((errors > 0.3).sum()) == pytest.approx(figures["exceeding"], abs=1)
    assert 0 < figures["leap_share"] < 1
    assert f"exit_certificate written to {folder / 'config.json'}" in capsys.readouterr().out


def test_nothing_is_written_when_nothing_qualifies(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = (tmp_path / "model" / "config.json").read_text()
    assert main([*command, "--data", str(tmp_path / "texts.txt"), "--max_texts", "40", "--write"]) == 1
    assert "never less than 59" in capsys.readouterr().err
    assert (tmp_path / "model" / "config.json").read_text() == config


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--alpha 0", "--alpha: must be in (0, 1), got 0.0"),
        ("--delta 1", "--delta: must be in (0, 1), got 1.0"),
        ("--tau -1", "--tau: must be in (0, 1), got -1.0"),
        ("--max_texts 0", "--max_texts: must be at least 1, got 0"),
        ("--resamples -1", "--resamples: must be at least 0, got -1"),
        ("--teacher nowhere", "--teacher: 'nowhere' is neither a folder nor a Hub id"),
        ("--model a/b --write", "--write: 'a/b' is not a folder"),
        ("--output {tmp_path}", "is a folder: give a file in it"),
        ("--data held_out", "--data held_out: there is no folder"),
    ],
)
def test_one_line_for_a_wrong_argument(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    complaint: str,
) -> None:
    monkeypatch.delenv("LEAP_DATA", raising=False)
    more = arguments.format(tmp_path=tmp_path).split()
    assert main([*command, "--data", str(tmp_path / "texts.txt"), *more]) == 2
    printed = capsys.readouterr().err
    assert complaint in printed
    assert printed.count("\n") == 1
