"""Deciding: the loss that says whether a set of nodes and edges is enough, and the bisection that uses it.

With every other node removed, scale and shift of the logit difference are fitted on the first deciding set, training
pairs (see `calibration`); the loss is the worst calibrated one over all sets. Without `calibrate` both are left alone.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparse_model.circuits.calibration import Calibration, fitted
from sparse_model.circuits.edges import edge_weights, source_of
from sparse_model.circuits.masked_pass import EdgeMask, answer_differences
from sparse_model.circuits.prompts import Prompts
from sparse_model.tasks.token_pairs import TokenPairs
from sparse_model.transformer.model import SparseTransformer

SOME = 32
"""Pairs of each set that derivatives are estimated on; whether the target is reached is decided on all."""

Keep = Mapping[str, Bool[Tensor, " W"]]
Edges = Mapping[str, Bool[Tensor, "W_target W_source"]]


class Deciding:
    """The deciding sets of one pruning run.

    Args:
        sets: training pairs, which calibrate, then any others.
        calibrate: False decides on the logits as they are.
        max_scale: the most that calibration may amplify by.
    """

    def __init__(
        self,
        model: SparseTransformer,
        sets: Sequence[TokenPairs],
        values: Mapping[str, Tensor],
        calibrate: bool = True,
        max_scale: float = math.inf,
    ) -> None:
        self.model, self.values, self.calibrate, self.max_scale = model, values, calibrate, max_scale
        self.prompts = [Prompts(model, pairs) for pairs in sets]
        self.rows = [prompts.rows() for prompts in self.prompts]
        self.some_rows = [prompts.rows(prompts.both(_spread(prompts.N, SOME))) for prompts in self.prompts]
        """of pairs spread evenly over each set"""

    @torch.no_grad()
    def loss(self, keep: Keep, edges: Edges | None = None) -> float:
        """Binary task loss in nats, the worst over the sets."""
        return max(self._losses(keep, edges))

    @torch.no_grad()
    def reaches(self, target: float, keep: Keep, edges: Edges | None = None) -> bool:
        """Whether the loss is at most the target; sets after the first that misses it are not run."""
        return all(loss <= target for loss in self._losses(keep, edges))

    @torch.no_grad()
    def calibration(self, keep: Keep, edges: Edges | None = None) -> Calibration:
        """Scale and shift that suit the first set best."""
        return fitted(self._differences(0, keep, edges), self.max_scale)

    def _losses(self, keep: Keep, edges: Edges | None) -> Iterator[float]:
        calibration = None
        for number in range(len(self.prompts)):
            differences = self._differences(number, keep, edges)
            if calibration is None:
                calibration = fitted(differences, self.max_scale) if self.calibrate else Calibration()
            yield float(calibration.loss(differences))

    def _differences(self, number: int, keep: Keep, edges: Edges | None) -> Float[Tensor, " M"]:
        masks = {name: mask[None].float() for name, mask in keep.items()}
        cut = None if edges is None else compact_edges(keep, edges)
        return answer_differences(self.prompts[number], self.rows[number], masks, self.values, cut)[0]


def _spread(count: int, most: int) -> Int[Tensor, "1 m"]:
    """At most so many of `count` numbers, evenly spread."""
    return torch.arange(0, count, math.ceil(count / most))[None]


def compact_edges(keep: Keep, edges: Edges) -> dict[str, list[EdgeMask]]:
    """Edge masks between kept nodes, as a masked pass takes them."""
    found = {}
    for target, mask in edges.items():
        to, read = keep[target].nonzero()[:, 0], keep[source_of(target)].nonzero()[:, 0]
        found[target] = [EdgeMask(to, read, mask[to][:, read].float())]
    return found


def fewest(count: int, start: int, reaches: Callable[[int], bool], least: int = 1) -> int:
    """The smallest k in least..count that a search from `start` finds to reach the target; `count` itself is taken to.

    Downwards it bisects; upwards it doubles its steps until the target is reached, and bisects the last. The loss is not
    monotone in k: the k found reaches the target, and the last smaller one tried did not.
    """
    low, high = max(least, 1) - 1, count
    probe = min(max(low + 1, start), max(low + 1, count - 1))
    step = 1  # upwards from the start in steps that double: far from it a larger set may well do worse
    while probe < high and not reaches(probe):
        low, probe, step = probe, min(probe + step, count), 2 * step
    high = min(probe, high)
    while high - low > 1:
        probe = (low + high) // 2
        if reaches(probe):
            high = probe
        else:
            low = probe
    return high


def discretise(
    scores: Mapping[str, Tensor], deciding: Deciding, target: float, shrink: bool = True
) -> dict[str, Bool[Tensor, " W"]]:
    """The fewest top-ranked nodes whose deciding loss is at most `target`.

    Args:
        shrink: whether nodes with a positive score may go.
    """
    ranked = torch.cat(list(scores.values())).sort(descending=True).values
    positive = int((ranked > 0).sum())

    def masks(k: int) -> dict[str, Tensor]:
        threshold = ranked[k - 1]
        return {name: score >= threshold for name, score in scores.items()}

    least = 1 if shrink else positive
    return masks(fewest(len(ranked), positive, lambda k: deciding.reaches(target, masks(k)), least))


def discretise_edges(
    scores: Mapping[str, Float[Tensor, "W_target W_source"]],
    keep: Keep,
    deciding: Deciding,
    target: float,
    shrink: bool = True,
) -> dict[str, Bool[Tensor, "W_target W_source"]]:
    """Edge masks without all but the fewest top-ranked edges whose deciding loss is at most `target`.

    Args:
        scores: per target location, −∞ where there is no edge between kept nodes.
        shrink: whether edges with a positive score may go.
    """
    flat = torch.cat([score.flatten() for score in scores.values()])
    ranked = flat[flat > float("-inf")].sort(descending=True).values
    positive = int((ranked > 0).sum())

    def masks(k: int) -> dict[str, Tensor]:
        threshold = ranked[k - 1]
        return {name: (score >= threshold) | (score == float("-inf")) for name, score in scores.items()}

    if not len(ranked):
        return {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    least = 1 if shrink else positive
    return masks(fewest(len(ranked), positive, lambda k: deciding.reaches(target, keep, masks(k)), least))


def edge_scores_like(model: SparseTransformer) -> dict[str, Float[Tensor, "W_target W_source"]]:
    """−∞ for every edge."""
    return {name: torch.full_like(weight, float("-inf")) for name, weight in edge_weights(model).items()}
