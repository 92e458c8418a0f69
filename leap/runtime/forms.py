"""The two forms of a graph: with the exit inside, and with a fixed path through the layers.

Both take `input_ids`, `attention_mask` (not 0: a token) and, if given, `token_type_ids`, all (B, T) int64,
and give `last_hidden_state` (B, T, H) and `sentence_embedding` (B, H), its mean over tokens, not normalised.
"""

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto

from leap.runtime.bert import Bert
from leap.runtime.graph import Graph, value


def with_exit(
    bert: Bert, test: int, patience: int, landing: int, theta: float, facts: dict[str, str]
) -> ModelProto:
    """The leap in one graph: rows that have not converged are gathered, run the middle layers, and return.

    One more input may be given: `exit_threshold`, float32 of one number or one a row, in the place of
    `theta`. Further outputs, (B,) int64: `exit_layer`, `test` or the last layer, and `layers_run`.

    All weights are where they are used, those of the middle layers inside the `If`: ONNX Runtime runs
    nothing of a branch it does not take, and packs weights for its matrix product only in their own graph.

    Args:
        bert: the network.
        test: l, the layer after which a row may leap, k at least and before `landing` - 1.
        patience: k; s = cos(p_l, p_(l-k)).
        landing: the layer that a converged row goes on with; past the last one, it leaves the network.
        theta: the default threshold; above 1 nobody leaps.
        facts: for the file's metadata.
    """
    graph = Graph()
    graph.constant([theta], np.float32, "exit_threshold")
    mask, weights = _masks(graph)
    hidden = bert.embed(graph, "input_ids", "token_type_ids")
    pooled = [_pool(graph, hidden, weights)] if test == patience else []
    for number in range(1, test + 1):
        hidden = bert.layer(graph, number, hidden, mask)
        if number in (test - patience, test):
            pooled.append(_pool(graph, hidden, weights))
    converged = graph.op("GreaterOrEqual", _cosine(graph, *pooled), "exit_threshold")
    hidden = _middle(graph, bert, range(test + 1, landing), hidden, mask, graph.op("Not", converged))
    for number in range(landing, bert.layers + 1):
        hidden = bert.layer(graph, number, hidden, mask)

    outputs = _outputs(graph, bert, hidden, weights)
    full, short = bert.layers, bert.layers - (landing - 1 - test)
    for name, leapt in (("exit_layer", test), ("layers_run", short)):
        found = graph.op("Where", converged, graph.constant(leapt, np.int64), graph.constant(full, np.int64))
        graph.rename(found, name)
        outputs.append(value(name, TensorProto.INT64, "batch"))
    inputs = [*_inputs(), value("exit_threshold", TensorProto.FLOAT, "one_or_batch")]
    return graph.model(inputs, outputs, facts)


def fixed(bert: Bert, layers: Sequence[int], facts: dict[str, str]) -> ModelProto:
    """All rows run these layers.

    Args:
        bert: the network.
        layers: their numbers, from 1, in order.
        facts: for the file's metadata.
    """
    graph = Graph()
    mask, weights = _masks(graph)
    hidden = bert.embed(graph, "input_ids", "token_type_ids")
    for number in layers:
        hidden = bert.layer(graph, number, hidden, mask)
    return graph.model(_inputs(), _outputs(graph, bert, hidden, weights), facts)


def _inputs() -> list[ValueInfoProto]:
    given = [value(name, TensorProto.INT64, "batch", "sequence") for name in ("input_ids", "attention_mask")]
    return [*given, value("token_type_ids", TensorProto.INT64, "batch_or_1", "sequence_or_1")]


def _outputs(graph: Graph, bert: Bert, hidden: str, weights: str) -> list[ValueInfoProto]:
    graph.rename(_pool(graph, hidden, weights), "sentence_embedding")
    graph.rename(hidden, "last_hidden_state")
    return [
        value("last_hidden_state", TensorProto.FLOAT, "batch", "sequence", bert.hidden_size),
        value("sentence_embedding", TensorProto.FLOAT, "batch", bert.hidden_size),
    ]


def _masks(graph: Graph) -> tuple[str, str]:
    """The mask as (B, T) int32, and (B, 1, T) float32 weights of the mean over tokens; 0 without tokens."""
    graph.constant([[0]], np.int64, "token_type_ids")  # what a caller who gives none means
    tokens = graph.op("Cast", "attention_mask", to=TensorProto.BOOL)
    weights = graph.op("Cast", tokens, to=TensorProto.FLOAT)
    axis = graph.constant([1], np.int64)
    total = graph.op("Max", graph.op("ReduceSum", weights, axis), graph.constant(1, np.float32))
    weights = graph.op("Unsqueeze", graph.op("Div", weights, total), axis)
    return graph.op("Cast", tokens, to=TensorProto.INT32), weights


def _pool(graph: Graph, hidden: str, weights: str) -> str:
    """(B, H): the weighted mean of `hidden` (B, T, H) over tokens; `weights` as of `_masks`."""
    return graph.op("Squeeze", graph.op("MatMul", weights, hidden), graph.constant([1], np.int64))


def _cosine(graph: Graph, before: str, now: str) -> str:
    """(B,): the cosine of the rows of two (B, H); NaN where one is 0, which is >= no threshold."""
    axis = graph.constant([1], np.int64)
    dot = graph.op("ReduceSum", graph.op("Mul", now, before), axis, keepdims=0)
    norms = [graph.op("ReduceL2", side, axis, keepdims=0) for side in (now, before)]
    return graph.op("Div", dot, graph.op("Mul", *norms))


def _middle(graph: Graph, bert: Bert, layers: range, hidden: str, mask: str, stay: str) -> str:
    """(B, T, H): the output of `layers` for the rows that `stay`, (B,) bool; the others as they are."""
    run, skip = graph.branch(), graph.branch()
    rows = run.op("Transpose", run.op("NonZero", stay))  # (b, 1)
    taken = run.op("Squeeze", rows, run.constant([1], np.int64))
    states, here = run.op("Gather", hidden, taken), run.op("Gather", mask, taken)
    for number in layers:
        states = bert.layer(run, number, states, here)
    shape = ("batch", "sequence", bert.hidden_size)
    results = [(run, run.op("ScatterND", hidden, rows, states)), (skip, skip.op("Identity", hidden))]
    branches = [part.finish([], [value(found, TensorProto.FLOAT, *shape)]) for part, found in results]
    count = graph.op("ReduceMax", graph.op("Cast", stay, to=TensorProto.INT32), keepdims=0)
    any_stays = graph.op("Cast", count, to=TensorProto.BOOL)
    return graph.op("If", any_stays, then_branch=branches[0], else_branch=branches[1])
