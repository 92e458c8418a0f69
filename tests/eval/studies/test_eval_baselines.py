"""The baselines: the ranking by hand, and all methods from the command line to the figures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eval_toys
import pytest
import torch
from torch import Tensor
from tqdm.auto import tqdm

from eval.__main__ import main
from eval.studies import baselines, depth_scores
from eval.studies.baselines import METHODS, rank
from eval.studies.short_runs import Batch, frozen_teacher, start_student, train
from leap.distill.teacher import teacher_layers
from leap.encode.encoder import Encoder
from modeling_leap import LeapModel


def test_rank_by_hand() -> None:
    found = rank({"a": [0.7, 0.5], "b": [0.9, 0.8], "c": [0.5, 0.6]})
    assert found["order"] == ["b", "a", "c"]
    assert found["scores"]["a"]["mean"] == pytest.approx(0.6)
    assert found["scores"]["a"]["sd"] == pytest.approx(0.02**0.5)
    assert (found["stable"], found["swaps"]) == (False, [["a", "c"]])
    found = rank({"a": [0.7], "b": [0.9]})
    assert (found["order"], found["stable"], found["swaps"]) == (["b", "a"], True, [])
    assert found["scores"]["a"]["sd"] is None


@pytest.mark.parametrize("name", METHODS)
def test_a_step_trains_all_but_word_embeddings_and_the_teacher(
    name: str, make_tiny_model: Callable[..., LeapModel], tiny_batch: dict[str, Tensor]
) -> None:
    tokenizer = eval_toys.toy_tokenizer()
    given = make_tiny_model(vocab_size=99)
    teacher = frozen_teacher(Encoder("tiny", given, tokenizer, 32))
    assert teacher.model is not given and not any(p.requires_grad for p in teacher.model.parameters())
    ids, mask = tiny_batch["input_ids"], tiny_batch["attention_mask"]
    batch = Batch(ids, mask, teacher_layers(teacher.model, ids, mask))
    student = start_student(teacher, METHODS[name].start or "1,3,6,6~0.3,6~0.3,6~0.3")
    loss = METHODS[name].loss(student, teacher, 0)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    assert loss(batch, 0.0).dtype == torch.float32
    train(student, [batch] * 2, loss, learning_rate=1e-2, bar=tqdm(disable=True))
    same = [key for key, value in student.state_dict().items() if torch.equal(value, before[key])]
    assert same == ["embeddings.word_embeddings.weight"]
    for key, value in teacher.model.state_dict().items():
        assert torch.equal(value, given.state_dict()[key])


@pytest.fixture
def command(
    tmp_path: Path, make_tiny_model: Callable[..., LeapModel], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """A command line on a toy teacher and toy data."""
    monkeypatch.setenv("LEAP_DATA", str(tmp_path))
    monkeypatch.setattr(depth_scores, "SHARES", (None, 0.5, 1.0))  # the full grid takes most of the time
    monkeypatch.setattr(baselines, "DEFAULT_THETAS", (0.5, 0.9))
    eval_toys.write_pairs(tmp_path / "stsb" / "test.csv")
    rows = [f"{second},{first},{score}" for first, second, score in reversed(eval_toys.PAIRS)]
    validation = "\n".join(["sentence1,sentence2,score", *rows]) + "\n"
    (tmp_path / "stsb" / "validation.csv").write_text(validation)
    words = eval_toys.WORDS
    texts = [" ".join(words[(i * j) % len(words)] for j in range(1, 3 + i % 6)) for i in range(40)]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    model = eval_toys.save_toy(tmp_path / "m", make_tiny_model(vocab_size=len(eval_toys.toy_tokenizer())))
    line = f"baselines --model {model} --data {tmp_path}/texts.txt --steps 2 --batch_size 8 --seeds 0,1"
    line += f" --device cpu --cache_dir {tmp_path}/cache --output {tmp_path}/out/b.json"
    return line.split()


def test_every_method_from_the_command_line(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--plot", str(tmp_path / "plot.png")]) == 0
    result = json.loads((tmp_path / "out" / "b.json").read_text())
    figures = result["figures"]
    assert {key: figures[key] for key in ("steps", "texts", "max_length", "seeds", "budgets")} == {
        "steps": 2,
        "texts": 16,
        "max_length": 32,
        "seeds": [0, 1],
        "budgets": [2.5, 3, 3.5, 4, 5],
    }
    assert set(figures["teacher"]) == {"validation", "test"}
    assert list(figures["methods"]) == list(METHODS)
    for name, method in figures["methods"].items():
        depth = method["layers"]
        assert depth == (3 if name == "3 layers" else 6)
        for run in method["runs"]:
            assert [cut["layer"] for cut in run["static"]] == list(range(1, depth + 1))
            assert 0 <= run["exited_095"] <= 1
            for budget, point in zip(figures["budgets"], run["exits"], strict=True):
                assert point is None or point["max_mean_layer"] == budget
                assert point is None or set(point) > {"exit_threshold", "static_at_mean_layer", "fidelity_p5"}
        first, second = (run["static"][-1]["spearman"] for run in method["runs"])
        assert method["static_mean"][-1]["spearman"] == pytest.approx((first + second) / 2)
    # A method's seeds and a seed's methods are runs of their own.
    cosines = [run["final_cosine"] for method in figures["methods"].values() for run in method["runs"]]
    assert len(set(cosines)) == len(cosines)
    assert set(figures["ranking"]["order"]) == set(METHODS)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "out" / "b.partial.json").exists()
    printed = capsys.readouterr().out
    assert all(name in printed for name in METHODS)
    assert "mean depth at most 3.5" in printed


def test_a_run_goes_on_where_it_was_stopped(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "METHODS", {name: METHODS[name] for name in ("LEAP", "MiniLM")})
    assert main(command) == 0
    output = tmp_path / "out" / "b.json"
    whole = json.loads(output.read_text())["figures"]
    output.unlink()

    trained = []

    def train(*args: Any, **options: Any) -> float:
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(original(*args, **options))
        return trained[-1]

    original = baselines.train
    monkeypatch.setattr(baselines, "train", train)
    with pytest.raises(KeyboardInterrupt):
        main(command)
    assert len(json.loads((tmp_path / "out" / "b.partial.json").read_text())) == 3
    monkeypatch.setattr(baselines, "train", lambda *args, **options: original(*args, **options) * 0)
    assert main(command) == 0
    resumed = json.loads(output.read_text())["figures"]
    assert resumed["methods"]["LEAP"]["seconds"] == pytest.approx((trained[0] + trained[2]) / 2)
    for figures in (whole, resumed):
        for method in figures["methods"].values():
            method.pop("seconds")
    assert resumed == whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--steps 99", "--data: holds 40 texts, and --steps times --batch_size takes 792"),
        ("--start 1,9", "--start: for the start '1,9': layer 9 asked for"),
        ("--start 1,x", "--start: for the start '1,x': 'x' is not a layer"),
        ("--seeds 1,1", "--seeds: [1, 1] names a seed twice"),
        ("--split validation", "--split: rules are chosen on validation"),
        ("--plot x.gif", "--plot: 'x.gif' must end in"),
        ("--sts {tmp}/stsb/test.csv", "has one split"),
        ("--data {tmp}/none*", "--data: "),
    ],
)
def test_one_line_for_a_wrong_argument(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    assert main(command + arguments.format(tmp=tmp_path).split()) == 2
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in printed
