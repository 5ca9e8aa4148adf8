"""Pruning (METHOD §3): from a task to the smallest circuit that still does it.

1. learn masks     τ per node; loss = task cross-entropy + k_coef · nodes kept, the rest frozen at its ablation value
2. discretise      rank nodes by τ, bisect for the fewest that reach the target loss on training and validation pairs
3. drop unread     nodes that nothing kept reads change nothing and go
4. calibrate       scale and shift of the logit difference, by LBFGS
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from sparse_model.artefacts import model_fingerprint
from sparse_model.circuits.ablation import Ablate, final_logits
from sparse_model.circuits.circuit import Calibration, Circuit, circuit_edges, drop_unread
from sparse_model.circuits.masks import NodeMasks
from sparse_model.model import SparseTransformer
from sparse_model.settings import Settings, UserError
from sparse_model.tasks.loss import binary_loss
from sparse_model.tasks.token_pairs import TokenPairs


class PruneConfig(Settings):
    """Settings of one pruning run."""

    target_loss: float = Field(0.15, gt=0, description="binary task loss the circuit must reach, in nats")
    steps: int = Field(200, ge=1, description="optimiser steps of the masks")
    batch_pairs: int = Field(16, ge=1, description="pairs per step")
    pairs: int = Field(256, ge=2, description="training pairs, and half as many for validation")
    k_coef: float = Field(3e-3, ge=0, description="loss per node kept, in nats")
    ramp: float = Field(0.6, ge=0, lt=1, description="fraction of steps over which k_coef rises from 0 to its value")
    lr: float = Field(0.03, gt=0, description="peak learning rate of the masks (linear decay to 0)")
    warmup: float = Field(0.05, ge=0, lt=1, description="fraction of steps with rising learning rate")
    beta2: float = Field(0.95, gt=0, lt=1, description="AdamW second-moment decay")
    weight_decay: float = Field(1e-3, ge=0, description="AdamW weight decay of τ")
    gradient_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    temperature: float = Field(1.0, gt=0, description="of the sigmoid that stands in for the step in the backward pass")
    init_noise: float = Field(1e-2, ge=0, description="standard deviation of τ at the start")
    init_bias: float = Field(0.1, description="mean of τ at the start")
    tied: bool = Field(True, description="one mask for the query and the key of a channel")
    ablation: Literal["mean", "zero"] = Field("mean", description="what removed nodes are frozen at")
    seed: int = Field(0, ge=0, description="of masks and batches")


def prune(
    model: SparseTransformer,
    train: TokenPairs,
    validation: TokenPairs,
    values: Mapping[str, Tensor],
    config: PruneConfig,
) -> Circuit:
    """Find a circuit.

    Args:
        train: pairs the masks learn from.
        validation: pairs that, beside as many training pairs, decide how many nodes are needed, and calibrate.
        values: ablation values per node location (see `ablation.ablation_values`).

    Raises:
        UserError: the whole model does not reach the target loss on this task.
    """
    deciding = (train.select(slice(0, len(validation))), validation)
    full = worst_loss(model, deciding)
    if full > config.target_loss:
        raise UserError(
            f"task '{train.name}': the whole model has loss {full:.3f}, above the target {config.target_loss}; choose a task it "
            "can do (sparsebridge task check) or a higher --target-loss"
        )
    masks = learn_masks(model, train, values, config)
    keep = discretise(model, masks.scores(), deciding, values, config.target_loss)
    read = drop_unread(model, keep)
    if worst_loss(model, deciding, Ablate(read, values)) <= config.target_loss:
        keep = read
    calibration = calibrate(model, deciding, Ablate(keep, values))
    return Circuit(
        task=train.name,
        model_fingerprint=model_fingerprint(model),
        keep=keep,
        values=dict(values),
        ablation=config.ablation,
        calibration=calibration,
        metrics={
            "nodes": sum(int(mask.sum()) for mask in keep.values()),
            "edges": sum(1 for _ in circuit_edges(model, keep)),
            "full_model_loss": full,
            "validation_loss": task_loss(model, validation, Ablate(keep, values)),
        },
        settings=config.to_json(),
    )


def learn_masks(
    model: SparseTransformer, pairs: TokenPairs, values: Mapping[str, Tensor], config: PruneConfig
) -> NodeMasks:
    """Step 1: τ after `config.steps` of AdamW (M1)."""
    masks = NodeMasks(model.config, config.tied, config.init_noise, config.init_bias, config.seed).to(model.device)
    optimizer = torch.optim.AdamW(
        masks.parameters(), lr=config.lr, betas=(0.9, config.beta2), weight_decay=config.weight_decay, fused=True
    )
    order = torch.Generator().manual_seed(config.seed)
    warmup = max(1, round(config.warmup * config.steps))
    bar = tqdm(range(config.steps), desc=f"pruning {pairs.name}", unit="step", delay=2, leave=False)
    for step in bar:
        optimizer.param_groups[0]["lr"] = config.lr * min(1.0, (step + 1) / warmup) * (1 - step / config.steps)
        chosen = torch.randperm(len(pairs), generator=order)[: config.batch_pairs]
        batch = trim(pairs.select(chosen)).prompts()
        tap = Ablate(masks.keep(config.temperature), values)
        logits = final_logits(model, batch.tokens, batch.last, tap)
        price = config.k_coef * min(1.0, step / max(1.0, config.ramp * config.steps))
        loss = binary_loss(logits, batch.answer, batch.other) + price * masks.kept(config.temperature)
        optimizer.zero_grad()
        loss.backward(inputs=list(masks.parameters()))  # the model's own weights need no gradient
        torch.nn.utils.clip_grad_norm_(masks.parameters(), config.gradient_norm)
        optimizer.step()
        masks.clamp()
    return masks


def discretise(
    model: SparseTransformer,
    scores: Mapping[str, Tensor],
    deciding: Sequence[TokenPairs],
    values: Mapping[str, Tensor],
    target: float,
) -> dict[str, Tensor]:
    """Step 2: masks of the fewest top-ranked nodes whose loss on each of the deciding sets is at most `target`.

    The loss is not monotone in the number of nodes; the result reaches the target, and bisection found no fewer.
    """
    ranked = torch.cat(list(scores.values())).sort(descending=True).values

    def masks(k: int) -> dict[str, Tensor]:
        threshold = ranked[k - 1]
        return {name: score >= threshold for name, score in scores.items()}

    low, high = 0, len(ranked)  # low fails, high reaches the target: all nodes are the whole model
    probe = max(1, int((ranked > 0).sum()))
    while high - low > 1:
        if worst_loss(model, deciding, Ablate(masks(probe), values)) <= target:
            high = probe
        else:
            low = probe
        probe = (low + high) // 2 if low else high // 2
        probe = min(max(probe, low + 1), high - 1) if high - low > 1 else high
    return masks(high)


def worst_loss(model: SparseTransformer, deciding: Sequence[TokenPairs], tap: Ablate | None = None) -> float:
    """The largest task loss over several sets of pairs."""
    return max(task_loss(model, pairs, tap) for pairs in deciding)


def calibrate(model: SparseTransformer, deciding: Sequence[TokenPairs], tap: Ablate, steps: int = 16) -> Calibration:
    """Step 4: scale and shift of the a–b logit difference that minimise the binary loss."""
    found = [_differences(model, pairs, tap) for pairs in deciding]
    difference, sign = torch.cat([d for d, _ in found]), torch.cat([s for _, s in found])
    parameters = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = calibrated_loss(difference, sign, parameters[0], parameters[1])
        loss.backward()
        return loss.item()

    optimizer.step(closure)
    scale, shift = parameters.detach().tolist()
    return Calibration(scale, shift)


def calibrated_loss(
    difference: Tensor, sign: Tensor, scale: Tensor | float, shift: Tensor | float
) -> Float[Tensor, ""]:
    """Binary loss of scale · (logit a − logit b) + shift; `sign` is +1 where a is right, −1 where b is."""
    return F.softplus(-sign * (scale * difference + shift)).mean()


@torch.no_grad()
def task_loss(
    model: SparseTransformer, pairs: TokenPairs, tap: Ablate | None = None, calibration: Calibration | None = None
) -> float:
    """Binary task loss in nats (chance: log 2), calibrated if a calibration is given."""
    calibration = calibration or Calibration()
    difference, sign = _differences(model, pairs, tap)
    return float(calibrated_loss(difference, sign, calibration.scale, calibration.shift))


@torch.no_grad()
def _differences(model: SparseTransformer, pairs: TokenPairs, tap: Ablate | None) -> tuple[Tensor, Tensor]:
    """Logit a − logit b for both prompts of every pair [2N], and +1 for a prompts, −1 for b prompts."""
    batch = trim(pairs).prompts()
    logits = final_logits(model, batch.tokens, batch.last, tap).double()
    right_minus_wrong = (logits.gather(1, batch.answer[:, None]) - logits.gather(1, batch.other[:, None]))[:, 0]
    sign = torch.ones_like(right_minus_wrong)
    sign[len(pairs) :] = -1
    return right_minus_wrong * sign, sign


def trim(pairs: TokenPairs) -> TokenPairs:
    """The same pairs without the columns that are padding for all of them."""
    width = int(pairs.last.max()) + 1
    return replace(
        pairs, tokens_a=pairs.tokens_a[:, :width], tokens_b=pairs.tokens_b[:, :width], mask=pairs.mask[:, :width]
    )
