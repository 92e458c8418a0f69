"""The exit rule and where it leads, with a landing layer and without: every row against the slow model."""

import pytest
import torch
from slow_model import (
    Batch,
    MakeModel,
    SlowModel,
    check,
    layered_theta,
    mixed_theta,
    plain_bert,
    rule_cosines,
)
from torch import Tensor

# landing_layer, min_exit_layer, max_exit_layer, exit_patience; the first is the released model's.
FORMS = [
    (5, 1, 1, 1),
    (5, 1, None, 1),
    (6, 1, 3, 1),
    (6, 2, 4, 1),
    (3, 1, None, 1),
    (4, 2, None, 2),
    (6, 2, 3, 2),
    (6, 4, None, 4),
    (None, 1, None, 1),
    (None, 2, None, 1),
    (None, 4, None, 1),
    (None, 2, 3, 2),
    (None, 3, None, 2),
    (None, 5, None, 4),
]
NAMES = ("landing_layer", "min_exit_layer", "max_exit_layer", "exit_patience")
RELEASE = dict(zip(NAMES, FORMS[0], strict=True))
forms = pytest.mark.parametrize("form", [dict(zip(NAMES, form, strict=True)) for form in FORMS], ids=str)
few_forms = pytest.mark.parametrize(
    "form", [dict(zip(NAMES, FORMS[n], strict=True)) for n in (0, 2, 6, 8, 12)], ids=str
)


@pytest.fixture
def ragged_batch(tiny_batch: Batch) -> Batch:
    """Padding anywhere in a row, at its left and between tokens too, and two rows without tokens."""
    mask = (torch.rand(16, 12, generator=torch.Generator().manual_seed(3)) < 0.6).long()
    mask[[3, 7]] = 0
    return {"input_ids": tiny_batch["input_ids"].clamp(min=1), "attention_mask": mask}


@forms
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["tiny_batch", "ragged_batch"])
def test_rows_go_where_the_rule_sends_them(
    make_tiny_model: MakeModel,
    form: dict[str, int | None],
    attention: str,
    kind: str,
    request: pytest.FixtureRequest,
) -> None:
    batch = request.getfixturevalue(kind)
    model = make_tiny_model(attn_implementation=attention, **form)
    one, by_layer = mixed_theta(model, batch), layered_theta(model, batch)
    slow = SlowModel(model, batch)
    for theta in (None, -1.0, 1.0, one, by_layer, [None] * 6):
        rows = slow.rows(theta)
        with torch.no_grad():
            output = model(**batch, exit_threshold=theta, output_hidden_states=True)
            model.config.exit_threshold = theta
            short = model(**batch)
        check(output, rows, batch["attention_mask"])
        check(short, rows, batch["attention_mask"])
        assert len(output.hidden_states) == 7
        assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
        if theta in (one, by_layer):  # rows must part for this to test it
            places = 1 if theta == one else len(model.config.exit_thresholds(-1.0))
            assert len(output.exit_layer.unique()) >= min(3, places + 1)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_leap_by_hand(make_tiny_model: MakeModel, tiny_batch: Batch, attention: str) -> None:
    """Without any reference of ours: layers 1, 5, 6 of BertModel, on the whole batch."""
    model = make_tiny_model(attn_implementation=attention, **RELEASE)
    bert = plain_bert(model)
    with torch.no_grad():
        output = model(**tiny_batch, exit_threshold=-1)
        bert.encoder.layer = torch.nn.ModuleList([bert.encoder.layer[n] for n in (0, 4, 5)])
        bert.config.num_hidden_layers = 3
        expected = bert(**tiny_batch).last_hidden_state
    torch.testing.assert_close(output.last_hidden_state, expected, atol=1e-5, rtol=0)
    assert output.exit_layer.tolist() == [1] * 16
    assert output.layers_run.tolist() == [3] * 16


