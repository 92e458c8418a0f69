"""Kill training and corpus encoding at random moments, fill the disk, damage files: nothing may be lost.

python -m eval survival --kills 20 --output results/survival.json

With a tiny random model, one process and thread, float32. A run is killed with SIGKILL and resumed, again and
again; what it ends with is compared, bit for bit, with what an unbroken run does.
"""

import gzip
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.frame import Options as Common
from eval.report import Report
from eval.stress.lives import Life, small_disk, warm_up
from eval.stress.tiny_programs import Program, encoding, make_inputs, tokens_seen, training
from leap.arguments import check_at_least, option
from leap.encode.encoder import Encoder, load_encoder
from leap.files import checksum
from leap.text.sets import TextData

DAMAGES = [
    (file, damage)
    for file in ("model.safetensors", "optimizer.safetensors", "state.json")
    for damage in ("truncated", "bit flipped", "removed")
]
BROKEN = ("cut.jsonl", "cut.jsonl.gz", "bit-flipped.jsonl.gz")


def killed_and_resumed(
    program: Program, work: Path, whole: Life, digest: str, kills: int, seed: int
) -> dict[str, Any]:
    """Kill runs at random moments, every third one inside a write, `kills` times.

    Args:
        program: whose runs.
        work: folder for them.
        whole: the unbroken run.
        digest: of what that made.
        kills: SIGKILLs in all; when a run ends before, another one begins.
        seed: of the moments.

    Returns:
        Every kill, and for each run whether it ended with the same bits.
    """
    rng = np.random.default_rng(seed)
    start = whole.first_write or 0.0
    longest = start + 2 * (whole.seconds - start) / (kills + 1)
    rows: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    while True:
        folder = work / f"run-{len(runs)}"
        count = len(rows)
        while len(rows) < kills:
            life = program.live(folder, float(rng.uniform(0, longest)), while_writing=len(rows) % 3 == 2)
            if not life.killed:
                break
            rows.append(
                {
                    "run": len(runs),
                    "after_seconds": round(life.seconds, 3),
                    "resumed_from": life.began_at,
                    "reached": life.reached,
                    "inside_a_write": life.torn,
                }
            )
        program.finish(folder)
        runs.append({"kills": len(rows) - count, "same_bits": program.digest(folder) == digest})
        if len(rows) == kills:
            return {
                "kills": kills,
                "inside_a_write": sum(row["inside_a_write"] for row in rows),
                "lives": rows,
                "runs": runs,
                "all_same_bits": all(run["same_bits"] for run in runs),
            }


