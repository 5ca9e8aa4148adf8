"""Batch-shared adversarial ablation (METHOD §3): the worst subset of a circuit's other nodes to remove.

Complete ablation removes every node outside a circuit, and a pruner can find sets whose removals cancel. Here an
adversary removes the subset that hurts most; the others run free. One choice serves a whole batch, so that it cannot
aim at single prompts.

1. α in [0, 1] per node outside the circuit: its activation is (1 − α) · own + α · ablation value
2. a few steps α ← clamp(α + step · sign(∂ loss / ∂ α)) from complete ablation and from random subsets
3. discretise after every step: ablated where α > ½; the worst of all subsets seen, complete ablation and the starts among them
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_model.circuits.ablation import Ablate, final_logits
from sparse_model.model import SparseTransformer
from sparse_model.tasks.loss import binary_loss
from sparse_model.tasks.token_pairs import PromptBatch, TokenPairs

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
    outside = {name: ~mask for name, mask in keep.items()}
    for start in range(0, len(pairs), batch_pairs):
        batch = pairs.select(slice(start, start + batch_pairs)).prompts()
        subset, worst = worst_subset(model, keep, values, batch, steps, step_size, restarts, generator)
        found["adversarial"].append(worst)
        ablated.append(subset)
        found["complete"].append(subset_loss(model, outside, values, batch))
        drawn = [subset_loss(model, random_subset(keep, generator), values, batch) for _ in range(draws)]
        found["random"].append(sum(drawn) / len(drawn))
        found["whole"].append(subset_loss(model, {}, values, batch))
    means = {name: sum(losses) / len(losses) for name, losses in found.items()}
    return AdversarialLoss(**means, batches=found, ablated=ablated)


def worst_subset(
    model: SparseTransformer,
    keep: Mapping[str, Bool[Tensor, " W"]],
    values: Mapping[str, Float[Tensor, " W"]],
    batch: PromptBatch,
    steps: int,
    step_size: float,
    restarts: int,
    generator: torch.Generator,
) -> tuple[Subset, float]:
    """The worst subset found for one batch and its loss."""
    complete = {name: ~mask for name, mask in keep.items()}
    starts = [complete, *(random_subset(keep, generator) for _ in range(restarts))]
    worst, most = complete, subset_loss(model, complete, values, batch)
    for start in starts:
        for candidate in (start, *ascend(model, start, keep, values, batch, steps, step_size)):
            loss = subset_loss(model, candidate, values, batch)
            if loss > most:
                worst, most = candidate, loss
    return worst, most


def ascend(
    model: SparseTransformer,
    start: Mapping[str, Tensor],
    keep: Mapping[str, Bool[Tensor, " W"]],
    values: Mapping[str, Float[Tensor, " W"]],
    batch: PromptBatch,
    steps: int,
    step_size: float,
) -> Iterator[Subset]:
    """The subsets that sign-gradient ascent on the relaxed mask passes through, one per step, where they change."""
    last = dict(start)
    alpha = {name: mask.to(values[name].dtype) for name, mask in start.items()}
    for _ in range(steps):
        for ablated in alpha.values():
            ablated.requires_grad_()
        tap = Ablate({name: 1 - ablated for name, ablated in alpha.items()}, values)
        loss = binary_loss(final_logits(model, batch.tokens, batch.last, tap), batch.answer, batch.other)
        gradients = torch.autograd.grad(loss, list(alpha.values()))
        with torch.no_grad():
            alpha = {
                name: (ablated + step_size * gradient.sign()).clamp(0, 1) * ~keep[name]
                for (name, ablated), gradient in zip(alpha.items(), gradients, strict=True)
            }
        subset = {name: ablated > 0.5 for name, ablated in alpha.items()}
        if any(not torch.equal(mask, last[name]) for name, mask in subset.items()):
            yield subset
        last = subset


def random_subset(keep: Mapping[str, Bool[Tensor, " W"]], generator: torch.Generator) -> Subset:
    """Each node outside the circuit with a probability of one half."""
    return {
        name: (torch.rand(len(mask), generator=generator) < 0.5).to(mask.device) & ~mask for name, mask in keep.items()
    }


@torch.no_grad()
def subset_loss(
    model: SparseTransformer, ablated: Mapping[str, Tensor], values: Mapping[str, Tensor], batch: PromptBatch
) -> float:
    """Binary task loss in nats with the nodes of one subset frozen and all others free."""
    tap = Ablate({name: ~mask for name, mask in ablated.items()}, values)
    return float(binary_loss(final_logits(model, batch.tokens, batch.last, tap), batch.answer, batch.other))
