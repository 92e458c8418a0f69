"""Whatever comes in, a right result or one clear error goes out: properties, each held to plain BertModel."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from tiny_data import tiny_tokenizer
from torch import Tensor
from transformers import AutoTokenizer, BertModel

from eval.quality.oracle import judge, plain_bert
from eval.stress.fuzz import tiny_subject
from modeling_leap import LeapModel

Call = dict[str, Any]
MakeModel = Callable[..., LeapModel]

LAYERS, VOCABULARY, LONGEST = 4, 26, 64
TYPES = [torch.int64, torch.int32, torch.uint8, torch.bool, torch.float16, torch.float32, torch.float64]
# Seeds that do not change: CI must not fail on one run and pass on the next.
quick = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)

thetas = st.none() | st.floats(-1, 1, width=32)
rules = st.fixed_dictionaries(
    {},
    optional={
        "exit_threshold": thetas | st.lists(thetas, min_size=LAYERS, max_size=LAYERS) | st.just("config"),
        "min_exit_layer": st.integers(2, LAYERS),
        "max_layers": st.integers(1, LAYERS),
    },
)


@pytest.fixture(scope="module")
def tiny() -> tuple[LeapModel, BertModel]:
    """A random model of 4 layers, exits by its config, and BertModel with the same weights."""
    model = tiny_subject(tiny_tokenizer(), seed=0).model
    assert (model.config.num_hidden_layers, model.config.vocab_size) == (LAYERS, VOCABULARY)
    assert model.config.max_position_embeddings == LONGEST
    return model, plain_bert(model)


def check(tiny: tuple[LeapModel, BertModel], call: Call) -> None:
    """Hold a call to the oracle."""
    model, bert = tiny
    with torch.inference_mode():
        output = model(**call)
    assert judge(bert, model, call, output).wrong == []


@st.composite
def batches(draw: st.DrawFn) -> Call:
    """Ids with a mask of any type and any pattern, or none."""
    rows, tokens = draw(st.integers(1, 4)), draw(st.integers(1, 10))
    table = st.lists(
        st.lists(st.integers(0, VOCABULARY - 1), min_size=tokens, max_size=tokens),
        min_size=rows,
        max_size=rows,
    )
    bits = st.lists(
        st.lists(st.integers(0, 1), min_size=tokens, max_size=tokens), min_size=rows, max_size=rows
    )
    call: Call = {"input_ids": torch.tensor(draw(table), dtype=draw(st.sampled_from(TYPES[:2])))}
    if draw(st.booleans()):
        call["attention_mask"] = torch.tensor(draw(bits)).to(draw(st.sampled_from(TYPES)))
    return call


@quick
@given(call=batches(), rule=rules)
def test_ids_masks_and_rules(tiny: tuple[LeapModel, BertModel], call: Call, rule: Call) -> None:
    check(tiny, call | rule)


@quick
@given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=4), rule=rules, side=st.booleans())
def test_texts_of_any_characters(
    tiny: tuple[LeapModel, BertModel], texts: list[str], rule: Call, side: bool
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left" if side else "right"
    batch = tokenizer(texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
    batch.pop("token_type_ids", None)
    check(tiny, dict(batch) | rule)


@quick
@given(
    call=batches(),
    bad=st.sampled_from([float("nan"), float("inf"), float("-inf"), 1e20, -3e38]),
    at=st.integers(0, 10**6),
    rule=rules,
)
def test_embeds_that_are_no_numbers(
    tiny: tuple[LeapModel, BertModel], call: Call, bad: float, at: int, rule: Call
) -> None:
    model, _ = tiny
    words = model.get_input_embeddings()(call.pop("input_ids")).detach()
    check(tiny, call | rule | {"inputs_embeds": words})
    words.view(-1)[at % words.numel()] = bad
    with pytest.raises(ValueError, match=r"^inputs_embeds must be finite and below 1e\+17 in magnitude$"):
        model(**call, **rule, inputs_embeds=words)


outside = st.integers(-(2**62), -1) | st.integers(VOCABULARY, 2**62)


@quick
@given(call=batches(), wrong=outside, at=st.integers(0, 10**6), rule=rules)
def test_ids_out_of_the_vocabulary(
    tiny: tuple[LeapModel, BertModel], call: Call, wrong: int, at: int, rule: Call
) -> None:
    call["input_ids"] = call["input_ids"].long()
    call["input_ids"].view(-1)[at % call["input_ids"].numel()] = wrong
    with pytest.raises(ValueError, match=rf"^input_ids must be in \[0, 25\] \(vocab_size\), got {wrong}$"):
        tiny[0](**call, **rule)


@quick
@given(
    call=batches(),
    wrong=st.floats(width=32, allow_infinity=False).filter(lambda value: value not in (0, 1)),
    at=st.integers(0, 10**6),
)
def test_masks_of_other_values(tiny: tuple[LeapModel, BertModel], call: Call, wrong: float, at: int) -> None:
    mask = torch.ones(call["input_ids"].shape)
    mask.view(-1)[at % mask.numel()] = wrong
    with pytest.raises(ValueError, match=r"^attention_mask must hold 1 for a token and 0 for padding"):
        tiny[0](call["input_ids"], mask)


shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@quick
@given(name=st.sampled_from(["input_ids", "attention_mask", "token_type_ids", "position_ids"]), shape=shapes)
def test_shapes(tiny: tuple[LeapModel, BertModel], name: str, shape: tuple[int, ...]) -> None:
    call = {"input_ids": torch.ones(3, 4, dtype=torch.long)} | {name: torch.ones(shape, dtype=torch.long)}
    right = shape == (3, 4) or (shape == (1, 4) and name in ("token_type_ids", "position_ids"))
    right |= name == "input_ids" and len(shape) == 2 and 0 not in shape
    if right:
        check(tiny, call)
        return
    with pytest.raises(ValueError, match=f"^{name} (must have|is empty)"):
        tiny[0](**call)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"input_ids": [[1, 2]]}, "input_ids must be a torch.Tensor, got list"),
        ({"attention_mask": [[1, 1]]}, "attention_mask must be a torch.Tensor, got list"),
        ({"input_ids": torch.ones(1, 2)}, "input_ids must be int64 or int32, got torch.float32"),
        ({"token_type_ids": torch.zeros(1, 2)}, "token_type_ids must be int64 or int32, got torch.float32"),
        ({"token_type_ids": torch.tensor([[0, 2]])}, r"token_type_ids must be in \[0, 1\].*got 2"),
        ({"position_ids": torch.tensor([[0, 64]])}, r"position_ids must be in \[0, 63\].*got 64"),
        ({"position_ids": torch.tensor([[-1, 1]])}, r"position_ids must be in \[0, 63\].*got -1"),
        (
            {"token_type_ids": torch.zeros(1, 2).long(), "position_ids": torch.tensor([[0, 64]])},
            r"position_ids must be in \[0, 63\].*got 64",
        ),
        ({"input_ids": None, "inputs_embeds": torch.ones(1, 2, 31)}, r"inputs_embeds must be 32 wide"),
        (
            {"input_ids": None, "inputs_embeds": torch.ones(1, 2, 32).double()},
            "inputs_embeds must be torch.float32, as the model is, or narrower; got torch.float64",
        ),
        (
            {"input_ids": None, "inputs_embeds": torch.ones(1, 2, 32).long()},
            "inputs_embeds must be torch.float32, as the model is, or narrower; got torch.int64",
        ),
    ],
)
def test_types_and_tables(tiny: tuple[LeapModel, BertModel], call: Call, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        tiny[0](**({"input_ids": torch.tensor([[1, 2]])} | call))


def test_embeds_narrower_than_the_model(tiny: tuple[LeapModel, BertModel]) -> None:
    words = tiny[0].get_input_embeddings()(torch.tensor([[1, 2, 3]])).detach()
    for kind in (torch.float16, torch.bfloat16):
        check(tiny, {"inputs_embeds": words.to(kind)})


def test_half_precision_does_not_overflow(make_tiny_model: MakeModel) -> None:
    words = torch.full((1, 2, 32), 40_000.0, dtype=torch.float16)
    with pytest.raises(ValueError, match="inputs_embeds must be finite and below 32752 in magnitude"):
        make_tiny_model().half()(inputs_embeds=words)


def test_an_error_of_the_layers_passes_unchanged(make_tiny_model: MakeModel) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("out of memory")

    model = make_tiny_model()
    model.embeddings.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        model(torch.tensor([[1, 2]]))


def test_values_of_an_accelerator_are_not_read(make_tiny_model: MakeModel) -> None:
    """A device without values, in the place of one that would have to wait for them."""
    model = make_tiny_model().to("meta")
    ids, words = torch.ones(2, 3, dtype=torch.long, device="meta"), torch.ones(2, 3, 32, device="meta")
    for mask in (torch.ones(2, 3, device="meta"), torch.ones(2, 3, dtype=torch.long, device="meta")):
        assert model._check_inputs(ids, None, mask, ids, ids).dtype == torch.bool
        model._check_inputs(None, words, mask, None, None)


def test_attentions_of_calls_at_the_same_time(make_tiny_model: MakeModel) -> None:
    model = make_tiny_model(attn_implementation="eager")
    one, two = torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5], [6, 7]])
    expected = [model(ids, output_attentions=True).attentions for ids in (one, two)]
    found: list[tuple[Tensor, ...]] = []

    def call_from_another_thread(*_arguments: object) -> None:
        hook.remove()
        other = threading.Thread(target=lambda: found.append(model(two, output_attentions=True).attentions))
        other.start()
        other.join()

    hook = model.encoder.layer[2].register_forward_pre_hook(call_from_another_thread)
    found.insert(0, model(one, output_attentions=True).attentions)
    assert len(found) == 2
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs) == 6
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("landing", [None, 5])
def test_threads_get_what_one_gets(
    make_tiny_model: MakeModel, tiny_batch: dict[str, Tensor], landing: int | None
) -> None:
    model = make_tiny_model(exit_threshold=0.5, min_exit_layer=2, landing_layer=landing)
    batches = [{name: tensor[:rows] for name, tensor in tiny_batch.items()} for rows in (1, 3, 8, 16)]
    with torch.inference_mode():
        expected = [model(**batch) for batch in batches]
    wrong: list[int] = []

    def work(number: int) -> None:
        for turn in range(24):
            chosen = (number + turn) % len(batches)
            with torch.inference_mode():
                output = model(**batches[chosen])
            difference = (output.sentence_embedding - expected[chosen].sentence_embedding).abs().max()
            if not (difference < 1e-6 and torch.equal(output.exit_layer, expected[chosen].exit_layer)):
                wrong.append(chosen)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.real_weights
def test_the_longest_text_and_one_longer(teacher_path: Path) -> None:
    model = LeapModel.from_pretrained(teacher_path, use_safetensors=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(teacher_path)
    batch = tokenizer("word " * 10_000, truncation=True, max_length=512, return_tensors="pt")
    assert batch["input_ids"].shape == (1, 512)
    call = dict(batch) | {"exit_threshold": 0.8}
    with torch.inference_mode():
        assert judge(plain_bert(model), model, call, model(**call)).wrong == []
        batch = tokenizer("word " * 10_000, truncation=True, max_length=513, return_tensors="pt")
        with pytest.raises(ValueError, match=r"^input_ids is 513 tokens long; truncate to 512"):
            model(**batch)
