"""Embed a corpus into a folder of vectors, over any number of processes and machines.

accelerate launch encode_corpus.py --input docs.jsonl --output vectors/
accelerate launch encode_corpus.py --input 'docs/*.jsonl.gz' --text_columns title text --output vectors/
ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 encode_corpus.py --input docs.txt --output vectors/

Shard n holds the rows n * shard_size and on; process p of P makes the shards p, p + P, ... All read the whole
input, which is much faster than encoding it. With several machines the folder is one that all of them see.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

from accelerate import Accelerator, PartialState
from accelerate.utils import InitProcessGroupKwargs

from configuration_leap import check_int
from leap.corpus.arguments import parse
from leap.corpus.encoding import CorpusEncoder, one_ahead
from leap.corpus.progress import Progress
from leap.corpus.source import Corpus, Shard
from leap.corpus.store import VectorStore
from leap.encode.encoder import load_encoder
from leap.errors import UsageError
from leap.text.tokens import TokenRows

STARTED = time.perf_counter()
FORMAT = 1  # of the folder; another number where what is written for the same arguments has changed


def load_model(args: argparse.Namespace, accelerator: Accelerator) -> CorpusEncoder:
    """The model on its device, with the exit rule asked for.

    Raises:
        UsageError: it cannot be loaded, or an argument is out of its range.
    """
    encoder = load_encoder(args.model, device=str(accelerator.device), revision=args.revision)
    theta, first, _ = encoder.exit_rule(args.exit_threshold, args.min_exit_layer)
    longest = encoder.model.config.max_position_embeddings
    try:
        layers = check_int("--max_layers", args.max_layers or encoder.depth, 1, encoder.depth)
        length = check_int("--max_length", args.max_length or encoder.max_length, 3, longest)
    except ValueError as error:
        raise UsageError(str(error)) from error
    call = {"exit_threshold": theta, "min_exit_layer": first, "max_layers": layers}
    encoder = replace(encoder, max_length=length)
    return CorpusEncoder(encoder, args.batch_size, args.normalize, accelerator.autocast, call)


def run_identity(
    args: argparse.Namespace, model: CorpusEncoder, corpus: Corpus, precision: str
) -> dict[str, Any]:
    """What the vectors depend on, as JSON values.

    Without what changes them by rounding at most: batch size, device, number of processes and threads. So a
    run that ran out of memory can go on in smaller batches.
    """
    config = model.encoder.model.config
    return {
        "format": FORMAT,
        **model.call,
        "exit_patience": config.exit_patience,
        "max_length": model.encoder.max_length,
        "hidden_size": config.hidden_size,
        "model_sha256": model.encoder.fingerprint(),
        "mixed_precision": precision,
        "normalize": args.normalize,
        "dtype": args.dtype,
        "shard_size": args.shard_size,
        "input": corpus.identity(),
    }


def encode(args: argparse.Namespace) -> str:
    """The recipe; what to say at the end.

    Raises:
        UsageError: model, input, arguments and output folder do not go together.
    """
    # 1. Processes. The one wait is at the end, for whichever is slowest: no limit of minutes.
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=30))],
    )
    process, processes = accelerator.process_index, accelerator.num_processes

    # 2. Input, model, and the folder: begun by the first process, joined by the others.
    corpus = Corpus(args.input, args.text_columns, args.id_column, args.shard_size, args.split)
    corpus.sources()
    with accelerator.main_process_first():
        model = load_model(args, accelerator)
        store = VectorStore(args.output, run_identity(args, model, corpus, accelerator.mixed_precision))
        if accelerator.is_main_process:
            store.begin(args.resume)
        else:
            store.join()
    finished = store.finished()
    if finished is not None:
        return f"nothing to do: {args.output} holds all {finished['rows']} vectors"

    # 3. This process's share.
    done = store.done(lambda index: index % processes == process)

    def prepared() -> Iterator[tuple[Shard, TokenRows]]:
        for shard in corpus.shards(lambda index: index % processes == process and index not in done):
            progress.add("read", shard.seconds)
            with progress.stage("tokenise"):
                tokens = model.tokenize(shard.texts)
            yield shard, tokens

    rows = corpus.estimate_rows() if accelerator.is_main_process else None
    share = None if rows is None else rows // processes
    with Progress(share, args.shard_size * len(done), processes, accelerator.is_main_process) as progress:
        progress.add("start", time.perf_counter() - STARTED)

        # 4. The loop: while a shard is encoded, the next one is read and tokenised.
        waiting = time.perf_counter()
        for shard, tokens in one_ahead(prepared()):
            progress.add("wait for input", time.perf_counter() - waiting)
            with progress.stage("encode"):
                encoding = model.encode(tokens, progress.batch)
            with progress.stage("write"):
                store.write(shard, encoding, args.dtype)
            waiting = time.perf_counter()
        progress.add("wait for input", time.perf_counter() - waiting)
    last_run = {"processes": processes, "batch_size": args.batch_size, **progress.figures()}

    # 5. All there?
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        made = store.finish(corpus.rows, last_run)
        return f"{made['rows']} vectors in {args.output}, mean exit layer {made['mean_exit_layer']:.2f}"
    return ""


def main() -> None:
    """Everything from the command line to the last shard."""
    args = parse(__doc__.splitlines()[0])
    try:
        said = encode(args)
    except UsageError as error:
        raise SystemExit(f"encode_corpus.py: error: {error}") from error
    if said:
        print(said)
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
