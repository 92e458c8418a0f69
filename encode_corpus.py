"""Embed a corpus into a folder of vectors.

python encode_corpus.py --input docs.jsonl --output vectors/
python encode_corpus.py --input 'docs/*.jsonl.gz' --text_columns title text --output vectors/ --resume
python encode_corpus.py --input s3://bucket/docs --output /shared/vectors --ray auto

One process reads, encodes and writes part after part; with --ray the same encoder runs as actors of Ray Data.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import count, islice
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm.auto import tqdm

from leap.arguments import OptionsParser, check_at_least, option, threshold
from leap.corpus import parts
from leap.corpus.documents import Documents
from leap.corpus.encoder import Encoded, TextEncoder
from leap.encode.encoder import find_model
from leap.errors import UsageError
from leap.text.reading import Progress

BATCHES = 64  # that are sorted by length together
NOT_IN_VECTORS = ("model", "revision", "device", "batch_size", "threads")  # nor in their bits but by rounding


@dataclass
class Options:
    """The command line; fields that `TextEncoder` has too are passed on to it."""

    input: list[str] = option("files, folders, globs, URLs such as s3://bucket/docs, or Hub data sets")
    output: Path = option("folder of the vectors; with --ray, visible to all machines")
    split: str = option("split of a Hub data set, SUBSET/SPLIT if it has subsets", "train")
    text_columns: list[str] = option("columns that make up a text, joined by a space", ["text"])
    id_column: str | None = option("column of the ids; none: _id if it exists, otherwise row numbers", None)
    model: str = option("folder, Hub id, or package:NAME for model/ in a Python package", ".")
    revision: str | None = option("commit, tag or branch of a model on the Hub; none: the newest", None)
    runtime: Literal["auto", "onnx", "torch"] = option(
        "auto: torch on a GPU, otherwise onnx if the model has it", "auto"
    )
    device: str | None = option("torch device; none: the GPU if there is one", None)
    exit_threshold: str = option("theta, none for full depth, or config", "config")
    max_layers: int | None = option("the last layer run; none: all layers", None)
    max_length: int | None = option("tokens that a text is truncated to; none: the model's own limit", None)
    batch_size: int = option("most texts per forward pass; on a CPU fewer if they are long", 64)
    mixed_precision: Literal["no", "bf16", "fp16", "int8"] = option(
        "bf16, fp16: torch autocast; int8: ONNX Runtime, faster on CPUs and a little further off", "no"
    )
    dtype: Literal["float32", "float16"] = option("dtype of the vectors", "float32")
    normalize: bool = option("normalise vectors to unit length", False)
    part_size: int = option("rows per file: what is held in memory, and the most a kill can cost", 50_000)
    resume: bool = option("continue the run in --output, or start it", False)
    ray: str | None = option("address of a Ray cluster, auto, or local for this machine alone", None)
    ray_workers: int | None = option("number of encoders there; none: as many as it has room for", None)

    def __post_init__(self) -> None:
        check_at_least(self, 1, "max_layers", "max_length", "batch_size", "part_size", "ray_workers")
        self.exit_threshold = threshold(self.exit_threshold)

    def encoder(self) -> TextEncoder:
        """The encoder asked for."""
        names = {each.name for each in fields(TextEncoder)} & {each.name for each in fields(self)}
        return TextEncoder(**{name: getattr(self, name) for name in names})


def encode(options: Options) -> str:
    """Run the recipe; returns the closing message.

    Raises:
        UsageError: model, input, arguments and output folder do not go together.
    """
    documents = Documents.find(options.input, options.split, options.text_columns, options.id_column)
    for source in documents.sources:
        source.check_apart(options.output)
    asked = options.encoder()
    encoder = asked.resolved()
    # A wrong model or argument is said before any work; the GPUs of a cluster need not be here.
    replace(encoder, device="cpu" if options.ray else encoder.device)([])

    identity = {name: value for name, value in asdict(encoder).items() if name not in NOT_IN_VECTORS}
    identity |= {
        "model_sha256": encoder.model_sha256(),
        "dtype": options.dtype,
        "part_size": options.part_size,
    }
    identity |= {"ray": options.ray is not None, "input": documents.identity()}
    if parts.begin(options.output, identity, options.resume):
        return f"nothing to do: {options.output} holds all vectors"
    since = time.perf_counter()
    if options.ray:
        from leap.corpus.cluster import encode_on_ray

        if not Path(find_model(asked.model)).is_dir():
            encoder = replace(asked, runtime=encoder.runtime)  # every machine fetches it from the Hub
        encode_on_ray(documents, encoder, options)
    else:
        encode_here(documents, encoder, options)
    made = parts.finish(options.output, identity, round(time.perf_counter() - since, 1))
    return f"{made['rows']} vectors in {options.output}, {made['mean_layers_run']:.2f} layers a text"


def encode_here(documents: Documents, encoder: TextEncoder, options: Options) -> None:
    """Read, encode and write one part after another; parts already written are skipped."""
    done, progress = parts.done_parts(options.output), Progress()
    rows, step = documents.rows(progress), BATCHES * options.batch_size
    texts = layers = 0
    # Its speed is that of the whole run: the last texts may be longer or shorter than the others.
    with tqdm(initial=sum(done.values()), unit=" texts", smoothing=0) as bar:
        for number in count():
            part = list(islice(rows, options.part_size))
            if not part:
                break
            if number in done:
                continue
            encoded = []
            for start in range(0, len(part), step):
                found = encoder([text for _, text in part[start : start + step]])
                encoded.append(found)
                texts, layers = texts + len(found.layers_run), layers + int(found.layers_run.sum())
                bar.total = round(progress.rows / progress.share) if progress.share else None
                bar.set_postfix({"layers": f"{layers / texts:.2f}"}, refresh=False)
                bar.update(len(found.layers_run))
            whole = Encoded(*map(np.concatenate, zip(*encoded, strict=True)))
            table = parts.as_table([key for key, _ in part], whole, options.dtype)
            parts.write_part(options.output, number, table)


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line to the last part."""
    parser = OptionsParser(Options, prog="encode_corpus.py", description=__doc__.splitlines()[0])
    try:
        print(encode(parser.parse(argv)))
    except UsageError as error:
        raise SystemExit(f"encode_corpus.py: error: {error}") from error


if __name__ == "__main__":
    main()
