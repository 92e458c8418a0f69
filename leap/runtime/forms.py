"""The three forms a model is exported in: a flat model, one model with the exits inside, and segments."""

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

from leap.runtime import graph as parts
from leap.runtime.graph import IR_VERSION, OPSETS, Bert, Graph

NEVER = 2.0  # a threshold that no cosine reaches


def value(name: str, kind: int, *shape: int | str) -> ValueInfoProto:
    """The description of an input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def _model(graph: GraphProto, facts: dict[str, str]) -> ModelProto:
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="leap")
    helper.set_model_props(model, facts)
    return model


def _ids(*names: str) -> list[ValueInfoProto]:
    return [value(name, TensorProto.INT64, "batch", "sequence") for name in names]


def flat(bert: Bert, facts: dict[str, str]) -> ModelProto:
    """Full depth, as sentence-transformers, fastembed and transformers.js load it.

    Inputs `input_ids`, `attention_mask`, `token_type_ids`, (B, T) int64; output `last_hidden_state`
    (B, T, H), which their mean pooling turns into the embedding.
    """
    graph = Graph()
    mask = graph.op("Cast", "attention_mask", to=TensorProto.INT32)
    hidden = bert.embed(graph, "input_ids", "token_type_ids")
    for number in range(1, bert.layers + 1):
        hidden = bert.layer(graph, number, hidden, mask)
    output = value(
        graph.rename(hidden, "last_hidden_state"), TensorProto.FLOAT, "batch", "sequence", bert.hidden_size
    )
    inputs = _ids("input_ids", "attention_mask", "token_type_ids")
    return _model(graph.finish("leap_flat", inputs, [output]), facts)


def with_exits(
    bert: Bert, thetas: list[float], min_exit_layer: int, patience: int, facts: dict[str, str]
) -> ModelProto:
    """One model with the exits inside, an `If` within the other; only the layers that are needed run.

    Inputs `input_ids`, `attention_mask`, `token_type_ids`, (B, T) int64, and two that may be left out:
    `exit_threshold`, float32 of one number or one a layer (above 1: nothing leaves there), and
    `min_exit_layer`, an int64 number. Outputs `sentence_embedding` (B, H) and `exit_layer` (B,) int64.

    Meant for batch 1. The rows of a larger batch leave together, at the first layer where all have converged,
    as in the paper: a row may then run deeper than it would alone, never less deep.

    Args:
        bert: the network.
        thetas: the threshold of each layer where the caller gives none.
        min_exit_layer: l_min where the caller gives none.
        patience: k.
        facts: for the file's metadata.
    """
    graph = Graph()
    defaults = np.array(thetas, np.float32)
    if (defaults == defaults[0]).all():
        defaults = defaults[:1]
    graph.constant(defaults, "exit_threshold")
    graph.constant(np.array(min_exit_layer, np.int64), "min_exit_layer")
    numbers = graph.constant(np.arange(1, bert.layers + 1))
    may = graph.op("GreaterOrEqual", numbers, "min_exit_layer")
    limits = graph.op("Where", may, "exit_threshold", graph.constant(np.array(NEVER, np.float32)))
    mask = graph.op("Cast", "attention_mask", to=TensorProto.INT32)
    weights = parts.token_weights(graph, "attention_mask")
    hidden = bert.embed(graph, "input_ids", "token_type_ids")

    def finish(graph: Graph, pooled: str, number: int) -> tuple[str, str]:
        layer = graph.op("Constant", value=helper.make_tensor("", TensorProto.INT64, [1], [number]))
        return graph.op("Identity", pooled), layer

    def go_on(graph: Graph, number: int, hidden: str, means: list[str]) -> tuple[str, str]:
        """Layers from `number` on, and what they leave the graph with: embedding (B, H), layer (1,)."""
        while True:
            hidden = bert.layer(graph, number, hidden, mask)
            if number == bert.layers:
                return finish(graph, parts.pool(graph, hidden, weights), number)
            means = [*means[-patience:], parts.pool(graph, hidden, weights)]
            if number > patience:
                break
            number += 1
        cosine = parts.cosine(graph, means[-1], means[0])
        limit = graph.op("Gather", limits, graph.constant(np.array(number - 1)), axis=0)
        reached = graph.op("Cast", graph.op("GreaterOrEqual", cosine, limit), to=TensorProto.INT32)
        all_reached = graph.op("Cast", graph.op("ReduceMin", reached, keepdims=0), to=TensorProto.BOOL)
        then = _branch(graph, lambda inner: finish(inner, means[-1], number), bert.hidden_size)
        more = _branch(graph, lambda inner: go_on(inner, number + 1, hidden, means), bert.hidden_size)
        embedding, layer = graph.ops("If", all_reached, outputs=2, then_branch=then, else_branch=more)
        return embedding, layer

    embedding, layer = go_on(graph, 1, hidden, [])
    rows = graph.op("Shape", "input_ids", start=0, end=1)
    graph.rename(embedding, "sentence_embedding")
    layer = graph.rename(graph.op("Expand", layer, rows), "exit_layer")
    inputs = [
        *_ids("input_ids", "attention_mask", "token_type_ids"),
        value("exit_threshold", TensorProto.FLOAT, "one_or_layers"),
        value("min_exit_layer", TensorProto.INT64),
    ]
    outputs = [
        value("sentence_embedding", TensorProto.FLOAT, "batch", bert.hidden_size),
        value("exit_layer", TensorProto.INT64, "batch"),
    ]
    return _model(graph.finish("leap_exits", inputs, outputs), facts)


def _branch(around: Graph, write: Callable[[Graph], tuple[str, str]], hidden_size: int) -> GraphProto:
    graph = Graph(around.names)
    embedding, layer = write(graph)
    outputs = [
        value(embedding, TensorProto.FLOAT, "batch", hidden_size),
        value(layer, TensorProto.INT64, 1),
    ]
    return graph.finish(around.name("branch"), [], outputs)


def segments(bert: Bert, start: int, patience: int, facts: dict[str, str]) -> dict[str, ModelProto]:
    """The network cut after layer `start` and after every later one, for a loop that drops rows in between.

    `start`: inputs `input_ids` (B, T) int64 and `attention_mask` (B, T) int32; outputs `hidden` (B, T, H),
    `weights` (B, 1, T), `pooled_L` (B, H) of each of its layers L and `similarity_L` (B,), the cosine of
    `pooled_L` and `pooled_(L - k)`, of those above k. `layer_L`: inputs `hidden`, `attention_mask`, `weights`
    and `before` = p_(L - k); outputs `hidden_out`, `pooled` and `similarity`. The last layer has `hidden`,
    `attention_mask` and `weights`, and gives `pooled` alone.

    Args:
        bert: the network.
        start: the layer of the first cut, below the last.
        patience: k.
        facts: for the files' metadata.

    Returns:
        The models by name, in the order they run in.
    """
    float32, size = TensorProto.FLOAT, bert.hidden_size
    mask = value("attention_mask", TensorProto.INT32, "batch", "sequence")
    weights = value("weights", float32, "batch", 1, "sequence")

    graph = Graph()
    hidden = bert.embed(graph, "input_ids")
    means = graph.rename(parts.token_weights(graph, "attention_mask"), "weights")
    outputs: list[Any] = [weights]
    pooled: dict[int, str] = {}
    for number in range(1, start + 1):
        hidden = bert.layer(graph, number, hidden, "attention_mask")
        pooled[number] = graph.rename(parts.pool(graph, hidden, means), f"pooled_{number}")
        outputs.append(value(pooled[number], float32, "batch", size))
        if number > patience:
            similarity = parts.cosine(graph, pooled[number], pooled[number - patience])
            outputs.append(value(graph.rename(similarity, f"similarity_{number}"), float32, "batch"))
    outputs.append(value(graph.rename(hidden, "hidden"), float32, "batch", "sequence", size))
    found = {"start": _model(graph.finish("leap_start", [*_ids("input_ids"), mask], outputs), facts)}

    for number in range(start + 1, bert.layers + 1):
        graph = Graph()
        inputs = [value("hidden", float32, "batch", "sequence", size), mask, weights]
        hidden = bert.layer(graph, number, "hidden", "attention_mask")
        now = graph.rename(parts.pool(graph, hidden, "weights"), "pooled")
        outputs = [value(now, float32, "batch", size)]
        if number < bert.layers:
            inputs.append(value("before", float32, "batch", size))
            similarity = parts.cosine(graph, now, "before")
            outputs.append(value(graph.rename(similarity, "similarity"), float32, "batch"))
            hidden = graph.rename(hidden, "hidden_out")
            outputs.append(value(hidden, float32, "batch", "sequence", size))
        name = f"layer_{number:02d}"
        found[name] = _model(graph.finish(f"leap_{name}", inputs, outputs), facts)
    return found
