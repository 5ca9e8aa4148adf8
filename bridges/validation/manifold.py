"""How far edited streams leave the natural distribution (METHOD §6).

Mahalanobis distance of the stream at a dense site, under the mean and (shrunk) covariance of reference text, as the
median over edited tokens divided by the median over natural ones. About 1 is on the manifold.
"""

import torch
from jaxtyping import Float
from torch import Tensor

SHRINKAGE = 0.01


class NaturalStreams:
    """Mean and precision of natural streams [*, D] at one site."""

    def __init__(self, streams: Float[Tensor, "*M D"]) -> None:
        flat = streams.reshape(-1, streams.shape[-1]).double()
        self.mean = flat.mean(0)
        centred = flat - self.mean
        covariance = centred.T @ centred / max(1, len(flat) - 1)
        scale = covariance.diagonal().mean()
        eye = torch.eye(len(covariance), dtype=torch.float64, device=covariance.device)
        self.factor = torch.linalg.cholesky((1 - SHRINKAGE) * covariance + SHRINKAGE * scale * eye)
        self.typical = float(self._distance(flat).median())

    def _distance(self, streams: Tensor) -> Tensor:
        solved = torch.linalg.solve_triangular(self.factor, (streams - self.mean).T, upper=False)
        return solved.norm(dim=0)

    def excess(self, streams: Float[Tensor, "M D"]) -> float:
        """Median distance of the given streams over the natural median."""
        return float(self._distance(streams.double()).median()) / self.typical
