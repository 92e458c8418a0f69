"""The model once more, slow and plain: a row alone, without its padding, through the layers of BertModel."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import BertConfig, BertModel

from configuration_leap import ExitThreshold
from modeling_leap import LeapModel, LeapModelOutput

MakeModel = Callable[..., LeapModel]
Batch = dict[str, Tensor]


def plain_bert(model: LeapModel) -> BertModel:
    """transformers' own model of the same weights."""
    config = BertConfig(
        **{**model.config.to_dict(), "attn_implementation": model.config._attn_implementation}
    )
    bert = BertModel(config, add_pooling_layer=False)
    bert.load_state_dict(model.state_dict())
    return bert.to(model.dtype).eval()


def pooled_by_hand(hidden: Tensor, mask: Tensor) -> Tensor:
    """(B, H) means over the unmasked tokens, one row at a time."""
    rows = zip(hidden, mask.bool(), strict=True)
    return torch.stack(
        [row[kept].float().mean(dim=0) if kept.any() else torch.zeros(row.shape[1]) for row, kept in rows]
    )


@dataclass
class SlowRow:
    """What a row of t tokens must give: its state (t, H) after the embeddings and each of D layers."""

    states: list[Tensor]
    exit_layer: int
    layers_run: int

    @property
    def embedding(self) -> Tensor:
        return self.states[-1].mean(dim=0) if len(self.states[-1]) else self.states[-1].new_zeros(32)


class SlowModel:
    """A model's rows, each alone, by the rule as `LeapConfig` words it: it shares no code with `LeapModel`.

    What a row's state is after some layers is computed once, whichever thresholds lead it there.
    """

    def __init__(self, model: LeapModel, batch: Batch) -> None:
        self.bert, self.config = plain_bert(model), model.config
        self.ids = batch["input_ids"]
        self.mask = batch.get("attention_mask", torch.ones_like(self.ids)).bool()
        self._states: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def rows(self, theta: ExitThreshold, depth: int | None = None) -> list[SlowRow]:
        """Every row; `theta` as `LeapConfig.exit_threshold`, `depth` the last layer run."""
        depth = depth or self.config.num_hidden_layers
        return [self._row(number, theta, depth) for number in range(len(self.ids))]

    def _state(self, row: int, *layers: int) -> Tensor:
        """(t, H) of a row after the embeddings and these layers; positions are those with its padding."""
        key = (row, *layers)
        if key not in self._states:
            if layers:
                output = self.bert.encoder.layer[layers[-1] - 1](self._state(*key[:-1])[None])
                state = output[0][0] if isinstance(output, tuple) else output[0]
            else:
                ids, places = self.ids[row][self.mask[row]], self.mask[row].nonzero().T
                state = self.bert.embeddings(input_ids=ids[None], position_ids=places)[0]
            self._states[key] = state
        return self._states[key]

    def _row(self, row: int, theta: ExitThreshold, depth: int) -> SlowRow:
        landing, patience = self.config.landing_layer, self.config.exit_patience
        lands = landing is not None and landing <= depth
        last = landing - 2 if landing else depth - 1
        if self.config.max_exit_layer:
            last = min(last, self.config.max_exit_layer)
        thetas = theta if isinstance(theta, list) else [theta] * self.config.num_hidden_layers
        found = SlowRow([self._state(row)], depth, 0)
        if not self.mask[row].any():
            return SlowRow(found.states * (depth + 1), depth, depth)
        means, layers = [found.states[0].mean(dim=0)], []
        number = 0
        while number < depth:
            number += 1
            layers.append(number)
            found.states.append(self._state(row, *layers))
            found.layers_run += 1
            means.append(found.states[-1].mean(dim=0))
            here = thetas[number - 1]
            may_leave = self.config.min_exit_layer <= number <= last and (landing is None or lands)
            if not may_leave or here is None or found.exit_layer < number:
                continue
            if cosine_similarity(means[-1], means[-1 - patience], dim=0) >= here:
                found.exit_layer = number
                skipped = (landing if lands else depth + 1) - 1 - number
                found.states += [found.states[-1]] * skipped
                means += [means[-1]] * skipped
                number += skipped
        return found


def check(output: LeapModelOutput, rows: list[SlowRow], mask: Tensor, tolerance: float = 1e-5) -> None:
    """Hold every field of an output to the slow rows, hidden states too where it has them."""
    assert output.exit_layer.tolist() == [row.exit_layer for row in rows]
    assert output.layers_run.tolist() == [row.layers_run for row in rows]
    assert output.exit_layer.dtype == output.layers_run.dtype == torch.int64
    close = {"atol": tolerance, "rtol": 0}
    expected = torch.stack([row.embedding for row in rows])
    torch.testing.assert_close(output.sentence_embedding, expected, **close)
    states = [torch.cat(state) for state in zip(*(row.states for row in rows), strict=True)]
    kept = mask.bool()
    torch.testing.assert_close(output.last_hidden_state[kept], states[-1], **close)
    if output.hidden_states:
        for ours, theirs in zip(output.hidden_states, states, strict=True):
            torch.testing.assert_close(ours[kept], theirs, **close)


@torch.no_grad()
def rule_cosines(model: LeapModel, batch: Batch) -> dict[int, Tensor]:
    """(B,) cosines s_l at full depth, by layer, of those where the model's config lets rows leave."""
    means, patience = (
        model(**batch, output_layer_embeddings=True).layer_embeddings,
        model.config.exit_patience,
    )
    return {
        number: cosine_similarity(means[:, number], means[:, number - patience], dim=1)
        for number in model.config.exit_thresholds(-1.0)
    }


def mixed_theta(model: LeapModel, batch: Batch) -> float:
    """A threshold at which some rows leave and some do not: the widest gap near the middle of the cosines."""
    values = torch.cat([s[s.isfinite()] for s in rule_cosines(model, batch).values()]).sort().values
    middle = values[len(values) * 2 // 5 : len(values) * 4 // 5 + 1]
    widest = int(middle.diff().argmax())
    return float((middle[widest] + middle[widest + 1]) / 2)


def layered_theta(model: LeapModel, batch: Batch) -> list[float | None]:
    """A threshold a layer, at which about half of the rows have converged; 0.123 where it is not read."""
    found = [0.123] * model.config.num_hidden_layers
    for number, cosines in rule_cosines(model, batch).items():
        values = cosines[cosines.isfinite()].sort().values
        half = len(values) // 2
        found[number - 1] = float((values[half - 1] + values[half]) / 2)
    return found
