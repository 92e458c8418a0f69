"""The ONNX files beside torch on real texts: exit layers, embeddings, and what int8 costs on sentence pairs.

python -m eval parity --model . --data texts.txt --pairs stsb --output results/parity.json
"""

import argparse
from typing import Any

import numpy as np

from eval.quality.oracle import TIE_BAND
from eval.report import Report
from leap.arguments import add_common_arguments, add_texts_argument, check_writable, positive
from leap.encode.encoder import encode_layers, find_model_folder, load_encoder
from leap.encode.exits import (
    FloatArray,
    at_layers,
    exit_layers,
    row_cosines,
    successive_cosines,
    unit_vectors,
)
from leap.encode.metrics import spearman
from leap.errors import UsageError
from leap.runtime import LeapEncoder
from leap.runtime.rule import resolve
from leap.text.samples import load_texts_or_pairs, texts_of
from leap.text.sets import StsData, load_sts

RUNTIMES = ("onnx", "onnx-single", "onnx-int8", "onnx-single-int8")


def compare(layers: FloatArray, encoder: LeapEncoder, texts: list[str], batch_size: int) -> dict[str, Any]:
    """Exit layers and embeddings of another runtime beside those of torch, both at the model's own rule.

    Args:
        layers: (N, L, H), the texts' embeddings after every layer, by torch.
        encoder: the same weights in another runtime.
        texts: the N texts.
        batch_size: texts a forward pass.

    Returns:
        `texts`; `ties`: texts with a cosine within 1e-4 of a threshold, which are not compared further;
        `other_layer`: of the rest, how many left at another layer; `largest_difference` of a component of
        the normalised embeddings, `lowest_cosine`: of those that left at the same one; None without any.
    """
    rule = resolve(encoder.config)
    cosines = successive_cosines(layers, rule.patience)
    found, left = encoder.encode(texts, batch_size, return_exit_layers=True)
    thetas = [rule.exits.get(number) for number in range(1, rule.layers + 1)]
    expected_left = exit_layers(cosines, thetas, rule.patience + 1)
    ties = np.zeros(len(texts), dtype=bool)
    for number, theta in rule.exits.items():
        ties |= np.abs(cosines[:, number - 1] - theta) < TIE_BAND
    expected = unit_vectors(at_layers(layers, expected_left))
    same = (left == expected_left) & ~ties
    return {
        "texts": len(texts),
        "ties": int(ties.sum()),
        "other_layer": int(((left != expected_left) & ~ties).sum()),
        "largest_difference": float(np.abs(found - expected)[same].max()) if same.any() else None,
        "lowest_cosine": float(row_cosines(found, expected)[same].min()) if same.any() else None,
    }


def score(encoder: LeapEncoder, pairs: StsData, batch_size: int) -> float:
    """Spearman's correlation of cosine with gold similarity, at the model's own rule."""
    first, second = np.split(encoder.encode(pairs.first + pairs.second, batch_size), 2)
    return float(spearman(row_cosines(first, second), pairs.scores))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this evaluation."""
    add_common_arguments(parser)
    add_texts_argument(parser)
    parser.add_argument("--limit", type=positive, default=2000, help="texts to compare (%(default)s)")
    parser.add_argument("--pairs", default="stsb", help="sentence pairs for Spearman (default: %(default)s)")


def run(args: argparse.Namespace) -> Report:
    """Run it as the command does."""
    check_writable("--output", args.output)
    folder = find_model_folder(args.model)
    data = load_texts_or_pairs(args.data, args.split, args.limit)
    texts = texts_of(data)[: args.limit]
    pairs = load_sts(args.pairs, args.split)
    torch_encoder = load_encoder(args.model, trust_remote_code=args.trust_remote_code, device=args.device)
    layers = encode_layers(torch_encoder, texts, batch_size=args.batch_size)  # once, for all that follow
    figures: dict[str, Any] = {}
    lines = [f"{len(texts)} texts of {data.name}, {len(pairs.scores)} pairs of {pairs.name}"]
    for name in ("torch", *RUNTIMES):
        try:
            encoder = LeapEncoder.from_pretrained(folder, runtime=name)
        except ValueError as error:
            raise UsageError(f"--model: {error}") from error
        row = compare(layers, encoder, texts, args.batch_size)
        row["spearman"] = score(encoder, pairs, args.batch_size)
        figures[name] = row
        lines.append(f"  {name:<18}" + ", ".join(f"{key} {value}" for key, value in row.items()))
    return Report(figures, "\n".join(lines), {"model": torch_encoder}, data)
