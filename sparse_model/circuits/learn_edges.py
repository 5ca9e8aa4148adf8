"""Learning edge masks on a circuit's kept nodes: M1 with one τ per nonzero weight between two of them.

The published method stops at nodes. A removed edge carries its source's ablation value (see `edges`), so that a node
may stay for one of its readers and go for the others.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_model.circuits.deciding_loss import edge_scores_like
from sparse_model.circuits.edges import edges_between, source_of
from sparse_model.circuits.learn import under_signal
from sparse_model.circuits.masked_pass import EdgeMask, answer_differences
from sparse_model.circuits.masks import keep_of
from sparse_model.circuits.prompts import Prompts
from sparse_model.circuits.prune_config import PruneConfig


def learn_edges(
    prompts: Prompts, keep: Mapping[str, Bool[Tensor, " W"]], values: Mapping[str, Tensor], config: PruneConfig
) -> dict[str, Float[Tensor, "W_target W_source"]]:
    """τ of every edge between kept nodes after `config.edge_steps` of AdamW, −∞ where there is none."""
    between = edges_between(prompts.model, keep)
    ends = {target: (keep[target].nonzero()[:, 0], keep[source_of(target)].nonzero()[:, 0]) for target in between}
    exists = {target: mask[ends[target][0]][:, ends[target][1]] for target, mask in between.items()}
    generator = torch.Generator().manual_seed(config.seed)
    tau = {
        target: (config.init_bias + config.init_noise * torch.randn(mask.shape, generator=generator)).to(mask.device)
        for target, mask in exists.items()
    }
    parameters = [value.requires_grad_() for value in tau.values()]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, betas=(0.9, config.beta2), weight_decay=config.weight_decay)
    masks = {name: mask[None].float() for name, mask in keep.items()}
    for step in range(config.edge_steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * (1 - step / config.edge_steps)
        pairs = torch.randperm(prompts.N, generator=generator)[None, : config.batch_pairs]
        rows = prompts.rows(prompts.both(pairs.to(prompts.last.device)))
        # where there is no weight the mask is 1 and costs nothing
        edges = {
            target: [EdgeMask(*ends[target], torch.where(exists[target], keep_of(value, config.temperature), 1.0))]
            for target, value in tau.items()
        }
        fixed = {target: [EdgeMask(*found[:2], found.mask.detach())] for target, (found,) in edges.items()}
        effective = under_signal(prompts, rows, masks, values, config, [generator], fixed)
        loss = F.softplus(-answer_differences(prompts, rows, effective, values, edges)).mean()
        price = config.edge_coef * min(1.0, step / max(1.0, config.ramp * config.edge_steps))
        number = torch.stack([(found.mask * exists[target]).sum() for target, (found,) in edges.items()]).sum()
        optimizer.zero_grad()
        (loss + price * number).backward(inputs=parameters)
        torch.nn.utils.clip_grad_norm_(parameters, config.gradient_norm)
        optimizer.step()
        with torch.no_grad():
            for value in parameters:
                value.clamp_(-1, 1)
    scores = edge_scores_like(prompts.model)
    for target, value in tau.items():
        to, read = ends[target]
        scores[target][to[:, None], read[None]] = value.detach().masked_fill(~exists[target], float("-inf"))
    return scores