@few_forms
@pytest.mark.parametrize("depth", range(1, 7))
def test_max_layers(
    make_tiny_model: MakeModel, tiny_batch: Batch, form: dict[str, int | None], depth: int
) -> None:
    """A static depth; below the landing layer nobody leaps."""
    model = make_tiny_model(**form)
    slow = SlowModel(model, tiny_batch)
    for theta in (None, -1.0, mixed_theta(model, tiny_batch)):
        with torch.no_grad():
            output = model(**tiny_batch, exit_threshold=theta, max_layers=depth, output_hidden_states=True)
        check(output, slow.rows(theta, depth), tiny_batch["attention_mask"])
        assert len(output.hidden_states) == depth + 1
        if form["landing_layer"] and depth < form["landing_layer"]:
            assert output.exit_layer.tolist() == output.layers_run.tolist() == [depth] * 16


def test_thresholds_of_layers_where_nobody_may_leave_are_not_read(
    make_tiny_model: MakeModel, tiny_batch: Batch
) -> None:
    model = make_tiny_model(landing_layer=6, min_exit_layer=2, max_exit_layer=3)
    theta = mixed_theta(model, tiny_batch)
    with torch.no_grad():
        expected = model(**tiny_batch, exit_threshold=theta)
        assert set(expected.exit_layer.tolist()) == {2, 3, 6}
        for outside in (-1, None):
            thetas = [outside, theta, theta, outside, outside, outside]
            output = model(**tiny_batch, exit_threshold=thetas)
            assert torch.equal(output.exit_layer, expected.exit_layer)
            assert torch.equal(output.last_hidden_state, expected.last_hidden_state)
        # All leave at the only layer that has a threshold, and are compared with the layer before it.
        assert model(**tiny_batch, exit_threshold=[None, None, -1, None, None, None]).exit_layer.unique() == 3


def test_threshold_of_config_and_call(make_tiny_model: MakeModel, tiny_batch: Batch) -> None:
    model = make_tiny_model(exit_threshold=-1, min_exit_layer=2)
    with torch.no_grad():
        assert model(**tiny_batch).exit_layer.tolist() == [2] * 16
        assert model(**tiny_batch, exit_threshold="config").exit_layer.tolist() == [2] * 16
        assert model(**tiny_batch, min_exit_layer=4).exit_layer.tolist() == [4] * 16
        assert model(**tiny_batch, exit_threshold=None).exit_layer.tolist() == [6] * 16
        model.config.exit_threshold = None
        assert model(**tiny_batch).exit_layer.tolist() == [6] * 16


@few_forms
def test_each_row_alone_and_in_any_order_gives_the_same(
    make_tiny_model: MakeModel, tiny_batch: Batch, form: dict[str, int | None]
) -> None:
    model = make_tiny_model(exit_threshold=0.5, **form)
    model.config.exit_threshold = mixed_theta(model, tiny_batch)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        together = model(**tiny_batch)
        shuffled = model(**{name: tensor[order] for name, tensor in tiny_batch.items()})
        lengths = tiny_batch["attention_mask"].sum(dim=1).tolist()
        alone = [model(tiny_batch["input_ids"][n : n + 1, :length]) for n, length in enumerate(lengths)]
    assert len(together.exit_layer.unique()) >= 2
    for name in ("exit_layer", "layers_run", "sentence_embedding"):
        expected = together[name]
        torch.testing.assert_close(shuffled[name], expected[order], atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.cat([output[name] for output in alone]), expected, atol=1e-5, rtol=0)


@few_forms
def test_work_falls_with_the_rows_that_are_left(
    make_tiny_model: MakeModel, tiny_batch: Batch, form: dict[str, int | None]
) -> None:
    model = make_tiny_model(**form)
    theta = mixed_theta(model, tiny_batch)
    seen: dict[int, int] = {}
    for number, layer in enumerate(model.encoder.layer, 1):
        layer.register_forward_hook(lambda _module, args, _output, n=number: seen.update({n: len(args[0])}))
    with torch.no_grad():
        output = model(**tiny_batch, exit_threshold=theta)
        exits, landing = output.exit_layer, form["landing_layer"] or 7
        for number in range(1, 7):
            here = 16 if number >= landing else int((exits >= number).sum())
            assert seen.get(number, 0) == here
        assert sum(seen.values()) == output.layers_run.sum()
        seen.clear()
        model(**tiny_batch, exit_threshold=-1)  # all leave at once: nobody runs the layers between
        first = form["min_exit_layer"]
        assert seen == {n: 16 for n in (*range(1, first + 1), *range(landing, 7))}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("landing", [None, 5])
