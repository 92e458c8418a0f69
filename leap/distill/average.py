"""The average of two students in their weights, for one that was trained on from the other.

    python -m leap.distill.average --first runs/a/model --second runs/b/model --share 0.6 --output runs/c

A run that starts from another one's end stays in its basin: between the two, in a straight line, lie models
that keep what the first had and have most of what the second learnt. What was averaged is written beside the
weights, as average.json; with a copy in results/ the model card says it.
"""

from pathlib import Path

from leap.arguments import OneLineParser
from leap.distill.release import write_model
from leap.encode.encoder import load_encoder
from leap.errors import UsageError
from leap.files import write_json
from modeling_leap import LeapModel


def average(first: LeapModel, second: LeapModel, share: float) -> LeapModel:
    """`first`, changed in place: each weight (1 - share) of its own and share of the second model's.

    Raises:
        ValueError: the share is not in [0, 1], or the two have other weights than one another.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"--share is of the second model, in [0, 1], got {share}")
    own, other = first.state_dict(), second.state_dict()
    if {name: tensor.shape for name, tensor in own.items()} != {k: v.shape for k, v in other.items()}:
        raise ValueError("--second: its weights have other names or shapes than the first model's")
    first.load_state_dict({name: tensor.lerp(other[name], share) for name, tensor in own.items()})
    return first


def main() -> None:
    """Run the command line."""
    parser = OneLineParser(prog="python -m leap.distill.average", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--first", required=True, metavar="MODEL", help="folder or Hub id; its config is kept"
    )
    parser.add_argument("--second", required=True, metavar="MODEL", help="folder or Hub id")
    parser.add_argument("--share", type=float, default=0.5, help="of the second model (default: %(default)s)")
    parser.add_argument("--save_dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="gets the model")
    args = parser.parse_args()
    try:
        first = load_encoder(args.first, argument="--first", device="cpu")
        second = load_encoder(args.second, argument="--second", device="cpu")
        model = average(first.model, second.model, args.share)
        write_model(args.output, model, first.tokenizer, first.max_length, args.save_dtype)
        record = {"first": args.first, "second": args.second, "share": args.share}
        write_json(args.output / "average.json", record)
    except (UsageError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
