"""How far edited activations leave the natural distribution (METHOD §6).

Mahalanobis distance of what a sublayer reads, under the mean and (shrunk) covariance of reads on reference text, as the
median over edited tokens divided by the median over natural ones. About 1 is on the manifold; the full patch is beside it.
"""

from jaxtyping import Float
from torch import Tensor

SHRINKAGE = 0.01


class NaturalReads:
    """Mean and precision of natural reads [*, D] at one site."""

    def __init__(self, reads: Float[Tensor, "*M D"]) -> None:
        import torch

        flat = reads.reshape(-1, reads.shape[-1]).double()
        self.mean = flat.mean(0)
        centred = flat - self.mean
        covariance = centred.T @ centred / max(1, len(flat) - 1)
        scale = covariance.diagonal().mean()
        covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * scale * torch.eye(len(covariance), dtype=torch.float64)
        self.factor = torch.linalg.cholesky(covariance)
        self.typical = float(self._distance(flat).median())

    def _distance(self, reads: Tensor) -> Tensor:
        import torch

        solved = torch.linalg.solve_triangular(self.factor, (reads - self.mean).T, upper=False)
        return solved.norm(dim=0)

    def excess(self, reads: Float[Tensor, "M D"]) -> float:
        """Median distance of the given reads over the natural median."""
        return float(self._distance(reads.double()).median()) / self.typical
