"""Texts to batches: read with `datasets`, tokenised once into a memory-mapped cache, batched by length."""

import glob
import hashlib
import itertools
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset, load_dataset
from datasets.exceptions import DatasetsError
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from leap.errors import first_line
from leap.folders import write_folder
from leap.text.holdout import ONE_IN, held_out

READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".txt": "text", ".parquet": "parquet"}
CHUNK = 10_000  # texts tokenised at a time
# What the readers raise for a file that is damaged: pyarrow's and json's errors are ValueErrors.
UNREADABLE = (DatasetsError, OSError, EOFError, ValueError, zlib.error)
BUCKET = 50  # global batches among which texts are sorted by length: less padding, order still random


@dataclass(frozen=True)
class TextSource:
    """Where training texts come from.

    Attributes:
        name: a Hub data set id, or a local file, folder or glob of json, jsonl, csv, txt, parquet (also .gz).
        split: the split of a Hub data set, `train` or with a subset before it as in `pair/train`.
        text_columns: columns whose strings are training texts, each a text of its own.
        exclude: values of the column `source` to leave out (a licence, a test set).
        limit: read the first texts only, this many; None for all. It makes a stream end.
        argument: what the name was given as, for errors.
    """

    name: str
    split: str = "train"
    text_columns: tuple[str, ...] = ("text",)
    exclude: tuple[str, ...] = ()
    limit: int | None = None
    argument: str = "data"

    def files(self) -> list[str]:
        """The local files meant; empty when `name` is a Hub id.

        Raises:
            ValueError: a local path or glob that holds no readable file, or files of several kinds.
        """
        path = Path(self.name).expanduser()
        found = (
            sorted(str(file) for file in path.glob("*")) if path.is_dir() else sorted(glob.glob(str(path)))
        )
        files = [file for file in found if _reader(file)]
        looks_local = (
            path.exists() or any(c in self.name for c in "*?[") or self.name.startswith((".", "/", "~"))
        )
        if looks_local and not files:
            raise ValueError(
                f"{self.argument}: {self.name!r} holds no {', '.join(READERS)} file (.gz may follow); "
                "name a file, a folder, a glob or a Hub data set id"
            )
        kinds = sorted({str(_reader(file)) for file in files})
        if len(kinds) > 1:
            raise ValueError(
                f"{self.argument}: {self.name!r} holds files of several kinds ({', '.join(kinds)}): "
                "name those of one kind, by a glob such as 'texts/*.jsonl'"
            )
        return files

    def open(self, streaming: bool) -> Dataset | IterableDataset:
        """The data set; `streaming` reads rows as they come, without a copy of all on the disk.

        Raises:
            ValueError: a Hub id that is not there or cannot be reached, or a split that it has not got.
        """
        files = self.files()
        if files:
            return load_dataset(_reader(files[0]), data_files=files, split="train", streaming=streaming)
        subset, _, split = self.split.rpartition("/")
        try:
            return load_dataset(self.name, subset or None, split=split, streaming=streaming)
        except (OSError, DatasetsError) as error:
            raise ValueError(
                f"{self.argument}: cannot read {self.name!r} from the Hub: {first_line(error)}"
            ) from error

    def read(self, streaming: bool, rows: int, form: str | None = None) -> Iterator[Any]:
        """Chunks of `rows` rows, the last one shorter, as a dict of columns or as `form` of `datasets` says.

        Raises:
            ValueError: as `files` and `open`; or a file breaks off or is damaged: it is named.
        """
        try:
            yield from self.open(streaming).with_format(form).iter(batch_size=rows)
        except UNREADABLE as error:
            found = next(filter(None, map(_why_unreadable, self.files())), None)
            if found:
                raise ValueError(
                    f"{self.argument}: cannot read {found[0]!r} ({found[1]}): it is damaged or breaks off; "
                    "get it again or leave it out"
                ) from error
            if isinstance(error, ValueError):  # of `open`, which says enough
                raise
            raise ValueError(f"{self.argument}: cannot read {self.name!r}: {_reason(error)}") from error

    def fingerprint(self) -> list[object]:
        """What must stay the same for a cache of these texts to hold."""
        files = [[file, os.path.getsize(file), os.path.getmtime(file)] for file in self.files()]
        return [self.name, self.split, *self.text_columns, *sorted(self.exclude), self.limit, files]


