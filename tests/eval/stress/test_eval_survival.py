"""The harness of kills: few of them here, twenty when asked for; and that it sees what is lost."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from eval.stress.lives import Life
from eval.stress.survival import (
    broken_data,
    damaged_checkpoints,
    full_disk,
    killed_and_resumed,
    measure_survival,
)
from eval.stress.tiny_programs import Program, encoding, make_inputs, training
from leap.errors import UsageError

STEPS, ROWS = 16, 400


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("survival")
    make_inputs(folder, ROWS)
    return folder


Unbroken = tuple[Program, Life, str]


def unbroken(program: Program, folder: Path) -> Unbroken:
    """A run that nothing stops, and the digest of what it makes."""
    whole = program.finish(folder)
    return program, whole, program.digest(folder)


@pytest.fixture(scope="module")
def trained(work: Path) -> Unbroken:
    program = training(work, STEPS)
    program.live(work / "trained" / "warm-up", kill_after=0.0)
    return unbroken(program, work / "trained" / "whole")


def test_killed_training_ends_with_the_same_weights(work: Path, trained: Unbroken, tmp_path: Path) -> None:
    program, whole, digest = trained
    figures = killed_and_resumed(program, tmp_path, whole, digest, kills=3, seed=1)
    assert figures["all_same_bits"]
    assert len(figures["lives"]) == 3
    assert figures["inside_a_write"] >= 1


@pytest.fixture(scope="module")
def encoded(work: Path) -> Unbroken:
    return unbroken(encoding(work, ROWS), work / "encoded" / "whole")


def test_killed_encoding_loses_and_doubles_no_row(work: Path, encoded: Unbroken, tmp_path: Path) -> None:
    program, whole, digest = encoded
    shutil.copytree(work / "encoded" / "whole", tmp_path / "whole")
    figures = killed_and_resumed(program, tmp_path, whole, digest, kills=3, seed=1)
    assert figures["all_same_bits"]
    assert len(figures["lives"]) == 3
    (tmp_path / "whole" / "part-00000003.parquet").write_bytes(
        (tmp_path / "whole" / "part-00000002.parquet").read_bytes()
    )
    with pytest.raises(UsageError, match="rows are lost or doubled"):
        program.digest(tmp_path / "whole")
    assert "part-00000003.parquet is broken" in program.finish(tmp_path / "whole").log
    assert program.digest(tmp_path / "whole") == digest


def test_a_damaged_checkpoint_is_seen(work: Path, trained: Unbroken, tmp_path: Path) -> None:
    program, _, digest = trained
    shutil.copytree(work / "trained" / "whole", tmp_path / "whole")
    (row,) = damaged_checkpoints(
        program, tmp_path, tmp_path / "whole", digest, [("state.json", "bit flipped")]
    )
    assert row["warned"] and row["went_back"] and row["same_bits"], row


def test_a_full_disk_is_one_line_and_the_run_goes_on(work: Path, trained: Unbroken, tmp_path: Path) -> None:
    program, _, digest = trained
    newest = max((work / "trained" / "whole" / "checkpoints").glob("step-*"))
    figures = check_full_disk(program, tmp_path, int(2.6 * size_of(newest)), digest)
    assert figures["resumed_from"] == figures["kept"]


def test_encoding_on_a_full_disk_goes_on_from_its_whole_parts(
    work: Path, encoded: Unbroken, tmp_path: Path
) -> None:
    program, _, digest = encoded
    figures = check_full_disk(program, tmp_path, size_of(work / "encoded" / "whole") // 2, digest)
    assert figures["resumed_from"] >= figures["kept"]  # its bar knows no total before the first rows


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def check_full_disk(program: Program, work: Path, size: int, digest: str) -> dict[str, Any]:
    figures = full_disk(program, work / "disk", size, 40 * size, digest)
    if not figures["tried"]:
        pytest.skip(figures["why"])
    assert figures["stopped"] and figures["one_line"] and not figures["half_written_left"], figures
    assert figures["kept"] > 0
    assert figures["same_bits"]
    return figures


def test_data_that_breaks_off_is_named(work: Path) -> None:
    for row in broken_data(work, STEPS, ["cut.jsonl.gz"]):
        assert row["stopped"] and row["names_the_file"] and row["no_traceback"] and row["nothing_made"], row


@pytest.mark.slow
def test_twenty_kills_of_each(tmp_path: Path) -> None:
    figures = measure_survival(tmp_path, kills=20, steps=400, rows=4000, seed=0)
    assert figures["nothing_lost"], figures