def test_rows_without_tokens_never_leave(
    make_tiny_model: MakeModel, ragged_batch: Batch, attention: str, dtype: torch.dtype, landing: int | None
) -> None:
    model = make_tiny_model(attn_implementation=attention, landing_layer=landing, min_exit_layer=1).to(dtype)
    for theta in (None, 0.0, -1.0):
        with torch.no_grad():
            output = model(**ragged_batch, exit_threshold=theta)
        assert output.exit_layer[[3, 7]].tolist() == output.layers_run[[3, 7]].tolist() == [6, 6]
        assert torch.equal(output.sentence_embedding[[3, 7]], torch.zeros(2, 32))
        assert output.sentence_embedding.isfinite().all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("landing", [None, 5])
def test_half_precision(
    make_tiny_model: MakeModel, tiny_batch: Batch, attention: str, dtype: torch.dtype, landing: int | None
) -> None:
    exact = make_tiny_model(attn_implementation=attention, landing_layer=landing, min_exit_layer=1)
    theta = mixed_theta(exact, tiny_batch)
    expected = SlowModel(exact, tiny_batch).rows(theta)
    with torch.no_grad():
        output = exact.to(dtype)(**tiny_batch, exit_threshold=theta)
    assert output.last_hidden_state.dtype == dtype
    assert output.sentence_embedding.dtype == torch.float32
    # Rounding may carry a row over the threshold.
    same = [n for n, row in enumerate(expected) if row.exit_layer == output.exit_layer[n]]
    assert len(same) >= 12
    for number in same:
        theirs, ours = expected[number].embedding, output.sentence_embedding[number]
        assert torch.cosine_similarity(ours, theirs, dim=0) > 0.99


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("landing", [None, 5])
def test_gradients_of_rows_that_left_are_those_of_their_own_path(
    make_tiny_model: MakeModel, tiny_batch: Batch, attention: str, landing: int | None
) -> None:
    model = make_tiny_model(attn_implementation=attention, landing_layer=landing, min_exit_layer=1)
    theta = mixed_theta(model, tiny_batch)
    words = model.get_input_embeddings()(tiny_batch["input_ids"]).detach().requires_grad_()
    mask = tiny_batch["attention_mask"]
    output = model(inputs_embeds=words, attention_mask=mask, exit_threshold=theta, output_hidden_states=True)
    assert len(output.exit_layer.unique()) >= 2
    target = torch.linspace(-1, 1, 32)
    loss = (output.sentence_embedding * target).sum() + sum(s.square().mean() for s in output.hidden_states)
    loss.backward()
    gradient = model.encoder.layer[0].output.dense.weight.grad
    assert gradient.isfinite().all() and gradient.abs().sum() > 0
    found, words.grad = words.grad, None

    # Each row alone takes its own path, so that the graph holds only the layers that it ran.
    for number, length in enumerate(mask.sum(dim=1).tolist()):
        alone = model(
            inputs_embeds=words[number : number + 1, :length], exit_threshold=theta, output_hidden_states=True
        )
        assert alone.exit_layer == output.exit_layer[number]
        loss = (alone.sentence_embedding * target).sum()
        loss.backward(retain_graph=True)
    again = words.grad
    words.grad = None
    output = model(inputs_embeds=words, attention_mask=mask, exit_threshold=theta)
    (output.sentence_embedding * target).sum().backward()
    torch.testing.assert_close(words.grad * mask.unsqueeze(-1), again, atol=1e-5, rtol=1e-4)
    assert found.isfinite().all()


def test_a_leap_sends_gradients_to_its_layers_only(make_tiny_model: MakeModel, tiny_batch: Batch) -> None:
    model = make_tiny_model(**RELEASE)
    model(**tiny_batch, exit_threshold=-1).sentence_embedding.square().sum().backward()
    reached = [layer.output.dense.weight.grad is not None for layer in model.encoder.layer]
    assert reached == [True, False, False, False, True, True]


