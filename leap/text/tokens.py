"""Texts to token ids, once: a memory-mapped cache keyed by everything the ids depend on."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence, Sized
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from leap.errors import UsageError
from leap.files import check_place, reading_cache
from leap.folders import write_folder
from leap.text.holdout import ONE_IN, held_out
from leap.text.reading import TextSource, iterate_texts


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
        """The token ids of some texts.

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


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Checksum of everything the ids of a text depend on, except the truncation length."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    # What the last call asked for is in there too.
    settings = backend | {"truncation": tokenizer.truncation_side, "padding": None}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


class TokenCache(TokenRows):
    """Memory-mapped token ids of all texts: start-up time and memory do not grow with their number.

    Args:
        folder: as `build` has written it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(
            np.load(folder / "ids.npy", mmap_mode="r", allow_pickle=False),
            np.load(folder / "offsets.npy", allow_pickle=False),
        )
        if self.offsets[-1] != len(self.ids):
            raise ValueError("ids.npy and offsets.npy are not of one run")

    @classmethod
    def build(
        cls,
        sources: Sequence[TextSource],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        cache_dir: Path,
        streaming: bool = False,
    ) -> "TokenCache":
        """The cache of all texts of some sources that are not held out; built whole or not at all.

        Args:
            sources: the texts.
            tokenizer: of the student and the teacher, who must share it.
            max_length: tokens after which a text is cut, the special ones counted.
            cache_dir: folder of all caches; this one's name is a digest of everything it depends on.
            streaming: read a data set of the Hub as it is downloaded, without a copy on the disk.

        Raises:
            UsageError: the sources have no text, one cannot be read, or the cache is damaged.
        """
        sources_now = [source.fingerprint() for source in sources]
        key = json.dumps([sources_now, max_length, ONE_IN, tokenizer_sha256(tokenizer)])
        folder = cache_dir / f"tokens-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        if folder.exists():
            with reading_cache("--cache_dir", folder):
                return cls(folder)
        check_place("--cache_dir", folder)
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
