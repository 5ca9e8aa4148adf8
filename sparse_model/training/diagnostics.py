"""Diagnostics of a weight-sparse model in training: what is unused, how fast the mask moves, how spiky the stream is.

    density    kept fraction of every projected tensor, and of all together
    turnover   fraction of the kept entries that were not kept one step earlier, per matrix and of all together
    silent     fraction of neurons, QK channels and V channels that stay zero on the step's tokens, over all layers
    kurtosis   of the residual stream at each site, over the channels of a token, averaged over tokens; 3 for a Gaussian

"silent" is by activity, not by weights: the floor gives every unit a few weights (`sparse_model.training.activity`).
The turnover of a tensor larger than `SAMPLE` is measured on that many of its entries, the same ones throughout.
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparse_model.training.activity import Activity
from sparse_model.training.projection import SparseTensor, density_report
from sparse_model.training.sharding import whole
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.taps import At, Chain

SAMPLE = 1 << 16


def is_due(config: TrainConfig, done: int) -> bool:
    """Whether a diagnosis follows `done` steps."""
    return bool(config.diagnose_every) and (done % config.diagnose_every == 0 or done == config.steps)


class Turnover:
    """Remembers which sampled entries of each tensor are nonzero, and counts the newcomers since."""

    def __init__(self, tensors: Iterable[SparseTensor], sample: int = SAMPLE) -> None:
        self._tensors = tuple(tensors)
        self._places = [self._choose(t.parameter, sample) for t in self._tensors]
        self._before: list[Tensor] | None = None

    @staticmethod
    def _choose(parameter: Tensor, sample: int) -> Tensor | None:
        size = parameter.numel()
        if size <= sample:
            return None
        drawn = torch.randint(size, (sample,), generator=torch.Generator().manual_seed(size))
        return drawn.to(parameter.device)

    def _kept(self) -> list[Bool[Tensor, " X"]]:
        flat = (whole(t.parameter.detach()).flatten() for t in self._tensors)
        return [(x if places is None else x[places]).bool() for x, places in zip(flat, self._places, strict=True)]

    def remember(self) -> None:
        """Take the masks as they are now, the earlier ones of the comparison."""
        self._before = self._kept()

    def measure(self) -> dict[str, float]:
        """Newcomers over kept entries of each tensor, and of all together under 'total'; empty if nothing is remembered."""
        if self._before is None:
            return {}
        found, new_total, kept_total = {}, 0.0, 0.0
        for tensor, now, before in zip(self._tensors, self._kept(), self._before, strict=True):
            scale = tensor.parameter.numel() / len(now)
            new, kept = scale * int((now & ~before).sum()), scale * int(now.sum())
            found[tensor.name] = new / kept if kept else 0.0
            new_total, kept_total = new_total + new, kept_total + kept
        self._before = None
        return {**found, "total": new_total / kept_total if kept_total else 0.0}


def kurtosis(stream: Float[Tensor, "*B S"]) -> Float[Tensor, ""]:
    """Fourth standardised moment over the channels of each token, averaged over tokens."""
    x = stream.float()
    x = x - x.mean(-1, keepdim=True)
    squared = x.square()
    return (squared.square().mean(-1) / squared.mean(-1).square().clamp(min=1e-24)).mean()


@torch.no_grad()
def diagnose(
    model: SparseTransformer, batches: Iterable[Int[Tensor, "_ T"]], turnover: Turnover
) -> dict[str, dict[str, float]]:
    """The figures above.

    Args:
        batches: the tokens of the step.
        turnover: what was remembered one step ago.
    """
    activity, sites = Activity(model), _Sites(model)
    for tokens in batches:
        model(tokens, tap=Chain(activity.tap, sites.tap))
    silent = activity.silent()
    return {
        "density": density_report(model),
        "turnover": turnover.measure(),
        "silent": {
            "neurons": _share([layer.neurons for layer in silent]),
            "qk": _share([layer.qk for layer in silent]),
            "v": _share([layer.v for layer in silent]),
        },
        "kurtosis": sites.means(),
    }


class _Sites:
    """A tap that averages the kurtosis of the residual stream at every site."""

    def __init__(self, model: SparseTransformer) -> None:
        names = [f"{layer}.{part}" for layer in range(model.config.n_layer) for part in ("resid_in", "resid_mid")]
        self._sums: dict[str, list[Tensor]] = {name: [] for name in (*names, "final_resid")}
        self.tap = At({name: self._adding(name) for name in self._sums})

    def _adding(self, name: str) -> Any:
        def add(stream: Tensor) -> Tensor:
            self._sums[name].append(kurtosis(stream))
            return stream

        return add

    def means(self) -> dict[str, float]:
        return {name: float(torch.stack(found).mean()) for name, found in self._sums.items()}


def _share(masks: list[Tensor]) -> float:
    return float(torch.cat(masks).float().mean())
