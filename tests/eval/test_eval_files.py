"""Files are there in full or not at all."""

import json
from pathlib import Path

import pytest

from leap.files import atomic_write, checksum, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"half of")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_appears_only_with_the_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.bin"
    with atomic_write(path) as file:
        file.write(b"all")
        assert not path.exists()
    assert path.read_bytes() == b"all"


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_json(path, {})
    assert path.stat().st_mode & 0o777 == 0o644
    path.chmod(0o600)
    write_json(path, {})
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_no_json_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"spearman": float("nan")})
    assert not list(tmp_path.iterdir())


def test_checksum_is_sha256_of_json_lines() -> None:
    # printf '["a", "b"]\n' | sha256sum
    assert checksum([("a", "b")]) == "3e0529f999136e8e7bdef5bbb813a664e06d0b8a3efc5691d67205616b2c8dd0"
    assert checksum(["a", "b"]) != checksum(["ab"])
