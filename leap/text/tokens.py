"""Texts to batches: tokenised once into a memory-mapped cache, batched by length."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence, Sized
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from leap.errors import UsageError
from leap.folders import write_folder
from leap.text.holdout import ONE_IN, held_out
from leap.text.reading import TextSource, iterate_texts

__all__ = [
    "TextSource", "TokenCache", "TokenRows", "batch_loader", "draw_texts", "iterate_texts",
    "length_grouped_batches", "tokenizer_digest",
]  # fmt: skip

BUCKET = 50  # global batches among which texts are sorted by length: less padding, order still random


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


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Checksum of all that the ids of a text depend on, but the length it is cut to."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    # What the last call asked for is in there too.
    settings = backend | {"truncation": tokenizer.truncation_side, "padding": None}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


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
            streaming: read a data set of the Hub as it is downloaded, without a copy on the disk.

        Raises:
            UsageError: the sources have no text, or one cannot be read.
        """
        sources_now = [source.fingerprint() for source in sources]
        key = json.dumps([sources_now, max_length, ONE_IN, tokenizer_digest(tokenizer)])
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
            raise UsageError(f"{sources[0].argument}: no text in {', '.join(each.name for each in sources)}")
        with write_folder(folder, keep=True) as partial:
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
