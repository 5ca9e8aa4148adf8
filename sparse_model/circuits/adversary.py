"""Batch-shared adversarial ablation (METHOD §3): the worst subset of a circuit's other nodes to remove.

Complete ablation removes every node outside a circuit, and a pruner can find sets whose removals cancel. Here an
adversary removes the subset that hurts most; the others run free. One choice serves a whole batch, so that it cannot
aim at single prompts.

1. α in [0, 1] per node outside the circuit, which is ablated where α > ½ and runs free elsewhere
2. a few steps α ← clamp(α + step · sign(∂ loss / ∂ α)), the gradient taken at the subset α stands for, from complete
   ablation and from random subsets
3. the worst of all subsets seen on the way, complete ablation and the starts among them

Taken at the subset itself rather than at activations blended by α, a gradient comes with that subset's own loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_model.circuits.masked_pass import EdgeMasks, answer_differences
from sparse_model.circuits.prompts import PromptRows, Prompts
from sparse_model.tasks.token_pairs import TokenPairs
from sparse_model.transformer.model import SparseTransformer

Subset = dict[str, Bool[Tensor, " W"]]


@dataclass(frozen=True)
class AdversarialLoss:
    """Binary task losses in nats (chance: 0.693), means over batches; `batches` holds the same per batch."""

    adversarial: float
    """under the worst subset found"""
    complete: float
    """with every node outside the circuit removed"""
    random: float
    """with random subsets of them removed, mean"""
    whole: float
    """with nothing removed"""
    batches: dict[str, list[float]]
    ablated: list[Subset] = field(repr=False)
    """per batch the worst subset, True where removed"""

    def to_json(self) -> dict[str, Any]:
        """The losses, without the subsets."""
        return {name: value for name, value in self.__dict__.items() if name != "ablated"}


def adversarial_loss(
    model: SparseTransformer,
    keep: Mapping[str, Bool[Tensor, " W"]],
    values: Mapping[str, Float[Tensor, " W"]],
    pairs: TokenPairs,
    batch_pairs: int = 32,
    steps: int = 8,
    step_size: float = 0.25,
    restarts: int = 3,
    draws: int = 8,
    seed: int = 0,
) -> AdversarialLoss:
    """How much a circuit loses to the worst removal of other nodes, beside complete and random removals.

    Args:
        model: with removed edges cut where the circuit has edge masks (`circuit.within(model)`).
        keep: the circuit's nodes; they are never removed.
        values: what removed nodes are frozen at.
        batch_pairs: pairs that share one choice of the adversary.
        steps: sign-gradient steps per start.
        step_size: of one step of α, which lives in [0, 1].
        restarts: random subsets to start from, beside complete ablation.
        draws: random subsets per batch for `random`.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[float]] = {"adversarial": [], "complete": [], "random": [], "whole": []}
    ablated: list[Subset] = []
    masks = {name: mask[None].float() for name, mask in keep.items()}
    whole = {name: torch.ones_like(mask) for name, mask in masks.items()}
    for start in range(0, len(pairs), batch_pairs):
        prompts = Prompts(model, pairs.select(slice(start, start + batch_pairs)))
        rows = prompts.rows()

        def loss(kept: Mapping[str, Tensor], prompts: Prompts = prompts, rows: PromptRows = rows) -> float:
            with torch.no_grad():
                return float(F.softplus(-answer_differences(prompts, rows, kept, values)).mean())

        subset, worst = worst_subset(prompts, rows, masks, values, steps, step_size, restarts, generator)
        found["adversarial"].append(worst)
        ablated.append(subset)
        found["complete"].append(loss(masks))
        drawn = [loss(ablate_subset(masks, random_alpha(masks, generator))) for _ in range(draws)]
        found["random"].append(sum(drawn) / len(drawn))
        found["whole"].append(loss(whole))
    means = {name: sum(losses) / len(losses) for name, losses in found.items()}
    return AdversarialLoss(**means, batches=found, ablated=ablated)


def worst_subset(
    prompts: Prompts,
    rows: PromptRows,
    masks: Mapping[str, Float[Tensor, "1 W"]],
    values: Mapping[str, Float[Tensor, " W"]],
    steps: int,
    step_size: float,
    restarts: int,
    generator: torch.Generator,
    edges: EdgeMasks | None = None,
) -> tuple[Subset, float]:
    """The worst subset found for one batch, and its loss: complete removal, or one the ascents pass through."""
    worst: Subset = {}
    most = -1.0
    starts = [{name: torch.ones_like(mask) for name, mask in masks.items()}]
    starts += [random_alpha(masks, generator) for _ in range(restarts)]
    for alpha in starts:
        for _ in range(steps + 1):
            moved, loss = ascend(prompts, rows, masks, alpha, values, step_size, edges)
            if float(loss) > most:
                most = float(loss)
                worst = {name: ((alpha[name] > 0.5) & (mask == 0))[0] for name, mask in masks.items()}
            alpha = moved
    return worst, most


def random_alpha(
    masks: Mapping[str, Float[Tensor, "1 W"]], generator: torch.Generator
) -> dict[str, Float[Tensor, "1 W"]]:
    """α uniform in [0, 1]: each node outside the circuit is ablated with a probability of one half."""
    return {name: torch.rand(mask.shape, generator=generator).to(mask.device) for name, mask in masks.items()}


def ablate_subset(keep: Mapping[str, Tensor], alpha: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """1 − A · (1 − keep), A = 1 on kept nodes and 1[α > ½] elsewhere."""
    return {
        name: 1 - torch.where(mask.detach() > 0, 1.0, (alpha[name] > 0.5).to(mask)) * (1 - mask)
        for name, mask in keep.items()
    }


def ascend(
    prompts: Prompts,
    rows: PromptRows,
    keep: Mapping[str, Float[Tensor, "k W"]],
    alpha: Mapping[str, Float[Tensor, "k W"]],
    values: Mapping[str, Tensor],
    step_size: float,
    edges: EdgeMasks | None = None,
) -> tuple[dict[str, Tensor], Float[Tensor, " k"]]:
    """One sign-gradient step of the adversary from α, and the loss per mask of the subset α > ½ it started from."""
    masks = {name: mask.requires_grad_() for name, mask in ablate_subset(keep, alpha).items()}
    loss = F.softplus(-answer_differences(prompts, rows, masks, values, edges)).mean(1)
    # queries and keys of a head of which nothing is kept have no part in the loss
    gradients = torch.autograd.grad(loss.sum(), list(masks.values()), materialize_grads=True)
    moved = {
        name: (alpha[name] - step_size * gradient.sign()).clamp(0, 1)
        for name, gradient in zip(masks, gradients, strict=True)
    }
    return moved, loss.detach()
