"""Learned node masks (M1): one parameter τ per node, kept where τ > 0, trained through a sigmoid's derivative."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparse_model.config import SparseConfig
from sparse_model.nodes import node_locations


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


class NodeMasks(nn.Module):
    """τ for every node of a model; a query and a key channel share one where `tied`.

    Args:
        noise, bias: τ starts at bias + noise · N(0, 1).
    """

    def __init__(
        self, config: SparseConfig, tied: bool = True, noise: float = 1e-2, bias: float = 0.1, seed: int = 0
    ) -> None:
        super().__init__()
        self.tied = tied
        generator = torch.Generator().manual_seed(seed)
        self.locations = [name for name in node_locations(config) if not (tied and name.endswith(".k"))]
        widths = node_locations(config)
        self.tau = nn.ParameterList(
            nn.Parameter(bias + noise * torch.randn(widths[name], generator=generator)) for name in self.locations
        )

    def keep(self, temperature: float) -> dict[str, Float[Tensor, " W"]]:
        """The masks [W] of 0 and 1 per location, with gradients towards τ."""
        masks = {name: _Heaviside.apply(tau, temperature) for name, tau in zip(self.locations, self.tau, strict=True)}
        return self._untie(masks)

    def scores(self) -> dict[str, Float[Tensor, " W"]]:
        """τ per location, detached; nodes are ranked by it."""
        return self._untie({name: tau.detach().clone() for name, tau in zip(self.locations, self.tau, strict=True)})

    def kept(self, temperature: float) -> Float[Tensor, ""]:
        """Number of nodes kept (a tied query–key channel counts twice), with gradients."""
        return torch.stack([mask.sum() for mask in self.keep(temperature).values()]).sum()

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep τ in [−1, 1]."""
        for tau in self.tau:
            tau.clamp_(-1, 1)

    def _untie(self, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.tied:
            masks.update({name[:-1] + "k": mask for name, mask in list(masks.items()) if name.endswith(".q")})
        return masks
