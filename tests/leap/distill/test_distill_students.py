"""The student's start."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from leap.distill.recipes import PRESETS
from leap.distill.students import (
    Distilled,
    LayerStart,
    make_student,
    mean_pool,
    parameter_groups,
    parse_layer_starts,
)
from leap.encode.encoder import encode_layers, load_encoder
from leap.encode.exits import row_cosines
from modeling_leap import LeapModel

MakeModel = Callable[..., LeapModel]


def test_parse() -> None:
    assert parse_layer_starts("1, 3,6") == [LayerStart(1), LayerStart(3), LayerStart(6)]
    halves = [LayerStart(1, half="attention"), LayerStart(1, half="feed-forward")]
    assert parse_layer_starts("1a,1f,2") == [*halves, LayerStart(2)]


@pytest.mark.parametrize("spec", ["1a", "1f", "1f,1a", "1a,2f", "1a,2,1f", "2,1f", "1a,1a,1f"])
def test_halves_go_together(spec: str) -> None:
    with pytest.raises(ValueError, match=r"the halves of layer 1|the halves of layer 2"):
        parse_layer_starts(spec)


@pytest.mark.parametrize(
    "spec",
    ["1a~", "1b", "1a0.3", "-1", "", "0", "x", "1,,2", "1,2~", "t1", "1t"],
)
def test_parse_names_the_argument(spec: str) -> None:
    with pytest.raises(ValueError, match="student_layers"):
        parse_layer_starts(spec)


def test_layers_come_from_where_they_are_asked(tiny_model: LeapModel) -> None:
    student = make_student(tiny_model, parse_layer_starts("3,1"))
    assert student.config.num_hidden_layers == 2
    for mine, theirs in ((0, 2), (1, 0)):
        pair = zip(
            student.encoder.layer[mine].parameters(),
            tiny_model.encoder.layer[theirs].parameters(),
            strict=True,
        )
        assert all(torch.equal(a, b) for a, b in pair)
    with pytest.raises(ValueError, match="only"):
        make_student(tiny_model, [LayerStart(99)])


def test_halves_compute_what_their_layer_does(
    make_tiny_model: Callable[..., LeapModel], tiny_batch: dict[str, torch.Tensor]
) -> None:
    """Twice the depth, the same embedding at every second layer; also where LayerNorms have learnt."""
    source = make_tiny_model(num_hidden_layers=3)
    for name, parameter in source.named_parameters():
        if "LayerNorm" in name:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.5)
    student = make_student(source, parse_layer_starts("1a,1f,2a,2f,3a,3f")).eval()
    assert student.config.num_hidden_layers == 6
    with torch.no_grad():
        wanted = source(**tiny_batch, output_layer_embeddings=True).layer_embeddings[:, 1:]
        found = student(**tiny_batch, output_layer_embeddings=True).layer_embeddings[:, 1:]
    torch.testing.assert_close(found[:, 1::2], wanted, atol=1e-4, rtol=1e-3)
    student.train()(**tiny_batch).sentence_embedding.sum().backward()
    for layer in student.encoder.layer:  # what is silent at the start can learn to speak
        assert layer.output.dense.weight.grad.abs().max() > 0
        assert layer.attention.output.dense.weight.grad.abs().max() > 0


@pytest.mark.real_weights
def test_the_papers_preset_starts_as_its_teacher(
    teacher_path: Path, train_texts: Callable[[int], list[str]]
) -> None:
    teacher = load_encoder(str(teacher_path))
    start = PRESETS["paper-l12"]["student_layers"]
    student = replace(teacher, model=make_student(teacher.model, parse_layer_starts(start)).eval())
    texts = train_texts(64)
    wanted, found = encode_layers(teacher, texts), encode_layers(student, texts)
    assert found.shape[1] == 12
    assert row_cosines(found[:, -1], wanted[:, -1]).min() > 0.99999


def test_word_embeddings_have_a_rate_of_their_own(tiny_model: LeapModel) -> None:
    words = tiny_model.embeddings.word_embeddings.weight
    every = len(list(tiny_model.parameters()))
    others, own = parameter_groups(tiny_model, 0.2)
    assert (len(others["params"]), others["rate"], own["rate"]) == (every - 1, 1.0, 0.2)
    assert own["params"][0] is words
    (others,) = parameter_groups(tiny_model, 0)
    assert len(others["params"]) == every - 1
    assert not words.requires_grad
    assert words not in set(others["params"])


LANDING = {"landing_layer": 5, "min_exit_layer": 1, "max_exit_layer": 1}


@pytest.mark.parametrize("exits", [LANDING, LANDING | {"max_exit_layer": 3, "exit_patience": 1}])
@pytest.mark.parametrize("every", [1, 3])
def test_states_are_what_the_model_gives(
    make_tiny_model: MakeModel, tiny_batch: dict[str, torch.Tensor], exits: dict[str, int], every: int
) -> None:
    """Training's own pass over both paths against LeapModel at full depth and with all texts leaping."""
    student = make_tiny_model(**exits)
    ids, mask = tiny_batch["input_ids"], tiny_batch["attention_mask"]
    with torch.no_grad():
        states = Distilled(student, full_depth_every=every)(ids, mask)
        full = student(ids, mask, output_layer_embeddings=True, output_hidden_states=True)
        kept = mask[::every].bool()
        torch.testing.assert_close(states.layers, full.layer_embeddings[::every, 1:], atol=1e-5, rtol=0)
        torch.testing.assert_close(
            states.tokens[kept], full.last_hidden_state[::every][kept], atol=1e-5, rtol=0
        )
        assert states.early == states.exits.shape[1] == exits["max_exit_layer"]
        for number in range(1, exits["max_exit_layer"] + 1):
            leap = student(ids, mask, exit_threshold=-1.0, min_exit_layer=number)
            assert leap.exit_layer.tolist() == [number] * len(ids)
            column = states.exits[:, number - 1]
            torch.testing.assert_close(column, leap.sentence_embedding, atol=1e-5, rtol=0)
            torch.testing.assert_close(
                states.exit_tokens[number - 1][mask.bool()],
                leap.last_hidden_state[mask.bool()],
                atol=1e-5,
                rtol=0,
            )
            now, before = full.layer_embeddings[:, number], full.layer_embeddings[:, number - 1]
            signal = torch.cosine_similarity(now, before, dim=-1)
            torch.testing.assert_close(states.signals[:, number - 1], signal, atol=1e-5, rtol=0)


