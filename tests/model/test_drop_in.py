"""In the place of BertModel: where code written for it calls, cuts, spreads, traces, saves and loads."""

import io
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from slow_model import Batch, MakeModel, SlowModel, check, mixed_theta, plain_bert
from torch import nn
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, DynamicCache

from modeling_leap import LeapModel

RELEASE = {"landing_layer": 5, "min_exit_layer": 1, "max_exit_layer": 1}
NOTHING = {
    "use_cache": False,
    "head_mask": None,
    "encoder_hidden_states": None,
    "encoder_attention_mask": None,
}


@pytest.fixture(params=[RELEASE, {"min_exit_layer": 2}], ids=["lands", "leaves"])
def model(request: pytest.FixtureRequest, make_tiny_model: MakeModel, tiny_batch: Batch) -> LeapModel:
    """A model of each form, whose rows part by its config."""
    model = make_tiny_model(**request.param)
    model.config.exit_threshold = mixed_theta(model, tiny_batch)
    return model


@pytest.mark.parametrize("cache", ["past_key_values", "cache"])
def test_arguments_that_an_encoder_has_no_use_for(model: LeapModel, tiny_batch: Batch, cache: str) -> None:
    with torch.no_grad():
        expected = model(**tiny_batch)
        output = model(**tiny_batch, **NOTHING, **{cache: None})
        assert torch.equal(output.sentence_embedding, expected.sentence_embedding)
        wrong: dict[str, Any] = {
            cache: DynamicCache(),  # what prefix tuning of PEFT passes
            "use_cache": True,
            "head_mask": torch.ones(6, 4),
            "encoder_hidden_states": torch.ones(16, 2, 32),
            "encoder_attention_mask": torch.ones(16, 2),
        }
        for name, value in wrong.items():
            with pytest.raises(ValueError, match=f"^{name} must be None: LeapModel is an encoder"):
                model(**tiny_batch, **{name: value})


def test_outputs_by_number_are_berts(model: LeapModel, tiny_batch: Batch) -> None:
    with torch.no_grad():
        ours = model(**tiny_batch, exit_threshold=None, output_hidden_states=True, return_dict=False)
        theirs = plain_bert(model)(**tiny_batch, output_hidden_states=True, return_dict=False)
    torch.testing.assert_close(ours[0], theirs[0], atol=1e-5, rtol=0)
    states = next(item for item in theirs if isinstance(item, tuple))  # BertModel's third, after its pooler
    assert len(ours[2]) == len(states) == 7
    torch.testing.assert_close(ours[2][3], states[3], atol=1e-5, rtol=0)


@pytest.mark.parametrize("layers", range(1, 6))
def test_layers_cut_by_hand(model: LeapModel, tiny_batch: Batch, layers: int) -> None:
    """As the distillation example of sentence-transformers does it, with the config changed too or not."""
    expected = SlowModel(model, tiny_batch).rows(model.config.exit_threshold, layers)
    model.encoder.layer = nn.ModuleList(list(model.encoder.layer)[:layers])
    with torch.no_grad():
        output = model(**tiny_batch, output_hidden_states=True)
        check(output, expected, tiny_batch["attention_mask"])
        assert len(output.hidden_states) == layers + 1
        with pytest.raises(ValueError, match=rf"max_layers must be an integer in \[1, {layers}\], got 6"):
            model(**tiny_batch, max_layers=6)
        if layers < 3:
            return
        model.config.num_hidden_layers = layers
        if model.config.landing_layer is not None and layers < 5:
            with pytest.raises(
                ValueError, match=rf"landing_layer must be an integer in \[3, {layers}\], got 5"
            ):
                model(**tiny_batch)
            model.config.landing_layer = model.config.exit_threshold = None  # docs/integrations.md
        check(model(**tiny_batch), expected, tiny_batch["attention_mask"])


@pytest.mark.parametrize("second", ["meta", *["cuda"] * torch.cuda.is_available()])
@pytest.mark.parametrize("border", [0, 1, 3, 5])
@pytest.mark.parametrize("theta", ["config", None])
def test_layers_on_two_devices(
    model: LeapModel, tiny_batch: Batch, second: str, border: int, theta: str | None
) -> None:
    """The hooks of device_map="auto". The meta device has no values: there the rule must come before it."""
    hooks = pytest.importorskip("accelerate.hooks")
    if second == "meta" and theta == "config" and max(model.config.exit_thresholds()) > border:
        model.config.max_exit_layer = model.config.min_exit_layer = border or 1
        if border == 0 or not model.config.exit_thresholds():
            pytest.skip("no test of the rule before the border")
    with torch.no_grad():
        expected = model(**tiny_batch, exit_threshold=theta)
    for layer in model.encoder.layer[border:]:
        layer.to(second)
        hooks.add_hook_to_module(layer, hooks.AlignDevicesHook(execution_device=second))
    with torch.no_grad():
        output = model(**tiny_batch, exit_threshold=theta, output_hidden_states=True)
        layers = model(**tiny_batch, output_layer_embeddings=True).layer_embeddings
    assert layers.shape == (16, 7, 32)
    assert [len(state) for state in output.hidden_states] == [16] * 7
    for name in ("last_hidden_state", "sentence_embedding", "exit_layer", "layers_run"):
        assert output[name].device.type == second
        assert output[name].shape == expected[name].shape
        if second != "meta":
            torch.testing.assert_close(output[name].cpu(), expected[name], atol=1e-4, rtol=0)


