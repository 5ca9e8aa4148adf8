"""The baseline that learned masks are held against: nodes ranked by gradient × (activation − ablation value).

One backward pass of the whole model estimates, to first order, how much the logit difference of the two answers falls
when a node is removed; the top-ranked nodes are then taken by the same bisection as for learned masks.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_model.circuits.masked_pass import answer_differences
from sparse_model.circuits.prompts import Prompts
from sparse_model.transformer.nodes import node_locations


def attribution_scores(
    prompts: Prompts, values: Mapping[str, Float[Tensor, " W"]], tied: bool = True
) -> dict[str, Float[Tensor, " W"]]:
    """Per node |Σ over tokens of gradient · (activation − value)|, of the mean logit difference of all prompts.

    Args:
        tied: a query and a key channel share the sum of theirs.
    """
    masks = {
        name: torch.ones(1, width, device=prompts.last.device, requires_grad=True)
        for name, width in node_locations(prompts.model.config).items()
    }
    difference = answer_differences(prompts, prompts.rows(), masks, values).mean()
    gradients = torch.autograd.grad(difference, list(masks.values()))
    found = {name: gradient[0] for name, gradient in zip(masks, gradients, strict=True)}
    if tied:
        for name in [name for name in found if name.endswith(".q")]:
            key = name[:-1] + "k"
            found[name] = found[key] = found[name] + found[key]
    return {name: score.abs() for name, score in found.items()}


def break_ties(scores: Mapping[str, Tensor], importance: Mapping[str, Tensor]) -> dict[str, Float[Tensor, " W"]]:
    """Scores τ with those saturated at ±1 told apart: raised by up to 0.001 in the order of their importance.

    Without it a learned set that misses its target could only be made larger by every removed node at once.
    """
    order = torch.cat([importance[name] for name in scores]).argsort().argsort()
    raised = (1e-3 * order / len(order)).split([len(score) for score in scores.values()])
    return {
        name: torch.where(score.abs() >= 1, score + step.to(score), score)
        for (name, score), step in zip(scores.items(), raised, strict=True)
    }
