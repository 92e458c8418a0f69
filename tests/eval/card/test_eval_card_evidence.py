"""The card's evidence: convergence, guarantees, other sets and methods; the words follow the figures."""

import re
from pathlib import Path
from typing import Any

import card_toys
import pytest
from card_toys import RULE, Edit, edit, rendered, write, write_evidence, write_optional, write_required
from huggingface_hub import ModelCard

from eval.card import card_evidence
from eval.card.card import render
from eval.card.card_results import Results, read_results
from leap.errors import UsageError

SECTIONS = ("## Does it converge?", "## Thresholds with a guarantee", "## Against other ways")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Everything that the card knows."""
    results = write_required(tmp_path)
    write_optional(results)
    write_evidence(results)
    return results


def read(folder: Path) -> Results:
    return read_results(folder, folder.parent / "config.json")


def test_every_file_is_optional(folder: Path) -> None:
    whole = rendered(folder)
    assert all(section in whole for section in SECTIONS)
    assert "\n\n\n" not in whole
    assert not re.search(r"\| None|None \||\bnan\b|\{%|%\}", whole)
    for pattern in ("diagnose-*", "sts-STS*", "calibrate-*", "baselines*", "ablation*"):
        for path in folder.glob(pattern):
            path.unlink()
            rendered(folder)
    bare = rendered(folder)
    assert not any(section in bare for section in SECTIONS)
    assert "other similarity sets" not in bare
    assert "| variant |" not in bare


def test_other_similarity_sets(folder: Path) -> None:
    text = rendered(folder)
    row = "| 0.8100 | 0.7902 (mean layer 2.50) | 0.7500 (layer 2) |"
    assert f"| STS12, 1,379 pairs | 0.8100 {row}" in text
    assert f"| STS15, 1,379 pairs | - {row}" in text
    assert "they are ahead on\n4 of 4 sets." in text
    assert "+0.0152 (STS Benchmark, Spearman) at worst" in text
    found = {(entry.dataset_type, entry.metric_value) for entry in ModelCard(text).data.eval_results}
    assert {("mteb/sts12-sts", 0.81), ("mteb/sts12-sts", 0.7902), ("mteb/sts15-sts", 0.7902)} <= found
    assert "value: 0.7902" in render(read(folder)).entries["sts12-sts.yaml"]


def test_fidelity_beside_fixed_cuts(folder: Path) -> None:
    text = rendered(folder)
    assert "| mean | 0.9500 | 0.9500 |" in text
    assert "| 5th percentile | 0.9000 | 0.9100 |" in text
    assert "on average: neither. In the worst twentieth of the sentences: fixed cuts." in text


def test_model_and_teacher_side_by_side(folder: Path) -> None:
    text = rendered(folder)
    for row in (
        "| | this model | the teacher |",
        "| layer 2: cosine, leave | 0.900, 91.0 % | 0.300, 0.0 % |",
        "| mean exit layer | 2.10 | 3.75 |",
        "| exit rate | holds: because | fails: because |",
        "| **exits early** | **yes** | **no** |",
    ):
        assert row in text
    assert "91.0 % of the texts leave this model at layer 2: such exits are in" in text
    assert "[this model](results/diagnose-stsb.png), [the teacher](results/diagnose-stsb-teacher.svg)" in text

    def spread(content: dict[str, Any]) -> None:
        content["figures"]["exits"]["rate"] = [0.0, 0.89, 0.1, 0.01]

    edit(folder / "diagnose-stsb.json", spread)
    (folder / "diagnose-stsb-teacher.json").unlink()
    text = rendered(folder)
    assert "in\neffect a fixed cut" not in text
    assert "| | this model |\n" in text


def test_depths_that_compare_badly(folder: Path) -> None:
    found, _ = card_evidence.convergence(read(folder))["depths"]
    assert (found.lowest, found.lowest_at) == (0.7, "the texts at layers 2 and 4")
    assert (found.mixed_loss, found.mixed_at) == (0.05, (2, 4))
    assert (found.random, found.random_range) == ((0.3, 0.1, 0.05), 0.25)
    text = rendered(folder)
    assert "the texts at layers 2 and 4; mixing two\n  depths loses at most 0.0500 against the worse" in text
    assert "a difference of up to 0.25" in text

    def even(content: dict[str, Any]) -> None:
        content["figures"]["comparability"] = {"spearman": [[0.8] * 4] * 4, "random_cosine": [[0.1] * 4] * 4}

    edit(folder / "diagnose-stsb.json", even)
    first = rendered(folder).partition("- This model: ")[2].partition("- The teacher")[0]
    assert "both texts at layer 2; no mixture\n  of two depths is below" in first
    assert "difference" not in first
    edit(folder / "diagnose-stsb.json", lambda c: c["figures"]["comparability"].pop("spearman"))
    assert "- This model: Unrelated texts have a mean cosine of 0.10" in rendered(folder)


def test_guarantees(folder: Path) -> None:
    text = rendered(folder)
    rows = [
        "| 0.05 | 0.1 | 2,758 | mine.txt | 0.9 at layer 2, 0.7 at layer 3 | 0.0417 | 2.40 | "
        "96.9 % of 1,000 |",
        "| 0.1 | 0.1 | 2,758 | STS Benchmark, test | 0.8, no exit before layer 2 | 0.0417 | 2.40 | - |",
    ]
    assert "\n".join(rows) in text
    assert "not independent draws" in text
    assert card_evidence.CALIBRATE in text
    assert "random resamples of\n551 of them" in text
    (folder / "calibrate-stsb.json").unlink()
    assert "not independent draws" not in rendered(folder)


def set_theta(folder: Path, theta: float | list[float | None], names: tuple[str, ...]) -> None:
    """Let config.json and the results `names` have another threshold, under a certificate."""
    written = card_toys.certificate(theta)
    edit(folder.parent / "config.json", lambda c: c.update(exit_threshold=theta, exit_certificate=written))
    for name in names:
        edit(folder / name, lambda c: c["figures"]["exits"].update(exit_threshold=theta))


@pytest.mark.parametrize("theta", [0.9, [None, 0.9, 0.8, None]])
def test_a_certified_rule_need_not_be_the_one_chosen(
    tmp_path: Path, theta: float | list[float | None]
) -> None:
    folder = write_required(tmp_path)
    set_theta(folder, theta, ("sts-stsb-test.json",))
    text = rendered(folder)
    words = "0.9 at layer 2, 0.8 at layer 3" if isinstance(theta, list) else "0.9, no exit before layer 2"
    assert f"(theta {words})" in text
    assert f"| mine.txt | **{words}, as in `config.json`** |" in text
    assert "the loosest that `calibrate` could certify" in text
    assert "chosen on STS-B validation" not in text
    assert "How close embeddings stay" not in text  # what is known is of the rule that was chosen
    write(folder / "calibrate-mine.json", card_toys.calibration(theta, 0.05, "mine.txt"))
    assert rendered(folder).count("| mine.txt | **") == 1  # the certificate is that file's
    names = [entry.metric_name for entry in ModelCard(text).data.eval_results]
    assert names[1].endswith("a theta a layer" if isinstance(theta, list) else "theta 0.9")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c["exit_certificate"].update(exit_threshold=0.7), "of another exit rule, which is void"),
        (lambda c: c["exit_certificate"].update(model_sha256="old"), "of other weights, which is void"),
    ],
)
def test_a_void_certificate(tmp_path: Path, change: Edit, complaint: str) -> None:
    folder = write_required(tmp_path)
    set_theta(folder, 0.9, ("sts-stsb-test.json",))
    edit(folder.parent / "config.json", change)
    with pytest.raises(UsageError, match=complaint):
        rendered(folder)


def test_methods_and_where_leap_loses(folder: Path) -> None:
    text = rendered(folder)
    rows = [
        "| **LEAP** | the recipe | 0.7600 ± 0.0020 | 0.7500 ± 0.0030 | 0.7500 ± 0.0020 | 45.0 % |",
        "| 3 layers | small | 0.7400 ± 0.0020 | 0.7400 ± 0.0030 | 0.7400 ± 0.0020 | 45.0 % |",
        "| output only | L_final alone | 0.7700 ± 0.0020 | 0.7300 ± 0.0030 | 0.7000 ± 0.0020 | 45.0 % |",
    ]
    assert "\n".join(rows) in text
    assert "300 steps of\n64 texts (19,200 in all, of at most 32 tokens)" in text
    assert "- **LEAP loses to output only** at full depth (0.7700 against 0.7600).\n" in text
    assert "LEAP loses to 3 layers" not in text
    assert "the other depths measured, below 3 layers." in text
    assert "but not with every seed: LEAP and 3 layers change places." in text
    assert "(results/baselines.png)" in text

    def improve(content: dict[str, Any]) -> None:
        figures = content["figures"]
        figures["methods"]["output only"]["exits_mean"][1]["spearman"] = 0.7401
        figures["methods"]["output only"]["static_mean"][3]["spearman"] = 0.76004  # as printed, no better
        figures["ranking"].update(stable=True, swaps=[])

    edit(folder / "baselines.json", improve)
    text = rendered(folder)
    assert "loses to output only** with exits at mean layer 3 or less (0.7401 against 0.7400).\n" in text
    assert "and it is the same with every seed." in text


def test_variants_of_the_objective(folder: Path) -> None:
    text = rendered(folder)
    assert "short runs of 6,400 texts each" in text
    rows = [
        "| teacher | 0.500 | 0.600 | 0.250 | 0.300 | 0.150 |",
        "| leap | 0.700 | 0.800 | 0.350 | 0.400 | 0.250 |",
    ]
    assert "\n".join(rows) in text


def test_sets_on_which_queries_lose_too_much(folder: Path) -> None:
    text = rendered(folder)
    assert "On STS-B test 79.8 % of the sentences leave" in text
    lost = (
        "SciFact over the teacher's documents (0.6000 against 0.6200), SciFact over its own documents (0.5900"
    )
    assert f"lose more than 1 % of nDCG@10** against full depth: {lost} against 0.6100)." in text

    def mend(content: dict[str, Any]) -> None:
        settings = content["figures"]["settings"]
        settings["teacher_documents"]["ndcg@10"], settings["exit_queries"]["ndcg@10"] = 0.6138, 0.6039

    edit(folder / "retrieval-scifact.json", mend)
    assert "On none of the retrieval sets measured" in rendered(folder)


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("diagnose-stsb.json", lambda c: c["models"]["model"].update(sha256="old"), "different weights"),
        (
            "diagnose-stsb-teacher.json",
            lambda c: c["models"]["model"].update(sha256="w"),
            "different weights",
        ),
        ("diagnose-stsb-teacher.json", lambda c: c["data"].update(sha256="other"), "of other data than"),
        ("diagnose-stsb-teacher.json", lambda c: c["figures"].update(exit_threshold=0.9), "of another theta"),
        ("calibrate-mine.json", lambda c: c["models"]["model"].update(sha256="old"), "different weights"),
        ("sts-STS12-test.json", lambda c: c["models"]["model"].update(sha256="old"), "different weights"),
        ("sts-STS12-test.json", lambda c: c["figures"]["exits"].update(exit_threshold=0.9), "exit rule"),
        ("sts-STS12-test.json", lambda c: c["figures"].update(exits=None), "exit rule"),
        ("sts-STS12-test-teacher.json", lambda c: c["data"].update(sha256="other"), "of other data than"),
        ("baselines.json", lambda c: c["models"]["teacher"].update(sha256="other"), "different weights"),
        ("ablation.json", lambda c: c["models"]["teacher"].update(sha256="other"), "different weights"),
    ],
)
def test_evidence_that_does_not_go_together(folder: Path, name: str, change: Edit, complaint: str) -> None:
    edit(folder / name, change)
    with pytest.raises(UsageError, match=f"{re.escape(name)} .*{complaint}"):
        rendered(folder)


def test_calibrations_may_be_of_another_rule(folder: Path) -> None:
    assert all(
        found["figures"]["exit_threshold"] != RULE["exit_threshold"] for found in read(folder).calibrations
    )


def test_ahead_on_some_sets_only(folder: Path) -> None:
    edit(folder / "sts-STS15-test.json", lambda c: c["figures"]["exits"].update(spearman=0.77))
    text = rendered(folder)
    assert "-0.0050 (STS15, Spearman) at worst" in text
    assert "ahead on\n3 of 4 sets.\nOn STS15 that is no gain" in text
