"""Broken, hostile and missing files: one clear line, nothing run, nothing fetched."""

import importlib.util
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_data import RULE, save_tiny

from eval.__main__ import main
from leap.distill.options import parse
from leap.encode.encoder import encode, load_encoder
from leap.errors import UsageError
from modeling_leap import LeapModel
from train_leap import load_models

MakeModel = Callable[..., LeapModel]
Damage = Callable[[Path], None]
WEIGHT = "encoder.layer.2.output.dense.weight"


@pytest.fixture
def folder(make_tiny_model: MakeModel, tmp_path: Path) -> Path:
    """A tiny checkpoint to damage."""
    return save_tiny(tmp_path / "tiny", make_tiny_model(**RULE))


def config(**fields: Any) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return damage


def cut(name: str, length: int) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length]) and None


def flip(name: str, position: int) -> Damage:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[position] ^= 0x40
        (folder / name).write_bytes(content)

    return damage


def text(name: str, content: str) -> Damage:
    return lambda folder: (folder / name).write_text(content) and None


def without(*patterns: str) -> Damage:
    def damage(folder: Path) -> None:
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink()

    return damage


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def unknown_word(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["beyond"] = 99
    path.write_text(json.dumps(content))


SAFETENSORS = "SafetensorError: Error while deserializing header"
THRESHOLD = r"exit_threshold must be a number in \[-1, 1\]"
SHAPES = "its weights have other shapes than its config.json says"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "weights: empty": (cut("model.safetensors", 0), SAFETENSORS),
    "weights: cut in the header": (cut("model.safetensors", 100), SAFETENSORS),
    "weights: cut in the payload": (cut("model.safetensors", -100), SAFETENSORS),
    "weights: flipped bit in the length": (flip("model.safetensors", 3), SAFETENSORS),
    "weights: flipped bit in the header": (flip("model.safetensors", 200), SAFETENSORS),
    "weights: no file": (without("model.safetensors"), "no file named model.safetensors"),
    "weights: one is missing": (weights(lambda found: found.pop(WEIGHT)), "it lacks weights"),
    "weights: of another shape": (weights(lambda found: found.update({WEIGHT: torch.ones(32, 63)})), SHAPES),
    "weights: NaN": (weights(lambda found: found[WEIGHT].fill_(float("nan"))), "weights that are not finite"),
    "layers: negative": (config(num_hidden_layers=-1), r"num_hidden_layers must be .*\[1, 1000\], got -1"),
    "layers: a billion": (config(num_hidden_layers=10**9), r"num_hidden_layers must be .*got 1000000000"),
    "layers: one more": (config(num_hidden_layers=7), "it lacks weights"),
    "layers: one less": (config(num_hidden_layers=5), "holds layers that its config.json does not count"),
    "layers: text": (config(num_hidden_layers="6"), "num_hidden_layers"),
    "threshold: text": (config(exit_threshold="0.9"), THRESHOLD),
    "threshold: NaN": (config(exit_threshold=float("nan")), THRESHOLD),
    "threshold: infinite": (config(exit_threshold=float("inf")), THRESHOLD),
    "threshold: too few": (config(exit_threshold=[0.9] * 5), THRESHOLD),
    "first layer out of range": (config(min_exit_layer=99), r"min_exit_layer must be .*\[1, 6\], got 99"),
    "patience out of range": (config(exit_patience=9), r"exit_patience must be .*\[1, 5\], got 9"),
    "width: not a multiple of the heads": (config(hidden_size=33), r"hidden size \(33\) is not a multiple"),
    "width: another": (config(hidden_size=36), SHAPES),
    "width: 0": (config(hidden_size=0), "ZeroDivisionError"),
    "width: negative": (config(hidden_size=-32), "negative dimension -32"),
    "heads: 0": (config(num_attention_heads=0), "ZeroDivisionError"),
    "vocabulary: huge": (config(vocab_size=10**12), SHAPES),
    "vocabulary: smaller": (config(vocab_size=10), "its tokenizer has ids up to 25, its model 10 of them"),
    "positions: fewer": (config(max_position_embeddings=10), SHAPES),
    "activation: unknown": (config(hidden_act="__import__('os')"), "KeyError: .*__import__"),
    "epsilon: negative": (config(layer_norm_eps=-5.0), "layer_norm_eps in its config.json must not be neg"),
    "dtype: no dtype": (config(dtype="os.system"), "os.system"),
    "attention: of a repository": (config(attn_implementation="other/kernel"), "names code elsewhere"),
    "type: another": (config(model_type="gpt2"), "is a model of type 'gpt2'"),
    "decoder": (config(is_decoder=True), "is_decoder must be False"),
    "config: cut": (cut("config.json", 50), "not a valid JSON file"),
    "config: a list": (text("config.json", "[]"), "AttributeError"),
    "config: no file": (without("config.json"), "has no config.json"),
    "tokenizer: no files": (without("tokenizer*"), "it has no tokenizer: put tokenizer.json beside"),
    "tokenizer: only its settings": (without("tokenizer.json"), "Couldn't instantiate the backend tokenizer"),
    "tokenizer: cut": (cut("tokenizer.json", 300), "Unterminated string"),
    "tokenizer: empty": (text("tokenizer.json", "{}"), "KeyError"),
    "tokenizer: a word too many": (unknown_word, "its tokenizer has ids up to 99, its model 99 of them"),
    "length: negative": (text("sentence_bert_config.json", '{"max_seq_length": -5}'), "max_seq_length in"),
    "length: text": (text("sentence_bert_config.json", '{"max_seq_length": "9"}'), "max_seq_length in"),
    "length: cut": (text("sentence_bert_config.json", "[1"), "Expecting"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_told_in_one_line(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    damage, complaint = DAMAGES[name]
    damage(folder)

    def ran(*_arguments: object, **_more: object) -> None:
        raise AssertionError("something was computed")

    monkeypatch.setattr(LeapModel, "forward", ran)
    with pytest.raises(UsageError, match=complaint) as error:
        load_encoder(str(folder), device="cpu")
    message = str(error.value)
    assert message.startswith(f"--model: {str(folder)!r} ") or message.startswith("--model: cannot load ")
    assert "\n" not in message


@pytest.mark.parametrize(
    "harmless",
    [
        config(_name_or_path="/etc/passwd"),
        config(architectures=["Another"]),
        config(unknown={"a": [1]}),
        config(return_dict=False),
        config(output_attentions=True),
        config(output_hidden_states=True),
        config(tokenizer_class="Another"),
        config(auto_map={"AutoModel": "other/repository--modeling.Model"}),  # not read without trust
    ],
)
def test_fields_that_change_nothing(folder: Path, harmless: Damage) -> None:
    expected = encode(load_encoder(str(folder), device="cpu"), ["a cat sat"])
    harmless(folder)
    found = encode(load_encoder(str(folder), device="cpu"), ["a cat sat"])
    assert (found.embeddings == expected.embeddings).all()
    assert (found.exit_layers == expected.exit_layers).all()


@pytest.mark.parametrize("name", ["other/repository--modeling.Model", "../../modeling.Model", "Model"])
def test_code_of_another_repository_is_not_run(folder: Path, name: str) -> None:
    config(auto_map={"AutoConfig": "configuration_leap.LeapConfig", "AutoModel": name})(folder)
    with pytest.raises(UsageError, match=r"auto_map in its config\.json names code elsewhere"):
        load_encoder(str(folder), device="cpu", trust_remote_code=True)


@pytest.fixture
def demo(repo_root: Path, capsys: pytest.CaptureFixture) -> Callable[[Path], str]:
    """A function of a folder: the one line by which the demo refuses it."""
    spec = importlib.util.spec_from_file_location("demo", repo_root / "examples" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)

    def refusal(folder: Path) -> str:
        capsys.readouterr()
        assert module.main(["--model", str(folder)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    return refusal


def test_commands_end_with_one_line(
    folder: Path, capsys: pytest.CaptureFixture, demo: Callable[[Path], str]
) -> None:
    whole = shutil.copytree(folder, folder.parent / "whole")
    cut("model.safetensors", -100)(folder)
    assert main(["sts", "--model", str(folder), "--data", "stsb"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert "cannot load" in demo(folder)
    save_tiny(folder, LeapModel.from_pretrained(whole, use_safetensors=True))
    without("tokenizer*")(folder)
    assert "has no tokenizer" in demo(folder)


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def pickled(content: object) -> Damage:
    def damage(folder: Path) -> None:
        if isinstance(content, dict):
            torch.save(content, folder / "pytorch_model.bin")
        else:
            (folder / "pytorch_model.bin").write_bytes(pickle.dumps(content))

    return damage


def test_pickles_are_never_loaded(
    folder: Path, make_tiny_model: MakeModel, tmp_path: Path, demo: Callable[[Path], str]
) -> None:
    trap = tmp_path / "unpickled"
    pickle.loads(pickle.dumps(Malicious(trap)))  # noqa: S301 (the trap works)
    assert trap.exists()
    trap.unlink()

    # Beside the weights it is not looked at; in their place, even one of honest tensors is refused.
    pickled(Malicious(trap))(folder)
    load_encoder(str(folder), device="cpu")
    load_encoder(str(folder), device="cpu", trust_remote_code=True)
    whole = shutil.copytree(folder, tmp_path / "whole")
    (folder / "model.safetensors").unlink()
    (tmp_path / "texts.txt").write_text("a cat\na dog\n")
    for content in (Malicious(trap), make_tiny_model(**RULE).state_dict()):
        pickled(content)(folder)
        for trust in (False, True):
            with pytest.raises(UsageError, match=r"cannot load .*no file named model\.safetensors"):
                load_encoder(str(folder), device="cpu", trust_remote_code=trust)
        for which in ("--teacher", "--student"):
            arguments = ["--data", str(tmp_path / "texts.txt"), "--output_dir", str(tmp_path / "run")]
            arguments += ["--teacher", str(whole), which, str(folder)]
            with pytest.raises(
                UsageError, match=rf"^{which}: cannot load .*no file named model\.safetensors"
            ):
                load_models(*parse("", arguments), torch.device("cpu"))
        assert demo(folder).startswith(f"demo: error: --model: cannot load {str(folder)!r}")
    assert not trap.exists()
