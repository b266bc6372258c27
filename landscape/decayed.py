"""A loss with weight decay: what an optimizer with weight decay goes down, and what does not fall without end outwards."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from .errors import InputError
from .objective import Objective, Term, scalar


def with_weight_decay(objective: Objective, decay: float) -> Objective:
    """L(θ) + ½ decay ‖θ‖², whose gradient is ∇L + decay θ, as PyTorch's SGD has it with ``weight_decay=decay``.

    Cross-entropy falls when the weights of a network that is right grow, so a path may go low by going outwards; on this
    loss it pays for that. Ends trained without decay are no minima here: find_path takes them with minima=False.

    Every term bears its share, so that mini-batches of terms are unbiased. Cost: as the objective's, and P operations a
    term. Terms no longer tell outputs and their loss apart, so Gauss–Newton and Fisher matrices are not to be had.

    Raises:
        InputError: decay is negative or not finite.
    """
    if not 0 <= decay < math.inf:
        raise InputError(f"decay must be a finite number of at least 0, got {decay}.")
    pairs = zip(objective.terms, objective.shares, strict=True)
    return Objective(
        [partial(_decayed, term, share * decay / 2) for term, share in pairs],
        objective.dim,
        dtype=objective.dtype,
        device=objective.device,
        parameters=objective.parameters,
        shares=objective.shares,
        settings={**objective.settings, "weight_decay": decay},
        streamed=objective.streamed,
    )


def _decayed(term: Term, half: float, theta: Tensor) -> Tensor:
    return scalar(term(theta)) + half * (theta @ theta)
