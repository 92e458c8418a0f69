"""Losses of other ways to distil an encoder: what LEAP is compared with, by `python -m eval baselines`.

TinyBERT (arXiv 1909.10351) and MiniLM (arXiv 2002.10957) look at what happens to each token in the layers:

    hidden states   a layer's output, (B, T, H)
    attention maps  (B, heads, T, T): row q is how query token q spreads over all keys; padding keys have 0

Lists of them have one item a layer, from the first on. Student layer l is compared with teacher layer pi(l)
of `layer_map`. All are float32 when they are compared, whatever type they come in. Student
and teacher share width and number of heads. AdaptiveLayerLoss is the class of sentence-transformers itself.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from leap.distill.objective import layer_map
from modeling_leap import LeapModel


def hidden_mse(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """TinyBERT's L_hidn without its projection: squared error of hidden states, layer l to pi(l).

    The embedding layer's term of the paper is left out: frozen embeddings are the teacher's own.

    Args:
        student: Ls hidden states (B, T, H).
        teacher: Lt hidden states (B, T, H).
        mask: (B, T), 1 for a token and 0 for padding.

    Returns:
        Mean over hidden units, over the tokens of all texts and over layers.
    """
    errors = [
        _token_mean((own.float() - target.float()).square().mean(dim=-1), mask)
        for own, target in _pairs(student, teacher)
    ]
    return torch.stack(errors).mean()


def map_kl(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """KL(teacher || student) of rows of attention or relation maps, layer l to pi(l).

    Args:
        student: Ls maps (B, heads, T, T).
        teacher: Lt maps (B, heads, T, T).
        mask: (B, T), 1 for a token and 0 for padding; padding rows are left out.

    Returns:
        Mean over heads, over the tokens of all texts and over layers. (MiniLM averages over the tokens of
        each text first; in batches of like lengths that is nearly the same.)
    """
    divergences = []
    for own, target in _pairs(student, teacher):
        own, target = own.float(), target.float()
        # Where padding has 0 in both maps, both terms and the gradient are 0.
        divergence = torch.xlogy(target, target) - target * own.clamp_min(1e-12).log()
        divergences.append(_token_mean(divergence.sum(dim=-1).mean(dim=1), mask))
    return torch.stack(divergences).mean()


def value_relations(values: Tensor, heads: int, mask: Tensor) -> Tensor:
    """MiniLM's value relation: softmax of the scaled dot products of a text's value vectors.

    Args:
        values: (B, T, H), what a layer's value projection gives.
        heads: how many parts H falls into.
        mask: (B, T), 1 for a token and 0 for padding.

    Returns:
        (B, heads, T, T) float32, each row summing to 1 over the tokens that are no padding.
    """
    batch, tokens, width = values.shape
    split = values.float().view(batch, tokens, heads, width // heads).transpose(1, 2)
    products = split @ split.transpose(2, 3) / (width // heads) ** 0.5
    return products.masked_fill(mask[:, None, None, :] == 0, float("-inf")).softmax(dim=-1)


@contextmanager
def watch_values(model: LeapModel) -> Iterator[list[Tensor]]:
    """A list that the value vectors (B, T, H) of every layer are put into as `model` runs."""
    values: list[Tensor] = []
    hooks = [
        layer.attention.self.value.register_forward_hook(lambda _module, _args, output: values.append(output))
        for layer in model.encoder.layer
    ]
    try:
        yield values
    finally:
        for hook in hooks:
            hook.remove()


def adaptive_layers(
    student: LeapModel, tokenizer: PreTrainedTokenizerBase
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """sentence-transformers' AdaptiveLayerLoss around its MSELoss, both with their defaults.

    Each call samples one layer below the last, the embedding layer among them, with Python's `random`. The
    model there ends in Normalize and targets are normalised: the stronger form of it. A student whose start
    has vectors of twice its teacher's length is shaken by the squared error of the raw ones (120 steps from
    1,3,6,6~0.3,6~0.3,6~0.3 took STS-B validation to 0.10 at the last layer, against 0.85 normalised).

    Args:
        student: its parameters become those of the SentenceTransformer: they are trained in place, and the
            frozen ones stay frozen.
        tokenizer: of the student.

    Returns:
        A function of ids (B, T), mask (B, T) and teacher embeddings (B, H) that gives the loss.

    Raises:
        ImportError: sentence-transformers is not installed.
    """
    # Here: a development requirement, which takes seconds to import.
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import AdaptiveLayerLoss, MSELoss
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    with tempfile.TemporaryDirectory() as folder:
        student.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        load = {"attn_implementation": student.config._attn_implementation, "add_pooling_layer": False}
        transformer = Transformer(folder, model_kwargs=load)
    transformer.auto_model.to(student.device)
    student.load_state_dict(
        transformer.auto_model.state_dict(keep_vars=True), assign=True
    )  # one set of weights
    model = SentenceTransformer(
        modules=[transformer, _Float32(), Pooling(student.config.hidden_size), Normalize()],
        device=str(student.device),
    ).train()
    loss = AdaptiveLayerLoss(model, MSELoss(model))

    def call(ids: Tensor, mask: Tensor, teacher: Tensor) -> Tensor:
        return loss([{"input_ids": ids, "attention_mask": mask}], F.normalize(teacher, dim=-1))

    return call


class _Float32(nn.Module):
    """Token embeddings to float32: under autocast pooling and the loss would go on in bfloat16."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**features, "token_embeddings": features["token_embeddings"].float()}


def _pairs(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each student layer's and its teacher layer's."""
    layers = layer_map(len(student), len(teacher))
    return ((own, teacher[layer - 1]) for own, layer in zip(student, layers, strict=True))


def _token_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B, T) over what is no padding."""
    return values.masked_fill(mask == 0, 0.0).sum() / mask.sum()
