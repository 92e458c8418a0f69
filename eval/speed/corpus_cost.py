"""Cost of embedding a corpus with encode_corpus.py, how it grows, and what 10^9 texts would take.

python -m eval corpus_cost --model . --data texts/sentences-00.jsonl.gz --output results/corpus-cost.json

encode_corpus.py is run as its users run it, at each size; sizes beyond the data repeat it. With --ray the
largest size is run once more on a Ray of this machine, to know what Ray itself costs.
"""

import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import eval.frame
from eval.report import Report
from leap.arguments import check_at_least, option
from leap.corpus.parts import MANIFEST
from leap.encode.encoder import load_encoder
from leap.errors import UsageError
from leap.files import checksum
from leap.text.reading import TextSource, iterate_texts
from leap.text.sets import TextData

ROOT = Path(__file__).resolve().parents[2]
BILLION = 10**9
MACHINES = (1, 8, 64)  # of as many cores as were measured
# Runs the program and says on its last line the most memory that it held, in KiB (bytes on macOS).
PROGRAM = (
    "import resource, sys, encode_corpus; encode_corpus.main(sys.argv[1:]); "
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
)


@dataclass(kw_only=True)
class Options(eval.frame.Options):
    """Options of the command."""

    model: str = option("as for encode_corpus.py", ".")
    data: str = option("texts, as for train_leap.py")
    sizes: list[int] = option("corpus sizes in texts", [10_000, 100_000, 1_000_000])
    threads: int = option("of the process", os.cpu_count() or 1)
    mixed_precision: str = option("as for encode_corpus.py", "no")
    ray: bool = option("repeat the largest size on a local Ray, one worker per thread", False)

    def __post_init__(self) -> None:
        """See `eval.frame.Options`."""
        super().__post_init__()
        check_at_least(self, 1, "threads", "sizes")


def measure_cost(
    model: Sequence[str], texts: Sequence[str], sizes: Sequence[int], threads: int, ray: bool = False
) -> dict[str, Any]:
    """Run encode_corpus.py at every size.

    Args:
        model: its arguments that say which, and in which precision.
        texts: the corpus; repeated where a size is beyond them.
        sizes: numbers of texts, ascending.
        threads: of the process.
        ray: run the largest size on Ray, too.

    Returns:
        `runs`: for each size `texts`; `seconds`, and of these `encode_seconds` without the start;
        `texts_per_second` of the latter; `peak_memory_bytes`; `bytes` of the parts; `mean_layers_run`.
        `growth`: between successive sizes the power by which time and memory grow, 1 for twice the cost at
        twice the texts. `ray`: a run as the others, of which the memory is the driver's, and `slower`, its
        `encode_seconds` over those without Ray. `estimate`: `extrapolate` from the last.
    """
    runs = [_run(model, texts, size, threads) for size in sizes]
    growth = [
        {"from": a["texts"], "to": b["texts"]}
        | {name: _power(a, b, name) for name in ("encode_seconds", "peak_memory_bytes")}
        for a, b in itertools.pairwise(runs)
    ]
    figures = {"threads": threads, "characters": sum(map(len, texts)) / len(texts), "runs": runs}
    figures |= {"growth": growth, "ray": None, "estimate": extrapolate(runs[-1])}
    if ray:
        found = _run(model, texts, sizes[-1], 1, "--ray", "local", "--ray_workers", str(threads))
        figures["ray"] = found | {"slower": round(found["encode_seconds"] / runs[-1]["encode_seconds"], 3)}
    return figures


def extrapolate(run: dict[str, Any], texts: int = BILLION) -> dict[str, Any]:
    """Extrapolate in proportion: `hours_on` so many machines, `bytes`, and bytes in float16.

    Args:
        run: of `measure_cost`; a machine is what it ran on.
        texts: how many.
    """
    each = texts / run["texts"]
    hours = run["encode_seconds"] * each / 3600
    return {
        "texts": texts,
        "hours_on": {str(machines): round(hours / machines, 1) for machines in MACHINES},
        "bytes": round(run["bytes"] * each),
        "bytes_float16": round((run["bytes"] - run["texts"] * run["hidden_size"] * 2) * each),
    }


