"""LEAP model: a BERT encoder in which a text whose embedding has converged skips layers.

Method: "LEAP: Layer-wise Exit-Aware Pretraining for Efficient Transformer Inference", arXiv 2605.01058. The
paper lets a batch leave together; here rows leave one by one and the batch shrinks, so that a text's result
does not depend on what it was batched with. In the paper a converged text leaves the network; with a landing
layer it leaps there, and all rows run the last layers together. This file travels with the weights (see
`configuration_leap.py`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)
from transformers.utils import ModelOutput, logging

try:
    # Relative for the Hub's loader, which copies the files it finds named in this form and no others.
    from .configuration_leap import ExitThreshold, LeapConfig, check_int
except ImportError:
    if __package__:
        raise
    # Inside the project: the root of the repository is on sys.path.
    from configuration_leap import ExitThreshold, LeapConfig, check_int

try:
    from transformers.masking_utils import create_bidirectional_mask
except ImportError:  # transformers 4
    create_bidirectional_mask = None

logger = logging.get_logger(__name__)

INTEGERS = (torch.int64, torch.int32)  # what embedding tables are indexed by
# Beyond it the variance in the first LayerNorm leaves float32's range, and the vector is wrong or NaN.
LARGEST_INPUT = 1e17


@dataclass
class LeapModelOutput(ModelOutput):
    """What `LeapModel` returns. B texts of T tokens, H hidden units, D = `max_layers` or all layers.

    The first four are BertModel's and in its order, the pooled output being a mean over tokens.

    Attributes:
        last_hidden_state: (B, T, H), in the caller's row order, the state of each row after its last layer.
        sentence_embedding: (B, H), the mask-weighted mean of `last_hidden_state`, not normalised; float32 in
            a model of any dtype, as the mean is accumulated so. A text without tokens has a zero vector.
        hidden_states: D + 1 tensors (B, T, H), with `output_hidden_states`: the embedding layer's output and
            each layer's; through the layers that a row does not run its state stays as it is.
        attentions: D tensors (B, heads, T, T), with `output_attentions`.
        exit_layer: (B,) int64, the layer after which each row had converged, counted from 1; D if it had not.
        layers_run: (B,) int64, how many layers each row ran: the cost of its vector.
        layer_embeddings: (B, D + 1, H) float32, with `output_layer_embeddings`: the mean after the embeddings
            and after each layer 1..D, so that layer l is at index l.
    """

    last_hidden_state: Tensor | None = None
    sentence_embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    exit_layer: Tensor | None = None
    layers_run: Tensor | None = None
    layer_embeddings: Tensor | None = None


class LeapModel(BertModel):
    """`BertModel` without BERT's pooler, with the exit rule of `LeapConfig` in its layer loop.

    It has no parameters that BertModel has not, and loads any BertModel checkpoint. At full depth (no
    `exit_threshold`) its `last_hidden_state` is that of BertModel with the same weights.
    """

    config_class = LeapConfig
    # The masks of all other kinds of attention are tensors or None; flex's BlockMask cannot lose rows.
    _supports_flex_attn = False
    # Checkpoints of BertModel hold a pooler, old ones the position_ids too; neither is wanted nor missed.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"pooler\.", r"position_ids"]

    def __init__(self, config: BertConfig, add_pooling_layer: bool = False) -> None:
        """A model of random weights.

        Args:
            config: a `LeapConfig`; a plain `BertConfig` gives a model of full depth.
            add_pooling_layer: as in BertModel, where it adds the tanh layer over the first token. Only False.

        Raises:
            ValueError: a pooling layer or a decoder is asked for, or the exit rule is out of its range.
        """
        if add_pooling_layer:
            raise ValueError(
                "add_pooling_layer must be False: LeapModel averages tokens, it has no BERT pooler"
            )
        if config.is_decoder:
            raise ValueError("is_decoder must be False: LeapModel is an encoder")
        if not isinstance(config, LeapConfig):
            attn_implementation = config._attn_implementation  # private, so not in to_dict()
            config = LeapConfig(**config.to_dict())
            config._attn_implementation = attn_implementation
        config.resolve_exit_rule()  # fields may have been assigned since: complain before weights are loaded
        super().__init__(config, add_pooling_layer=False)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: None = None,
        encoder_attention_mask: None = None,
        past_key_values: None = None,
        use_cache: bool | None = None,
        head_mask: None = None,
        cache: None = None,
        exit_threshold: ExitThreshold | Literal["config"] = "config",
        min_exit_layer: int | None = None,
        max_layers: int | None = None,
        output_layer_embeddings: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> LeapModelOutput | tuple[Tensor | tuple[Tensor, ...], ...]:
        """Encode a batch; each row skips layers from the first l >= l_min with cos(p_l, p_(l-k)) >= theta on.

        A row goes on at the landing layer of the config, or leaves the network where there is none. In
        `train()` mode and under `torch.jit.trace` or `torch.export` all rows run all layers. In `eval()` mode
        gradients flow through rows that skipped layers, too.

        Args:
            input_ids: (B, T) int64 or int32 token ids.
            attention_mask: (B, T) of any type, 1 for a token and 0 for padding, wherever it is; None: no
                padding.
            token_type_ids: (B, T) or (1, T), int64 or int32, as in BERT.
            position_ids: (B, T) or (1, T), int64 or int32, as in BERT.
            inputs_embeds: (B, T, H) word embeddings, in the place of `input_ids`, of the model's dtype or a
                narrower one.
            encoder_hidden_states: of BertModel's signature, as are the next five. None.
            encoder_attention_mask: None.
            past_key_values: None: an encoder keeps no keys and values.
            use_cache: None or False.
            head_mask: None.
            cache: None; `past_key_values` since transformers 5.24.
            exit_threshold: theta for this call, a number or a list of one a layer, as in `LeapConfig`; None
                for full depth, "config" (the default) for the config's.
            min_exit_layer: l_min for this call; None for the config's.
            max_layers: the last layer run, in [1, num_hidden_layers]; a static depth. Below the landing
                layer no row leaps.
            output_layer_embeddings: return the pooled embedding of every layer, for training and diagnosis.
                All rows then run all layers, whatever the threshold.
            output_hidden_states: return every layer's output; None: as the config says.
            output_attentions: return attention weights; None: as the config says. Needs the eager attention,
                and no early exits.
            return_dict: False for a tuple of the fields that are there; None: as the config says.

        Raises:
            ValueError: an argument out of its range or of the wrong shape or type, before any layer runs.
                Values of tensors are checked on the CPU only, as reading them would stall an accelerator:
                there the lookup of an id out of the vocabulary fails by itself, what is not 0 in a mask is a
                token, and `inputs_embeds` that are not finite give vectors that are not.
        """
        config = self.config
        _check_absent(
            head_mask=head_mask,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=past_key_values,
            cache=cache,
            use_cache=use_cache or None,
        )
        depth, exits = self._plan(exit_threshold, min_exit_layer, max_layers)
        if output_layer_embeddings:
            exits = {}
        landing = config.landing_layer or depth + 1
        if landing > depth:  # a row that has converged runs nothing more
            landing = depth + 1
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        if output_attentions is None:
            output_attentions = config.output_attentions
        if output_attentions and (exits or config._attn_implementation != "eager"):
            raise ValueError(
                'output_attentions needs exit_threshold=None and a model of attn_implementation="eager"'
            )
        attention_mask = self._check_inputs(
            input_ids, inputs_embeds, attention_mask, token_type_ids, position_ids
        )

        hidden = self._embed(
            input_ids=input_ids,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
        )
        batch = _Batch(
            hidden,
            mask=self.layer_mask(hidden, attention_mask),
            weights=_pooling_weights(hidden, attention_mask),
            depth=depth,
            patience=config.exit_patience,
        )
        watched = range(depth + 1) if output_layer_embeddings else range(0)
        if exits:
            watched = range(min(exits) - config.exit_patience, max(exits) + 1)
        embeddings = [batch.pool()] if 0 in watched else []
        states = [hidden] if output_hidden_states else []
        with _attention_weights(self.encoder.layer if output_attentions else ()) as attentions:
            number = 0
            while number < depth:
                number += 1
                if number == landing:
                    batch.join()
                batch.run(self.encoder.layer[number - 1])  # by index: a slice of a ModuleList is a new module
                if output_hidden_states:
                    states.append(batch.joined())
                if number in watched:
                    embeddings.append(batch.pool())
                if number in exits and batch.let_leave(exits[number], number):
                    states += states[-1:] * (landing - 1 - number)
                    number = landing - 1  # nobody is left for the layers before it
        batch.join()

        exit_layer, device = batch.exit_layer, batch.hidden.device
        # To one device: with a device_map the layers lie on several.
        embeddings = [p.to(device) for p in embeddings] if output_layer_embeddings else [batch.pool()]
        result = LeapModelOutput(
            last_hidden_state=batch.hidden,
            sentence_embedding=embeddings[-1],
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            exit_layer=exit_layer,
            layers_run=torch.where(exit_layer < landing, exit_layer + (depth + 1 - landing), depth),
            layer_embeddings=torch.stack(embeddings, dim=1) if output_layer_embeddings else None,
        )
        return result if (config.return_dict if return_dict is None else return_dict) else result.to_tuple()

    def _plan(
        self,
        exit_threshold: ExitThreshold | Literal["config"],
        min_exit_layer: int | None,
        max_layers: int | None,
    ) -> tuple[int, dict[int, float]]:
        """The last layer to run, and theta of each layer before it at which rows may leave."""
        # Of the layers that are there: users cut `encoder.layer` by hand and leave the config as it is.
        depth = min(len(self.encoder.layer), self.config.num_hidden_layers)
        if max_layers is not None:
            depth = check_int("max_layers", max_layers, 1, depth)
        exits = self.config.exit_thresholds(exit_threshold, min_exit_layer, depth)
        if exits and _is_traced():
            # A trace would send every later text the way of the one it was made with.
            logger.warning("A traced or exported model has no early exits: all texts run all layers in it.")
            return depth, {}
        return depth, {} if self.training else exits

    def _check_inputs(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
    ) -> Tensor | None:
        """Raise a ValueError for what cannot be encoded; the mask as bool otherwise."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass either input_ids or inputs_embeds, exactly one of them")
        name, tokens, dims = "input_ids", input_ids, 2
        if inputs_embeds is not None:
            name, tokens, dims = "inputs_embeds", inputs_embeds, 3
        _check_is_tensor(name, tokens)
        if tokens.dim() != dims:
            raise ValueError(f"{name} must have {dims} dimensions, got shape {tuple(tokens.shape)}")
        if tokens.numel() == 0:
            raise ValueError(f"{name} is empty, of shape {tuple(tokens.shape)}")
        longest = self.config.max_position_embeddings
        if tokens.shape[1] > longest:
            raise ValueError(
                f"{name} is {tokens.shape[1]} tokens long; truncate to {longest} (max_position_embeddings)"
            )
        if inputs_embeds is not None:
            self._check_embeds(inputs_embeds)
        elif input_ids.dtype not in INTEGERS:
            raise ValueError(f"input_ids must be int64 or int32, got {input_ids.dtype}")
        shape = tokens.shape[:2]
        for name, ids in (("token_type_ids", token_type_ids), ("position_ids", position_ids)):
            if ids is not None:
                _check_is_tensor(name, ids)
                if ids.shape != shape and ids.shape != (1, shape[1]):
                    raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(ids.shape)}")
                if ids.dtype not in INTEGERS:
                    raise ValueError(f"{name} must be int64 or int32, got {ids.dtype}")
        return _check_mask(attention_mask, shape)

    def _check_embeds(self, inputs_embeds: Tensor) -> None:
        width, dtype = self.config.hidden_size, self.dtype
        if inputs_embeds.shape[2] != width:
            raise ValueError(
                f"inputs_embeds must be {width} wide (hidden_size), got shape {tuple(inputs_embeds.shape)}"
            )
        kind = inputs_embeds.dtype
        if not kind.is_floating_point or torch.promote_types(kind, dtype) != dtype:
            raise ValueError(f"inputs_embeds must be {dtype}, as the model is, or narrower; got {kind}")
        if inputs_embeds.is_cpu and not torch.compiler.is_compiling():
            largest = min(LARGEST_INPUT, torch.finfo(dtype).max / 2)
            if not inputs_embeds.detach().abs().amax() < largest:  # "not <", as NaN is neither
                raise ValueError(f"inputs_embeds must be finite and below {largest:g} in magnitude")

    def _embed(self, **inputs: Tensor | None) -> Tensor:
        """What the first layer takes, (B, T, H)."""
        if torch.compiler.is_compiling():
            return self.embeddings(**inputs)
        try:
            return self.embeddings(**inputs)
        except (IndexError, RuntimeError):
            # The lookup looks at every id anyway: asking which one only once it has failed costs nothing.
            self._check_ids(inputs)
            raise

    def _check_ids(self, inputs: dict[str, Tensor | None]) -> None:
        """Raise a ValueError that names ids out of their table, on the CPU."""
        config = self.config
        for name, limit, size in (
            ("input_ids", "vocab_size", config.vocab_size),
            ("token_type_ids", "type_vocab_size", config.type_vocab_size),
            ("position_ids", "max_position_embeddings", config.max_position_embeddings),
        ):
            ids = inputs[name]
            if ids is None or not ids.is_cpu:
                continue
            outside = ids[(ids < 0) | (ids >= size)]
            if len(outside):
                raise ValueError(f"{name} must be in [0, {size - 1}] ({limit}), got {int(outside[0])}")

    def layer_mask(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor | None:
        """The mask in the layers' form, rows in its first axis; None when nothing is masked.

        Args:
            hidden: (B, T, H), whose dtype and device it takes.
            attention_mask: (B, T) bool or None.
        """
        if create_bidirectional_mask is not None:
            # On an accelerator this waits once: transformers looks whether anything is masked, and a batch of
            # equal lengths then takes the faster attention without a mask.
            # By position: its second parameter was called input_embeds in 5.0 and is inputs_embeds since 5.2.
            return create_bidirectional_mask(self.config, hidden, attention_mask)
        if attention_mask is None:
            return None
        return self.get_extended_attention_mask(attention_mask, attention_mask.shape)


class _Batch:
    """The rows on their way through the layers: b of the caller's B, all of them until the first leave."""

    def __init__(
        self, hidden: Tensor, mask: Tensor | None, weights: Tensor, depth: int, patience: int
    ) -> None:
        self.hidden = hidden  # (b, T, H)
        self.mask = self.all_masks = mask  # as the layers want it, first axis b; None: nothing is masked
        self.weights = self.all_weights = weights  # (b, T, 1), see _pooling_weights
        self.patience = patience  # k
        # A list, no deque: across the graph breaks of torch.compile a deque forgets its maxlen (torch 2.13).
        self.pooled: list[Tensor] = []  # p_(l-k) .. p_l, each (b, H)
        self.rows: Tensor | None = None  # (b,) the caller's index of each row; None: all are here, in order
        self.parked: Tensor | None = None  # (B, T, H), of the rows that are not here: as they left
        # (B,); the type is said because the exporter by tracing takes a float otherwise.
        self.exit_layer = torch.full(hidden.shape[:1], depth, dtype=torch.int64, device=hidden.device)

    def run(self, layer: nn.Module) -> None:
        """Send the rows through a layer."""
        output = layer(self.hidden, self.mask)
        self.hidden = output[0] if isinstance(output, tuple) else output  # a tuple in transformers 4
        device = self.hidden.device
        if device != self.weights.device:  # the layers lie on several devices (device_map)
            self.weights, self.all_weights = self.weights.to(device), self.all_weights.to(device)
            self.mask, self.all_masks = _to(self.mask, device), _to(self.all_masks, device)
            self.rows, self.parked = _to(self.rows, device), _to(self.parked, device)
            self.exit_layer = self.exit_layer.to(device)
            self.pooled = [p.to(device) for p in self.pooled]

    def pool(self) -> Tensor:
        """Compute and remember p_l, (b, H) float32: the weighted mean over tokens of the last layer's output.

        Not a matrix product: autocast and TF32 would take from it the precision that the exit rule relies on.
        """
        tokens = self.hidden.float()
        if self.mask is not None:
            # Filled, as attention over padding alone may yield NaN (float16, eager), and 0 * NaN is no 0.
            tokens = tokens.masked_fill(self.weights == 0, 0.0)
        pooled = (tokens * self.weights).sum(dim=1)
        self.pooled = [*self.pooled[-self.patience :], pooled]
        return pooled

    def let_leave(self, theta: float, number: int) -> bool:
        """Park the rows that have converged at layer `number`, cos(p_l, p_(l-k)) >= theta.

        Returns:
            True if that is all of them; then nothing is copied, and they are where they were.
        """
        now, before = self.pooled[-1], self.pooled[0]
        # A row without tokens has p = 0, so 0 / 0 = NaN here, which is >= no theta: it goes on to the end.
        cosine = (now * before).sum(dim=-1) / (now.norm(dim=-1) * before.norm(dim=-1))
        leaving = cosine >= theta
        rows = torch.arange(len(leaving), device=leaving.device) if self.rows is None else self.rows
        exit_layer = self.exit_layer[rows].masked_fill(leaving, number)
        self.exit_layer = self.exit_layer.index_copy(0, rows, exit_layer)
        count = int(leaving.sum())  # the only wait for the device
        if 0 < count < len(leaving):
            # A sort in the place of nonzero(), which would wait for the device again.
            stay = leaving.byte().argsort(stable=True)[:-count]
            self.parked = self.joined()
            self.rows, self.hidden, self.weights = rows[stay], self.hidden[stay], self.weights[stay]
            self.mask = None if self.mask is None else self.mask[stay]
            self.pooled = [p[stay] for p in self.pooled]
        return count == len(leaving)

    def joined(self) -> Tensor:
        """The state of all rows in the caller's order, (B, T, H)."""
        return self.hidden if self.rows is None else self.parked.index_copy(0, self.rows, self.hidden)

    def join(self) -> None:
        """Bring all rows together again, in the caller's order."""
        self.hidden, self.rows = self.joined(), None
        self.mask, self.weights = self.all_masks, self.all_weights


def _is_traced() -> bool:
    """Whether the operations of this call are recorded, to be repeated for other texts."""
    if torch.jit.is_tracing():
        return True
    return hasattr(torch.compiler, "is_exporting") and torch.compiler.is_exporting()  # not in torch 2.4


def _to(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)


def _check_absent(**arguments: object) -> None:
    """Refuse what BertModel takes and an encoder has no use for."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"{name} must be None: LeapModel is an encoder and keeps no cache")


def _check_is_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, got {type(value).__name__}")


def _check_mask(mask: Tensor | None, shape: torch.Size) -> Tensor | None:
    """The mask of (B, T) = `shape` as bool; a ValueError if it is none."""
    if mask is None:
        return None
    _check_is_tensor("attention_mask", mask)
    if mask.shape != shape:
        raise ValueError(f"attention_mask must have shape {tuple(shape)}, got {tuple(mask.shape)}")
    # Squares are themselves: 0 and 1. Other numbers may be an additive mask, in which 0 is a token.
    checked = mask.dtype is not torch.bool and mask.is_cpu and not torch.compiler.is_compiling()
    if checked and not torch.equal(mask, mask * mask):
        raise ValueError("attention_mask must hold 1 for a token and 0 for padding, and nothing else")
    return mask.bool()


def _pooling_weights(hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
    """(B, T, 1) float32 weights of the mean over tokens; they sum to 1, or to 0 where nothing is unmasked."""
    if attention_mask is None:
        return hidden.new_full((*hidden.shape[:2], 1), 1 / hidden.shape[1], dtype=torch.float32)
    weights = attention_mask.float()
    return (weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-9)).unsqueeze(-1)


@contextmanager
def _attention_weights(layers: Sequence[nn.Module] | nn.ModuleList) -> Iterator[list[Tensor]]:
    """Collect the attention weights of these layers as they run.

    transformers 5 returns none from a layer and transformers 4 only on request, so they are taken further in.
    """
    weights: list[Tensor] = []
    caller = get_ident() if len(layers) else None  # torch.compile cannot trace it

    def keep(_module: nn.Module, _args: object, output: tuple[Tensor, ...]) -> None:
        if get_ident() == caller:  # other threads may be in the same layers
            weights.append(output[1])

    hooks = [layer.attention.self.register_forward_hook(keep) for layer in layers]
    try:
        yield weights
    finally:
        for hook in hooks:
            hook.remove()


# Heads sit on a plain BertModel: a text is at full depth there. Only the class of their config is ours.


class LeapForMaskedLM(BertForMaskedLM):  # noqa: D101
    config_class = LeapConfig


class LeapForMultipleChoice(BertForMultipleChoice):  # noqa: D101
    config_class = LeapConfig


class LeapForQuestionAnswering(BertForQuestionAnswering):  # noqa: D101
    config_class = LeapConfig


class LeapForSequenceClassification(BertForSequenceClassification):  # noqa: D101
    config_class = LeapConfig


class LeapForTokenClassification(BertForTokenClassification):  # noqa: D101
    config_class = LeapConfig


LeapModel.register_for_auto_class("AutoModel")
LeapForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
LeapForMultipleChoice.register_for_auto_class("AutoModelForMultipleChoice")
LeapForQuestionAnswering.register_for_auto_class("AutoModelForQuestionAnswering")
LeapForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
LeapForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