def _reader(file: str) -> str | None:
    return READERS.get(Path(file.removesuffix(".gz")).suffix)


def _why_unreadable(file: str) -> tuple[str, str] | None:
    """The file and what is wrong with it, by the reader that met it; None when it can be read to its end."""
    try:
        for _ in load_dataset(_reader(file), data_files=[file], split="train", streaming=True).iter(CHUNK):
            pass
    except UNREADABLE as error:
        return file, _reason(error)
    return None


def _reason(error: BaseException) -> str:
    """What went wrong at the bottom: `datasets` wraps the error of the reader in one that says little."""
    while isinstance(error, DatasetsError) and error.__cause__ is not None:
        error = error.__cause__
    return first_line(error).rstrip(".")


def iterate_texts(source: TextSource, streaming: bool) -> Iterator[list[str]]:
    """Texts of the source in lists of about `CHUNK`, blank ones left out.

    Raises:
        ValueError: as `TextSource.read`, or the data has no column of a name asked for.
    """
    left = source.limit
    for chunk in source.read(streaming, CHUNK):
        missing = [column for column in source.text_columns if column not in chunk]
        if missing:
            raise ValueError(f"text_columns: no column {missing[0]!r}; the data has {', '.join(chunk)}")
        origins = chunk.get("source") if source.exclude else None
        texts = [
            text
            for column in source.text_columns
            for row, text in enumerate(chunk[column])
            if isinstance(text, str) and text.strip() and not (origins and origins[row] in source.exclude)
        ][:left]
        yield texts
        if left is not None:
            left -= len(texts)
            if left <= 0:
                return