def _run(
    model: Sequence[str], texts: Sequence[str], size: int, threads: int, *arguments: str
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="leap-corpus-") as name:
        source, output = Path(name) / "texts.jsonl", Path(name) / "vectors"
        with source.open("w") as file:
            file.writelines(json.dumps({"text": texts[i % len(texts)]}) + "\n" for i in range(size))
        command = [sys.executable, "-c", PROGRAM, *model, "--input", str(source), *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        since = time.perf_counter()
        done = subprocess.run(  # its progress bar goes to the terminal
            [*command, "--output", str(output)],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        total = time.perf_counter() - since
        if done.returncode:
            raise UsageError(f"--model: encode_corpus.py ended with status {done.returncode}, see above")
        manifest = json.loads((output / MANIFEST).read_text())
        (part, *_) = output.glob("*.parquet")
        return {
            "texts": size,
            "seconds": round(total, 2),
            "encode_seconds": manifest["seconds"],
            "texts_per_second": round(size / manifest["seconds"], 1),
            "peak_memory_bytes": int(done.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024),
            "bytes": manifest["bytes"],
            "hidden_size": _hidden_size(part),
            "runtime": manifest["made_by"]["runtime"],
            "mean_layers_run": round(manifest["mean_layers_run"], 3),
        }


def _hidden_size(part: Path) -> int:
    import pyarrow.parquet as pq

    return pq.read_schema(part).field("embedding").type.list_size


def _power(a: dict[str, Any], b: dict[str, Any], name: str) -> float:
    return round(math.log(b[name] / a[name]) / math.log(b["texts"] / a["texts"]), 3)


def summary(figures: dict[str, Any]) -> str:
    """The figures for a reader."""
    lines = [f"{'texts':>9}{'seconds':>10}{'encoding':>10}{'texts/s':>9}{'MiB':>7}{'layers':>8}"]
    for run in [*figures["runs"], *([figures["ray"]] if figures["ray"] else [])]:
        lines.append(
            f"{run['texts']:>9}{run['seconds']:>10.1f}{run['encode_seconds']:>10.1f}"
            f"{run['texts_per_second']:>9.0f}{run['peak_memory_bytes'] / 2**20:>7.0f}"
            f"{run['mean_layers_run']:>8.2f}{'  Ray' if 'slower' in run else ''}"
        )
    for row in figures["growth"]:
        lines.append(
            f"from {row['from']} to {row['to']} texts time grows by the power {row['encode_seconds']}, "
            f"memory by {row['peak_memory_bytes']}"
        )
    paper = figures["estimate"]
    hours = ", ".join(f"{hours:.0f} h on {machines}" for machines, hours in paper["hours_on"].items())
    terabytes = f"{paper['bytes'] / 1e12:.2f} TB, {paper['bytes_float16'] / 1e12:.2f} TB in float16"
    return "\n".join([*lines, f"10^9 texts on paper: {hours} such machines; {terabytes}"])


def run(options: Options) -> Report:
    """Run it as the command does."""
    sizes = sorted(set(options.sizes))
    encoder = load_encoder(options.model, device="cpu")
    texts = [text for some in iterate_texts(TextSource(options.data, limit=sizes[-1])) for text in some]
    if not texts:
        raise UsageError(f"--data: no text in {options.data!r}")
    model = ["--model", options.model, "--mixed_precision", options.mixed_precision]
    figures = measure_cost(model, texts, sizes, options.threads, options.ray)
    figures["different_texts"] = len(texts)
    data = TextData(Path(options.data).name, checksum(texts))
    return Report(figures, summary(figures), {"model": encoder}, data)
