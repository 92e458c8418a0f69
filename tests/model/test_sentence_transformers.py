"""The model under sentence-transformers: its exits through `encode`, and training on top with its losses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_data
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import normalize

from configuration_leap import ExitThreshold
from leap.distill.release import write_model
from leap.errors import UsageError
from leap.text.sets import load_sts
from modeling_leap import LeapModel

sentence_transformers = pytest.importorskip("sentence_transformers")
losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")

TEXTS = [text for pair in tiny_data.PAIRS for text in pair[:2]]
REAL_TEXTS = [
    "Hello!",
    "A man is playing a guitar.",
    "The rain, which had begun at noon, went on into the night.",
]
LOSSES = ("MultipleNegativesRankingLoss", "CosineSimilarityLoss")


@pytest.fixture
def tiny(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> Path:
    """A tiny model in the layout that train_leap.py writes, whose texts leave at several layers."""
    folder = tmp_path / "tiny"
    write_model(folder, make_tiny_model(**tiny_data.RULE), tiny_data.tiny_tokenizer(), max_length=32)
    return folder


def load(folder: Path | str) -> Any:
    return sentence_transformers.SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")


def by_the_model(encoder: Any, texts: list[str], **rule: Any) -> tuple[Tensor, Tensor]:
    """Unit vectors and exit layers that LeapModel itself gives."""
    tokens = encoder.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        output = encoder[0].auto_model(**tokens, **rule)
    return normalize(output.sentence_embedding), output.exit_layer


def by_layer(theta: float) -> list[float | None]:
    """A threshold a layer of six, with one that lets nothing leave."""
    return [None, None, None, theta, theta, None]


@pytest.mark.parametrize("theta", ["config", 0.55, None, by_layer(0.4)], ids=str)
def test_encode_gives_the_models_own_vectors(tiny: Path, theta: ExitThreshold | str) -> None:
    encoder = load(tiny)
    rule = {} if theta == "config" else {"exit_threshold": theta}
    expected, layers = by_the_model(encoder, TEXTS, **rule)
    if theta is None:
        assert set(layers.tolist()) == {6}
    elif isinstance(theta, list):
        assert layers.min() == 4
    else:
        assert len(layers.unique()) >= 2  # else the rule was not put to the test
    for batch_size in (1, 5, 32):
        given = encoder.encode(TEXTS, convert_to_tensor=True, batch_size=batch_size, **rule)
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "rule",
    [
        {"max_layers": 3},
        {"exit_threshold": None, "max_layers": 3},
        {"min_exit_layer": 4},
        {"exit_threshold": -1, "min_exit_layer": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("landing", [None, 6])
def test_encode_takes_the_whole_rule(
    tmp_path: Path, make_tiny_model: Callable[..., LeapModel], rule: dict[str, Any], landing: int | None
) -> None:
    if landing and rule.get("min_exit_layer", 0) > landing - 2:
        rule = rule | {"min_exit_layer": 4}
    model = make_tiny_model(landing_layer=landing, exit_threshold=0.5, min_exit_layer=1)
    write_model(tmp_path / "tiny", model, tiny_data.tiny_tokenizer(), max_length=32)
    encoder = load(tmp_path / "tiny")
    expected, layers = by_the_model(encoder, TEXTS, **rule)
    assert layers.max() == rule.get("max_layers", 6) or rule.get("exit_threshold") == -1
    given = encoder.encode(TEXTS, convert_to_tensor=True, **rule)
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"max_layers must be an integer in \[1, 6\], got 7"):
        encoder.encode(TEXTS, max_layers=7)


def test_a_wrong_threshold_is_named(tiny: Path) -> None:
    with pytest.raises(ValueError, match=r"exit_threshold must be a number in \[-1, 1\]"):
        load(tiny).encode(TEXTS, exit_threshold=1.5)


def train(
    encoder: Any, rows: dict[str, list[Any]], loss: str, out: Path, steps: int, batch_size: int
) -> None:
    """Train with the library's own trainer, as its users do."""
    trainer = sentence_transformers.SentenceTransformerTrainer(
        model=encoder,
        args=sentence_transformers.SentenceTransformerTrainingArguments(
            output_dir=str(out),
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            learning_rate=1e-3 if batch_size < 16 else 2e-5,
            warmup_steps=0,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            seed=0,
        ),
        train_dataset=Dataset.from_dict(rows),
        loss=getattr(losses, loss)(encoder),
    )
    trainer.train()


