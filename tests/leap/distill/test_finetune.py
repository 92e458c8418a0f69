"""Fine-tuning: what is read, what the loss is, and that the exits stay open; run as its user runs it."""

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tiny_data
import torch

from leap.distill.release import write_model
from leap.text.pairs import load_pairs
from modeling_leap import LeapModel

sentence_transformers = pytest.importorskip("sentence_transformers")
from leap.distill.finetuning import ExitAwareLoss  # noqa: E402

SCORED = [f"{a},{b},{score}" for a, b, score in tiny_data.PAIRS]
TOGETHER = [{"anchor": a, "positive": b} for a, b, _ in tiny_data.PAIRS]


LANDS = {"exit_threshold": 0.5, "landing_layer": 5, "min_exit_layer": 1, "max_exit_layer": 2}


@pytest.fixture(params=[LANDS, tiny_data.RULE], ids=["lands", "leaves"])
def model(tmp_path: Path, make_tiny_model: Callable[..., LeapModel], request: pytest.FixtureRequest) -> Path:
    """A tiny as it is released, of either form; like the model, without dropout."""
    tiny = make_tiny_model(**request.param, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    write_model(tmp_path / "tiny", tiny, tiny_data.tiny_tokenizer(), 32)
    return tmp_path / "tiny"


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    path = tmp_path / "scored.csv"
    path.write_text("\n".join(["sentence1,sentence2,score", *SCORED * 4]) + "\n")
    return path


@pytest.fixture
def together(tmp_path: Path) -> Path:
    path = tmp_path / "together.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in TOGETHER * 4))
    return path


@pytest.fixture
def program(repo_root: Path) -> Iterator[ModuleType]:
    """examples/finetune.py as a module."""
    spec = importlib.util.spec_from_file_location("finetune_example", repo_root / "examples" / "finetune.py")
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path


def test_the_loss_is_the_tasks_plus_the_exit_term(model: Path) -> None:
    st_model = sentence_transformers.SentenceTransformer(str(model), trust_remote_code=True, device="cpu")
    task = sentence_transformers.sentence_transformer.losses.CoSENTLoss(st_model)
    texts = [[pair[side] for pair in tiny_data.PAIRS] for side in (0, 1)]
    features, scores = (
        [st_model.preprocess(side) for side in texts],
        torch.tensor([p[2] for p in tiny_data.PAIRS]),
    )
    leap = st_model[0].auto_model
    places = list(leap.config.exit_thresholds(-1))
    with torch.no_grad():
        terms = []
        for f in features:
            tokens = {"input_ids": f["input_ids"], "attention_mask": f["attention_mask"]}
            full = leap(**tokens, exit_threshold=None).sentence_embedding
            for place in places:
                output = leap(**tokens, exit_threshold=-1, min_exit_layer=place)
                assert output.exit_layer.tolist() == [place] * 6
                terms.append(1 - torch.cosine_similarity(output.sentence_embedding, full))
        st_model.train()
        alone = task([dict(f) for f in features], scores)
        found = ExitAwareLoss(st_model, task, 3.0)([dict(f) for f in features], scores)
    term = torch.stack(terms).mean()
    assert term > 0.1
    torch.testing.assert_close(found, alone + 3 * term, atol=1e-5, rtol=1e-5)
    assert st_model[0].auto_model.training


def test_the_term_moves_the_exits_and_not_full_depth(model: Path) -> None:
    """Its gradient comes from what the exits give alone: layers that only full depth runs have none of it."""
    st_model = sentence_transformers.SentenceTransformer(str(model), trust_remote_code=True, device="cpu")
    task = sentence_transformers.sentence_transformer.losses.CoSENTLoss(st_model)
    features = [st_model.preprocess([pair[side] for pair in tiny_data.PAIRS]) for side in (0, 1)]
    scores = torch.tensor([p[2] for p in tiny_data.PAIRS])

    def gradients(weight: float) -> list[torch.Tensor]:
        st_model.zero_grad()
        ExitAwareLoss(st_model.train(), task, weight)([dict(f) for f in features], scores).backward()
        return [layer.output.dense.weight.grad.clone() for layer in st_model[0].auto_model.encoder.layer]

    config = st_model[0].auto_model.config
    last = max(config.exit_thresholds(-1))
    run = {n for n in range(1, 7) if n <= last or (config.landing_layer and n >= config.landing_layer)}
    without, with_term = gradients(0.0), gradients(5.0)
    assert {n + 1 for n in range(6) if not torch.allclose(without[n], with_term[n], atol=1e-6)} == run


def test_a_model_without_exits_is_refused(tmp_path: Path, make_tiny_model: Callable[..., LeapModel]) -> None:
    write_model(tmp_path / "tiny", make_tiny_model(min_exit_layer=6), tiny_data.tiny_tokenizer(), 32)
    st_model = sentence_transformers.SentenceTransformer(
        str(tmp_path / "tiny"), trust_remote_code=True, device="cpu"
    )
    with pytest.raises(ValueError, match="no text leaves before the last layer"):
        ExitAwareLoss(st_model, torch.nn.Identity(), 1.0)


@pytest.mark.parametrize("kind", ["scored", "together"])
def test_before_and_after(
    kind: str,
    program: ModuleType,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    data = request.getfixturevalue(kind)
    out, results = tmp_path / "out" / "model", tmp_path / "out" / "finetune.json"
    code = program.main(
        f"--model {model} --data {data} --validation {data} --output_dir {out} --output {results} --compare "
        "--max_steps 15 --batch_size 4 --learning_rate 3e-3 --device cpu".split()
    )
    printed = capsys.readouterr()
    assert code == 0, printed.err
    found = json.loads(results.read_text())
    figures = found["figures"]["models"]
    assert list(figures) == ["before", "L_exit", "without L_exit"]
    assert figures["L_exit"]["full_depth"] > figures["before"]["full_depth"]
    # What the term is for: what the exits give stays with full depth as that moves.
    assert figures["L_exit"]["distance"] < figures["without L_exit"]["distance"]
    assert figures["L_exit"]["leaving"] > 0
    assert f"{figures['L_exit']['exits']:.4f}" in printed.out
    assert found["evaluation"] == "finetune"
    assert found["provenance"]["command"].startswith("python examples/finetune.py --model")

    # The folder loads as the one it came from, with its threshold passed on.
    tuned = sentence_transformers.SentenceTransformer(str(out), trust_remote_code=True, device="cpu")
    text = ["a cat sat on the mat"]
    early, full = (tuned.encode(text, exit_threshold=theta) for theta in (-1, None))
    assert not np.allclose(early, full, atol=1e-4)
    assert np.linalg.norm(full) == pytest.approx(1, abs=1e-5)
    assert json.loads((out / "config.json").read_text())["exit_threshold"] == 0.5
    assert not list(tmp_path.rglob("*.partial"))
    assert json.loads((out / "tokenizer.json").read_text())["truncation"]["max_length"] == 32
    assert json.loads((out / "tokenizer_config.json").read_text())["model_max_length"] == 32
    assert json.loads((out / "sentence_bert_config.json").read_text())["max_seq_length"] == 32


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--data /nowhere.csv", "--data: there is no file '/nowhere.csv'"),
        ("--data {scored} --validation {together}", "--validation: one of"),
        ("--model /nowhere --data {scored}", "'/nowhere' is neither"),
        ("--data {scored} --batch_size 0", "must be at least 1"),
    ],
)
def test_one_line_for_a_wrong_argument(
    arguments: str,
    said: str,
    program: ModuleType,
    scored: Path,
    together: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = arguments.format(scored=scored, together=together) + f" --output_dir {tmp_path / 'never'}"
    try:
        code = program.main(command.split())
    except SystemExit as end:  # argparse
        code = end.code
    assert code == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("name", ["mine", "mine-without-exit-term"])
def test_a_folder_that_holds_something_is_left_alone(
    name: str, program: ModuleType, together: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").write_text("mine")
    assert program.main(f"--data {together} --compare --output_dir {tmp_path / 'mine'}".split()) == 2
    assert f"--output_dir: '{tmp_path / name}' holds 'notes.txt'" in capsys.readouterr().err
    assert (tmp_path / name / "notes.txt").read_text() == "mine"


def test_accuracy_by_hand(program: ModuleType, together: Path) -> None:
    pairs = load_pairs(together).take(np.arange(3), "three")
    vectors = np.eye(3, 4)
    assert program.quality(np.concatenate([vectors, vectors]), pairs) == 1
    assert program.quality(np.concatenate([vectors, vectors[[1, 0, 2]]]), pairs) == pytest.approx(1 / 3)
