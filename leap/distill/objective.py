"""The training objective, term by term (reference: arXiv 2605.01058, "Training objective").

Every term is a small function of what student and teacher give for a batch of B texts (`States`), and
`Objective` is their weighted sum. A weight of 0 takes a term out and its cost with it. All cosines are
computed in float32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Gather = Callable[[Tensor], Tensor]
SIGNAL_BETA = 0.05  # where the smooth L1 of the signal turns from squares to absolute values


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights and shapes of the terms. The defaults are the paper's; `recipes.py` has ours.

    Attributes:
        final: weight of L_final.
        alpha: weight of L_inter, layer-wise alignment with the teacher's layers.
        beta: weight of L_exit.
        delta: weight of L_contrast.
        own_final: weight of L_exit_s (towards the student's own last layer) against L_exit_t (the teacher's).
        penalty: what L_exit asks of a cosine: "sigmoid", the paper's sigma(slope (tau - cos)), or "cosine",
            1 - cos, whose gradient does not vanish far from tau.
        tau: the cosine that the sigmoid asks for.
        slope: of the sigmoid.
        first_exit_layer: without a landing layer, L_exit covers this layer and those above, counted from 1.
        temperature: of the softmax in L_contrast.
        token_final: weight of the token term at full depth (ours, as are the next two).
        token_exit: weight of the token term on what an exit gives.
        signal: weight of the term that makes s_l tell how close to the teacher an exit at l will be.
    """

    final: float = 1.0
    alpha: float = 0.3
    beta: float = 0.4
    delta: float = 0.3
    own_final: float = 0.7
    penalty: Literal["sigmoid", "cosine"] = "sigmoid"
    tau: float = 0.98
    slope: float = 10.0
    first_exit_layer: int = 1
    temperature: float = 0.05
    token_final: float = 0.0
    token_exit: float = 0.0
    signal: float = 0.0

    @property
    def batch_needed(self) -> int:
        """Texts that a batch must have: L_contrast compares texts with one another."""
        return 2 if self.delta else 1


@dataclass
class States:
    """What a student gives for B texts of T tokens, in training.

    Pooled embeddings are means over tokens, float32, not normalised. E is the number of layers that a text
    may leave at. An exit gives the last layer's output where converged texts land, else that layer's own;
    then the last of the E is full depth itself, which L_exit_t covers and L_exit_s does not.

    Attributes:
        layers: (B', L, H) pooled, after each of its L layers, of the B' texts that run full depth.
        tokens: (B', T, H) the last state at full depth.
        rows: which of the B texts those are.
        exits: (B, E, H) pooled, what each exit gives.
        early: how many of the exits, the first ones, are before full depth.
        signals: (B, E) s_l = cos(p_l, p_(l-k)) at the layers where texts leave.
        exit_tokens: E tensors (B, T, H), the last state of what each exit gives.
        mask: (B, T) bool, True for a token.
    """

    layers: Tensor
    tokens: Tensor
    rows: slice
    exits: Tensor
    early: int
    signals: Tensor
    exit_tokens: Sequence[Tensor]
    mask: Tensor


@dataclass
class Targets:
    """What the teacher gives for the same texts.

    Attributes:
        layers: (B, Lt, H) pooled, after each of its layers; (B, 1, H) where only the last is known.
        tokens: (B, T, H) its last state; None where it is not known.
    """

    layers: Tensor
    tokens: Tensor | None = None

    @property
    def final(self) -> Tensor:
        """(B, H), its embedding."""
        return self.layers[:, -1]


def final_alignment(final: Tensor, teacher: Tensor) -> Tensor:
    """L_final = 1 - cos(e_s^(Ls), e_t^(Lt)), mean over the batch; both (B, H)."""
    return 1 - F.cosine_similarity(final, teacher, dim=-1).mean()