def pair_rows(first: list[str], second: list[str], scores: list[float] | None) -> dict[str, list[Any]]:
    """Pairs as the losses take them: with scores from 0 to 1, or without any."""
    rows: dict[str, list[Any]] = {"sentence1": first, "sentence2": second}
    return rows if scores is None else rows | {"score": [score / 5 for score in scores]}


@pytest.mark.parametrize("loss", LOSSES)
def test_training_on_top_saves_and_loads_with_exits(tiny: Path, tmp_path: Path, loss: str) -> None:
    encoder = load(tiny)
    before = {name: value.clone() for name, value in encoder[0].auto_model.state_dict().items()}
    first, second, scores = map(list, zip(*tiny_data.PAIRS, strict=True))
    rows = pair_rows(first, second, scores if loss == "CosineSimilarityLoss" else None)
    train(encoder, rows, loss, tmp_path / "run", steps=3, batch_size=6)

    # Training runs at full depth: the last layer learns, whatever the exit rule says.
    after = encoder[0].auto_model.state_dict()
    assert [name for name in before if torch.equal(before[name], after[name]) and "weight" in name] == []

    encoder.save_pretrained(str(tmp_path / "saved"))
    modules = json.loads((tmp_path / "saved" / "modules.json").read_text())
    assert modules[0]["kwargs"] == ["exit_threshold", "min_exit_layer", "max_layers"]
    again = load(tmp_path / "saved")
    assert type(again[0].auto_model).__name__ == "LeapModel"
    for rule in ({}, {"exit_threshold": None}, {"exit_threshold": by_layer(0.4)}):
        expected, _ = by_the_model(encoder.eval(), TEXTS, **rule)
        given = again.encode(TEXTS, convert_to_tensor=True, **rule)
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)
    _, layers = by_the_model(again, TEXTS)
    assert again[0].auto_model.config.exit_threshold == tiny_data.RULE["exit_threshold"]
    assert layers.min() < 6


@pytest.fixture
def real_root(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The repository's own checkpoint, by the name that the README uses."""
    if not (repo_root / "model.safetensors").is_file():
        pytest.skip("no checkpoint at the root yet")
    monkeypatch.chdir(repo_root)
    return "."


@pytest.mark.real_weights
@pytest.mark.parametrize("theta", ["config", -0.5, None, "by layer"], ids=str)
def test_the_repository_itself(real_root: str, theta: ExitThreshold | str) -> None:
    encoder = load(real_root)
    config = encoder[0].auto_model.config
    if theta == "by layer":
        tested = config.exit_thresholds(-1.0)
        theta = [-1.0 if n in tested else None for n in range(1, config.num_hidden_layers + 1)]
    rule = {} if theta == "config" else {"exit_threshold": theta}
    expected, layers = by_the_model(encoder, REAL_TEXTS, **rule)
    assert (layers == 6).all() if theta is None else (layers < 6).any()
    given = encoder.encode(REAL_TEXTS, convert_to_tensor=True, **rule)
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)
    assert given.shape == (3, 384)


@pytest.mark.real_weights
@pytest.mark.parametrize("loss", LOSSES)
def test_training_the_repository_on_stsb(real_root: str, tmp_path: Path, loss: str) -> None:
    try:
        pairs = load_sts("stsb", "train")
    except UsageError as error:
        pytest.skip(f"no STS-B: {error}")
    encoder = load(real_root)
    rows = pair_rows(pairs.first[:64], pairs.second[:64], None)
    if loss == "CosineSimilarityLoss":
        rows = pair_rows(pairs.first[:64], pairs.second[:64], pairs.scores[:64].tolist())
    untrained = encoder.encode(REAL_TEXTS, convert_to_tensor=True, exit_threshold=None)
    train(encoder, rows, loss, tmp_path / "run", steps=4, batch_size=16)
    encoder.save_pretrained(str(tmp_path / "saved"))
    again = load(tmp_path / "saved")
    trained = again.encode(REAL_TEXTS, convert_to_tensor=True, exit_threshold=None)
    assert 1e-4 < (trained - untrained).abs().max() < 0.1
    expected, layers = by_the_model(again, pairs.first[:64])
    assert layers.float().mean() < 6
    given = again.encode(pairs.first[:64], convert_to_tensor=True)
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)
