"""BERT's layers in ONNX, built from ONNX Runtime's fused operators.

Written by hand, as the graph of torch's exporter took 1.02 to 1.23 times as long (torch 2.13, ONNX Runtime
1.32, one thread of an AMD EPYC, batches of 1 and 8). Written at once, nothing has to be recognised in an
exported graph, and the operators stand inside the branch of an `If` too, where
`onnxruntime.transformers.optimizer` does not look. Source: ONNX Runtime, docs/ContribOperators.md.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from leap.runtime.graph import MICROSOFT, Graph

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
Precision = Literal["float32", "int8"]
# Of weights that meet activations in uint8. Without VNNI a processor adds two products in 16 bits, where
# 2 * 255 * 64 is the most that fits: with 127, vectors are right on one machine and wrong on another.
LEVELS = 64


class Bert:
    """The parts of a BERT encoder, to be written into graphs. B texts of T tokens, H hidden units.

    Args:
        config: the content of config.json.
        weights: float32 arrays by their name in `BertModel`, such as `encoder.layer.0.output.dense.weight`.
        precision: "float32", or "int8" for weights in int8 (symmetric, a scale for each output) that are
            multiplied with activations quantised to uint8 as they come (a scale and zero for each tensor).
        wide: for int8, of each layer the inner units of its feed-forward network that stay in float32, those
            with the widest range: one of them may reach 7 times as far as all others, and quantised by one
            scale with them it makes two thirds of the whole model's error.

    Raises:
        ValueError: a kind of BERT that is not written here.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: Mapping[str, FloatArray],
        precision: Precision,
        wide: Sequence[IntArray] = (),
    ) -> None:
        for field, wanted in (("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
            found = config.get(field, wanted)
            if found != wanted:
                raise ValueError(
                    f"{field} must be {wanted!r} to be exported, got {found!r}: run the model in torch"
                )
        self.weights = weights
        self.precision = precision
        self.wide = wide
        self.layers: int = config["num_hidden_layers"]
        self.hidden_size: int = config["hidden_size"]
        self._heads: int = config["num_attention_heads"]
        self._epsilon: float = config["layer_norm_eps"]

    def embed(self, graph: Graph, input_ids: str, token_type_ids: str) -> str:
        """(B, T, H): the embedding layer.

        Args:
            graph: where to.
            input_ids: (B, T) int64.
            token_type_ids: (B, T) or (1, 1) int64.
        """
        words = self._rows(graph, self.weights["embeddings.word_embeddings.weight"], input_ids)
        positions = graph.constant(self.weights["embeddings.position_embeddings.weight"][None])
        length = graph.op("Shape", input_ids, start=1, end=2)
        zero, one = graph.constant([0], np.int64), graph.constant([1], np.int64)
        positions = graph.op("Slice", positions, zero, length, one)
        types = graph.constant(self.weights["embeddings.token_type_embeddings.weight"])
        added = graph.op("Add", positions, graph.op("Gather", types, token_type_ids))
        return self._normalise(graph, words, added, "embeddings.LayerNorm")

    def layer(self, graph: Graph, number: int, hidden: str, mask: str) -> str:
        """(B, T, H): the output of layer `number`, counted from 1, for that of the one before.

        Args:
            graph: where to.
            number: of the layer.
            hidden: (B, T, H).
            mask: (B, T) int32, 1 for a token and 0 for padding.
        """
        stem = f"encoder.layer.{number - 1}"
        attended = self._attend(graph, hidden, mask, f"{stem}.attention.self")
        weight, bias = self._linear(f"{stem}.attention.output.dense")
        added = self._dense(graph, attended, weight, bias, self.precision)
        hidden = self._normalise(graph, added, hidden, f"{stem}.attention.output.LayerNorm")
        added = self._feed_forward(graph, hidden, number)
        return self._normalise(graph, added, hidden, f"{stem}.output.LayerNorm")

    def _attend(self, graph: Graph, hidden: str, mask: str, stem: str) -> str:
        """Self-attention with its three projections."""
        parts = [self._linear(f"{stem}.{part}") for part in ("query", "key", "value")]
        weight, bias = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        how = {"domain": MICROSOFT, "num_heads": self._heads}
        if self.precision == "float32":
            weights = graph.constant(weight.T), graph.constant(bias)
            return graph.op("Attention", hidden, *weights, mask, **how)
        quantised, scales = _quantise_rows(weight, LEVELS)
        weights = graph.constant(quantised.T), graph.constant(bias)
        states, scale, zero = graph.ops("DynamicQuantizeLinear", hidden, outputs=3)
        return graph.op("QAttention", states, *weights, scale, graph.constant(scales), mask, zero, **how)

    def _feed_forward(self, graph: Graph, hidden: str, number: int) -> str:
        """The sum of what the inner units of each precision give."""
        stem = f"encoder.layer.{number - 1}"
        inner, inner_bias = self._linear(f"{stem}.intermediate.dense")
        outer, outer_bias = self._linear(f"{stem}.output.dense")
        every = np.arange(len(inner))
        units = {self.precision: every}
        if self.precision == "int8":
            wide = self.wide[number - 1]
            units = {"int8": np.setdiff1d(every, wide), "float32": wide}
        parts, bias = [], outer_bias
        for precision, some in units.items():
            states = self._dense(graph, hidden, inner[some], inner_bias[some], precision)
            states = graph.op("Gelu", states, domain=MICROSOFT)
            parts.append(self._dense(graph, states, outer[:, some], bias, precision))
            bias = None  # it is added once
        return parts[0] if len(parts) == 1 else graph.op("Add", *parts)

    def _linear(self, stem: str) -> tuple[FloatArray, FloatArray]:
        return self.weights[f"{stem}.weight"], self.weights[f"{stem}.bias"]

    def _normalise(self, graph: Graph, states: str, residual: str, stem: str) -> str:
        # SkipLayerNormalization does both at once, and takes 2 to 3 times as long (ONNX Runtime 1.32). An Add
        # in the place of the Sum would be fused into it when the file is loaded.
        added = graph.op("Sum", states, residual)
        terms = map(graph.constant, self._linear(stem))
        return graph.op("LayerNormalization", added, *terms, axis=-1, epsilon=self._epsilon)

    def _dense(
        self, graph: Graph, states: str, weight: FloatArray, bias: FloatArray | None, precision: str
    ) -> str:
        """`states` times the transpose of `weight` (outputs, inputs), plus `bias`: torch's Linear."""
        terms = [] if bias is None else [graph.constant(bias)]
        if precision == "float32":
            product = graph.op("MatMul", states, graph.constant(weight.T))
            return graph.op("Add", product, *terms) if terms else product
        quantised, scales = _quantise_rows(weight, LEVELS)
        weights = graph.constant(quantised.T), graph.constant(scales)
        return graph.op("DynamicQuantizeMatMul", states, *weights, "", *terms, domain=MICROSOFT)

    def _rows(self, graph: Graph, table: FloatArray, indices: str) -> str:
        """The rows of `table` at `indices`."""
        if self.precision == "float32":
            return graph.op("Gather", graph.constant(table), indices)
        quantised, scales = _quantise_rows(table)
        found = graph.op("Gather", graph.constant(quantised), indices)
        found = graph.op("Cast", found, to=TensorProto.FLOAT)
        return graph.op("Mul", found, graph.op("Gather", graph.constant(scales[:, None]), indices))


def _quantise_rows(table: FloatArray, levels: int = 127) -> tuple[NDArray[np.int8], FloatArray]:
    """`table` (N, M) as int8 in [-levels, levels], and the (N,) float32 scales of its rows."""
    scales = np.maximum(np.abs(table).max(axis=1), np.finfo(np.float32).tiny) / np.float32(levels)
    return np.round(table / scales[:, None]).astype(np.int8), scales.astype(np.float32)
