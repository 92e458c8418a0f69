"""ONNX graphs, built one node per call."""

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

MICROSOFT = "com.microsoft"  # domain of ONNX Runtime's own operators
OPSETS = {"": 18, MICROSOFT: 1}
IR_VERSION = 8  # the oldest that opset 18 goes with: read by every ONNX Runtime that has all operators used


class Graph:
    """A graph that grows by one node per call; every call returns the name of the node's output.

    Args:
        names: where names come from, shared with the graph around it: a name in the branch of an `If` may not
            be one of that graph's.
    """

    def __init__(self, names: "count[int] | None" = None) -> None:
        self.names = count() if names is None else names
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def branch(self) -> "Graph":
        """An empty graph to be nested in a node of this one."""
        return Graph(self.names)

    def name(self, stem: str) -> str:
        """A unique name."""
        return f"{stem}_{next(self.names)}"

    def constant(self, value: Any, dtype: Any = None, name: str | None = None) -> str:
        """Add an array as an initializer."""
        name = name or self.name("constant")
        array: NDArray[Any] = np.asarray(value, dtype, order="C")
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def ops(self, kind: str, *inputs: str, outputs: int, domain: str = "", **attributes: Any) -> list[str]:
        """A node of several outputs."""
        found = [self.name(kind) for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, found, domain=domain, **attributes))
        return found

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node of one output."""
        return self.ops(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def rename(self, value: str, name: str) -> None:
        """Rename the output of a node."""
        for node in self.nodes:
            for field in (node.input, node.output):
                for position, found in enumerate(field):
                    if found == value:
                        field[position] = name

    def finish(self, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> GraphProto:
        """The graph as ONNX has it."""
        return helper.make_graph(self.nodes, self.name("leap"), inputs, outputs, self.initializers)

    def model(
        self, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto], facts: dict[str, str]
    ) -> ModelProto:
        """The file, with `facts` as its metadata."""
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        model = helper.make_model(
            self.finish(inputs, outputs), opset_imports=opsets, ir_version=IR_VERSION, producer_name="leap"
        )
        helper.set_model_props(model, facts)
        return model


def value(name: str, kind: int, *shape: int | str) -> ValueInfoProto:
    """The description of an input or output."""
    return helper.make_tensor_value_info(name, kind, shape)