def damaged_checkpoints(
    program: Program, work: Path, whole: Path, digest: str, cases: Iterable[tuple[str, str]] = DAMAGES
) -> list[dict[str, Any]]:
    """Damage a file of the newest checkpoint and resume: it falls back to the one before, same bits."""
    results = []
    for name, damage in cases:
        folder = work / f"{name}-{damage.replace(' ', '-')}"
        shutil.copytree(whole / "checkpoints", folder / "checkpoints")
        before, newest = sorted((folder / "checkpoints").glob("step-*"))[-2:]
        file = newest / name
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 4
        {
            "truncated": lambda f=file, c=content: f.write_bytes(c[: len(c) // 2]),
            "bit flipped": lambda f=file, c=content: f.write_bytes(c),
            "removed": lambda f=file: f.unlink(),
        }[damage]()
        life = program.finish(folder)
        results.append(
            {
                "file": name,
                "damage": damage,
                "warned": "is broken" in life.log,
                "went_back": life.began_at == tokens_seen(before),
                "same_bits": program.digest(folder) == digest,
            }
        )
    return results


def full_disk(program: Program, work: Path, size: int, room: int, digest: str) -> dict[str, Any]:
    """Run on a disk of `size` bytes until it is full, then of `room` bytes: one error, then the same bits."""
    with small_disk(work, size) as resize:
        if resize is None:
            return {"tried": False, "why": "a file system cannot be mounted here: it takes root"}
        folder = work / "run"
        first = program.live(folder)
        resize(room)
        torn = bool(program.half_written(folder))
        kept = program.kept(folder)
        life = program.finish(folder)
        return {
            "tried": True,
            "stopped": first.exit_code == 1,
            "error": first.error.replace(str(work), "OUTPUT"),
            "one_line": "Traceback" not in first.log and "No space left" in first.error,
            "half_written_left": torn,
            "kept": kept,
            "resumed_from": life.began_at,
            "same_bits": program.digest(folder) == digest,
        }


def broken_data(work: Path, steps: int, names: Iterable[str] = BROKEN) -> list[dict[str, Any]]:
    """Train and encode on a truncated file: one line that names it, no checkpoint, no result."""
    whole = (work / "texts.jsonl").read_bytes()
    packed = gzip.compress(whole)
    flipped = bytearray(packed)
    flipped[len(flipped) // 2] ^= 4
    contents = {
        # Within a line: a file cut between two lines is valid and shorter.
        "cut.jsonl": whole[: whole.index(b"\n", len(whole) // 2) - 3],
        "cut.jsonl.gz": packed[: len(packed) // 2],
        "bit-flipped.jsonl.gz": bytes(flipped),
    }
    results = []
    for name in names:
        file = work / "broken" / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(contents[name])
        for program, argument in ((training(work, steps), "--data"), (encoding(work, 1), "--input")):
            folder = work / "broken" / f"{program.name}-{name}"
            known = program.arguments
            program.arguments = lambda out, known=known, argument=argument, file=file: [
                *known(out), argument, str(file)
            ]  # fmt: skip
            life = program.live(folder)
            made = [*folder.glob("checkpoints/step-*"), *folder.glob("model*")]
            results.append(
                {
                    "program": program.name,
                    "file": name,
                    "stopped": life.exit_code == 1,
                    "names_the_file": name in life.error,
                    "no_traceback": "Traceback" not in life.log,
                    "nothing_made": not made,
                    "error": life.error.replace(str(work), "WORK"),
                }
            )
    return results


def measure_survival(work: Path, *, kills: int, steps: int, rows: int, seed: int = 0) -> dict[str, Any]:
    """Run all checks in a temporary folder.

    Args:
        work: an empty folder.
        kills: of training, and as many of encoding.
        steps: of a training run.
        rows: of the corpus.
        seed: of the moments.

    Returns:
        `training` and `encoding`: `killed`, `full_disk`, for training `damaged_checkpoints`; `broken_data`;
        and `nothing_lost`: whether every single one was as it should be.
    """
    make_inputs(work, rows)
    warm_up()
    figures: dict[str, Any] = {"steps": steps, "rows": rows}
    for key, program in (("training", training(work, steps)), ("encoding", encoding(work, rows))):
        folder = work / key
        whole = program.finish(folder / "whole")
        digest = program.digest(folder / "whole")
        figures[key] = {
            "unbroken_sha256": digest,
            "unbroken_seconds": round(whole.seconds, 2),
            "killed": killed_and_resumed(program, folder, whole, digest, kills, seed),
        }
        size = _size(folder / "whole")
        if key == "training":
            checkpoint = _size(next((folder / "whole" / "checkpoints").glob("step-*")))
            figures[key]["damaged_checkpoints"] = damaged_checkpoints(
                program, folder, folder / "whole", digest
            )
            small = int(2.6 * checkpoint)  # two checkpoints fit, the third does not
        else:
            small = size // 2
        figures[key]["full_disk"] = full_disk(program, folder / "disk", small, 20 * size, digest)
    figures["broken_data"] = broken_data(work, steps)
    figures["nothing_lost"] = _nothing_lost(figures)
    return figures


def _nothing_lost(figures: dict[str, Any]) -> bool:
    flags = [figures[key]["killed"]["all_same_bits"] for key in ("training", "encoding")]
    for row in figures["training"]["damaged_checkpoints"]:
        flags += [row["warned"], row["went_back"], row["same_bits"]]
    for disk in (figures[key]["full_disk"] for key in ("training", "encoding")):
        if disk["tried"]:
            flags += [disk["stopped"], disk["one_line"], not disk["half_written_left"], disk["same_bits"]]
    for row in figures["broken_data"]:
        flags += [row["stopped"], row["names_the_file"], row["no_traceback"], row["nothing_made"]]
    return all(flags)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def summary(figures: dict[str, Any]) -> str:
    """The figures as text."""
    lines = []
    for key in ("training", "encoding"):
        killed, disk = figures[key]["killed"], figures[key]["full_disk"]
        lines.append(
            f"{key}: {killed['kills']} kills, {killed['inside_a_write']} of them inside a write, in "
            f"{len(killed['runs'])} runs; same bits as unbroken: {killed['all_same_bits']}"
        )
        said = disk["same_bits"] if disk["tried"] else disk["why"]
        lines.append(f"{key}: disk full, then resumed; same bits: {said}")
    damaged = figures["training"]["damaged_checkpoints"]
    good = sum(row["went_back"] and row["same_bits"] for row in damaged)
    lines.append(f"training: newest checkpoint damaged: {good} of {len(damaged)} went back and ended alike")
    named = sum(row["names_the_file"] and row["nothing_made"] for row in figures["broken_data"])
    lines.append(f"damaged data: {named} of {len(figures['broken_data'])} named before anything was made")
    return "\n".join([*lines, f"nothing lost: {figures['nothing_lost']}"])


@dataclass(kw_only=True)
class Options(Common):
    """Options of this evaluation."""

    kills: int = option("number of kills of training, and of encoding", 20)
    steps: int = option("steps of a training run", 400)
    rows: int = option("rows of the corpus", 4000)
    seed: int = option("random seed of the moments", 0)

    def __post_init__(self) -> None:
        """See `eval.frame.Options`."""
        super().__post_init__()
        check_at_least(self, 1, "kills", "steps", "rows")


def run(options: Options) -> Report:
    """Run it as the command does."""
    with tempfile.TemporaryDirectory(prefix="leap-survival-") as name:
        work = Path(name)
        figures = measure_survival(
            work, kills=options.kills, steps=options.steps, rows=options.rows, seed=options.seed
        )
        encoder: Encoder = load_encoder(str(work / "model"), device="cpu")
        data = TextData("random words", checksum((work / "texts.jsonl").read_text().splitlines()))
    encoder = Encoder("tiny random model", encoder.model, encoder.tokenizer, encoder.max_length)
    return Report(figures, summary(figures), {"model": encoder}, data, seed=options.seed)
