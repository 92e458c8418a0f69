"""Texts to embeddings with the manners of sentence-transformers, over each of the runtimes."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from leap.runtime.checkpoint import (
    SENTENCE_CONFIG,
    TOKENIZER_CONFIG,
    WEIGHTS,
    FloatArray,
    max_tokens,
    read_config,
    weights_sha256,
)
from leap.runtime.layout import FOLDER, exits_path, flat_path, segments_path
from leap.runtime.rule import ExitRule, ExitThreshold, resolve
from leap.runtime.runners import FlatRunner, IntArray, Runner, SegmentRunner, SingleRunner, TorchRunner

# Precision and form of each runtime that ONNX Runtime runs.
_ONNX: dict[str, tuple[str, Any, Any]] = {
    "onnx": ("float32", SegmentRunner, segments_path),
    "onnx-int8": ("int8", SegmentRunner, segments_path),
    "onnx-single": ("float32", SingleRunner, exits_path),
    "onnx-single-int8": ("int8", SingleRunner, exits_path),
    "onnx-flat": ("float32", FlatRunner, flat_path),
    "onnx-flat-int8": ("int8", FlatRunner, flat_path),
}
RUNTIMES = (*_ONNX, "torch")
BLOCK = 64  # batches that are tokenised and sorted together: what a stream holds in memory


class Embeddings(NamedTuple):
    """Embeddings of N texts, in their order.

    Attributes:
        embeddings: (N, H) float32.
        exit_layers: (N,) int64, the layer each text left at, counted from 1.
    """

    embeddings: FloatArray
    exit_layers: IntArray


class LeapEncoder:
    """An encoder of sentences that may be called from several threads at once.

    Made by `from_pretrained`.

    Args:
        config: the content of config.json.
        tokenizer: set to cut texts, and to pad none.
        runner: the network.
    """

    def __init__(self, config: dict[str, Any], tokenizer: Tokenizer, runner: Runner) -> None:
        self.config = config
        self._tokenizer = tokenizer
        self._runner = runner

    @property
    def dimension(self) -> int:
        """H, the length of an embedding."""
        return self.config["hidden_size"]

    @classmethod
    def from_pretrained(
        cls,
        folder_or_id: str | Path,
        *,
        revision: str | None = None,
        runtime: str = "onnx",
        threads: int | None = None,
        max_length: int | None = None,
    ) -> "LeapEncoder":
        """Load a model.

        Args:
            folder_or_id: folder of a checkpoint, or a Hub id; of that, only what `runtime` needs is fetched.
            revision: branch, tag or commit of the Hub's repository; not looked at for a folder.
            runtime: "onnx": segments, rows leave one by one (the default); "onnx-single": the one file with
                the exits inside, a text at a time; "onnx-flat": full depth always, for comparison; each also
                with "-int8" after it; "torch": `LeapModel`.
            threads: to compute with; None: as many as there are cores. Of torch, that is the whole process.
            max_length: tokens a text is cut to, the two special ones included; None: as the model says, in
                sentence_bert_config.json.

        Raises:
            ValueError: an argument is wrong, or the folder holds no such model, or its ONNX files are
                missing or of other weights; one line that says what to do.
        """
        if runtime not in RUNTIMES:
            raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}")
        for name, number in (("threads", threads), ("max_length", max_length)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, got {number!r}")
        folder = _find(folder_or_id, revision, runtime)
        config = read_config(folder)
        longest = max_tokens(folder, config)
        if max_length is not None:
            if max_length > config["max_position_embeddings"]:
                raise ValueError(
                    f"max_length must be at most {config['max_position_embeddings']}, got {max_length}"
                )
            longest = max_length
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"{str(folder)!r} has no tokenizer.json: save its tokenizer in that format")
        tokenizer = Tokenizer.from_file(str(path))
        # Set once, before any thread asks: changing them is not safe beside an encode.
        tokenizer.no_padding()
        tokenizer.enable_truncation(longest)
        resolve(config)
        return cls(config, tokenizer, _open(folder, config, runtime, threads))

    def encode(
        self,
        texts: str | Iterable[str],
        batch_size: int = 32,
        *,
        exit_threshold: ExitThreshold | Literal["config"] = "config",
        min_exit_layer: int | None = None,
        normalize_embeddings: bool = True,
        show_progress_bar: bool = False,
        return_exit_layers: bool = False,
    ) -> FloatArray | tuple[FloatArray, IntArray | int]:
        """Encode a text, or any number of them.

        An iterable is read block by block and only the embeddings are kept; `encode_stream` does not keep
        even those.

        Args:
            texts: a text, or an iterable of them, such as a list or a generator.
            batch_size: texts a forward pass; they are sorted by length for it, and put back into their order.
            exit_threshold: theta, a cosine in [-1, 1], or a list of one a layer with None where nothing
                leaves; None: full depth; "config": the model's own.
            min_exit_layer: l_min, the first layer a text may leave at; None: the model's own.
            normalize_embeddings: to length 1, as the model does under sentence-transformers.
            show_progress_bar: of the texts done.
            return_exit_layers: give the layer that each text left at, too.

        Returns:
            (N, H) float32, of one text (H,); with `return_exit_layers` that and (N,) int64, or one int.

        Raises:
            ValueError: an argument out of its range.
            TypeError: a text is no string.
        """
        rule = self._rule(batch_size, exit_threshold, min_exit_layer)
        single = isinstance(texts, str)
        if single:
            ids = self._tokenizer.encode(texts).ids
            found = self._run([ids], rule)
            found = Embeddings(_normalised(found[0]) if normalize_embeddings else found[0], found[1])
        else:
            blocks = self._blocks(texts, batch_size, rule, normalize_embeddings, show_progress_bar)
            found = _concatenate(list(blocks), self.dimension)
        embeddings, layers = found
        if single:
            return (embeddings[0], int(layers[0])) if return_exit_layers else embeddings[0]
        return (embeddings, layers) if return_exit_layers else embeddings

    def encode_stream(
        self,
        texts: Iterable[str],
        batch_size: int = 32,
        *,
        exit_threshold: ExitThreshold | Literal["config"] = "config",
        min_exit_layer: int | None = None,
        normalize_embeddings: bool = True,
    ) -> Iterator[Embeddings]:
        """Encode texts without end, in bounded memory: blocks of up to 64 batches, in the order of the texts.

        Arguments and errors as `encode`; those of the arguments come at once, not with the first block.
        """
        rule = self._rule(batch_size, exit_threshold, min_exit_layer)
        return self._blocks(texts, batch_size, rule, normalize_embeddings, show_progress_bar=False)

    def _rule(
        self, batch_size: int, exit_threshold: ExitThreshold | str, min_exit_layer: int | None
    ) -> ExitRule:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size!r}")
        return resolve(self.config, exit_threshold, min_exit_layer)

    def _blocks(
        self,
        texts: Iterable[str],
        batch_size: int,
        rule: ExitRule,
        normalize: bool,
        show_progress_bar: bool,
    ) -> Iterator[Embeddings]:
        remaining = iter(texts)
        total = len(texts) if hasattr(texts, "__len__") else None
        with _progress(total, show_progress_bar) as bar:
            while block := list(islice(remaining, BLOCK * batch_size)):
                found = self._encode_block(block, batch_size, rule, bar)
                yield Embeddings(_normalised(found[0]) if normalize else found[0], found[1])

    def _encode_block(self, texts: list[str], batch_size: int, rule: ExitRule, bar: Any) -> Embeddings:
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if wrong is not None:
            raise TypeError(f"texts must be strings, got {type(wrong).__name__}")
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]
        if len(ids) == 1:
            return self._run(ids, rule)
        order = np.argsort([-len(row) for row in ids], kind="stable")
        embeddings = np.empty((len(ids), self.dimension), np.float32)
        layers = np.empty(len(ids), np.int64)
        for start in range(0, len(ids), batch_size):
            rows = order[start : start + batch_size]
            embeddings[rows], layers[rows] = self._run([ids[row] for row in rows], rule)
            if bar is not None:
                bar.update(len(rows))
        return Embeddings(embeddings, layers)

    def _run(self, ids: list[list[int]], rule: ExitRule) -> Embeddings:
        """Pad a batch, its longest text first, and encode it."""
        if len(ids) == 1:
            padded = np.array(ids, np.int64)
            mask = np.ones(padded.shape, np.int32)
        else:
            padded = np.zeros((len(ids), len(ids[0])), np.int64)
            mask = np.zeros(padded.shape, np.int32)
            for row, found in enumerate(ids):
                padded[row, : len(found)] = found
                mask[row, : len(found)] = 1
        return Embeddings(*self._runner.run(padded, mask, rule))


def _normalised(embeddings: FloatArray) -> FloatArray:
    """The rows with length 1; a row of 0 stays 0."""
    norms = np.sqrt(np.einsum("nh,nh->n", embeddings, embeddings))[:, None]
    return embeddings / np.maximum(norms, np.float32(1e-12))


def _concatenate(blocks: list[Embeddings], dimension: int) -> Embeddings:
    if not blocks:
        return Embeddings(np.empty((0, dimension), np.float32), np.empty(0, np.int64))
    if len(blocks) == 1:
        return blocks[0]
    embeddings, layers = zip(*blocks, strict=True)
    return Embeddings(np.concatenate(embeddings), np.concatenate(layers))


def _progress(total: int | None, show: bool) -> Any:
    if not show:
        return nullcontext()
    from tqdm import tqdm  # here: a server that shows no bar does without

    return tqdm(total=total, unit="text")


def _find(folder_or_id: str | Path, revision: str | None, runtime: str) -> Path:
    """The folder of a model, downloaded where it is a Hub id."""
    folder = Path(folder_or_id)
    if folder.is_dir():
        return folder
    name = str(folder_or_id)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ValueError(f"{name!r} is neither a folder nor a Hub id (owner/name): check it")
    from huggingface_hub import snapshot_download  # here: a server with a folder does without

    files = ["config.json", "tokenizer.json", SENTENCE_CONFIG, TOKENIZER_CONFIG]
    files += [f"{FOLDER}/{path}*" for path in _files(runtime)] or [WEIGHTS]
    return Path(snapshot_download(name, revision=revision, allow_patterns=files))


def _files(runtime: str) -> list[Path]:
    """What a runtime reads below onnx/."""
    if runtime == "torch":
        return []
    precision, _, path = _ONNX[runtime]
    return [path(precision)]


def _open(folder: Path, config: dict[str, Any], runtime: str, threads: int | None) -> Runner:
    if runtime == "torch":
        return TorchRunner(folder, threads)
    precision, kind, path = _ONNX[runtime]
    remedy = f"python -m leap.runtime export --model {folder} --output {folder / FOLDER}"
    if not (folder / FOLDER / path(precision)).exists():
        raise ValueError(f"{str(folder)!r} has no {FOLDER}/{path(precision)}: make it with {remedy}")
    runner = kind(folder / FOLDER, precision, threads)
    sha256 = weights_sha256(folder)
    if sha256 not in (None, runner.facts.get("leap.model_sha256")):
        raise ValueError(f"{FOLDER}/{path(precision)} was made of other weights: make it again with {remedy}")
    if str(config.get("exit_patience", 1)) != runner.facts.get("leap.exit_patience"):
        raise ValueError(
            f"{FOLDER}/{path(precision)} was made for another exit_patience: make it again with {remedy}"
        )
    return runner
