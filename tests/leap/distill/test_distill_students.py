"""The student's start."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from leap.distill.recipes import PRESETS
from leap.distill.students import Distilled, LayerStart, freeze, make_student, parse_layer_starts
from leap.encode.encoder import encode_layers, load_encoder
from leap.encode.exits import row_cosines
from modeling_leap import LeapModel


def test_parse() -> None:
    expected = [LayerStart(1), LayerStart(3), LayerStart(6, 0.1), LayerStart(6, 0.3)]
    assert parse_layer_starts("1, 3,6~,6~0.3") == expected
    assert parse_layer_starts("t1,t2~0.3") == [LayerStart(1, None, True), LayerStart(2, 0.3, True)]
    halves = [LayerStart(1, half="attention"), LayerStart(1, half="feed-forward")]
    assert parse_layer_starts("1a,1f,2") == [*halves, LayerStart(2)]


@pytest.mark.parametrize("spec", ["1a", "1f", "1f,1a", "1a,2f", "1a,2,1f", "1a,t1f", "2,1f", "1a,1a,1f"])
def test_halves_go_together(spec: str) -> None:
    with pytest.raises(ValueError, match=r"the halves of layer 1|the halves of layer 2"):
        parse_layer_starts(spec)


@pytest.mark.parametrize(
    "spec",
    ["1a~", "1b", "1a0.3", "-1", "", "0", "x", "1,,2", "1,2~2", "1,2~0", "1,2~~", "1~,2", "t", "tt1", "1t"],
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


def test_a_tail_of_the_teachers_layers(make_tiny_model: Callable[..., LeapModel]) -> None:
    trunk, teacher = make_tiny_model(seed=1, num_hidden_layers=2), make_tiny_model(seed=2)
    student = make_student(trunk, parse_layer_starts("1,2,t6"), teacher)
    expected = [*trunk.encoder.layer, teacher.encoder.layer[5]]
    for mine, theirs in zip(student.encoder.layer, expected, strict=True):
        pairs = zip(mine.parameters(), theirs.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(ValueError, match="layer 7 asked for"):
        make_student(trunk, parse_layer_starts("1,t7"), teacher)
    with pytest.raises(ValueError, match="layer 3 asked for"):
        make_student(trunk, parse_layer_starts("3,t1"), teacher)
    with pytest.raises(ValueError, match="teacher's widths"):
        make_student(trunk, parse_layer_starts("1,t1"), make_tiny_model(hidden_size=64))


@pytest.mark.real_weights
def test_near_identity_passes_real_texts_almost_unchanged(teacher_path: Path) -> None:
    torch.manual_seed(0)
    teacher = LeapModel.from_pretrained(teacher_path).eval()
    student = make_student(teacher, parse_layer_starts("1,3,6,6~,6~,6~")).eval()
    ids = torch.randint(1000, 20000, (8, 16))
    with torch.no_grad():
        layers = student(ids, output_layer_embeddings=True).layer_embeddings[:, 1:]
    cosine = torch.cosine_similarity(layers[:, 2:5], layers[:, 3:], dim=-1)
    assert cosine.min() > 0.97  # the plain copies of layer 6 above it give 0.9 and less


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


def test_freeze(tiny_model: LeapModel) -> None:
    student = make_student(tiny_model)
    freeze(student)
    frozen = [name for name, parameter in student.named_parameters() if not parameter.requires_grad]
    assert frozen == ["embeddings.word_embeddings.weight"]
    freeze(student, 2)
    trained = {
        name.split(".")[2] for name, parameter in student.named_parameters() if parameter.requires_grad
    }
    assert trained == {str(layer) for layer in range(2, student.config.num_hidden_layers)}
    with pytest.raises(ValueError, match="frozen_layers"):
        freeze(student, student.config.num_hidden_layers)


def test_a_map_only_where_widths_differ(tiny_model: LeapModel) -> None:
    width = tiny_model.config.hidden_size
    ids = torch.ones(2, 5, dtype=torch.long)
    assert Distilled(tiny_model, width).projection is None
    assert Distilled(tiny_model, 2 * width)(ids, ids).shape == (
        2,
        tiny_model.config.num_hidden_layers,
        2 * width,
    )
