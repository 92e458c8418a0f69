"""`python -m leap.publish` refuses what disagrees or is missing, in one line."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from release_graph import save_graph
from safetensors.torch import load_file, save_file

from leap.publish.__main__ import main

NAME = "leap/LEAP-MiniLM-L6"

Damage = Callable[[Path], object]


def _replace(name: str, old: str, new: str) -> Damage:
    def damage(tree: Path) -> None:
        content = (tree / name).read_text()
        assert old in content
        (tree / name).write_text(content.replace(old, new))

    return damage


def re_sub(path: Path, pattern: str, new: str) -> None:
    path.write_text(re.sub(pattern, new, path.read_text(), count=1))


def _other_weights(tree: Path) -> None:
    weights = load_file(tree / "model.safetensors")
    weights["encoder.layer.3.output.dense.bias"][0] += 1e-3
    save_file(weights, tree / "model.safetensors", {"format": "pt"})


REFUSALS: dict[str, tuple[Damage, str]] = {
    "card without metadata": (
        lambda tree: (tree / "model_card.md").write_text("# A model\n"),
        "model_card.md does not say of which weights it is: measure again",
    ),
    "card of torn metadata": (
        lambda tree: (tree / "model_card.md").write_text("---\na: [\n---\n"),
        "model_card.md has no valid metadata",
    ),
    "card of another rule": (
        _replace("model_card.md", "exit_threshold: 0.88", "exit_threshold: 0.9"),
        "model_card.md is of exit_threshold 0.9, config.json of 0.88: measure again",
    ),
    "config of another rule": (
        _replace("config.json", '"landing_layer": 4', '"landing_layer": 3'),
        "model_card.md is of landing_layer 4, config.json of 3",
    ),
    "card of other weights": (
        lambda tree: re_sub(tree / "model_card.md", r"sha256: \w+", "sha256: abc"),
        "are not those the card was measured on (abc)",
    ),
    "page that leads out of the tree": (
        lambda tree: (tree / "docs" / "evidence.md").open("a").write("[x](../../etc)"),
        "leads out of the tree: ../etc",
    ),
    "entry of other figures": (
        _replace(".eval_results/stsbenchmark-sts.yaml", "0.79", "0.80"),
        "stsbenchmark-sts.yaml and model_card.md disagree",
    ),
    "entry of nothing": (
        lambda tree: (tree / ".eval_results" / "sts99.yaml").touch(),
        "sts99.yaml is not an evaluation entry",
    ),
    "other weights": (_other_weights, "are not those the card was measured on"),
    "torn weights": (
        lambda tree: (tree / "model.safetensors").write_bytes(b"\0" * 99),
        "--folder: cannot load ",
    ),
    "other lengths": (
        _replace("sentence_bert_config.json", "40", "39"),
        "are not those the card was measured on",
    ),
    "graph of other weights": (
        lambda tree: save_graph(tree, "more.onnx", model_sha256="0" * 64),
        "more.onnx was exported from other weights: make it again with `python -m leap.runtime export",
    ),
    "graph of another threshold": (
        lambda tree: save_graph(tree, "more.onnx", exit_threshold="0.9"),
        "more.onnx was exported with another exit rule: make it again with `python -m leap.runtime export",
    ),
    "graph of another rule": (
        lambda tree: save_graph(tree, "more.onnx", rule="another"),
        "more.onnx was exported with another exit rule: make it again with `python -m leap.runtime export",
    ),
    "no graph": (
        lambda tree: (tree / "onnx" / "model.onnx").write_text("{}"),
        "model.onnx is not an ONNX graph",
    ),
}
MISSING = {
    "onnx": "holds no .onnx file: make it with `python -m leap.runtime export --model ",
    "results": "model_card.md leads to it",
    "results/peers-cpu.png": "model_card.md leads to it",
    "docs/evidence.md": "model_card.md leads to it: make it with `python -m eval card`",
    "model_card.md": "make it with `python -m eval card`",
    **{
        name: f"{name} is missing: restore it"
        for name in (
            *("config.json", "model.safetensors", "modeling_leap.py", "configuration_leap.py", "LICENSE"),
            *("tokenizer.json", "tokenizer_config.json", "modules.json", "sentence_bert_config.json"),
            *("1_Pooling/config.json", "README.md"),
        )
    },
}


def refused(tree: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line by which the tree is refused."""
    assert main(["--repository", NAME, "--folder", str(tree), "--dry_run"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("python -m leap.publish: error: --")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("case", REFUSALS)
def test_what_disagrees_is_refused(case: str, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, complaint = REFUSALS[case]
    damage(tree)
    assert complaint in refused(tree, capsys)


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_named(name: str, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = tree / name
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    complaint = refused(tree, capsys)
    assert MISSING[name] in complaint


def test_without_graphs_where_it_is_said(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_graph(tree, model_sha256="0" * 64)
    assert main(["--repository", NAME, "--folder", str(tree), "--dry_run", "--without_onnx"]) == 0
    assert "onnx/" not in capsys.readouterr().out