class TokenRows:
    """Token ids of N texts, end to end in one flat array.

    Args:
        ids: the ids of all texts.
        offsets: (N + 1,) where each text begins and the last one ends.
    """

    def __init__(self, ids: np.ndarray, offsets: np.ndarray) -> None:
        self.ids, self.offsets = ids, offsets
        self.lengths = np.diff(offsets)

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def tokenize(
        cls, texts: Iterable[list[str]], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> "TokenRows":
        """Those of some texts.

        Args:
            texts: lists of them, each tokenised at a time.
            tokenizer: whose ids.
            max_length: tokens after which a text is cut, the special ones counted.
        """
        dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
        parts, lengths = [np.empty(0, dtype)], [0]
        for some in texts:
            if some:
                encoded = tokenizer(some, truncation=True, max_length=max_length)["input_ids"]
                lengths.extend(len(ids) for ids in encoded)
                parts.append(np.concatenate([np.asarray(ids, dtype=dtype) for ids in encoded]))
        return cls(np.concatenate(parts), np.cumsum(lengths))

    def batch(self, indices: np.ndarray, pad_id: int, multiple: int = 1) -> dict[str, torch.Tensor]:
        """Padded `input_ids` and `attention_mask`, (B, T) int64; T a multiple of `multiple`."""
        lengths = self.lengths[indices]
        width = -(-int(lengths.max()) // multiple) * multiple
        mask = np.arange(width) < lengths[:, None]
        ids = np.full(mask.shape, pad_id, dtype=np.int64)
        ids[mask] = np.concatenate([self.ids[self.offsets[i] : self.offsets[i + 1]] for i in indices])
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}


class TokenCache(TokenRows):
    """Memory-mapped token ids of all texts: start-up and memory do not grow with them.

    Args:
        folder: as `build` has written it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(
            np.load(folder / "ids.npy", mmap_mode="r", allow_pickle=False),
            np.load(folder / "offsets.npy", allow_pickle=False),
        )

    @classmethod
    def build(
        cls,
        sources: Sequence[TextSource],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        cache_dir: Path,
        streaming: bool = False,
    ) -> "TokenCache":
        """The cache of the texts of some sources that are not held out, made whole or not at all.

        Args:
            sources: the texts.
            tokenizer: of the student and the teacher, who must share it.
            max_length: tokens after which a text is cut, the special ones counted.
            cache_dir: folder of all caches; this one's name is a digest of everything it depends on.
            streaming: passed on to `datasets`.

        Raises:
            ValueError: the sources have no text.
        """
        vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True)
        key = json.dumps(
            [
                [source.fingerprint() for source in sources],
                max_length,
                ONE_IN,
                hashlib.sha256(vocabulary.encode()).hexdigest(),
            ]
        )
        folder = cache_dir / f"tokens-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        if folder.exists():
            return cls(folder)
        with tqdm(desc="tokenise", unit=" texts", unit_scale=True, leave=False) as bar:

            def counted() -> Iterator[list[str]]:
                for texts in itertools.chain.from_iterable(
                    iterate_texts(source, streaming) for source in sources
                ):
                    yield [text for text in texts if not held_out(text)]
                    bar.update(len(texts))

            rows = TokenRows.tokenize(counted(), tokenizer, max_length)
        if not len(rows):
            raise ValueError(f"data: no text in {', '.join(source.name for source in sources)}")
        with write_folder(folder) as partial:
            np.save(partial / "ids.npy", rows.ids)
            np.save(partial / "offsets.npy", rows.offsets)
        return cls(folder)


def draw_texts(texts: Sized, max_texts: int | None, seed: int) -> np.ndarray:
    """Indices of the texts to train on, ascending: all, or `max_texts` drawn without replacement."""
    if max_texts is None or max_texts >= len(texts):
        return np.arange(len(texts))
    return np.sort(np.random.default_rng(seed).choice(len(texts), max_texts, replace=False))


def length_grouped_batches(
    lengths: np.ndarray, batch_size: int, seed: int, epoch: int, processes: int = 1, process: int = 0
) -> list[np.ndarray]:
    """The batches of one process in one epoch: texts of like length together, batches in random order.

    The same arguments give the same batches, so a run is resumed by leaving out those it has done. Processes
    draw theirs from one global batch, so that none waits for another's longer texts; what does not fill a
    global batch waits for the next epoch's shuffle.

    Args:
        lengths: tokens of each text.
        batch_size: texts of one process's batch.
        seed: of the run.
        epoch: from 0; each has a shuffle of its own.
        processes: how many there are.
        process: which one this is.
    """
    rng = np.random.default_rng([seed, epoch])
    together = batch_size * processes
    order = rng.permutation(len(lengths))
    order = order[: len(order) // together * together]
    bucket = together * BUCKET
    order = np.concatenate(
        [
            part[np.argsort(lengths[part], kind="stable")]
            for part in (order[i : i + bucket] for i in range(0, len(order), bucket))
        ]
    )
    batches = order.reshape(-1, processes, batch_size)
    return list(batches[rng.permutation(len(batches)), process])


class _Batches(torch.utils.data.Dataset):
    """Whole batches as items: collating costs one vectorised call, in a worker where there are any."""

    def __init__(
        self,
        cache: TokenCache,
        texts: np.ndarray,
        batches: list[np.ndarray],
        pad_id: int,
        multiple: int,
        targets: np.ndarray | None,
    ) -> None:
        self.cache, self.texts, self.batches, self.targets = cache, texts, batches, targets
        self.pad_id, self.multiple = pad_id, multiple

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rows = self.batches[index]
        batch = self.cache.batch(self.texts[rows], self.pad_id, self.multiple)
        if self.targets is not None:
            batch["teacher"] = torch.from_numpy(self.targets[rows].astype(np.float32))
        return batch


def batch_loader(
    cache: TokenCache,
    texts: np.ndarray,
    batches: list[np.ndarray],
    pad_id: int,
    targets: np.ndarray | None = None,
    workers: int = 0,
    cuda: bool = False,
) -> DataLoader:
    """Batches in the order given: `input_ids`, `attention_mask`; from `targets`, `teacher` (B, H) float32.

    Args:
        cache: where the texts are.
        texts: (N,) indices into the cache of the texts trained on.
        batches: for each batch its rows among those N.
        pad_id: the tokenizer's.
        targets: (N, H) teacher embeddings, where they are stored.
        workers: processes that prepare batches ahead; 0 for none.
        cuda: pin the memory and pad to multiples of 8, which its matrix units like.
    """
    dataset = _Batches(cache, texts, batches, pad_id, 8 if cuda else 1, targets)
    return DataLoader(dataset, batch_size=None, shuffle=False, num_workers=workers, pin_memory=cuda)
