"""Embed a corpus into a folder of vectors.

python encode_corpus.py --input docs.jsonl --output vectors/
python encode_corpus.py --input 'docs/*.jsonl.gz' --text_columns title text --output vectors/ --resume
python encode_corpus.py --input s3://bucket/docs --output /shared/vectors --ray auto

One process reads, encodes and writes part after part; with --ray the same encoder runs as actors of Ray Data.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import count, islice
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from leap.arguments import OneLineParser
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
    """The command line; what a field of `TextEncoder` is called is passed on to it."""

    input: list[str] = field(
        metadata={"help": "files, folders, globs, addresses such as s3://bucket/docs, data sets on the Hub"}
    )
    output: Path = field(metadata={"help": "folder of the vectors; with --ray one that all machines see"})
    split: str = field(default="train", metadata={"help": "of a data set on the Hub; SUBSET/SPLIT"})
    text_columns: list[str] = field(
        default_factory=lambda: ["text"], metadata={"help": "columns that make up a text, joined by a blank"}
    )
    id_column: str | None = field(default=None, metadata={"help": "None: _id if any, else row numbers"})
    model: str = field(default=".", metadata={"help": "folder, Hub id, or package:NAME"})
    revision: str | None = field(default=None, metadata={"help": "of a model on the Hub; None: its newest"})
    runtime: Literal["auto", "onnx", "torch"] = field(
        default="auto",
        metadata={"help": "auto: torch on a GPU, else onnx where the model has it"},
    )
    device: str | None = field(default=None, metadata={"help": "torch's name of one; None: a GPU if any"})
    exit_threshold: str = field(default="config", metadata={"help": "theta, none for full depth, or config"})
    min_exit_layer: int | None = field(default=None, metadata={"help": "l_min; None: the model's own"})
    max_layers: int | None = field(default=None, metadata={"help": "the last layer run; None: all"})
    max_length: int | None = field(default=None, metadata={"help": "tokens of a text; None: the model's own"})
    batch_size: int = field(default=64, metadata={"help": "texts a forward pass"})
    mixed_precision: Literal["no", "bf16", "fp16"] = field(default="no", metadata={"help": "of torch"})
    dtype: Literal["float32", "float16"] = field(default="float32", metadata={"help": "of the vectors"})
    normalize: bool = field(default=False, metadata={"help": "make the vectors of unit length"})
    part_size: int = field(default=50_000, metadata={"help": "rows a file: what a kill can cost"})
    resume: bool = field(default=False, metadata={"help": "go on with the run in --output, or begin it"})
    ray: str | None = field(default=None, metadata={"help": "address of a Ray cluster, or auto, or local"})
    ray_workers: int | None = field(default=None, metadata={"help": "encoders there; None: as has room"})

    def encoder(self) -> TextEncoder:
        """The encoder asked for."""
        names = {each.name for each in fields(TextEncoder)} & {each.name for each in fields(self)}
        theta = {"config": "config", "none": None}.get(self.exit_threshold, self.exit_threshold)
        try:
            theta = float(theta) if theta not in ("config", None) else theta
        except ValueError:
            raise UsageError(f"--exit_threshold must be a number, none or config, got {theta!r}") from None
        return replace(TextEncoder(**{name: getattr(self, name) for name in names}), exit_threshold=theta)


class _Parser(HfArgumentParser):
    error = OneLineParser.error


def parse(argv: Sequence[str] | None = None) -> Options:
    """Read the command line; what is wrong ends the program with one line."""
    parser = _Parser(Options, prog="encode_corpus.py", description=__doc__.splitlines()[0])
    options, unknown = parser.parse_args_into_dataclasses(
        argv, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        parser.error(f"unknown arguments: {' '.join(unknown)}")
    for name, value in vars(options).items():
        if type(value) is int and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    return options


def encode(options: Options) -> str:
    """The recipe; what to say at the end.

    Raises:
        UsageError: model, input, arguments and output folder do not go together.
    """
    documents = Documents.find(options.input, options.split, options.text_columns, options.id_column)
    documents.refuse_output(options.output)
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
    """Read, encode and write part after part; those that are there are read past."""
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
    """Everything from the command line to the last part."""
    try:
        print(encode(parse(argv)))
    except UsageError as error:
        raise SystemExit(f"encode_corpus.py: error: {error}") from error


if __name__ == "__main__":
    main()