def test_states_of_the_papers_form(make_tiny_model: MakeModel, tiny_batch: dict[str, torch.Tensor]) -> None:
    student = make_tiny_model()
    with torch.no_grad():
        states = Distilled(student, first_exit_layer=3, full_depth_every=4)(**tiny_batch)
        full = student(**tiny_batch, output_layer_embeddings=True).layer_embeddings
    torch.testing.assert_close(states.layers, full[:, 1:], atol=1e-5, rtol=0)  # all texts run full depth
    torch.testing.assert_close(states.exits, full[:, 3:], atol=1e-5, rtol=0)
    assert (states.early, len(states.exit_tokens)) == (3, 4)


def test_every_trained_parameter_has_a_gradient(
    make_tiny_model: MakeModel, tiny_batch: dict[str, torch.Tensor]
) -> None:
    """Whatever part of a batch runs full depth; DDP waits for all of them."""
    student = make_tiny_model(**LANDING).train()
    states = Distilled(student, full_depth_every=16)(**tiny_batch)
    (states.layers[:, -1].square().sum() + states.exits.square().sum()).backward()
    assert [name for name, weight in student.named_parameters() if weight.grad is None] == []


def test_mean_pool_leaves_padding_out() -> None:
    tokens = torch.tensor([[[1.0], [3.0], [100.0]]])
    assert mean_pool(tokens, torch.tensor([[True, True, False]])).item() == 2
