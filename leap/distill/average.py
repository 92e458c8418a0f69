"""Average the weights of models that started from the same ones, such as two runs and their start.

    python -m leap.distill.average --models . runs/a/model runs/b/model --shares 0.3 0.35 0.35 --output mean

The average is often closer to the teacher than any of them ("Model soups", arXiv 2203.05482), at the cost of
one.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from leap.arguments import OptionsParser, option
from leap.distill.release import write_model
from leap.encode.encoder import Encoder, load_encoder
from leap.errors import UsageError
from leap.files import write_json
from leap.folders import check_replaceable
from leap.text.tokens import tokenizer_sha256

RECORD = "average.json"


@dataclass
class AverageOptions:
    """Options of the command."""

    models: list[str] = option("two or more: folders, Hub ids, package:NAME; the first gives the exit rule")
    shares: list[float] = option("the share of each, in their order; their sum is 1")
    output: Path = option("folder of the averaged model")
    save_dtype: Literal["float32", "float16"] = option("dtype of the stored weights", "float32")

    def __post_init__(self) -> None:
        if len(self.models) < 2 or len(self.shares) != len(self.models):
            raise UsageError(
                f"--shares: {len(self.shares)} for {len(self.models)} models: give two models or more, and "
                "a share for each"
            )
        if min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise UsageError("--shares: must be above 0, and their sum 1")
        check_replaceable("--output", self.output)


def average(encoders: Sequence[Encoder], shares: Sequence[float]) -> None:
    """Give the first model the weighted mean of all models' weights.

    Args:
        encoders: in float32, of the same shape and tokenizer.
        shares: one for each; their sum is 1.

    Raises:
        UsageError: a model has another shape or tokenizer than the first.
    """
    states = [encoder.model.state_dict() for encoder in encoders]
    forms = [
        ({name: tensor.shape for name, tensor in state.items()}, tokenizer_sha256(encoder.tokenizer))
        for encoder, state in zip(encoders, states, strict=True)
    ]
    for encoder, form in zip(encoders, forms, strict=True):
        if form != forms[0]:
            raise UsageError(
                f"--models: {encoder.name!r} has not the shape and tokenizer of {encoders[0].name!r}: "
                "average models that started from the same one"
            )
    with torch.no_grad():
        for name, tensor in states[0].items():
            mean = sum(share * state[name] for share, state in zip(shares, states, strict=True))
            tensor.copy_(mean)


def write(options: AverageOptions) -> None:
    """Average and write the model, and beside it what it was made of.

    Raises:
        UsageError: a model cannot be had or does not fit the others, or the folder cannot be written.
    """
    encoders = [load_encoder(name, device="cpu", argument="--models") for name in options.models]
    parts = [
        {"name": encoder.name, "sha256": encoder.fingerprint(), "share": share}
        for encoder, share in zip(encoders, options.shares, strict=True)
    ]
    average(encoders, options.shares)
    first = encoders[0]
    write_model(options.output, first.model, first.tokenizer, first.max_length, options.save_dtype)
    made = load_encoder(str(options.output), device="cpu", argument="--output")
    shares = map(str, options.shares)
    command = ["python", "-m", "leap.distill.average", "--models", *options.models, "--shares", *shares]
    command += ["--save_dtype", options.save_dtype, "--output", str(options.output)]
    record = {
        "models": {"model": {"sha256": made.fingerprint()}},
        "average_of": parts,
        "provenance": {"command": shlex.join(command)},
    }
    write_json(options.output / RECORD, record)


def main() -> None:
    """Run from the command line."""
    name = "python -m leap.distill.average"
    try:
        write(OptionsParser(AverageOptions, prog=name, description=__doc__.splitlines()[0]).parse())
    except UsageError as error:
        raise SystemExit(f"{name}: error: {error}") from error


if __name__ == "__main__":
    main()
