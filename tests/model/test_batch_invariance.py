"""A text's result does not depend on what it was batched with: real weights, real texts.

Alone and in company the same sums are taken in another order, so results agree to float tolerance only, and a
text whose cosine comes that near to the threshold may fall on either side of it. Such texts are excused, and
counted.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, pad
from transformers import AutoTokenizer

from modeling_leap import LeapModel

TEXTS = 2048
FEWER = 512  # in the tests that are not slow
FEWEST = 256  # where three layers are tested, and each text counts for all of them
BATCH = 32
TOLERANCE = 1e-5  # of an embedding's components
# Of a token's state, relative to its length of about 12: a few tokens amplify rounding, more with AVX-512.
STATE_TOLERANCE = 1e-4
NEAR_THETA = 1e-4

pytestmark = pytest.mark.real_weights


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Thousands of tiny forward passes: threads that wait for each other on a busy machine cost minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model_path(repo_root: Path, teacher_path: Path) -> Path:
    """This repository's own checkpoint, or the teacher's until there is one."""
    return repo_root if (repo_root / "model.safetensors").is_file() else teacher_path


@pytest.fixture(scope="module")
def model(model_path: Path) -> LeapModel:
    """The model, in float32: a checkpoint of float16 holds the same numbers."""
    return LeapModel.from_pretrained(model_path, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def token_ids(model_path: Path, train_texts: Callable[[int], list[str]]) -> list[list[int]]:
    """The texts' token ids, each of its own length."""
    return AutoTokenizer.from_pretrained(model_path)(train_texts(TEXTS), truncation=True, max_length=64)[
        "input_ids"
    ]


def padded(rows: list[list[int]], extra: int = 0) -> dict[str, Tensor]:
    """A batch of these rows, all of them padded by at least `extra` tokens."""
    width = max(map(len, rows)) + extra
    ids = [pad(torch.tensor(row), (0, width - len(row))) for row in rows]
    mask = [(torch.arange(width) < len(row)).long() for row in rows]
    return {"input_ids": torch.stack(ids), "attention_mask": torch.stack(mask)}


@torch.inference_mode()
def cosines_of(model: LeapModel, token_ids: list[list[int]]) -> Tensor:
    """(texts, L) cosines s_l in column l - 1, similar lengths together; NaN but for three layers."""
    patience = model.config.exit_patience
    last = patience + 2
    order = sorted(range(len(token_ids)), key=lambda i: len(token_ids[i]))
    cosines = torch.full((len(token_ids), model.config.num_hidden_layers), torch.nan)
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        layers = model(
            **padded([token_ids[i] for i in chosen]), max_layers=last, output_layer_embeddings=True
        ).layer_embeddings
        cosines[chosen, patience - 1 : last] = cosine_similarity(
            layers[:, patience:], layers[:, :-patience], dim=-1
        )
    return cosines


def dividing_threshold(cosines: torch.Tensor) -> float:
    """Of the middle half of `cosines`, the value with the fewest of them near it, as those are excused."""
    candidates = cosines.quantile(torch.linspace(0.25, 0.75, 51))
    near = ((cosines - candidates.unsqueeze(1)).abs() <= NEAR_THETA).sum(dim=1)
    return float(candidates[near.argmin()])


# At how many layers texts leave or end, at least; by the rule of the config it may be one.
@pytest.mark.parametrize(
    ("kind", "places", "texts"),
    [
        pytest.param("config", 1, FEWER, id="as configured"),
        pytest.param("config", 1, TEXTS, id="as configured, many texts", marks=pytest.mark.slow),
        pytest.param("leaves", 4, FEWEST, id="many leave at each of three layers"),
        pytest.param("leaves", 4, FEWER, id="leave at three layers, more texts", marks=pytest.mark.slow),
        pytest.param("lands", 4, FEWEST, id="many leap from each of three layers"),
        pytest.param("lands", 4, FEWER, id="leap from three layers, more texts", marks=pytest.mark.slow),
    ],
)
@torch.inference_mode()
def test_same_result_alone_and_in_any_company(
    model: LeapModel,
    token_ids: list[list[int]],
    kind: str,
    places: int,
    texts: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each text alone, then in shuffled batches with others and with padding to spare."""
    token_ids = token_ids[:texts]
    cosines = cosines_of(model, token_ids)
    config = model.config
    depth, patience = config.num_hidden_layers, config.exit_patience
    if kind != "config":
        three = range(patience, patience + 3)
        thetas = [dividing_threshold(cosines[:, n - 1]) if n in three else None for n in range(1, depth + 1)]
        fields = {"exit_threshold": thetas, "min_exit_layer": patience, "max_exit_layer": None}
        for name, value in (fields | {"landing_layer": patience + 4 if kind == "lands" else None}).items():
            monkeypatch.setattr(config, name, value)

    alone = [model(torch.tensor([row])) for row in token_ids]
    exits = torch.cat([output.exit_layer for output in alone])
    near = torch.zeros(len(exits), dtype=torch.bool)
    for layer, theta in config.exit_thresholds().items():
        near |= ((cosines[:, layer - 1] - theta).abs() <= NEAR_THETA) & (layer <= exits)

    order = torch.randperm(texts, generator=torch.Generator().manual_seed(7)).tolist()
    differing: list[int] = []
    worst_embedding = worst_state = 0.0
    for number, start in enumerate(range(0, texts, BATCH)):
        chosen = order[start : start + BATCH]
        output = model(**padded([token_ids[i] for i in chosen], extra=number % 8))
        for row, i in enumerate(chosen):
            if output.exit_layer[row] != exits[i]:
                differing.append(i)
                continue
            embedding = output.sentence_embedding[row] - alone[i].sentence_embedding[0]
            state = alone[i].last_hidden_state[0]
            moved = (output.last_hidden_state[row, : len(state)] - state).norm(dim=-1) / state.norm(dim=-1)
            worst_embedding = max(worst_embedding, float(embedding.abs().max()))
            # A text that runs all layers is BertModel's own affair: there some token moves by 4e-4.
            if exits[i] < depth:
                worst_state = max(worst_state, float(moved.max()))

    histogram = torch.bincount(exits, minlength=depth + 1)[1:].tolist()
    print(  # noqa: T201 (shown by pytest -s, and with a failure)
        f"theta by layer {config.exit_thresholds()}, exits by layer {histogram}; {int(near.sum())} of "
        f"{texts} texts within {NEAR_THETA} of theta, {len(differing)} left elsewhere in company; "
        f"largest difference: embedding {worst_embedding:.1e}, state {worst_state:.1e}"
    )
    assert sum(count > 0 for count in histogram) >= places, "of too few layers to tell"
    assert all(near[i] for i in differing)
    assert near.float().mean() <= 0.02
    assert worst_embedding <= TOLERANCE
    assert worst_state <= STATE_TOLERANCE
