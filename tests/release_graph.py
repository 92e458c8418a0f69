"""An ONNX file that says of which model it is, as an export does, and computes nothing."""

import hashlib
import json
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from leap.runtime.session import rule_of


def save_graph(tree: Path, name: str = "model.onnx", **other_facts: str) -> None:
    """Write a graph that says it is of the tree's weights and rule, as an export does."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", tensors[:1], tensors[1:])
    model = helper.make_model(graph)
    facts = {"model_sha256": hashlib.sha256((tree / "model.safetensors").read_bytes()).hexdigest()}
    config = json.loads((tree / "config.json").read_text())
    facts |= {"exit_threshold": json.dumps(config["exit_threshold"]), "rule": rule_of(config)} | other_facts
    helper.set_model_props(model, {f"leap.{key}": value for key, value in facts.items()})
    (tree / "onnx").mkdir(exist_ok=True)
    onnx.save(model, tree / "onnx" / name)
