"""The optimiser and the limit on the gradient (METHOD §2): AdamW, decay on matrices only, RMS clipped or normalised."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparse_model.training.config import TrainConfig
from sparse_model.training.objective import Objective
from sparse_model.training.sharding import joined_norms, local


def make_optimizer(objective: Objective, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with each group's own peak rate and ε; vectors do not decay."""
    groups = []
    for group in objective.parameter_groups():
        for matrices in (True, False):
            chosen = [p for p in group.parameters if (p.dim() >= 2) == matrices]
            decay = config.weight_decay if matrices else 0.0
            settings = {"lr": group.lr or config.lr, "eps": group.eps or config.eps, "weight_decay": decay}
            if chosen:
                groups.append({"params": chosen, **settings})
    return torch.optim.AdamW(groups, betas=config.betas, fused=True)


def gradient_norms(parameters: list[nn.Parameter]) -> Float[Tensor, " P"]:
    """The Euclidean norm of each parameter's gradient; 0 where there is none."""
    norms = torch._foreach_norm([local(p.grad) for p in parameters if p.grad is not None])
    found = iter(norms)
    nothing = norms[0].new_zeros(())
    return joined_norms(torch.stack([nothing if p.grad is None else next(found) for p in parameters]), parameters)


def limit_gradient(
    parameters: list[nn.Parameter], config: TrainConfig, norms: Float[Tensor, " P"] | None = None
) -> Float[Tensor, ""]:
    """Scale all gradients so that their root mean square is at most (or exactly) the limit; returns it as it was.

    Args:
        norms: `gradient_norms(parameters)`, if known.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    count = sum(g.numel() for g in gradients)
    rms = torch.linalg.vector_norm(gradient_norms(parameters) if norms is None else norms) / count**0.5
    if config.gradient_rms != "off":
        scale = config.gradient_rms_limit / rms.clamp(min=1e-12)
        if config.gradient_rms == "clip":
            scale = scale.clamp(max=1.0)
        torch._foreach_mul_([local(g) for g in gradients], scale)
    return rms
