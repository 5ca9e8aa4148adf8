"""The optimiser and the limit on the gradient (METHOD §2): AdamW, decay on matrices only, RMS clipped or normalised.

One RMS may span everything that trains, as in the published runs, or each group of parameters (the sparse model, the bridges)
may have its own: spanned together, the smaller gradients are scaled by what the larger ones need.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparse_model.training.objective import Objective
from sparse_model.training.sharding import joined_norms, local
from sparse_model.training.train_config import TrainConfig


def make_optimizer(objective: Objective, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with each group's own peak rate and ε; vectors do not decay."""
    groups = []
    for group in objective.parameter_groups():
        for matrices in (True, False):
            chosen = [p for p in group.parameters if (p.dim() >= 2) == matrices]
            decay = config.weight_decay if matrices else 0.0
            settings = {"lr": group.lr or config.lr, "eps": group.eps or config.eps, "weight_decay": decay}
            if chosen:
                groups.append({"params": chosen, "group": group.name, "sharkfin": group.sharkfin, **settings})
    return torch.optim.AdamW(groups, betas=config.betas, fused=True)


def gradient_norms(parameters: list[nn.Parameter]) -> Float[Tensor, " P"]:
    """The Euclidean norm of each parameter's gradient; 0 where there is none."""
    norms = torch._foreach_norm([local(p.grad) for p in parameters if p.grad is not None])
    found = iter(norms)
    nothing = norms[0].new_zeros(())
    return joined_norms(torch.stack([nothing if p.grad is None else next(found) for p in parameters]), parameters)


def limit_gradient(
    parameters: list[nn.Parameter],
    config: TrainConfig,
    norms: Float[Tensor, " P"] | None = None,
    spans: Sequence[Sequence[int]] = (),
) -> Float[Tensor, ""]:
    """Scale gradients so that the root mean square of each span is at most (or exactly) the limit; returns the RMS of all
    as it was.

    Args:
        norms: `gradient_norms(parameters)`, if known.
        spans: places in `parameters` that one RMS is taken over (see `gradient_spans`); none for all together.
    """
    norms = gradient_norms(parameters) if norms is None else norms
    present = [i for i, p in enumerate(parameters) if p.grad is not None]

    def rms_of(span: Sequence[int]) -> Float[Tensor, ""]:
        squares = norms if len(span) == len(parameters) else norms[list(span)]
        count = sum(p.numel() for p in (parameters[i] for i in span) if p.grad is not None)
        return torch.linalg.vector_norm(squares) / count**0.5

    whole = range(len(parameters))
    for span in (spans or (whole,)) if config.gradient_rms != "off" else ():
        if not set(span) & set(present):
            continue
        scale = config.gradient_rms_limit / rms_of(span).clamp(min=1e-12)
        if config.gradient_rms == "clip":
            scale = scale.clamp(max=1.0)
        torch._foreach_mul_([local(p.grad) for p in (parameters[i] for i in span) if p.grad is not None], scale)
    return rms_of(whole)


def gradient_spans(groups: Sequence[dict[str, Any]], config: TrainConfig) -> tuple[tuple[int, ...], ...]:
    """Places, in the parameters of all optimiser groups in order, that share one RMS; none where all do."""
    if config.gradient_rms_over == "all":
        return ()
    places: dict[str, list[int]] = {}
    start = 0
    for group in groups:
        places.setdefault(group["group"], []).extend(range(start, start + len(group["params"])))
        start += len(group["params"])
    return tuple(map(tuple, places.values()))
