"""The training objective, term by term (reference: arXiv 2605.01058, "Training objective").

Every term is a small function of pooled embeddings, all float32 and not normalised:

    layers   (B, L, H)   the student's, after each of its L layers, the last one full depth
    teacher  (B, H)      the teacher's at full depth
    inner    (B, Lt, H)  the teacher's after each of its layers; only L_inter reads it

and `Objective` is their weighted sum. A weight of 0 takes a term out and its cost with it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Gather = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights and shapes of the terms. The defaults are the paper's; `distill.recipes` has ours.

    Attributes:
        alpha: weight of L_inter, layer-wise alignment with the teacher's layers.
        beta: weight of L_exit.
        delta: weight of L_contrast.
        own_final: weight of L_exit_s (towards the student's own last layer) against L_exit_t (the teacher's).
        tau: the cosine that the exit term asks for.
        slope: of the exit term's sigmoid, at the end of training.
        slope_start: the slope at the start, raised linearly from there; the paper keeps it constant.
        linear: weight of 1 - cos beside the sigmoid in L_exit; its gradient does not vanish far from tau.
        layer_weights: w_l, "uniform" or "linear" (in proportion to l), of mean 1 over the layers of the term.
        first_exit_layer: the exit term covers this layer and those above, counted from 1.
        temperature: of the softmax in L_contrast.
        relation: weight of the mixed-depth relational term.
        signal: weight of the term that makes s_l tell the fidelity of layer l (ours, not the paper's).
    """

    alpha: float = 0.3
    beta: float = 0.4
    delta: float = 0.3
    own_final: float = 0.7
    tau: float = 0.98
    slope: float = 10.0
    slope_start: float = 10.0
    linear: float = 0.0
    layer_weights: str = "uniform"
    first_exit_layer: int = 1
    temperature: float = 0.05
    relation: float = 0.0
    signal: float = 0.0

    @property
    def batch_needed(self) -> int:
        """Texts that a batch must have: terms that compare texts with one another need two."""
        return 2 if self.delta or self.relation or self.signal else 1


def final_alignment(layers: Tensor, teacher: Tensor) -> Tensor:
    """L_final = 1 - cos(e_s^(Ls), e_t^(Lt)), mean over the batch."""
    return 1 - F.cosine_similarity(layers[:, -1], teacher, dim=-1).mean()


