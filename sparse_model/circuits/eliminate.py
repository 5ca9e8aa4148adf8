"""Elimination: removing what learned masks left over, least harm per edge first.

τ saturates at ±1, so that the bisection by rank cannot tell most kept nodes apart. Inside the circuit the gradient of
the deciding loss towards each mask can:

1. harm of a node = first-order rise of the deciding loss when it goes (a tied query and key go together), per edge it has
2. remove the quarter of nodes with the least harm if the loss stays at the target, else half as many, and so on
3. where not even the first can go, try the others one by one; stop where none can

Repeats 1–3, each time with new gradients; what is left reaches the target by construction.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_model.circuits.calibration import Calibration
from sparse_model.circuits.deciding_loss import Deciding, Keep
from sparse_model.circuits.edges import edges_between, source_of
from sparse_model.circuits.masked_pass import answer_differences

Group = tuple[tuple[str, int], ...]


def eliminate(keep: Keep, deciding: Deciding, target: float, rounds: int, tied: bool = True) -> dict[str, Tensor]:
    """A subset of the kept nodes that still reaches the target; `keep` itself where it does not reach it.

    Args:
        rounds: at most this often are gradients taken anew.
        tied: a query channel goes together with its key.
    """
    found = {name: mask.clone() for name, mask in keep.items()}
    if not deciding.reaches(target, found):
        return found
    for _ in range(rounds):
        ranked = by_harm(found, deciding, tied)
        fewer = _without_most(found, ranked, deciding, target) or _without_one(found, ranked[1:], deciding, target)
        if fewer is None:
            return found
        found = fewer
    return found


def by_harm(keep: Keep, deciding: Deciding, tied: bool) -> list[Group]:
    """Kept nodes (tied ones in pairs), least harm per edge first."""
    harm, edges = node_harm(keep, deciding), _edges_of(keep, deciding)
    ranked: list[tuple[float, Group]] = []
    for name, mask in keep.items():
        if tied and name.endswith(".k"):
            continue
        names = (name, name[:-1] + "k") if tied and name.endswith(".q") else (name,)
        for channel in mask.nonzero().flatten().tolist():
            group = tuple((part, channel) for part in names if keep[part][channel])
            total = sum(float(harm[part][channel]) for part, _ in group)
            number = sum(int(edges[part][channel]) for part, _ in group)
            ranked.append((total / (number + 0.5), group))
    return [group for _, group in sorted(ranked)]


def node_harm(keep: Keep, deciding: Deciding) -> dict[str, Float[Tensor, " W"]]:
    """First-order rise of the deciding loss (the mean over its sets) when a node is removed, in nats."""
    masks = {name: mask[None].float().requires_grad_() for name, mask in keep.items()}
    # at its optimum, so that it has no part in the derivative
    calibration = deciding.calibration(keep) if deciding.calibrate else Calibration()
    losses = [
        calibration.loss(answer_differences(prompts, rows, masks, deciding.values)[0])
        for prompts, rows in zip(deciding.prompts, deciding.rows, strict=True)
    ]
    # queries and keys of a head of which nothing is kept have no part in the loss
    gradients = torch.autograd.grad(torch.stack(losses).mean(), list(masks.values()), materialize_grads=True)
    return {name: -gradient[0] for name, gradient in zip(masks, gradients, strict=True)}


def _without_most(
    keep: Keep, ranked: list[Group], deciding: Deciding, target: float
) -> dict[str, Bool[Tensor, " W"]] | None:
    count = max(1, len(ranked) // 4)
    while count:
        fewer = _without(keep, ranked[:count])
        if deciding.reaches(target, fewer):
            return fewer
        count //= 2
    return None


def _without_one(
    keep: Keep, ranked: list[Group], deciding: Deciding, target: float
) -> dict[str, Bool[Tensor, " W"]] | None:
    for group in ranked:
        fewer = _without(keep, [group])
        if deciding.reaches(target, fewer):
            return fewer
    return None


def _without(keep: Keep, groups: list[Group]) -> dict[str, Bool[Tensor, " W"]]:
    fewer = {name: mask.clone() for name, mask in keep.items()}
    for group in groups:
        for name, channel in group:
            fewer[name][channel] = False
    return fewer


def _edges_of(keep: Mapping[str, Tensor], deciding: Deciding) -> dict[str, Tensor]:
    """How many edges every node has, in and out."""
    found = {name: torch.zeros(len(mask), device=mask.device) for name, mask in keep.items()}
    for target, between in edges_between(deciding.model, keep).items():
        found[target] += between.sum(1)
        found[source_of(target)] += between.sum(0)
    return found
