"""What the card and docs/reliability.md say of the reliability results; nothing where there are none."""

from pathlib import Path
from typing import Any

import pytest
import test_damages
from card_toys import RULE, edit, rendered, result, write, write_required

from eval.__main__ import main
from eval.card import card_reliability, reliability
from eval.card.card_results import read_results
from leap.errors import UsageError

SECTION = "## The same vectors on every path"


def correctness() -> dict[str, Any]:
    exact = {"exact": True, "mean_exit_layer": 2.5, "seconds": 9.0, "largest_difference": 2.5e-6}
    exact |= {"other_exit_layer": 0, "other_embedding": 1, "other_exit_layer_in_tie_band": 3}
    rounded = {"exact": False, "mean_exit_layer": 2.6, "seconds": 9.0, "cosine_mean": 0.99}
    rounded |= {"cosine_lowest": 0.9, "cosine_quantiles": {"0.01": 0.95, "0.05": 0.96, "0.5": 0.99}}
    rounded |= {"layers_later": {"-1": 1000, "0": 19000}}
    figures = {
        "texts": 20000,
        "tie_band": 1e-4,
        "tolerance": 1e-4,
        "in_tie_band": 77,
        "paths": {"batches": exact, "onnx-int8": rounded},
        "further": [
            {"exit_threshold": 0.99, "in_tie_band": 5, "paths": {"batches": exact | {"mean_exit_layer": 4.0}}}
        ],
        "left_out": {"onnx-single": "pip install it"},
    }
    return result("correctness", "texts", figures | RULE)


def fuzz() -> dict[str, Any]:
    def model(failures: int) -> dict[str, Any]:
        return {
            "calls": 1000,
            "failures": failures,
            "rows_compared": 1500,
            "rows_in_tie_band": 2,
            "kinds": {
                "emoji": {"calls": 600, "right": 600 - failures, "clear_errors": 0},
                "negative ids": {"calls": 400, "right": 0, "clear_errors": 400},
            },
        }

    found = result("fuzz", "generated", {"tie_band": 1e-4, "tiny": model(0), "model": model(1)})
    found["provenance"]["seed"] = 7
    return found


