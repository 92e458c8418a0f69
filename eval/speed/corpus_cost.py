"""Cost of embedding a corpus with encode_corpus.py, how it grows, and what 10^9 texts would take.

python -m eval corpus_cost --model . --data texts/sentences-00.jsonl.gz --output results/corpus-cost.json

encode_corpus.py is run as its users run it, in one process, at each size; sizes beyond the data repeat it.
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leap.corpus.store import MANIFEST

from eval.report import Report
from leap.arguments import check_writable, numbers, positive
from leap.encode.encoder import load_encoder
from leap.errors import UsageError, first_line
from leap.files import checksum
from leap.text.sets import TextData
from leap.text.tokens import TextSource, iterate_texts

ROOT = Path(__file__).resolve().parents[2]
SIZES = (10_000, 100_000)
FULL = 1_000_000
BILLION = 10**9
STAGES = (
    "start",
    "wait for input",
    "encode",
    "write",
)  # one after another; reading goes on beside them


def measure_cost(
    model: str, texts: Sequence[str], sizes: Sequence[int], threads: int, arguments: Sequence[str] = ()
) -> dict[str, Any]:
    """Run encode_corpus.py at every size.

    Args:
        model: as for its --model.
        texts: the corpus; repeated where a size is beyond them.
        sizes: numbers of texts, ascending.
        threads: of the one process.
        arguments: further ones of encode_corpus.py.

    Returns:
        `runs`: for each size `texts`; `seconds` in all and by stage (`program start` is the interpreter and
        its imports; `read` and `tokenise` go on beside `encode` but for the first shard);
        `sentences_per_second` and `seconds_per_million` of the whole; `peak_memory_bytes`; `bytes`, `shards`
        and `manifest_bytes` of the folder; `mean_exit_layer`. `growth`: between successive sizes, the power
        by which each grows, 1 for twice the cost at twice the texts. `estimate`: `extrapolate` from the last.
    """
    runs = [_run(model, texts, size, threads, arguments) for size in sizes]
    growth = [
        {
            "from": a["texts"],
            "to": b["texts"],
            **{
                name: _power(a, b, a["seconds"][name], b["seconds"][name])
                for name in ("total", "encode", "tokenise", "read", "write")
            },
            "peak_memory": _power(a, b, a["peak_memory_bytes"], b["peak_memory_bytes"]),
        }
        for a, b in itertools.pairwise(runs)
    ]
    return {
        "threads": threads,
        "runs": runs,
        "growth": growth,
        "estimate": extrapolate(runs[-1], BILLION, threads),
    }


def extrapolate(run: dict[str, Any], texts: int, cores: int) -> dict[str, Any]:
    """What so many texts would take, from a run: on paper, in proportion.

    Args:
        run: of `measure_cost`.
        texts: how many.
        cores: that the run kept busy.

    Returns:
        `core_hours` of all but reading; `core_days`; `hours_to_read`: for every process, as each reads the
        whole input; `bytes` of vectors, float32 as in the run and float16; `shards`, all in one folder, and
        `rows_a_shard`; `manifest_bytes`, which do not grow with the texts; `hours_on` so many cores.
    """
    each = texts / run["texts"]
    seconds = (run["seconds"]["encode"] + run["seconds"]["write"] + run["seconds"]["tokenise"]) * each
    core_hours = seconds * cores / 3600
    vectors = run["hidden_size"] * 4 * run["texts"]
    read = run["seconds"]["read"] * each / 3600
    return {
        "texts": texts,
        "core_hours": round(core_hours, 1),
        "core_days": round(core_hours / 24, 1),
        "hours_to_read": round(read, 2),
        "hours_on": {str(n): round(core_hours / n + read, 1) for n in (64, 512, 4096)},
        "bytes": round(run["bytes"] * each),
        "bytes_float16": round((run["bytes"] - vectors / 2) * each),
        "rows_a_shard": run["shard_size"],
        "shards": -(-texts // run["shard_size"]),
        "manifest_bytes": run["manifest_bytes"],
    }


def _run(
    model: str, texts: Sequence[str], size: int, threads: int, arguments: Sequence[str]
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="leap-corpus-") as name:
        source, output = Path(name) / "texts.jsonl", Path(name) / "vectors"
        with source.open("w") as file:
            file.writelines(json.dumps({"text": texts[i % len(texts)]}) + "\n" for i in range(size))
        command = [sys.executable, "encode_corpus.py", "--model", model, "--input", str(source)]
        command += ["--output", str(output), *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        print(f"{size} texts", file=sys.stderr)
        since = time.perf_counter()
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False
        )  # its progress bar goes to the terminal
        total = time.perf_counter() - since
        if done.returncode:
            raise UsageError(f"--model: encode_corpus.py ended with status {done.returncode}, see above")
        manifest = json.loads((output / MANIFEST).read_text())
        seconds = manifest["last_run"]["seconds"]
        return {
            "texts": size,
            "seconds": {
                "total": round(total, 2),
                "program start": round(total - sum(seconds[stage] for stage in STAGES), 2),
                **seconds,
            },
            "sentences_per_second": round(size / total, 1),
            "seconds_per_million": round(total / size * 1e6, 1),
            "peak_memory_bytes": manifest["last_run"]["peak_memory_bytes"],
            "bytes": manifest["bytes"],
            "shards": manifest["shards"],
            "shard_size": manifest["made_by"]["shard_size"],
            "hidden_size": manifest["made_by"]["hidden_size"],
            "manifest_bytes": (output / MANIFEST).stat().st_size,
            "mean_exit_layer": round(manifest["mean_exit_layer"], 3),
        }


def _power(a: dict[str, Any], b: dict[str, Any], before: float | None, after: float | None) -> float | None:
    """The power of the number of texts that a cost grows with; None where it is too small to tell."""
    if not before or not after:
        return None
    return round(math.log(after / before) / math.log(b["texts"] / a["texts"]), 3)


def summary(figures: dict[str, Any]) -> str:
    """The figures for a reader."""
    lines = [f"{'texts':>9}{'seconds':>10}{'/s':>8}{'s/10^6':>9}{'start':>8}{'tokenise':>9}{'encode':>9}"]
    lines[0] += f"{'write':>7}{'MiB':>7}{'layer':>7}"
    for run in figures["runs"]:
        seconds = run["seconds"]
        lines.append(
            f"{run['texts']:>9}{seconds['total']:>10.1f}{run['sentences_per_second']:>8.0f}"
            f"{run['seconds_per_million']:>9.0f}{seconds['program start'] + seconds['start']:>8.1f}"
            f"{seconds['tokenise']:>9.1f}{seconds['encode']:>9.1f}{seconds['write']:>7.1f}"
            f"{(run['peak_memory_bytes'] or 0) / 2**20:>7.0f}{run['mean_exit_layer']:>7.2f}"
        )
    for row in figures["growth"]:
        lines.append(
            f"from {row['from']} to {row['to']} texts: total grows by the power {row['total']}, encoding "
            f"{row['encode']}, memory {row['peak_memory']}"
        )
    paper = figures["estimate"]
    lines.append(
        f"10^9 texts on paper: {paper['core_days']:.0f} core days, {paper['bytes'] / 1e12:.2f} TB in "
        f"{paper['shards']} shards ({paper['bytes_float16'] / 1e12:.2f} TB in float16)"
    )
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this evaluation."""
    add = parser.add_argument
    add("--model", default=".", help="as for encode_corpus.py (default: this folder)")
    add("--data", required=True, help="texts, as for train_leap.py")
    add("--sizes", type=numbers(int), default=list(SIZES), help="numbers of texts (default: 10000,100000)")
    add("--full", action="store_true", help="10^6 texts too")
    add("--threads", type=positive, default=os.cpu_count(), help="of the process (default: %(default)s)")
    add("--output", type=Path, help="JSON file to write; its folder is made (default: none)")


def run(args: argparse.Namespace) -> Report:
    """Run it as the command does."""
    check_writable("--output", args.output)
    sizes = sorted({*args.sizes, *([FULL] if args.full else [])})
    if sizes[0] < 1:
        raise UsageError(f"--sizes: {sizes[0]} is no number of texts: give some of at least 1")
    encoder = load_encoder(args.model, device="cpu")
    try:
        chunks = iterate_texts(TextSource(args.data, limit=sizes[-1]), streaming=True)
        texts = [text for chunk in chunks for text in chunk]
    except ValueError as error:
        raise UsageError(f"--{first_line(error)}") from error
    figures = measure_cost(args.model, texts, sizes, args.threads)
    figures["different_texts"] = len(texts)
    data = TextData(Path(args.data).name, checksum(texts))
    return Report(figures, summary(figures), {"model": encoder}, data)
