"""Learned node masks (M1): one parameter τ per node, kept where τ > 0, trained through a sigmoid's derivative."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparse_model.transformer.nodes import node_locations
from sparse_model.transformer.sparse_config import SparseConfig


class _Heaviside(torch.autograd.Function):
    """Forward 1[τ > 0]; backward the derivative of sigmoid(τ / temperature)."""

    @staticmethod
    def forward(ctx: Any, tau: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(tau)
        ctx.temperature = temperature
        return (tau > 0).to(tau.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (tau,) = ctx.saved_tensors
        soft = torch.sigmoid(tau / ctx.temperature)
        return gradient * soft * (1 - soft) / ctx.temperature, None


def keep_of(tau: Tensor, temperature: float) -> Tensor:
    """1 where τ > 0 else 0, with the gradient of a sigmoid towards τ."""
    found: Tensor = _Heaviside.apply(tau, temperature)
    return found


class NodeMasks(nn.Module):
    """τ for every node of a model, once per seed; a query and a key channel share one where `tied`.

    Args:
        noise, bias: τ starts at bias + noise · N(0, 1), drawn from each seed's own generator.
    """

    def __init__(
        self,
        config: SparseConfig,
        tied: bool = True,
        noise: float = 1e-2,
        bias: float = 0.1,
        seeds: Sequence[int] = (0,),
    ) -> None:
        super().__init__()
        self.tied, self.seeds = tied, tuple(seeds)
        widths = node_locations(config)
        self.locations = [name for name in widths if not (tied and name.endswith(".k"))]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.tau = nn.ParameterList(
            nn.Parameter(torch.stack([bias + noise * torch.randn(widths[name], generator=g) for g in generators]))
            for name in self.locations
        )

    def keep(self, temperature: float) -> dict[str, Float[Tensor, "k W"]]:
        """The masks of 0 and 1 per location and seed, with gradients towards τ."""
        masks = {name: keep_of(tau, temperature) for name, tau in zip(self.locations, self.tau, strict=True)}
        return self._untie(masks)

    def scores(self, seed: int) -> dict[str, Float[Tensor, " W"]]:
        """τ per location of the seed-th seed, detached; nodes are ranked by it."""
        return self._untie(
            {name: tau[seed].detach().clone() for name, tau in zip(self.locations, self.tau, strict=True)}
        )

    @staticmethod
    def kept(masks: dict[str, Float[Tensor, "k W"]]) -> Float[Tensor, " k"]:
        """Number of nodes kept per seed (a tied query–key channel counts twice), with gradients."""
        return torch.stack([mask.sum(1) for mask in masks.values()]).sum(0)

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep τ in [−1, 1]."""
        for tau in self.tau:
            tau.clamp_(-1, 1)

    def _untie(self, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.tied:
            masks.update({name[:-1] + "k": mask for name, mask in list(masks.items()) if name.endswith(".q")})
        return masks
