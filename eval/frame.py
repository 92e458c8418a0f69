"""What all evaluations share: command-line options, checks before the work, results on disk.

An evaluation is a module with a dataclass `Options`, made of the ones here; a function `run(options)` that
returns a `Report`; and, if its options are `Drawn`, a function `draw(figures, *paths)` that draws the figures
of that report.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from eval.report import Report
from leap.arguments import OptionsParser, check_at_least, check_plots, option
from leap.encode.encoder import Encoder, find_model, load_encoder
from leap.files import check_writable

MODEL_HELP = "folder, Hub id, or package:NAME for the folder model/ of an installed Python package"


@dataclass(kw_only=True)
class Options:
    """Options of every evaluation."""

    output: Path | None = option("JSON file to write; its folder is created", None)

    def __post_init__(self) -> None:
        """Check what can be checked before any work.

        Raises:
            UsageError: a value that cannot be.
        """
        check_writable("--output", self.output)


@dataclass(kw_only=True)
class OfModel(Options):
    """Options of an evaluation of a model in torch."""

    model: str = option(MODEL_HELP)
    device: str | None = option("torch device; none: the GPU if there is one", None)
    trust_remote_code: bool = option(
        "run the modelling code that lies beside the checkpoint, not this tree's", False
    )

    def __post_init__(self) -> None:
        """See `Options`."""
        super().__post_init__()
        find_model(self.model)

    def encoder(self) -> Encoder:
        """The model, loaded."""
        return load_encoder(self.model, trust_remote_code=self.trust_remote_code, device=self.device)


@dataclass(kw_only=True)
class BesideTeacher(OfModel):
    """Options of an evaluation that compares a model with its teacher."""

    teacher: str = option("encoder whose vectors the model has to reproduce; given like --model")

    def __post_init__(self) -> None:
        """See `Options`."""
        super().__post_init__()
        find_model(self.teacher, "--teacher")

    def teacher_encoder(self) -> Encoder:
        """The teacher, loaded."""
        return load_encoder(self.teacher, device=self.device, argument="--teacher")


@dataclass(kw_only=True)
class Batched:
    """Options of an evaluation that does not choose its batches itself; precedes the other option classes."""

    batch_size: int = option("texts per forward pass", 64)

    def __post_init__(self) -> None:
        """See `Options`."""
        super().__post_init__()
        check_at_least(self, 1, "batch_size")


@dataclass(kw_only=True)
class Drawn:
    """Options of an evaluation that draws its figures; precedes the other option classes."""

    plot: list[Path] = option("pictures to write, .png, .svg or .pdf", [])

    def __post_init__(self) -> None:
        """See `Options`."""
        super().__post_init__()
        check_plots(self.plot)


def evaluate(name: str, module: ModuleType, argv: Sequence[str]) -> tuple[Report, Any]:
    """Run an evaluation on the arguments of its command line; the report, and the options it was run with.

    Raises:
        UsageError: a wrong argument.
        NothingQualifiesError: the work was done and nothing meets the demand.
        SystemExit: with status 2, for what does not parse.
    """
    parser = OptionsParser(
        module.Options, prog=f"python -m eval {name}", description=module.__doc__.splitlines()[0]
    )
    options = parser.parse(argv)
    report = module.run(options)
    if getattr(options, "plot", None):
        module.draw(report.figures, *options.plot)
    return report, options
