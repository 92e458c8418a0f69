"""`python -m eval NAME ...`: run one evaluation, print its summary and write its figures with `--output`."""

import importlib
import sys
from collections.abc import Sequence

from transformers.utils import logging as transformers_logging

from eval.frame import evaluate
from leap.errors import NothingQualifiesError, UsageError
from leap.files import write_json

COMMANDS = {
    "sts": ("quality", "sentence similarity at full depth, when all leap, and by the exit rule"),
    "retrieval": ("quality", "nDCG and recall, with exits and over the teacher's index"),
    "front": ("quality", "closeness to the teacher over cost: exits beside rivals; choose a threshold"),
    "calibrate": ("quality", "the loosest threshold with a certificate of closeness, on texts of your own"),
    "diagnose": ("quality", "would texts of your own leave early, would it pay, how far would it move them"),
    "latency": ("speed", "time of a batch with exits and without, by batch size and length"),
    "peers": ("speed", "LEAP and its teacher in the libraries in common use, side by side"),
    "throughput": ("speed", "texts a second in training, beside a plain loop"),
    "corpus_cost": ("speed", "cost of embedding a corpus, how it grows, and an estimate for 10^9 texts"),
    "fuzz": ("stress", "random calls of all kinds: the right vectors or one clear error"),
    "correctness": ("stress", "fast ways to run the model beside one text at a time, on real texts"),
    "processors": ("stress", "the ONNX files on other processors, emulated ones for example"),
    "endurance": ("stress", "an hour from several threads: memory, the same vectors, steady speed"),
    "survival": ("stress", "training and corpus encoding killed, short of disk, with damaged files"),
    "ablation": ("studies", "variants of the recipe in short runs, over one seed or several"),
    "paper_l12": ("studies", "the paper's own protocol of 12 layers, beside its published figures"),
    "card": ("card", "model_card.md and docs/evidence.md from results/: a rendering, no evaluation"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 1 if nothing qualifies, 2 for a wrong argument.

    Args:
        argv: NAME and its arguments; None: those of the process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    listing = "\n".join(f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items())
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: python -m eval NAME [arguments]   (NAME --help lists them)\n\n{listing}")
        return 0 if argv else 2
    name, *rest = argv
    if name not in COMMANDS:
        print(
            f"python -m eval: error: NAME must be one of {', '.join(COMMANDS)}, got {name!r}", file=sys.stderr
        )
        return 2

    # Here: an evaluation does not need what another one imports.
    module = importlib.import_module(f"eval.{COMMANDS[name][0]}.{name}")
    prog = f"python -m eval {name}"
    transformers_logging.disable_progress_bar()  # of loading the weights, which is over before it is read
    try:
        report, options = evaluate(name, module, rest)
    except UsageError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    except NothingQualifiesError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
    print(report.summary)
    output = getattr(options, "output", None)  # a rendering has none
    if output:
        write_json(output, report.to_json(argv))
        print(f"written to {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