def layer_map(n_student: int, n_teacher: int) -> list[int]:
    """The map pi: for each student layer the teacher layer at the same relative depth, both from 1.

    Rounded up where the depths do not divide each other (the paper does not say), so that the last meets
    the last and no student layer is asked for less than its share.
    """
    return [-(-layer * n_teacher // n_student) for layer in range(1, n_student + 1)]


def inner_alignment(layers: Tensor, inner: Tensor) -> Tensor:
    """L_inter = mean over l < Ls of 1 - cos(e_s^(l), e_t^(pi(l))); the last one is L_final's (our choice)."""
    aligned = inner[:, [layer - 1 for layer in layer_map(layers.shape[1], inner.shape[1])]]
    return 1 - F.cosine_similarity(layers[:, :-1], aligned[:, :-1], dim=-1).mean()


def exit_penalty(cosine: Tensor, tau: float, slope: float, linear: float) -> Tensor:
    """What a layer pays for a cosine below tau: sigma(slope (tau - cos)) + linear (1 - cos), elementwise."""
    return torch.sigmoid(slope * (tau - cosine)) + linear * (1 - cosine)


def exit_to_teacher(layers: Tensor, teacher: Tensor, config: ObjectiveConfig, slope: float) -> Tensor:
    """L_exit_t = 1/Ls sum_l w_l penalty(cos(e_s^(l), e_t^(Lt))), mean over the batch."""
    exits = layers[:, config.first_exit_layer - 1 :]
    cosine = F.cosine_similarity(exits, teacher.unsqueeze(1), dim=-1)
    weights = _layer_weights(config.layer_weights, config.first_exit_layer, exits)
    return (weights * exit_penalty(cosine, config.tau, slope, config.linear)).mean()


def exit_to_own_final(layers: Tensor, config: ObjectiveConfig, slope: float) -> Tensor:
    """L_exit_s = 1/(Ls-1) sum_{l<Ls} w_l penalty(cos(e_s^(l), sg(e_s^(Ls)))), mean over the batch."""
    exits = layers[:, config.first_exit_layer - 1 : -1]
    cosine = F.cosine_similarity(exits, layers[:, -1:].detach(), dim=-1)
    weights = _layer_weights(config.layer_weights, config.first_exit_layer, exits)
    return (weights * exit_penalty(cosine, config.tau, slope, config.linear)).mean()


def similarity_kl(
    rows: Tensor,
    columns: Tensor,
    target_rows: Tensor,
    target_columns: Tensor,
    temperature: float,
    first_column: int = 0,
) -> Tensor:
    """L_contrast: KL(teacher || student) between row-softmaxed matrices of in-batch cosines.

    A text's cosine with itself, 1 for both, is left out (the paper does not say): at a low temperature it
    would take nearly all of the softmax and leave the term without a gradient.

    Args:
        rows: (B, H), the student's embeddings of this process.
        columns: (C, H), the student's of all processes, this one's among them.
        target_rows: (B, H), the teacher's.
        target_columns: (C, H), the teacher's.
        temperature: divides the cosines before the softmax.
        first_column: column of this process's first row.
    """
    itself = torch.arange(rows.shape[0], device=rows.device)
    itself = (itself + first_column).unsqueeze(1) == torch.arange(columns.shape[0], device=rows.device)

    def log_probabilities(some: Tensor, others: Tensor) -> Tensor:
        return F.log_softmax((_cosines(some, others) / temperature).masked_fill(itself, -1e4), dim=-1)

    student, target = log_probabilities(rows, columns), log_probabilities(target_rows, target_columns)
    return F.kl_div(student, target, log_target=True, reduction="batchmean")


def mixed_depth_relation(mixed: Tensor, columns: Tensor, teacher: Tensor, teacher_columns: Tensor) -> Tensor:
    """Squared error of cosines, between texts that left at different layers and with the teacher's index.

    `mixed` has every text at a random layer of its own, as exits will have them. Two cosines of each pair
    are asked to be the teacher's: that of two such embeddings, and that of one with the other's teacher
    embedding (an early-exit query over an index that the teacher made). The cosine itself, not its softmax:
    where texts leave at different layers a shift of scale changes rankings, and a softmax does not see it.

    Args:
        mixed: (B, H), this process's rows.
        columns: (C, H), all processes' rows.
        teacher: (B, H), the teacher's of `mixed`.
        teacher_columns: (C, H), the teacher's of `columns`.

    Returns:
        Mean over pairs of the squared differences.
    """
    target = _cosines(teacher, teacher_columns)
    among = _cosines(mixed, columns) - target
    across = _cosines(mixed, teacher_columns) - target
    return among.square().mean() + across.square().mean()


def exit_signal(layers: Tensor, first_layer: int) -> Tensor:
    """1 - the correlation over the batch of s_l with the fidelity of layer l, mean over first_layer <= l < L.

    s_l = cos(e^(l), e^(l-1)) is all that the exit rule sees; cos(e^(l), e^(L)) is what leaving at l keeps.
    Nothing in the paper's objective makes the one tell the other: where it does not, texts leave at random.
    Only e^(l-1) learns from this term, so that it bends no embedding towards being easy to predict.

    Args:
        layers: (B, L, H), as above.
        first_layer: lowest layer that a text may leave at, counted from 1; 1 counts as 2, as s_1 is none.
    """
    first = max(first_layer, 2) - 1
    now = layers[:, first:-1].detach()
    signal = F.cosine_similarity(layers[:, first - 1 : -2], now, dim=-1)  # (B, L - first - 1)
    fidelity = F.cosine_similarity(now, layers[:, -1:].detach(), dim=-1)
    signal, fidelity = signal - signal.mean(dim=0), fidelity - fidelity.mean(dim=0)
    # cosine_similarity of centred columns is their correlation, and has a floor under its denominator.
    return 1 - F.cosine_similarity(signal, fidelity, dim=0).mean()


def mix_depths(layers: Tensor, first_layer: int, generator: torch.Generator | None = None) -> Tensor:
    """(B, H): every row at a layer drawn uniformly from first_layer..L; `generator` lives on the CPU."""
    batch, depth = layers.shape[:2]
    chosen = torch.randint(first_layer - 1, depth, (batch,), generator=generator)
    if layers.is_cuda:
        chosen = chosen.pin_memory().to(layers.device, non_blocking=True)
    return layers[torch.arange(batch, device=layers.device), chosen]


class Objective:
    """L_final + alpha L_inter + beta (L_exit_t + own_final L_exit_s) + delta L_contrast, and our two terms.

    Ours are relation L_rel (`mixed_depth_relation`) and signal L_signal (`exit_signal`).

    Args:
        config: weights and shapes.
        gather: (B, H) of this process to (C, H) of all processes, with gradient; None for a single process.
        process: index of this process.
    """

    def __init__(self, config: ObjectiveConfig, gather: Gather | None = None, process: int = 0) -> None:
        self.config = config
        self.process = process
        self.gather = gather or (lambda rows: rows)

    def __call__(
        self,
        layers: Tensor,
        teacher: Tensor,
        inner: Tensor | None = None,
        progress: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms before weighting, detached, by name.

        Args:
            layers: (B, L, H), the student's.
            teacher: (B, H).
            inner: (B, Lt, H), needed where alpha > 0.
            progress: share of training done, in [0, 1]; it sets the slope.
            generator: draws the layers of the mixed-depth term.
        """
        config = self.config
        slope = config.slope_start + (config.slope - config.slope_start) * progress
        weighted = [("final", 1.0, final_alignment(layers, teacher))]
        if config.alpha:
            weighted.append(("inter", config.alpha, inner_alignment(layers, inner)))
        if config.beta:
            weighted.append(("exit_teacher", config.beta, exit_to_teacher(layers, teacher, config, slope)))
            if config.own_final:
                own = exit_to_own_final(layers, config, slope)
                weighted.append(("exit_own", config.beta * config.own_final, own))
        if config.delta or config.relation:
            all_teacher = self.gather(teacher)
        if config.delta:
            final = layers[:, -1]
            kl = similarity_kl(
                final, self.gather(final), teacher, all_teacher, config.temperature, self.process * len(final)
            )
            weighted.append(("contrast", config.delta, kl))
        if config.relation:
            mixed = mix_depths(layers, config.first_exit_layer, generator)
            relation = mixed_depth_relation(mixed, self.gather(mixed), teacher, all_teacher)
            weighted.append(("relation", config.relation, relation))
        if config.signal:
            weighted.append(("signal", config.signal, exit_signal(layers, config.first_exit_layer)))
        loss = torch.stack([weight * term for _, weight, term in weighted]).sum()
        return loss, {name: term.detach() for name, _, term in weighted}


def _cosines(rows: Tensor, columns: Tensor) -> Tensor:
    return F.normalize(rows, dim=-1) @ F.normalize(columns, dim=-1).T


def _layer_weights(kind: str, first: int, layers: Tensor) -> Tensor:
    """w_l of layers first, first + 1, ..., with mean 1: (number of layers,)."""
    depth = torch.arange(first, first + layers.shape[1], device=layers.device, dtype=layers.dtype)
    weights = depth if kind == "linear" else torch.ones_like(depth)
    return weights / weights.mean()
