"""BERT in ONNX, written node by node with the fused operators of ONNX Runtime.

These are the operators that `onnxruntime.transformers.optimizer` puts in the place of what it recognises in
an exported graph: MultiHeadAttention, SkipLayerNormalization and BiasGelu, domain com.microsoft. Written at
once, nothing has to be recognised, and they stand inside the branches of an `If` too. Source: ONNX Runtime,
docs/ContribOperators.md.
"""

from collections.abc import Sequence
from itertools import count
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from leap.runtime.checkpoint import Checkpoint, FloatArray

Precision = Literal["float32", "int8"]
MICROSOFT = "com.microsoft"
OPSETS = {"": 18, MICROSOFT: 1}
BLOCK_SIZES = (128, 64, 32, 16)  # those that MatMulNBits has; of the larger ones fewer scales are read
IR_VERSION = 8  # the oldest that opset 18 goes with: read by every ONNX Runtime that has all operators used


class Graph:
    """A graph that grows by a node a call; every call gives the name of what the node computes.

    Args:
        names: where names come from, shared with the graphs around it: names in the branches of an `If` may
            not be those of the graph they are in.
    """

    def __init__(self, names: "count[int] | None" = None) -> None:
        self.names = count() if names is None else names
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def name(self, stem: str) -> str:
        """A name that nothing else has."""
        return f"{stem}_{next(self.names)}"

    def constant(self, array: NDArray[Any], name: str | None = None) -> str:
        """Put `array` into the file."""
        name = name or self.name("constant")
        self.initializers.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def ops(self, kind: str, *inputs: str, outputs: int, domain: str = "", **attributes: Any) -> list[str]:
        """A node of several outputs."""
        found = [self.name(kind) for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, found, domain=domain, **attributes))
        return found

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node of one output."""
        return self.ops(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def rename(self, value: str, name: str) -> str:
        """Give what a node of this graph computes the name that a user asks for."""
        for node in self.nodes:
            for field in (node.input, node.output):
                for position, found in enumerate(field):
                    if found == value:
                        field[position] = name
        return name

    def finish(
        self, name: str, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]
    ) -> GraphProto:
        """The graph as ONNX has it."""
        return helper.make_graph(self.nodes, name, inputs, outputs, self.initializers)


class Bert:
    """The parts of a BERT encoder, to be written into graphs. B texts of T tokens, H hidden units.

    Args:
        checkpoint: configuration and weights.
        precision: "float32", or "int8" for weights in int8 (symmetric, a scale for each output) that are
            multiplied with activations quantised to uint8 as they come (a scale and zero for each tensor).
            What follows GELU, few large numbers among many small ones, has scales of its own for each token
            and block: with one for all, that product alone makes nine tenths of the whole model's error.

    Raises:
        ValueError: a kind of BERT that is not written here.
    """

    def __init__(self, checkpoint: Checkpoint, precision: Precision) -> None:
        config = checkpoint.config
        self._need(config, "hidden_act", "gelu")
        self._need(config, "position_embedding_type", "absolute")
        self.weights = checkpoint.weights
        self.precision = precision
        self.layers: int = config["num_hidden_layers"]
        self.hidden_size: int = config["hidden_size"]
        self.heads: int = config["num_attention_heads"]
        self.epsilon: float = config.get("layer_norm_eps", 1e-12)

    @staticmethod
    def _need(config: dict[str, Any], field: str, value: str) -> None:
        found = config.get(field, value)
        if found != value:
            raise ValueError(
                f"{field} must be {value!r} to be exported, got {found!r}: run the model in torch"
            )

    def embed(self, graph: Graph, input_ids: str, token_type_ids: str | None = None) -> str:
        """(B, T, H): the embedding layer.

        Args:
            graph: where to.
            input_ids: (B, T) int64.
            token_type_ids: (B, T) int64; None: all 0, added to the positions beforehand.
        """
        words = self._rows(graph, self.weights["embeddings.word_embeddings.weight"], input_ids)
        positions = self.weights["embeddings.position_embeddings.weight"]
        types = self.weights["embeddings.token_type_embeddings.weight"]
        if token_type_ids is None:
            positions = positions + types[0]
        else:
            found = graph.op("Gather", graph.constant(types), token_type_ids)
            words = graph.op("Add", words, found)
        zero, one = graph.constant(np.array([0], np.int64)), graph.constant(np.array([1], np.int64))
        length = graph.op("Shape", input_ids, start=1, end=2)
        here = graph.op("Slice", graph.constant(positions[None]), zero, length, one)
        return self._normalise(graph, words, here, "embeddings.LayerNorm")

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
        query, key, value = graph.ops(
            "Split", self._multiply(graph, hidden, weight), outputs=3, axis=-1, num_outputs=3
        )
        context = graph.op(
            "MultiHeadAttention",
            *(query, key, value, graph.constant(bias), mask),
            domain=MICROSOFT,
            num_heads=self.heads,
        )
        hidden = self._add_dense(graph, context, hidden, f"{stem}.attention.output")
        inner = self._multiply(graph, hidden, self.weights[f"{stem}.intermediate.dense.weight"])
        bias = self.weights[f"{stem}.intermediate.dense.bias"]
        inner = graph.op("BiasGelu", inner, graph.constant(bias), domain=MICROSOFT)
        return self._add_dense(graph, inner, hidden, f"{stem}.output", by_blocks=True)

    def _add_dense(self, graph: Graph, states: str, residual: str, stem: str, by_blocks: bool = False) -> str:
        product = self._multiply(graph, states, self.weights[f"{stem}.dense.weight"], by_blocks)
        bias = self.weights[f"{stem}.dense.bias"]
        return self._normalise(graph, product, residual, f"{stem}.LayerNorm", bias)

    def _normalise(
        self, graph: Graph, states: str, residual: str, stem: str, bias: FloatArray | None = None
    ) -> str:
        terms = [self.weights[f"{stem}.weight"], self.weights[f"{stem}.bias"]]
        terms += [] if bias is None else [bias]
        return graph.op(
            "SkipLayerNormalization",
            *(states, residual, *map(graph.constant, terms)),
            domain=MICROSOFT,
            epsilon=self.epsilon,
        )

    def _multiply(self, graph: Graph, states: str, weight: FloatArray, by_blocks: bool = False) -> str:
        """`states` times the transpose of `weight` (outputs, inputs), as torch's Linear has it."""
        if self.precision == "float32":
            return graph.op("MatMul", states, graph.constant(weight.T))
        if by_blocks:
            return self._multiply_by_blocks(graph, states, weight)
        quantised, scales = _quantise_rows(weight)
        return graph.op(
            "DynamicQuantizeMatMul",
            *(states, graph.constant(quantised.T), graph.constant(scales)),
            domain=MICROSOFT,
        )

    def _multiply_by_blocks(self, graph: Graph, states: str, weight: FloatArray) -> str:
        """As `_multiply`, with scales of its own for each block of inputs, of weights and of each token."""
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

    def _rows(self, graph: Graph, table: FloatArray, indices: str) -> str:
        """The rows of `table` at `indices`."""
        if self.precision == "float32":
            return graph.op("Gather", graph.constant(table), indices)
        quantised, scales = _quantise_rows(table)
        found = graph.op("Gather", graph.constant(quantised), indices)
        found = graph.op("Cast", found, to=TensorProto.FLOAT)
        return graph.op("Mul", found, graph.op("Gather", graph.constant(scales[:, None]), indices))


