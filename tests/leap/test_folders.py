"""Folders that are there whole or not at all, also with several writers and after a kill."""

import multiprocessing
import os
import signal
import socket
from pathlib import Path

import pytest

from leap.errors import UsageError
from leap.folders import check_replaceable, write_folder


def test_the_newest_writer_replaces_and_the_second_of_a_cache_does_not(tmp_path: Path) -> None:
    for keep, expected in ((False, "outer"), (True, "inner")):
        target = tmp_path / f"keep-{keep}"
        with write_folder(target, keep=keep) as outer:
            (outer / "file").write_text("outer")
            with write_folder(target, keep=keep) as inner:  # a second one while the first is at work
                (inner / "file").write_text("inner")
            assert (target / "file").read_text() == "inner"
        assert (target / "file").read_text() == expected
        assert os.listdir(tmp_path) == [target.name]
        target.rename(tmp_path.parent / f"{tmp_path.name}-{keep}")


def test_what_was_there_stays_when_the_block_fails(tmp_path: Path) -> None:
    with write_folder(tmp_path / "a") as folder:
        (folder / "file").write_text("old")
    with pytest.raises(KeyError), write_folder(tmp_path / "a") as folder:
        (folder / "file").write_text("new")
        raise KeyError
    with pytest.raises(UsageError, match=r"cannot write .*No space left"), write_folder(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert (tmp_path / "a" / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a"
    check_replaceable("--output", target)
    target.mkdir()
    check_replaceable("--output", target)
    (target / "b.onnx").touch()
    check_replaceable("--output", target, lambda path: path.suffix == ".onnx")
    (target / ".notes").touch()
    for ours in ({}, {"ours": lambda path: path.suffix == ".onnx"}):
        with pytest.raises(UsageError, match=r"^--output: '.*' holds '\.notes', and the whole folder would"):
            check_replaceable("--output", target, **ours)
    with pytest.raises(UsageError, match=r"^--output: '.*' is a file: give a folder"):
        check_replaceable("--output", target / "b.onnx")


def _write_many(target: Path, barrier: object, rounds: int, keep: bool) -> None:
    for number in range(rounds):
        barrier.wait(60)  # a writer that failed must not leave the others waiting
        with write_folder(target / str(number), keep=keep) as folder:
            for name in "ab":
                (folder / name).write_text(str(os.getpid()))


@pytest.mark.parametrize("keep", [False, True])
def test_writers_of_one_target_do_not_kill_each_other(tmp_path: Path, keep: bool) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    writers = [context.Process(target=_write_many, args=(tmp_path, barrier, 20, keep)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert sorted(os.listdir(tmp_path), key=int) == [str(number) for number in range(20)]
    for number in range(20):  # of one writer, not a mixture
        assert len({(tmp_path / str(number) / name).read_text() for name in "ab"}) == 1


def _begin_and_wait(target: Path, ready: object) -> None:
    with write_folder(target) as folder:
        (folder / "file").write_text("half")
        ready.set()
        signal.pause()


def test_what_a_killed_writer_left_is_cleared_away(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    writer = context.Process(target=_begin_and_wait, args=(tmp_path / "a", ready))
    writer.start()
    assert ready.wait(30)
    with write_folder(tmp_path / "a"):
        pass  # the other one is alive: its folder stays
    (left,) = tmp_path.glob(".a.*.partial")
    writer.kill()
    writer.join()
    moved = tmp_path / f".a.{socket.gethostname()}.{writer.pid}.x.replaced"
    moved.mkdir()
    elsewhere = tmp_path / f".a.another-machine.{writer.pid}.x.partial"
    elsewhere.mkdir()
    with write_folder(tmp_path / "a"):
        assert not left.exists() and not moved.exists()
    assert elsewhere.exists()  # whether that one lives cannot be told from here
