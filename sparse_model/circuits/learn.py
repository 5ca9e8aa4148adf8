"""Learning node masks (M1), several seeds in one pass.

Per step and seed, on pairs of its own: loss = task loss with removed nodes ablated + price · nodes kept. Which of the
removed nodes are ablated is the *signal*:

complete      all of them
random        each with a probability of one half
adversarial   the subset that a few sign-gradient ascent steps on this batch find (see `adversary`); the others run free

A removed node that runs free has no gradient from the task; a kept one always has that of being removed and ablated.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from sparse_model.circuits.adversary import ablate_subset, ascend
from sparse_model.circuits.masked_pass import EdgeMasks, answer_differences
from sparse_model.circuits.masks import NodeMasks
from sparse_model.circuits.prompts import PromptRows, Prompts
from sparse_model.circuits.prune_config import PruneConfig


def learn_masks(
    prompts: Prompts, values: Mapping[str, Tensor], config: PruneConfig, seeds: Sequence[int], name: str = "masks"
) -> NodeMasks:
    """τ of every seed after `config.steps` of AdamW; a seed's result does not depend on which others run beside it."""
    device = prompts.last.device
    masks = NodeMasks(prompts.model.config, config.tied, config.init_noise, config.init_bias, seeds).to(device)
    optimizer = torch.optim.AdamW(
        masks.parameters(), lr=config.lr, betas=(0.9, config.beta2), weight_decay=config.weight_decay, fused=True
    )
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    warmup = max(1, round(config.warmup * config.steps))
    bar = tqdm(range(config.steps), desc=f"pruning {name}", unit="step", delay=2, leave=False)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = config.lr * min((step + 1) / warmup, 1 - step / config.steps)
        pairs = torch.stack([torch.randperm(prompts.N, generator=g)[: config.batch_pairs] for g in generators])
        rows = prompts.rows(prompts.both(pairs.to(device)))
        keep = masks.keep(config.temperature)
        effective = under_signal(prompts, rows, keep, values, config, generators)
        loss = F.softplus(-answer_differences(prompts, rows, effective, values)).mean(1)
        price = config.k_coef * min(1.0, step / max(1.0, config.ramp * config.steps))
        optimizer.zero_grad()
        (loss + price * masks.kept(keep)).sum().backward(inputs=list(masks.parameters()))
        _clip(masks, config.gradient_norm)
        optimizer.step()
        masks.clamp()
    return masks


def under_signal(
    prompts: Prompts,
    rows: PromptRows,
    keep: dict[str, Float[Tensor, "k W"]],
    values: Mapping[str, Tensor],
    config: PruneConfig,
    generators: Sequence[torch.Generator],
    edges: EdgeMasks | None = None,
) -> dict[str, Tensor]:
    """Masks of 0 where a node is removed and ablated, with gradients towards `keep`."""
    if config.signal == "complete":
        return keep
    drawn = {
        name: torch.stack([torch.rand(mask.shape[1], generator=g) for g in generators]) for name, mask in keep.items()
    }
    alpha = {name: draw.to(keep[name]) for name, draw in drawn.items()}
    if config.signal == "adversarial":
        fixed = {name: mask.detach() for name, mask in keep.items()}
        for _ in range(config.adversary_steps):
            alpha = ascend(prompts, rows, fixed, alpha, values, config.adversary_step_size, edges)[0]
    return ablate_subset(keep, alpha)


@torch.no_grad()
def _clip(masks: NodeMasks, most: float) -> None:
    """Scale each seed's gradient to at most this norm."""
    gradients = [tau.grad for tau in masks.parameters() if tau.grad is not None]
    norms = torch.stack([gradient.square().sum(1) for gradient in gradients]).sum(0).sqrt()
    for gradient in gradients:
        gradient *= (most / (norms + 1e-6)).clamp(max=1)[:, None]