@few_forms
def test_training_mode_runs_all_layers(
    make_tiny_model: MakeModel, tiny_batch: Batch, form: dict[str, int | None]
) -> None:
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = make_tiny_model(exit_threshold=-1, **dropout, **form)
    full = model(**tiny_batch, exit_threshold=None)
    model.train()
    output = model(**tiny_batch)
    assert output.exit_layer.tolist() == output.layers_run.tolist() == [6] * 16
    assert torch.equal(output.last_hidden_state, full.last_hidden_state)
    assert model(**tiny_batch, max_layers=2).exit_layer.tolist() == [2] * 16


@few_forms
def test_layer_embeddings_are_those_of_full_depth(
    make_tiny_model: MakeModel, tiny_batch: Batch, form: dict[str, int | None]
) -> None:
    model = make_tiny_model(exit_threshold=-1, **form)
    rows = SlowModel(model, tiny_batch).rows(None)
    with torch.no_grad():
        output = model(**tiny_batch, output_layer_embeddings=True)
        capped = model(**tiny_batch, output_layer_embeddings=True, max_layers=4)
    check(output, rows, tiny_batch["attention_mask"])
    expected = torch.stack([torch.stack([state.mean(dim=0) for state in row.states]) for row in rows])
    torch.testing.assert_close(output.layer_embeddings, expected, atol=1e-5, rtol=0)
    assert output.layer_embeddings.shape == (16, 7, 32)
    assert torch.equal(capped.layer_embeddings, output.layer_embeddings[:, :5])


@pytest.mark.parametrize("landing", [None, 5])
def test_attentions_are_refused_where_rows_leave(
    make_tiny_model: MakeModel, tiny_batch: Batch, landing: int | None
) -> None:
    model = make_tiny_model(attn_implementation="eager", exit_threshold=-1, landing_layer=landing)
    with pytest.raises(ValueError, match="output_attentions needs exit_threshold=None"):
        model(**tiny_batch, output_attentions=True)
    with torch.no_grad():
        assert len(model(**tiny_batch, output_attentions=True, exit_threshold=None).attentions) == 6
        # No row can leave before layer 2 of 2, so this is full depth, too.
        assert len(model(**tiny_batch, output_attentions=True, max_layers=1).attentions) == 1


def test_one_layer(make_tiny_model: MakeModel, tiny_batch: Batch) -> None:
    with torch.no_grad():
        output = make_tiny_model(num_hidden_layers=1, exit_threshold=-1)(**tiny_batch)
    assert output.exit_layer.tolist() == output.layers_run.tolist() == [1] * 16


@pytest.mark.parametrize("form", [RELEASE, dict(zip(NAMES, FORMS[8], strict=True))], ids=str)
@pytest.mark.parametrize("by_layer", [False, True])
def test_compiled_model_agrees(
    make_tiny_model: MakeModel, tiny_batch: Batch, form: dict[str, int | None], by_layer: bool
) -> None:
    """Dynamo's part only (no compiler needed): the loop is traced, with a graph break where rows leave."""
    model = make_tiny_model(**form)
    theta = layered_theta(model, tiny_batch) if by_layer else mixed_theta(model, tiny_batch)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        output = compiled(**tiny_batch, exit_threshold=theta)
        check(output, SlowModel(model, tiny_batch).rows(theta), tiny_batch["attention_mask"])
    assert len(output.exit_layer.unique()) >= 2


def test_a_leaping_model_compiles_whole_at_full_depth(make_tiny_model: MakeModel, tiny_batch: Batch) -> None:
    model = make_tiny_model(**RELEASE)
    # The Dynamo of torch 2.4 does not look into methods of the config, and breaks the graph there.
    compiled = torch.compile(model, backend="eager", fullgraph=not torch.__version__.startswith("2.4."))
    with torch.no_grad():
        output = compiled(**tiny_batch, exit_threshold=None)
    check(output, SlowModel(model, tiny_batch).rows(None), tiny_batch["attention_mask"])


def test_cosines_here_are_spread_enough_to_part_rows(make_tiny_model: MakeModel, tiny_batch: Batch) -> None:
    """Guards the tests above: a random model whose cosines were all alike would test nothing."""
    cosines: Tensor = torch.cat(list(rule_cosines(make_tiny_model(min_exit_layer=1), tiny_batch).values()))
    assert cosines.min() < 0.3 and cosines.max() > 0.5
