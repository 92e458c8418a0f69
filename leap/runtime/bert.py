"""BERT's layers in ONNX, built from ONNX Runtime's fused operators.

Written by hand, as the graph of torch's exporter took 1.02 to 1.23 times as long (torch 2.13, ONNX Runtime
1.32, one thread of an AMD EPYC, batches of 1 and 8).

These are the operators that `onnxruntime.transformers.optimizer` puts in the place of what it recognises in
an exported graph: MultiHeadAttention, SkipLayerNormalization and BiasGelu, domain com.microsoft. Written at
once, nothing has to be recognised, and they stand inside the branch of an `If` too, where that optimizer does
not look. Source: ONNX Runtime, docs/ContribOperators.md.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from leap.runtime.graph import MICROSOFT, Graph

FloatArray = NDArray[np.float32]
Precision = Literal["float32", "int8"]
# Of weights that meet activations in uint8. Without VNNI a processor adds two products in 16 bits, where
# 2 * 255 * 64 is the most that fits: with 127, vectors are right on one machine and wrong on another.
LEVELS = 64
BLOCK_SIZES = (128, 64, 32, 16)  # those that MatMulNBits has; of the larger ones fewer scales are read


class Bert:
    """The parts of a BERT encoder, to be written into graphs. B texts of T tokens, H hidden units.

    Args:
        config: the content of config.json.
        weights: float32 arrays by their name in `BertModel`, such as `encoder.layer.0.output.dense.weight`.
        precision: "float32", or "int8" for weights in int8 (symmetric, a scale for each output) that are
            multiplied with activations quantised to uint8 as they come (a scale and zero for each tensor).
            What follows GELU, few large numbers among many small ones, has scales of its own for each token
            and block: with one for all, that product alone makes nine tenths of the whole model's error.

    Raises:
        ValueError: a kind of BERT that is not written here.
    """

    def __init__(
        self, config: Mapping[str, Any], weights: Mapping[str, FloatArray], precision: Precision
    ) -> None:
        for field, wanted in (("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
            found = config.get(field, wanted)
            if found != wanted:
                raise ValueError(
                    f"{field} must be {wanted!r} to be exported, got {found!r}: run the model in torch"
                )
        self.weights = weights
        self.precision = precision
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
        parts = [f"{stem}.attention.self.{part}" for part in ("query", "key", "value")]
        weight = np.concatenate([self.weights[f"{part}.weight"] for part in parts])
        bias = np.concatenate([self.weights[f"{part}.bias"] for part in parts])
        product = self._multiply(graph, hidden, weight)
        query, key, value = graph.ops("Split", product, outputs=3, axis=-1, num_outputs=3)
        context = graph.op(
            "MultiHeadAttention",
            *(query, key, value, graph.constant(bias), mask),
            domain=MICROSOFT,
            num_heads=self._heads,
        )
        hidden = self._add_dense(graph, context, hidden, f"{stem}.attention.output")
        inner = self._multiply(graph, hidden, self.weights[f"{stem}.intermediate.dense.weight"])
        bias = self.weights[f"{stem}.intermediate.dense.bias"]
        inner = graph.op("BiasGelu", inner, graph.constant(bias), domain=MICROSOFT)
        return self._add_dense(graph, inner, hidden, f"{stem}.output", by_blocks=True)

    def _add_dense(self, graph: Graph, states: str, residual: str, stem: str, by_blocks: bool = False) -> str:
        product = self._multiply(graph, states, self.weights[f"{stem}.dense.weight"], by_blocks)
        return self._normalise(
            graph, product, residual, f"{stem}.LayerNorm", self.weights[f"{stem}.dense.bias"]
        )

    def _normalise(
        self, graph: Graph, states: str, residual: str, stem: str, bias: FloatArray | None = None
    ) -> str:
        terms = [self.weights[f"{stem}.weight"], self.weights[f"{stem}.bias"]]
        terms += [] if bias is None else [bias]
        return graph.op(
            "SkipLayerNormalization",
            *(states, residual, *map(graph.constant, terms)),
            domain=MICROSOFT,
            epsilon=self._epsilon,
        )

    def _multiply(self, graph: Graph, states: str, weight: FloatArray, by_blocks: bool = False) -> str:
        """`states` times the transpose of `weight` (outputs, inputs), as torch's Linear has it."""
        if self.precision == "float32":
            return graph.op("MatMul", states, graph.constant(weight.T))
        if by_blocks:
            return _multiply_by_blocks(graph, states, weight)
        quantised, scales = _quantise_rows(weight, LEVELS)
        return graph.op(
            "DynamicQuantizeMatMul",
            *(states, graph.constant(quantised.T), graph.constant(scales)),
            domain=MICROSOFT,
        )

    def _rows(self, graph: Graph, table: FloatArray, indices: str) -> str:
        """The rows of `table` at `indices`."""
        if self.precision == "float32":
            return graph.op("Gather", graph.constant(table), indices)
        quantised, scales = _quantise_rows(table)
        found = graph.op("Gather", graph.constant(quantised), indices)
        found = graph.op("Cast", found, to=TensorProto.FLOAT)
        return graph.op("Mul", found, graph.op("Gather", graph.constant(scales[:, None]), indices))


def _multiply_by_blocks(graph: Graph, states: str, weight: FloatArray) -> str:
    """With separate scales for each block of inputs, for the weights and for each token."""
    outputs, inputs = weight.shape
    size = next((size for size in BLOCK_SIZES if inputs % size == 0), None)
    if size is None:
        raise ValueError(f"intermediate_size must be a multiple of {BLOCK_SIZES[-1]} for int8: {inputs}")
    quantised, scales = _quantise_rows(weight.reshape(-1, size))
    # The operator takes unsigned weights, of which it subtracts 128.
    blocks = (quantised.astype(np.int16) + 128).astype(np.uint8).reshape(outputs, -1, size)
    return graph.op(
        "MatMulNBits",
        *(states, graph.constant(blocks), graph.constant(scales.reshape(outputs, -1))),
        domain=MICROSOFT,
        K=inputs,
        N=outputs,
        bits=8,
        block_size=size,
        accuracy_level=4,  # multiply in int8
    )


def _quantise_rows(table: FloatArray, levels: int = 127) -> tuple[NDArray[np.int8], FloatArray]:
    """`table` (N, M) as int8 in [-levels, levels], and the (N,) float32 scales of its rows."""
    scales = np.maximum(np.abs(table).max(axis=1), np.finfo(np.float32).tiny) / np.float32(levels)
    return np.round(table / scales[:, None]).astype(np.int8), scales.astype(np.float32)
