"""Texts to batches: readers, the token cache, length-grouped batches."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from leap.errors import UsageError
from leap.text.reading import TextSource
from leap.text.tokens import TokenCache, TokenRows, draw_texts

TEXTS = ["a first text", "and a second, longer one", "third"]


@pytest.fixture(scope="module")
def tokenizer(teacher_path: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(teacher_path)


def write(folder: Path, name: str) -> Path:
    path = folder / name
    if ".json" in name:
        content = "".join(
            json.dumps({"text": text, "source": f"s{i}"}) + "\n" for i, text in enumerate(TEXTS)
        )
    elif ".csv" in name:
        content = "text,source\n" + "".join(f'"{text}",s{i}\n' for i, text in enumerate(TEXTS))
    else:
        content = "\n".join(TEXTS) + "\n"
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    return path


@pytest.mark.parametrize(
    "name", ["t.jsonl", "t.jsonl.gz", "t.json", "t.csv", "t.csv.gz", "t.txt", "t.txt.gz"]
)
@pytest.mark.parametrize("streaming", [False, True])
def test_every_kind_of_file(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, name: str, streaming: bool
) -> None:
    source = TextSource(str(write(tmp_path, name)))
    cache = TokenCache.build([source], tokenizer, 16, tmp_path / "cache", streaming)
    decoded = [
        tokenizer.decode(cache.batch(np.array([i]), 0)["input_ids"][0][1:-1]) for i in range(len(cache))
    ]
    assert decoded == TEXTS


def test_columns_excluded_sources_limit_and_several(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    write(tmp_path, "t.jsonl")
    without = TextSource(str(tmp_path), exclude=("s1",))
    assert len(TokenCache.build([without], tokenizer, 16, tmp_path / "cache")) == 2
    both = TextSource(str(tmp_path / "*.jsonl"), text_columns=("text", "source"))
    assert len(TokenCache.build([both], tokenizer, 16, tmp_path / "cache")) == 6
    limited = TextSource(str(tmp_path), limit=1)
    assert len(TokenCache.build([limited, both], tokenizer, 16, tmp_path / "cache")) == 7
    with pytest.raises(ValueError, match=r"--data: .*: no column 'nothing'; it has 'text', 'source'"):
        TokenCache.build(
            [TextSource(str(tmp_path), text_columns=("nothing",))], tokenizer, 16, tmp_path / "cache"
        )


def test_no_file_is_said_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--data: "):
        TextSource(str(tmp_path)).files()
    with pytest.raises(ValueError, match=r"^--data: "):
        TextSource("./nowhere/*.csv").files()
    assert TextSource("owner/texts").files() == []


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.csv.gz", "t.txt.gz"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_file_that_breaks_off_is_named(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, name: str, streaming: bool
) -> None:
    whole, torn = tmp_path / "whole" / name, tmp_path / "torn" / name
    for path in (whole, torn):
        path.parent.mkdir()
        write(path.parent, name)
    torn.write_bytes(torn.read_bytes()[:-9])
    with pytest.raises(ValueError, match=f"^--data: '{torn}'.*(breaks off|not JSON)") as error:
        source = TextSource(str(tmp_path / "*" / name))
        TokenCache.build([source], tokenizer, 16, tmp_path / "cache", streaming)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["ids.npy", "offsets.npy"])
@pytest.mark.parametrize("damage", ["truncated", "junk", "removed", "of another run"])
def test_a_damaged_cache_is_one_line(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, name: str, damage: str
) -> None:
    write(tmp_path, "t.txt")
    build = [[TextSource(str(tmp_path / "t.txt"))], tokenizer, 16, tmp_path / "cache"]
    file = TokenCache.build(*build).folder / name
    {
        "truncated": lambda: file.write_bytes(file.read_bytes()[:-5]),
        "junk": lambda: file.write_bytes(b"junk"),
        "removed": lambda: file.unlink(),
        "of another run": lambda: np.save(file, np.load(file)[:-2]),
    }[damage]()
    with pytest.raises(UsageError, match=r"^--cache_dir: '.*' is damaged \(.*\): remove it$") as error:
        TokenCache.build(*build)
    assert "allow_pickle" not in str(error.value)


def test_files_of_several_kinds_are_refused(tmp_path: Path) -> None:
    for name in ("t.jsonl", "t.txt"):
        write(tmp_path, name)
    with pytest.raises(ValueError, match=r"several formats, such as '.*t\.jsonl' and '.*t\.txt'"):
        TextSource(str(tmp_path)).files()


def test_cache_is_reused_and_follows_its_inputs(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    source = TextSource(str(write(tmp_path, "t.jsonl")))
    folder = TokenCache.build([source], tokenizer, 16, tmp_path / "cache").folder
    assert TokenCache.build([source], tokenizer, 16, tmp_path / "cache").folder == folder
    assert TokenCache.build([source], tokenizer, 4, tmp_path / "cache").folder != folder
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": "new", "source": "s"}) + "\n")
    assert len(TokenCache.build([source], tokenizer, 16, tmp_path / "cache")) == 1


def test_draw_texts(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    cache = TokenCache.build([TextSource(str(write(tmp_path, "t.txt")))], tokenizer, 16, tmp_path / "cache")
    assert draw_texts(cache, None, 0).tolist() == draw_texts(cache, 9, 0).tolist() == [0, 1, 2]
    assert len(draw_texts(cache, 2, 0)) == 2


def test_the_cache_is_of_the_whole_tokenizer_and_not_of_its_last_call(
    tmp_path: Path, teacher_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    source = TextSource(str(write(tmp_path, "t.jsonl")))
    first = TokenCache.build([source], tokenizer, 16, tmp_path / "cache").folder
    tokenizer(["a", "b c"], padding=True, truncation=True, max_length=5)  # it remembers these
    assert TokenCache.build([source], tokenizer, 16, tmp_path / "cache").folder == first
    changed = []
    for _ in range(3):
        changed.append(AutoTokenizer.from_pretrained(teacher_path))
    changed[0].backend_tokenizer.normalizer.lowercase = False  # the vocabulary is the same
    changed[1].truncation_side = "left"
    changed[2].add_tokens(["second,"])
    folders = {TokenCache.build([source], other, 16, tmp_path / "cache").folder for other in changed}
    assert len(folders | {first}) == 4


def test_a_second_writer_of_a_cache_takes_what_is_there(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = TextSource(str(write(tmp_path, "t.jsonl")))
    tokenize = TokenRows.tokenize
    made = []

    def slowly(*args: Any) -> TokenRows:
        if not made:  # another process makes the same cache meanwhile
            made.append(None)
            made.append(TokenCache.build([source], tokenizer, 16, tmp_path / "cache"))
        return tokenize(*args)

    monkeypatch.setattr(TokenRows, "tokenize", slowly)
    cache = TokenCache.build([source], tokenizer, 16, tmp_path / "cache")
    assert cache.folder == made[1].folder
    assert len(cache) == 3
    assert len(list((tmp_path / "cache").iterdir())) == 1