def said(caplog: pytest.LogCaptureFixture) -> int:
    return caplog.text.count("A traced or exported model has no early exits")


@pytest.fixture
def caplog_of_transformers(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Its loggers do not hand on to the root, where pytest listens."""
    logger = logging.getLogger("modeling_leap")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.filterwarnings("ignore")
def test_a_trace_runs_full_depth(
    model: LeapModel, tiny_batch: Batch, caplog_of_transformers: pytest.LogCaptureFixture
) -> None:
    ids, mask = tiny_batch["input_ids"], tiny_batch["attention_mask"]
    with torch.no_grad():
        traced = torch.jit.trace(model, (ids, mask), strict=False)
        assert said(caplog_of_transformers) >= 1
        output, expected = traced(ids[3:5], mask[3:5]), model(ids[3:5], mask[3:5], exit_threshold=None)
        for name, tensor in output.items():
            torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=0)
        assert (model(ids, mask).exit_layer < 6).any()  # and the model itself is as it was
        caplog_of_transformers.clear()
        model.config.exit_threshold = None
        torch.jit.trace(model, (ids, mask), strict=False)
        assert said(caplog_of_transformers) == 0  # nothing was taken from who asked for it


@pytest.mark.filterwarnings("ignore")
def test_the_exporter_by_tracing_runs_full_depth(model: LeapModel, tiny_batch: Batch) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    ids, mask = tiny_batch["input_ids"], tiny_batch["attention_mask"]
    file = io.BytesIO()
    names = ["input_ids", "attention_mask"]
    with torch.no_grad():
        torch.onnx.export(
            model,
            (ids, mask),
            file,
            dynamo=False,
            input_names=names,
            dynamic_axes={name: {0: "rows", 1: "tokens"} for name in names},
        )
        expected = model(ids[:3, :7], mask[:3, :7], exit_threshold=None)
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"input_ids": ids[:3, :7].numpy(), "attention_mask": mask[:3, :7].numpy()})
    for ours, theirs in zip(found, expected.to_tuple(), strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), theirs, atol=1e-4, rtol=0)


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="this torch cannot tell")
@pytest.mark.parametrize("strict", [False, True])
def test_torch_export_runs_full_depth(model: LeapModel, tiny_batch: Batch, strict: bool) -> None:
    arguments = (tiny_batch["input_ids"], tiny_batch["attention_mask"])
    with torch.no_grad():
        found = torch.export.export(model, arguments, strict=strict).module()(*arguments)
        expected = model(*arguments, exit_threshold=None)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, atol=1e-5, rtol=0)
    assert found.exit_layer.tolist() == [6] * 16


@pytest.mark.parametrize("auto", [AutoModelForSequenceClassification, AutoModelForMaskedLM])
def test_heads_load_without_trust(model: LeapModel, tiny_batch: Batch, tmp_path: Path, auto: Any) -> None:
    """docs/integrations.md: a head of transformers sits on the full depth, so it needs no code of ours."""
    model.save_pretrained(tmp_path)
    headed = auto.from_pretrained(tmp_path).eval()
    assert type(headed).__module__.startswith("transformers.")
    with torch.no_grad():
        found = headed.base_model(**tiny_batch).last_hidden_state
        expected = model(**tiny_batch, exit_threshold=None).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_saved_without_trust_and_loaded_with_it(model: LeapModel, tiny_batch: Batch, tmp_path: Path) -> None:
    """docs/integrations.md: who saves without our code has to copy it; all else was kept."""
    first, second = tmp_path / "first", tmp_path / "second"
    model.save_pretrained(first)
    AutoModel.from_pretrained(first, trust_remote_code=False).save_pretrained(second)
    with pytest.raises(OSError, match=re.escape("configuration_leap.py")):
        AutoModel.from_pretrained(second, trust_remote_code=True)
    for name in ("configuration_leap.py", "modeling_leap.py"):
        shutil.copy(first / name, second)
    again = AutoModel.from_pretrained(second, trust_remote_code=True).eval()
    with torch.no_grad():
        output, expected = again(**tiny_batch), model(**tiny_batch)
    assert torch.equal(output.exit_layer, expected.exit_layer)
    torch.testing.assert_close(output.sentence_embedding, expected.sentence_embedding)
