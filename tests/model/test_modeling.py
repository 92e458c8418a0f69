"""What `LeapModel` takes and returns beside the exit rule, which is in test_exits.py."""

import shutil
import warnings
from collections.abc import Callable

import pytest
import torch
from slow_model import Batch, MakeModel, mixed_theta, plain_bert, pooled_by_hand
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig

from configuration_leap import LeapConfig
from modeling_leap import LeapModel, LeapModelOutput


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padded", [True, False])
def test_full_depth_is_bert(
    make_tiny_model: MakeModel, tiny_batch: Batch, attention: str, padded: bool
) -> None:
    model = make_tiny_model(attn_implementation=attention)
    batch = tiny_batch if padded else {"input_ids": tiny_batch["input_ids"]}
    with torch.no_grad():
        expected = plain_bert(model)(**batch, output_hidden_states=True)
        output = model(**batch, output_hidden_states=True)
    torch.testing.assert_close(output.last_hidden_state, expected.last_hidden_state, atol=1e-5, rtol=0)
    assert output.exit_layer.tolist() == [6] * 16
    assert output.exit_layer.dtype == torch.int64
    assert len(output.hidden_states) == len(expected.hidden_states) == 7
    for ours, theirs in zip(output.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    mask = tiny_batch["attention_mask"] if padded else torch.ones(16, 12)
    pooled = pooled_by_hand(expected.last_hidden_state, mask)
    torch.testing.assert_close(output.sentence_embedding, pooled, atol=1e-5, rtol=0)


class CountHostReads(TorchDispatchMode):
    """Counts what would make the CPU wait for a GPU: values read, and shapes that depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        by_mask = func is torch.ops.aten.index.Tensor and any(i.dtype == torch.bool for i in args[1])
        self.count += by_mask or func.overloadpacket in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.nonzero,
            torch.ops.aten.masked_select,
        )
        return func(*args, **(kwargs or {}))


def test_one_host_read_for_each_test_of_the_rule(tiny_model: LeapModel, tiny_batch: Batch) -> None:
    theta = mixed_theta(tiny_model, tiny_batch)

    def reads(model: torch.nn.Module, **arguments: object) -> int:
        with torch.no_grad(), CountHostReads() as counter:
            model(**tiny_batch, **arguments)
        return counter.count

    at_full_depth = reads(tiny_model)  # transformers 5 itself looks once whether anything is masked
    assert at_full_depth <= reads(plain_bert(tiny_model))

    def added(**arguments: object) -> int:
        return reads(tiny_model, **arguments) - at_full_depth

    assert added(max_layers=3, output_layer_embeddings=True, output_hidden_states=True) == 0
    assert added(exit_threshold=theta, min_exit_layer=6) == 0
    assert added(exit_threshold=theta, min_exit_layer=2) == 4  # after layers 2 to 5; at 6 there is no choice
    assert added(exit_threshold=theta, min_exit_layer=2, max_layers=4) == 2
    assert added(exit_threshold=-0.999, min_exit_layer=2) == 1
    assert added(exit_threshold=[theta] * 6, min_exit_layer=2) == 4
    by_layer = [theta, theta, None, theta, None, theta]
    assert added(exit_threshold=by_layer, min_exit_layer=2) == 2  # a layer without a threshold asks nothing
    tiny_model.config.landing_layer = 6
    assert added(exit_threshold=theta, min_exit_layer=1) == 4  # after layers 1 to 4
    assert added(exit_threshold=-1, min_exit_layer=1) == 1
    assert added(exit_threshold=-1, min_exit_layer=1, max_layers=5) == 0
    tiny_model.config.max_exit_layer = 1
    assert added(exit_threshold=theta, min_exit_layer=1) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_only_the_exit_decision_waits(make_tiny_model: MakeModel, tiny_batch: Batch) -> None:
    theta = mixed_theta(make_tiny_model(), tiny_batch)
    model = make_tiny_model().cuda()
    batch = {name: tensor.cuda() for name, tensor in tiny_batch.items()}

    def waits(**arguments: object) -> int:
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model(**arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in caught)

    waits(**batch, exit_threshold=theta, min_exit_layer=2)  # the first call sets libraries up
    unmasked = waits(input_ids=batch["input_ids"])
    masked = waits(**batch)
    assert unmasked == 0
    assert masked <= 1  # transformers 5 looks once whether anything is masked, before any layer
    assert waits(**batch, exit_threshold=theta, min_exit_layer=2) - masked == 4  # after layers 2 to 5
    assert waits(**batch, max_layers=3, output_layer_embeddings=True) == masked


def test_layer_embeddings_reach_every_parameter(tiny_model: LeapModel, tiny_batch: Batch) -> None:
    tiny_model.train()
    tiny_model(**tiny_batch, output_layer_embeddings=True).layer_embeddings.square().sum().backward()
    assert [name for name, weight in tiny_model.named_parameters() if weight.grad is None] == []


def test_tuple_output(make_tiny_model: MakeModel, tiny_batch: Batch) -> None:
    model = make_tiny_model()
    with torch.no_grad():
        output = model(**tiny_batch, output_hidden_states=True)
        as_tuple = model(**tiny_batch, output_hidden_states=True, return_dict=False)
        assert isinstance(output, LeapModelOutput)
        assert isinstance(as_tuple, tuple)
        # BertModel's, in its order; fields that were not asked for are left out.
        names = ("last_hidden_state", "sentence_embedding", "hidden_states", "exit_layer", "layers_run")
        assert len(as_tuple) == len(names)
        for number, name in enumerate(names):
            ours, wanted = as_tuple[number], output[name]
            assert torch.equal(ours, wanted) if isinstance(ours, Tensor) else len(ours) == len(wanted) == 7
        assert torch.equal(output[0], output["last_hidden_state"])
        model.config.return_dict = False
        assert isinstance(model(**tiny_batch), tuple)
        assert isinstance(model(**tiny_batch, return_dict=True), LeapModelOutput)


def test_config_asks_for_hidden_states(make_tiny_model: MakeModel, tiny_batch: Batch) -> None:
    model = make_tiny_model(output_hidden_states=True)
    with torch.no_grad():
        assert len(model(**tiny_batch).hidden_states) == 7
        assert model(**tiny_batch, output_hidden_states=False).hidden_states is None


def test_attentions_at_full_depth(make_tiny_model: MakeModel, tiny_batch: Batch) -> None:
    model = make_tiny_model(attn_implementation="eager", exit_threshold=0.5)
    with torch.no_grad():
        expected = plain_bert(model)(**tiny_batch, output_attentions=True).attentions
        output = model(**tiny_batch, exit_threshold=None, output_attentions=True)
        again = model(**tiny_batch, exit_threshold=None, output_attentions=True, max_layers=2)
    assert len(output.attentions) == 6
    for ours, theirs in zip(output.attentions, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert len(again.attentions) == 2  # and nothing of the first call is left hooked
    with pytest.raises(ValueError, match="output_attentions needs exit_threshold=None"):
        model(**tiny_batch, output_attentions=True)


def test_attentions_need_eager(make_tiny_model: MakeModel, tiny_batch: Batch) -> None:
    with pytest.raises(ValueError, match=r'output_attentions needs .*attn_implementation="eager"'):
        make_tiny_model(attn_implementation="sdpa")(**tiny_batch, output_attentions=True)


@pytest.mark.parametrize("masked", [False, True])
def test_padding_is_filled_only_where_there_is_some(
    tiny_model: LeapModel, tiny_batch: Batch, monkeypatch: pytest.MonkeyPatch, masked: bool
) -> None:
    calls: list[Tensor] = []
    fill = Tensor.masked_fill

    def counted(self: Tensor, *arguments: object) -> Tensor:
        if self.shape == (16, 12, 32):  # hidden states, not what transformers makes of a mask
            calls.append(self)
        return fill(self, *arguments)

    monkeypatch.setattr(Tensor, "masked_fill", counted)
    mask = {"attention_mask": tiny_batch["attention_mask"]} if masked else {}
    with torch.no_grad():
        tiny_model(tiny_batch["input_ids"], **mask, output_layer_embeddings=True)
    assert len(calls) == (7 if masked else 0)  # one a layer, and the embeddings


def test_padding_that_is_not_a_number_stays_out_of_the_mean(tiny_model: LeapModel, tiny_batch: Batch) -> None:
    def poison(
        _module: torch.nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]
    ) -> Tensor | tuple[Tensor]:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.masked_fill(tiny_batch["attention_mask"].unsqueeze(-1) == 0, float("nan"))
        return (hidden,) if isinstance(output, tuple) else hidden

    with torch.no_grad():
        expected = tiny_model(**tiny_batch).sentence_embedding
        tiny_model.encoder.layer[-1].register_forward_hook(poison)
        torch.testing.assert_close(tiny_model(**tiny_batch).sentence_embedding, expected)


def test_autocast_keeps_the_mean_in_float32(tiny_model: LeapModel, tiny_batch: Batch) -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = tiny_model(**tiny_batch, exit_threshold=0.5, min_exit_layer=2, output_hidden_states=True)
    assert output.sentence_embedding.dtype == torch.float32
    kept = pooled_by_hand(output.last_hidden_state, tiny_batch["attention_mask"])
    torch.testing.assert_close(output.sentence_embedding, kept, atol=1e-6, rtol=1e-6)


def test_inputs_embeds(tiny_model: LeapModel, tiny_batch: Batch) -> None:
    theta = mixed_theta(tiny_model, tiny_batch)
    words = tiny_model.get_input_embeddings()(tiny_batch["input_ids"])
    with torch.no_grad():
        expected = tiny_model(**tiny_batch, exit_threshold=theta)
        output = tiny_model(
            inputs_embeds=words, attention_mask=tiny_batch["attention_mask"], exit_threshold=theta
        )
    assert torch.equal(output.exit_layer, expected.exit_layer)
    assert torch.equal(output.last_hidden_state, expected.last_hidden_state)


def test_token_types_and_positions_are_berts(tiny_model: LeapModel, tiny_batch: Batch) -> None:
    generator = torch.Generator().manual_seed(2)
    extra = {
        "token_type_ids": torch.randint(0, 2, (16, 12), generator=generator),
        "position_ids": torch.randint(0, 40, (16, 12), generator=generator),
    }
    with torch.no_grad():
        expected = plain_bert(tiny_model)(**tiny_batch, **extra).last_hidden_state
        output = tiny_model(**tiny_batch, **extra).last_hidden_state
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [torch.bool, torch.float32, torch.int32], ids=str)
def test_masks_of_other_types(tiny_model: LeapModel, tiny_batch: Batch, kind: torch.dtype) -> None:
    with torch.no_grad():
        expected = tiny_model(**tiny_batch, exit_threshold=0.5)
        output = tiny_model(
            tiny_batch["input_ids"], tiny_batch["attention_mask"].to(kind), exit_threshold=0.5
        )
    assert torch.equal(output.exit_layer, expected.exit_layer)
    torch.testing.assert_close(output.sentence_embedding, expected.sentence_embedding)


def test_gradient_checkpointing(make_tiny_model: MakeModel, tiny_batch: Batch) -> None:
    fields = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    gradients = []
    for checkpointing in (False, True):
        model = make_tiny_model(**fields).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**tiny_batch, output_layer_embeddings=True).layer_embeddings.square().sum().backward()
        gradients.append(model.encoder.layer[0].output.dense.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exit_threshold": 2}, r"exit_threshold must be .*\[-1, 1\].*got 2"),
        ({"exit_threshold": "full"}, "exit_threshold must be .*got 'full'"),
        ({"exit_threshold": [0.9] * 5}, r"exit_threshold must be .* a list of 6 of them.*got \[0.9"),
        ({"exit_threshold": float("nan")}, "exit_threshold must be .*got nan"),
        ({"min_exit_layer": 0}, r"min_exit_layer must be an integer in \[1, 6\], got 0"),
        ({"min_exit_layer": 7}, r"min_exit_layer must be an integer in \[1, 6\], got 7"),
        ({"max_layers": 0}, r"max_layers must be an integer in \[1, 6\], got 0"),
        ({"max_layers": 7}, r"max_layers must be an integer in \[1, 6\], got 7"),
        ({"max_layers": 2.0}, r"max_layers must be an integer in \[1, 6\], got 2.0"),
        ({"max_layers": True}, r"max_layers must be an integer in \[1, 6\], got True"),
        ({"inputs_embeds": torch.zeros(16, 12, 32)}, "input_ids or inputs_embeds, exactly one"),
        ({"input_ids": None}, "input_ids or inputs_embeds, exactly one"),
        (
            {"input_ids": torch.ones(12, dtype=torch.long)},
            r"input_ids must have 2 dimensions, got shape \(12,\)",
        ),
        (
            {"input_ids": torch.ones(1, 41, dtype=torch.long), "attention_mask": None},
            r"input_ids is 41 tokens long; truncate to 40 \(max_position_embeddings\)",
        ),
        ({"input_ids": torch.ones(0, 5, dtype=torch.long)}, r"input_ids is empty, of shape \(0, 5\)"),
        ({"input_ids": torch.ones(2, 0, dtype=torch.long)}, r"input_ids is empty, of shape \(2, 0\)"),
        (
            {"attention_mask": torch.ones(16, 11)},
            r"attention_mask must have shape \(16, 12\), got \(16, 11\)",
        ),
        ({"attention_mask": torch.ones(16, 1, 12, 12)}, r"attention_mask must have shape \(16, 12\)"),
    ],
)
def test_wrong_arguments_are_named_before_anything_runs(
    tiny_model: LeapModel, tiny_batch: Batch, arguments: dict[str, object], message: str
) -> None:
    def ran(*_args: object) -> None:
        raise AssertionError("something was computed")

    tiny_model.embeddings.register_forward_pre_hook(ran)
    with pytest.raises(ValueError, match=message):
        tiny_model(**(tiny_batch | arguments))


def test_unknown_arguments_are_refused(tiny_model: LeapModel, tiny_batch: Batch) -> None:
    with pytest.raises(TypeError, match="exit_treshold"):
        tiny_model(**tiny_batch, exit_treshold=0.9)


def test_assigned_config_fields_are_checked_in_forward(tiny_model: LeapModel, tiny_batch: Batch) -> None:
    tiny_model.config.exit_threshold = 2
    with pytest.raises(ValueError, match=r"exit_threshold must be .*got 2"):
        tiny_model(**tiny_batch)


def test_models_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="add_pooling_layer"):
        LeapModel(LeapConfig(num_hidden_layers=1), add_pooling_layer=True)
    with pytest.raises(ValueError, match="is_decoder"):
        LeapModel(LeapConfig(num_hidden_layers=1, is_decoder=True))
    config = LeapConfig(num_hidden_layers=4)
    config.min_exit_layer = 5
    with pytest.raises(ValueError, match=r"min_exit_layer must be an integer in \[1, 4\], got 5"):
        LeapModel(config)


def test_plain_bert_config_gives_a_full_depth_model(tiny_batch: Batch) -> None:
    fields = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    model = LeapModel(BertConfig(**fields, intermediate_size=64, attn_implementation="eager")).eval()
    assert isinstance(model.config, LeapConfig)
    assert model.config._attn_implementation == "eager"
    with torch.no_grad():
        assert model(**tiny_batch).exit_layer.tolist() == [3] * 16


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="torch.compile needs a C++ compiler on CPU")
def test_compiled_layers_agree(make_tiny_model: MakeModel, tiny_batch: Batch) -> None:
    model = make_tiny_model()
    theta = mixed_theta(model, tiny_batch)
    with torch.no_grad():
        rules = (theta, [None, theta, None, theta - 0.1, theta, None])
        expected = [model(**tiny_batch, exit_threshold=rule, min_exit_layer=2) for rule in rules]
        for layer in model.encoder.layer:
            layer.compile(dynamic=True)
        outputs = [model(**tiny_batch, exit_threshold=rule, min_exit_layer=2) for rule in rules]
    for output, wanted in zip(outputs, expected, strict=True):
        assert len(output.exit_layer.unique()) >= 3
        assert torch.equal(output.exit_layer, wanted.exit_layer)
        torch.testing.assert_close(output.last_hidden_state, wanted.last_hidden_state, atol=1e-5, rtol=1e-5)