def _quantise_rows(table: FloatArray) -> tuple[NDArray[np.int8], FloatArray]:
    """`table` (N, M) as int8 in [-127, 127], and the (N,) float32 scales of its rows."""
    scales = np.maximum(np.abs(table).max(axis=1), np.finfo(np.float32).tiny) / np.float32(127)
    return np.round(table / scales[:, None]).astype(np.int8), scales.astype(np.float32)


def token_weights(graph: Graph, mask: str) -> str:
    """(B, 1, T) float32 weights of the mean over tokens; they sum to 1, or to 0 where nothing is unmasked.

    Args:
        graph: where to.
        mask: (B, T), 1 for a token and 0 for padding.
    """
    weights = graph.op("Cast", mask, to=TensorProto.FLOAT)
    axis = graph.constant(np.array([1], np.int64))
    total = graph.op("ReduceSum", weights, axis)
    weights = graph.op("Div", weights, graph.op("Max", total, graph.constant(np.array(1e-9, np.float32))))
    return graph.op("Unsqueeze", weights, axis)


def pool(graph: Graph, hidden: str, weights: str) -> str:
    """(B, H): the weighted mean of `hidden` (B, T, H) over tokens; `weights` as of `token_weights`."""
    mean = graph.op("MatMul", weights, hidden)
    return graph.op("Squeeze", mean, graph.constant(np.array([1], np.int64)))


def cosine(graph: Graph, now: str, before: str) -> str:
    """(B,): the cosine of the rows of two (B, H); NaN where one is 0, which is >= no threshold."""
    axis = graph.constant(np.array([1], np.int64))
    dot = graph.op("ReduceSum", graph.op("Mul", now, before), axis, keepdims=0)
    norms = [graph.op("ReduceL2", side, axis, keepdims=0) for side in (now, before)]
    return graph.op("Div", dot, graph.op("Mul", *norms))
