"""The texts of a shard to their embeddings, in batches of texts of like length."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from leap.encode.encoder import Encoder, Encoding
from leap.encode.exits import unit_vectors
from leap.errors import UsageError
from leap.text.tokens import CHUNK, TokenRows

Item = TypeVar("Item")


@dataclass(frozen=True)
class CorpusEncoder:
    """A model and how it is called.

    A shard's batches are made from its own texts alone, so its embeddings are the same, bit for bit, in
    whichever run and process they are made; on the same kind of machine, with as many threads.

    Attributes:
        encoder: the model; `max_length` of it says where texts are cut.
        batch_size: texts a forward pass.
        normalize: make the vectors of unit length.
        call: `exit_threshold`, `min_exit_layer`, `max_layers`, as `LeapModel.forward` takes them.
        autocast: makes the context of a forward pass.
    """

    encoder: Encoder
    batch_size: int
    normalize: bool
    autocast: Callable[[], AbstractContextManager[Any]]
    call: dict[str, Any] = field(default_factory=dict)

    def tokenize(self, texts: list[str]) -> TokenRows:
        """The texts' tokens."""
        chunks = (texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK))
        return TokenRows.tokenize(chunks, self.encoder.tokenizer, self.encoder.max_length)

    def encode(self, tokens: TokenRows, seen: Callable[[int, int], None]) -> Encoding:
        """Embeddings and exit layers of N texts, in their order.

        Args:
            tokens: of the texts.
            seen: told of every batch its texts and the sum of their exit layers.

        Raises:
            UsageError: a vector is not finite.
        """
        model, device = self.encoder.model, self.encoder.model.device
        vectors = np.empty((len(tokens), model.config.hidden_size), dtype=np.float32)
        layers = np.empty(len(tokens), dtype=np.int64)
        # Longest first: a lack of memory shows at once, and the time left comes out too long, not too short.
        order = np.argsort(-tokens.lengths, kind="stable")
        multiple = 8 if device.type == "cuda" else 1  # which its matrix units like
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = tokens.batch(rows, self.encoder.tokenizer.pad_token_id, multiple)
            with torch.inference_mode(), self.autocast():
                output = model(**{name: tensor.to(device) for name, tensor in batch.items()}, **self.call)
            vectors[rows] = output.sentence_embedding.cpu().numpy()
            layers[rows] = output.exit_layer.cpu().numpy()
            seen(len(rows), int(layers[rows].sum()))
        if not np.isfinite(vectors).all():
            raise UsageError("--mixed_precision: vectors came out that are not finite: run without it")
        return Encoding(unit_vectors(vectors) if self.normalize else vectors, layers)


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The items, each made by another thread while the one before is worked on."""
    end = object()
    iterator = iter(items)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, iterator, end)
        while (item := future.result()) is not end:
            future = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]
