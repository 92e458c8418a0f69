"""One encoder for every engine: it can be pickled, and loads its model on the first call."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from leap.encode.encoder import encode, find_model, load_encoder
from leap.encode.exits import FloatArray, IntArray, unit_vectors
from leap.errors import UsageError


class Encoded(NamedTuple):
    """Vectors of N texts, in their order.

    Attributes:
        embeddings: (N, H) float32.
        exit_layers: (N,) int64, the layer after which each text had converged, counted from 1.
        layers_run: (N,) int64, how many layers each text ran.
    """

    embeddings: FloatArray
    exit_layers: IntArray
    layers_run: IntArray


@dataclass(frozen=True)
class TextEncoder:
    """Texts to vectors, as a function that any engine can send to its workers.

    Attributes:
        model: folder, Hub id, or package:NAME.
        revision: of a model on the Hub; None: its newest.
        runtime: "onnx" for ONNX Runtime, "torch", or "auto": torch on a GPU, else ONNX Runtime where the
            model has an onnx/ folder, else torch.
        exit_threshold: theta, None for full depth, or "config".
        max_layers: the last layer run, of torch; None: all.
        max_length: tokens a text is cut to; None: the model's own.
        batch_size: most texts a forward pass; on a CPU fewer if they are long.
        normalize: make the vectors of unit length.
        mixed_precision: "no"; of torch, "bf16" or "fp16"; of ONNX Runtime, "int8", which is faster and
            rounds a batch together, so that a vector depends a little on what it was batched with.
        device: torch's name of a device; None: the GPU where there is one.
        threads: of ONNX Runtime; None: all cores.
    """

    model: str
    revision: str | None = None
    runtime: Literal["auto", "onnx", "torch"] = "auto"
    exit_threshold: float | str | None = "config"
    max_layers: int | None = None
    max_length: int | None = None
    batch_size: int = 64
    normalize: bool = False
    mixed_precision: Literal["no", "bf16", "fp16", "int8"] = "no"
    device: str | None = None
    threads: int | None = None

    def __call__(self, texts: Sequence[str]) -> Encoded:
        """Encode texts.

        Raises:
            UsageError: the model cannot be loaded, or an argument is out of its range.
        """
        found = _load(self)(list(texts))
        if not np.isfinite(found.embeddings).all():
            raise UsageError("--mixed_precision: some vectors are not finite: run without it")
        return found._replace(embeddings=unit_vectors(found.embeddings)) if self.normalize else found

    def resolved(self) -> "TextEncoder":
        """This encoder with the model's local folder and a definite runtime."""
        folder, runtime = find_model(self.model), self.runtime
        if not Path(folder).is_dir():
            from huggingface_hub import snapshot_download  # here: a local folder needs no cache

            files = ["*.json", "*.safetensors", "onnx/*"]
            folder = snapshot_download(folder, revision=self.revision, allow_patterns=files)
        if runtime == "auto":
            onnx = (Path(folder) / "onnx").is_dir() and not self.max_layers and self.mixed_precision == "no"
            cpu = self.device == "cpu" if self.device else not torch.cuda.is_available()
            runtime = "onnx" if self.mixed_precision == "int8" or (onnx and cpu) else "torch"
        return replace(self, model=str(Path(folder).resolve()), revision=None, runtime=runtime)

    def model_sha256(self) -> str:
        """Checksum of the files that the vectors depend on; for a resolved encoder."""
        digest = hashlib.sha256()
        names = ("config.json", "tokenizer.json", "sentence_bert_config.json", "*.safetensors")
        for path in sorted(path for name in names for path in Path(self.model).glob(name)):
            digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


@lru_cache(maxsize=1)
def _load(settings: TextEncoder) -> Callable[[list[str]], Encoded]:
    settings = settings.resolved()
    try:
        return _onnx(settings) if settings.runtime == "onnx" else _torch(settings)
    except (ValueError, ImportError) as error:
        raise UsageError(str(error) if isinstance(error, UsageError) else f"--model: {error}") from error


def _onnx(settings: TextEncoder) -> Callable[[list[str]], Encoded]:
    from leap.runtime.encoder import LeapEncoder

    if settings.max_layers or settings.mixed_precision in ("bf16", "fp16"):
        raise UsageError("--max_layers, bf16 and fp16 need torch: pass --runtime torch, and no int8")
    if settings.device not in (None, "cpu"):
        raise UsageError(f"--device: ONNX Runtime encodes on the CPU, got {settings.device!r}: leave it out")
    how = {"threads": settings.threads, "max_length": settings.max_length}
    how["precision"] = "int8" if settings.mixed_precision == "int8" else "float32"
    encoder = LeapEncoder.from_pretrained(settings.model, **how)
    call = {"exit_threshold": settings.exit_threshold, "normalize_embeddings": False}

    def run(texts: list[str]) -> Encoded:
        blocks = list(encoder.encode_stream(texts, settings.batch_size, **call))
        if not blocks:
            return Encoded(np.empty((0, encoder.dimension), np.float32), *np.empty((2, 0), np.int64))
        return Encoded(*map(np.concatenate, zip(*blocks, strict=True)))

    run([])  # a threshold out of its range is said now
    return run


def _torch(settings: TextEncoder) -> Callable[[list[str]], Encoded]:
    if settings.mixed_precision == "int8":
        raise UsageError("--mixed_precision: int8 needs ONNX Runtime: leave out --runtime torch")
    encoder = load_encoder(settings.model, device=settings.device)
    longest = encoder.model.config.max_position_embeddings
    for name, low, high in (("max_layers", 1, encoder.depth), ("max_length", 3, longest)):
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:
            raise UsageError(f"--{name} must be in [{low}, {high}], got {value}")
    encoder = replace(encoder, max_length=settings.max_length or encoder.max_length)
    theta, _, _ = encoder.exit_rule(settings.exit_threshold)
    call = {"exit_threshold": theta, "max_layers": settings.max_layers, "batch_size": settings.batch_size}
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(settings.mixed_precision)

    def run(texts: list[str]) -> Encoded:
        with torch.autocast(encoder.model.device.type, dtype) if dtype else nullcontext():
            found = encode(encoder, texts, **call)
        return Encoded(found.embeddings, found.exit_layers, found.layers_run)

    return run