def layer_map(n_student: int, n_teacher: int) -> list[int]:
    """The map pi: for each student layer the teacher layer at the same relative depth, both from 1.

    Rounded up where the depths do not divide each other (the paper does not say), so that the last meets
    the last and no student layer is asked for less than its share.
    """
    return [-(-layer * n_teacher // n_student) for layer in range(1, n_student + 1)]


def inner_alignment(layers: Tensor, inner: Tensor) -> Tensor:
    """L_inter = mean over l < Ls of 1 - cos(e_s^(l), e_t^(pi(l))); the last one is L_final's (our choice).

    Args:
        layers: (B, Ls, H), the student's.
        inner: (B, Lt, H), the teacher's.
    """
    aligned = inner[:, [layer - 1 for layer in layer_map(layers.shape[1], inner.shape[1])]]
    return 1 - F.cosine_similarity(layers[:, :-1], aligned[:, :-1], dim=-1).mean()


def exit_penalty(cosine: Tensor, config: ObjectiveConfig) -> Tensor:
    """What an exit pays for its cosine to the target, elementwise."""
    if config.penalty == "cosine":
        return 1 - cosine
    return torch.sigmoid(config.slope * (config.tau - cosine))


def exit_alignment(exits: Tensor, target: Tensor, config: ObjectiveConfig) -> Tensor:
    """L_exit_t or L_exit_s: the penalty of cos(exit, target), mean over exits and batch (w_l = 1).

    Args:
        exits: (B, E, H), what the exits give.
        target: (B, H), the teacher's embedding, or the student's own at full depth without its gradient.
        config: the penalty.
    """
    return exit_penalty(F.cosine_similarity(exits, target.unsqueeze(1), dim=-1), config).mean()


def token_alignment(tokens: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """1 - cos of every token's last state to the teacher's, mean over the batch's unmasked tokens.

    Args:
        tokens: (B, T, H), the student's.
        target: (B, T, H), the teacher's.
        mask: (B, T) bool, True for a token.
    """
    cosine = F.cosine_similarity(tokens.float(), target.float(), dim=-1)
    return 1 - (cosine * mask).sum() / mask.sum()


def exit_signal(signals: Tensor, exits: Tensor, teacher: Tensor) -> Tensor:
    """How far s_l is from 1 - sqrt(1 - cos(exit at l, teacher)): smooth L1, mean over batch and exits.

    s_l is all that the exit rule sees, and nothing in the paper's objective makes it tell how good the exit
    is: where it does not, texts leave at random. With this term a threshold theta asks for an error of at
    most (1 - theta)^2, the same for all lengths and kinds of texts; a correlation within a batch would not,
    as a batch holds texts of one length. The square root keeps s in a range that cosines of neighbouring
    layers have by themselves. The error is detached, so that the states compared learn to predict it and no
    embedding learns to be easy to predict.

    Args:
        signals: (B, E), s_l.
        exits: (B, E, H), what leaving at l gives.
        teacher: (B, H).
    """
    error = 1 - F.cosine_similarity(exits.detach(), teacher.unsqueeze(1), dim=-1)
    return F.smooth_l1_loss(signals, 1 - error.clamp(min=0).sqrt(), beta=SIGNAL_BETA)


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
        cosines = F.normalize(some, dim=-1) @ F.normalize(others, dim=-1).T
        return F.log_softmax((cosines / temperature).masked_fill(itself, -1e4), dim=-1)

    student, target = log_probabilities(rows, columns), log_probabilities(target_rows, target_columns)
    return F.kl_div(student, target, log_target=True, reduction="batchmean")


class Objective:
    """final L_final + alpha L_inter + beta (L_exit_t + own_final L_exit_s) + delta L_contrast + our terms.

    Args:
        config: weights and shapes.
        gather: (B, H) of this process to (C, H) of all processes, with gradient; None for a single process.
        process: index of this process.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        gather: Gather | None = None,
        process: int = 0,
    ) -> None:
        self.config = config
        self.gather = gather or (lambda rows: rows)
        self.process = process

    def __call__(self, student: States, teacher: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms before weighting, detached, by name."""
        config, rows = self.config, student.rows
        final, target = student.layers[:, -1], teacher.final[rows]
        weighted = [("final", config.final, final_alignment(final, target))]
        if config.alpha:
            weighted.append(("inter", config.alpha, inner_alignment(student.layers, teacher.layers[rows])))
        if config.beta:
            term = exit_alignment(student.exits, teacher.final, config)
            weighted.append(("exit_teacher", config.beta, term))
            if config.own_final:
                own = exit_alignment(student.exits[rows, : student.early], final.detach(), config)
                weighted.append(("exit_own", config.beta * config.own_final, own))
        if config.delta:
            columns, target_columns = self.gather(final), self.gather(target)
            first = self.process * len(final)
            kl = similarity_kl(final, columns, target, target_columns, config.temperature, first)
            weighted.append(("contrast", config.delta, kl))
        if config.token_final:
            term = token_alignment(student.tokens, teacher.tokens[rows], student.mask[rows])
            weighted.append(("token_final", config.token_final, term))
        if config.token_exit:
            terms = [token_alignment(t, teacher.tokens, student.mask) for t in student.exit_tokens]
            weighted.append(("token_exit", config.token_exit, torch.stack(terms).mean()))
        if config.signal:
            early = slice(None), slice(student.early)
            term = exit_signal(student.signals[early], student.exits[early], teacher.final)
            weighted.append(("signal", config.signal, term))
        loss = torch.stack([weight * term for _, weight, term in weighted]).sum()
        return loss, {name: term.detach() for name, _, term in weighted}