def endurance() -> dict[str, Any]:
    figures = {
        "seconds": 3600.0,
        "threads": 4,
        "encoders": ["torch", "onnx"],
        "texts": 1234567,
        "memory_growth": 2**20,
        "memory_bound": 64 * 2**20,
        "probes": 21,
        "drift": {"torch": 0.0, "onnx": 1e-6},
        "drift_bound": 1e-5,
        "probes_at_other_layers": {"torch": 0, "onnx": 0},
        "last_over_first_tenth": 0.85,
        "speed_bound": 0.9,
        "errors": [],
        "kept": {"memory": True, "drift": True, "speed": False, "errors": True},
    }
    return result("endurance", "stsb/test", figures)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The required results and those of reliability."""
    results = write_required(tmp_path)
    for name, content in {"correctness": correctness(), "fuzz": fuzz(), "endurance": endurance()}.items():
        write(results / f"{name}.json", content)
    return results


def page(folder: Path) -> str:
    return reliability.render_folder(folder, folder.parent / "config.json")


def test_card(folder: Path) -> None:
    text = rendered(folder)
    assert SECTION in text
    assert "20,000 real texts" in text
    assert "| torch, batches that texts leave one by one | 0.99 | 4.00 | 0 | 1 | 3 | 2.5e-06 |" in text
    assert (
        "| ONNX Runtime int8, batches that texts leave one by one | 0.88 | 0.9900 | 0.9500 | 0.9000 | 5.0 % |"
        in text
    )
    assert "Not measured: ONNX Runtime, one file with the exits inside." in text
    assert "| correctness | texts |" in text  # where the figures come from
    assert "\n\n\n" not in text
    (folder / "correctness.json").unlink()
    assert SECTION not in rendered(folder)
    assert "\n\n\n" not in rendered(folder)


def test_other_rule_or_weights_are_refused(folder: Path) -> None:
    edit(folder / "correctness.json", lambda content: content["figures"].update(min_exit_layer=3))
    with pytest.raises(UsageError, match=r"correctness\.json is not of config\.json's exit rule"):
        rendered(folder)
    write(folder / "correctness.json", correctness())
    edit(folder / "fuzz.json", lambda content: content["models"]["model"].update(sha256="others"))
    with pytest.raises(UsageError, match=r"fuzz\.json and sts-stsb-test\.json are of different weights"):
        rendered(folder)


def test_page(folder: Path) -> None:
    text = page(folder)
    assert "1,000 calls of a tiny random model and 1,000 of the released one, seed 7:\n**1 failures**" in text
    assert "| emoji | 1,200 | 1,199 | 0 | 1 |" in text
    assert "| negative ids | 800 | 0 | 800 | 0 |" in text
    assert "| texts a second, last tenth over first | at least 0.9 | 0.85 | **no** |" in text
    assert (
        "| memory, from the second tenth of the time to the last | at most 64 MiB more | +1.0 MiB | yes |"
        in text
    )
    assert "60 minutes, 4 threads calling at once (torch, onnx)" in text
    assert text.count("Not measured yet") == 1  # survival
    for name in ("correctness", "fuzz", "endurance"):
        (folder / f"{name}.json").unlink()
        assert f"Not measured yet: `python -m eval {name} " in page(folder)
    assert card_reliability.fuzz(read_results(folder, folder.parent / "config.json")) is None


def test_survival(folder: Path) -> None:
    assert "Not measured yet: `python -m eval survival " in page(folder)
    killed = {"kills": 20, "inside_a_write": 7}
    killed["runs"] = [{"kills": 12, "same_bits": True}, {"kills": 8, "same_bits": False}]
    disk = {"tried": True, "stopped": True, "one_line": True, "half_written_left": False, "same_bits": True}
    row = {"warned": True, "went_back": True, "same_bits": True}
    broken = dict.fromkeys(("stopped", "names_the_file", "no_traceback", "nothing_made"), True)
    figures = {
        "training": {
            "killed": killed,
            "full_disk": disk,
            "damaged_checkpoints": [row, row | {"warned": False}],
        },
        "encoding": {"killed": killed, "full_disk": {"tried": False}},
        "broken_data": [broken, broken | {"stopped": False}, broken],
    }
    write(folder / "survival.json", {"figures": figures})
    text = page(folder)
    for line in (
        "| training killed at a random moment (7 times inside a write), resumed | 20 | 12: the same bits",
        "| training on a disk that fills up, resumed with room | 1 | 1: one line |",
        "| newest checkpoint cut, flipped or removed | 2 | 1: back to the one before |",
        "| a data file that breaks off | 3 | 2: one line that names it |",
    ):
        assert line in text
    assert "encoding on a disk" not in text


def test_number_of_damages() -> None:
    assert len(test_damages.DAMAGES) == reliability.DAMAGES


def test_page_here_is_rendered_from_the_results_here(repo_root: Path) -> None:
    if not (repo_root / "results" / "sts-stsb-test.json").is_file():
        pytest.skip("no results/ here")
    expected = reliability.render_folder(repo_root / "results", repo_root / "config.json")
    found = (repo_root / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert found == expected, "run `python -m eval reliability`"


def test_command(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "docs" / "page.md"
    arguments = ["--results", str(folder), "--config", str(folder.parent / "config.json")]
    assert main(["reliability", *arguments, "--output", str(target)]) == 0
    assert target.read_text() == page(folder)


def test_results_here_have_no_failure(repo_root: Path) -> None:
    """Not only said: results of failed runs are no results to release."""
    results = read_results(repo_root / "results", repo_root / "config.json").reliability
    if "fuzz" in results:
        figures = results["fuzz"]["figures"]
        assert figures["tiny"]["failures"] == figures["model"]["failures"] == 0
        assert figures["tiny"]["calls"] >= 100_000
        assert figures["model"]["calls"] >= 5_000
    if "correctness" in results:
        figures = results["correctness"]["figures"]
        assert figures["texts"] >= 20_000
        for measured in (figures, *figures["further"]):
            for name, path in measured["paths"].items():
                if path["exact"]:
                    assert path["other_exit_layer"] == path["other_embedding"] == 0, name
    if "endurance" in results:
        assert all(results["endurance"]["figures"]["kept"].values())
