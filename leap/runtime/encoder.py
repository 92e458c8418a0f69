"""Texts to embeddings with the interface of sentence-transformers, on ONNX Runtime alone."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

from leap.encode.passes import passes
from leap.runtime.folder import find_folder, max_tokens, open_graph, read_config
from leap.runtime.session import NEVER, SUFFIXES, usable_cores
from leap.runtime.texts import check_characters, check_strings, text_iterator

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
# theta, or one of each layer, of which that of the test is read; None: full depth; "config": the model's own.
ExitThreshold: TypeAlias = float | Sequence[float | None] | Literal["config"] | None

BLOCK = 64  # batches that are tokenised and sorted together: what a stream holds in memory


class Embeddings(NamedTuple):
    """Embeddings of N texts, in their order.

    Attributes:
        embeddings: (N, H) float32.
        exit_layers: (N,) int64, the layer after which each text had converged, from 1; else the last one.
        layers_run: (N,) int64, how many layers each text ran: its cost.
    """

    embeddings: FloatArray
    exit_layers: IntArray
    layers_run: IntArray


class LeapEncoder:
    """A sentence encoder that may be called from several threads at once.

    It may be pickled, or be there when a process forks: the worker opens the model again, from the same
    folder.

    Args:
        folder: of the checkpoint, with its ONNX files.
        precision: "float32", or "int8", which is faster. int8 rounds a batch together, so that a vector
            depends a little on what it was batched with; float32 does not.
        threads: to compute with; None: as many as the process has cores.
        max_length: tokens a text is cut to, the special ones included; None: as the model says.

    Raises:
        ValueError: as `from_pretrained`, which takes a Hub id, too.
    """

    def __init__(
        self,
        folder: Path,
        precision: str = "float32",
        threads: int | None = None,
        max_length: int | None = None,
    ) -> None:
        if precision not in SUFFIXES:
            raise ValueError(f"precision must be one of {', '.join(SUFFIXES)}, got {precision!r}")
        if threads is not None:
            _check_positive("threads", threads)
        self._arguments = (folder, precision, threads, max_length)
        self._of_parents: list[InferenceSession] = []  # kept, never used
        self.config = read_config(folder)
        self._tokenizer = _open_tokenizer(folder, self.config, max_length)
        self._open()
        self._theta("config")  # complains about the config's

    @classmethod
    def from_pretrained(
        cls,
        folder_or_id: str | Path,
        *,
        revision: str | None = None,
        precision: str = "float32",
        threads: int | None = None,
        max_length: int | None = None,
    ) -> "LeapEncoder":
        """Load a model.

        Args:
            folder_or_id: folder of a checkpoint, or a Hub id; of that, only what is needed is fetched.
            revision: branch, tag or commit of the Hub's repository; not looked at for a folder.
            precision: as `LeapEncoder`, with the other two.
            threads: to compute with.
            max_length: tokens a text is cut to.

        Raises:
            ValueError: an argument is wrong, or the folder holds no such model, or its ONNX files are
                missing or of other weights; one line that says what to do.
        """
        return cls(find_folder(folder_or_id, revision, precision), precision, threads, max_length)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments

    def _open(self) -> None:
        folder, precision, threads, _ = self._arguments
        self._session, facts = open_graph(folder, self.config, precision, threads)
        self._process = os.getpid()
        self._test = int(facts["leap.test_layer"])

    @property
    def dimension(self) -> int:
        """H, the length of an embedding."""
        return self.config["hidden_size"]

    def encode(
        self,
        texts: str | Iterable[str],
        batch_size: int = 32,
        *,
        exit_threshold: ExitThreshold = "config",
        normalize_embeddings: bool = True,
        show_progress_bar: bool = False,
        return_exit_layers: bool = False,
    ) -> FloatArray | tuple[FloatArray, IntArray | int]:
        """Encode a text, or any number of them.

        An iterable is read block by block and only the embeddings are kept; `encode_stream` does not keep
        even those.

        Args:
            texts: a text, or an iterable of them, such as a list or a generator.
            batch_size: most texts a forward pass, fewer if they are long; they are sorted by length for it,
                and put back into their order.
            exit_threshold: theta, a cosine in [-1, 1], -1: all leap; or a list or array of one a layer, of
                which that of the test is read; None: full depth; "config": the model's own.
            normalize_embeddings: to length 1, as the model does under sentence-transformers.
            show_progress_bar: of the texts done.
            return_exit_layers: give the layer after which each text had converged, too.

        Returns:
            (N, H) float32, of one text (H,); with `return_exit_layers` that and (N,) int64, or one int.

        Raises:
            ValueError: an argument out of its range, or a text has half of a surrogate pair.
            TypeError: a text is no string, or `texts` no iterable of them.
        """
        theta = self._check(batch_size, exit_threshold)
        single = isinstance(texts, str)
        blocks = self._blocks(
            text_iterator([texts] if single else texts),
            batch_size,
            theta,
            normalize_embeddings,
            len(texts) if show_progress_bar and hasattr(texts, "__len__") and not single else None,
            show_progress_bar,
        )
        found = _concatenate(list(blocks), self.dimension)
        if single:
            return (found[0][0], int(found[1][0])) if return_exit_layers else found[0][0]
        return found[:2] if return_exit_layers else found[0]

    def encode_stream(
        self,
        texts: Iterable[str],
        batch_size: int = 32,
        *,
        exit_threshold: ExitThreshold = "config",
        normalize_embeddings: bool = True,
    ) -> Iterator[Embeddings]:
        """Encode an unbounded stream of texts in bounded memory: blocks of up to 64 batches, in input order.

        Arguments and errors as `encode`; those of the arguments come at once, not with the first block.
        """
        theta = self._check(batch_size, exit_threshold)
        if isinstance(texts, str):
            raise TypeError("texts must be an iterable of strings, got one string: encode() takes that")
        return self._blocks(text_iterator(texts), batch_size, theta, normalize_embeddings)

    def _check(self, batch_size: int, exit_threshold: ExitThreshold) -> float:
        _check_positive("batch_size", batch_size)
        return self._theta(exit_threshold)

    def _theta(self, given: Any) -> float:
        """The threshold as the graph takes it. The tests hold its errors to those of `LeapConfig`."""
        if isinstance(given, str) and given == "config":
            given = self.config.get("exit_threshold")
        if hasattr(given, "tolist"):  # numpy's arrays and scalars
            given = given.tolist()
        layers = self.config["num_hidden_layers"]
        by_layer = isinstance(given, list | tuple)
        thetas = list(given) if by_layer else [given] * layers
        if len(thetas) != layers or not all(theta is None or _is_threshold(theta) for theta in thetas):
            raise ValueError(
                f"exit_threshold must be a number in [-1, 1], a list of {layers} of them, one a layer, with "
                f"None where nothing leaves, or None for full depth; got {given!r}"
            )
        theta = thetas[self._test - 1]
        return NEVER if theta is None else float(theta)

    def _blocks(
        self,
        texts: Iterator[str],
        batch_size: int,
        theta: float,
        normalize: bool,
        total: int | None = None,
        show_progress_bar: bool = False,
    ) -> Iterator[Embeddings]:
        done = 0
        with _progress(total, show_progress_bar) as bar:
            while block := list(islice(texts, BLOCK * batch_size)):
                found = self._encode_block(block, done, batch_size, theta, bar)
                done += len(block)
                yield found._replace(embeddings=_normalised(found.embeddings)) if normalize else found

    def _encode_block(
        self, texts: list[str], first: int, batch_size: int, theta: float, bar: Any
    ) -> Embeddings:
        check_strings(texts, first)
        try:
            ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]
        except (TypeError, UnicodeError):
            check_characters(texts, first)
            raise
        order = np.argsort([-len(row) for row in ids], kind="stable")
        found = Embeddings(
            np.empty((len(ids), self.dimension), np.float32), *np.empty((2, len(ids)), np.int64)
        )
        threads = self._arguments[2] or usable_cores()
        for part in passes([len(ids[row]) for row in order], batch_size, threads):
            rows = order[part]
            for whole, values in zip(found, self._run([ids[row] for row in rows], theta), strict=True):
                whole[rows] = values
            if bar is not None:
                bar.update(len(rows))
        return found

    def _run(self, ids: list[list[int]], theta: float) -> list[Any]:
        """Pad a batch, its longest text first, and encode it."""
        if self._process != os.getpid():
            # Forked: the session's threads stayed with the parent, and to end it would wait for them.
            self._of_parents.append(self._session)
            self._open()
        padded = np.zeros((len(ids), len(ids[0])), np.int64)
        mask = np.zeros_like(padded)
        for row, found in enumerate(ids):
            padded[row, : len(found)] = found
            mask[row, : len(found)] = 1
        feed = {"input_ids": padded, "attention_mask": mask, "exit_threshold": np.array([theta], np.float32)}
        return self._session.run(["sentence_embedding", "exit_layer", "layers_run"], feed)


def _open_tokenizer(folder: Path, config: dict[str, Any], max_length: int | None) -> Tokenizer:
    """The tokenizer, with truncation and without padding. Changing it during an encode is not thread-safe."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} has no tokenizer.json: save its tokenizer in that format")
    tokenizer = Tokenizer.from_file(str(path))
    shortest = tokenizer.num_special_tokens_to_add(is_pair=False) + 1  # else all texts would be one vector
    longest = config["max_position_embeddings"]
    if max_length is None:
        max_length = max_tokens(folder, config)
    if not shortest <= max_length <= longest:
        raise ValueError(f"max_length must be in [{shortest}, {longest}], got {max_length!r}")
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def _check_positive(name: str, value: object) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def _is_threshold(value: object) -> bool:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and -1 <= value <= 1


def _normalised(embeddings: FloatArray) -> FloatArray:
    """The rows with length 1; a row of 0 stays 0."""
    norms = np.sqrt(np.einsum("nh,nh->n", embeddings, embeddings))[:, None]
    return embeddings / np.maximum(norms, np.float32(1e-12))


def _concatenate(blocks: list[Embeddings], dimension: int) -> Embeddings:
    if len(blocks) == 1:
        return blocks[0]
    empty = Embeddings(np.empty((0, dimension), np.float32), np.empty(0, np.int64), np.empty(0, np.int64))
    return Embeddings(*map(np.concatenate, zip(empty, *blocks, strict=True)))


def _progress(total: int | None, show: bool) -> Any:
    if not show:
        return nullcontext()
    from tqdm import tqdm  # here: a server that shows no bar does without

    return tqdm(total=total, unit="text")
