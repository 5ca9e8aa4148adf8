"""Deciding: the loss that says whether a set of nodes and edges is enough, and the bisection that uses it.

The loss is the worst over the deciding sets of pairs, and there under the ablation the masks were trained for: with
every other node removed, and for the signals `random` and `adversarial` also with the mean random, or the worst subset
of them removed.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_model.circuits.adversary import ascend
from sparse_model.circuits.edges import edge_weights, source_of
from sparse_model.circuits.masked_pass import EdgeMask, answer_differences
from sparse_model.circuits.prompts import Prompts
from sparse_model.model import SparseTransformer
from sparse_model.tasks.token_pairs import TokenPairs

Keep = Mapping[str, Bool[Tensor, " W"]]
Edges = Mapping[str, Bool[Tensor, "W_target W_source"]]
DRAWS = 4
STEPS, STEP_SIZE = 4, 0.25


class Deciding:
    """The deciding sets of one pruning run."""

    def __init__(
        self,
        model: SparseTransformer,
        sets: Sequence[TokenPairs],
        values: Mapping[str, Tensor],
        signal: str = "complete",
        seed: int = 0,
    ) -> None:
        self.model, self.values, self.signal, self.seed = model, values, signal, seed
        self.prompts = [Prompts(model, pairs) for pairs in sets]
        self.rows = [prompts.rows() for prompts in self.prompts]

    def loss(self, keep: Keep, edges: Edges | None = None) -> float:
        """Binary task loss in nats, the worst over sets (and ablations, see above)."""
        return max(self._loss(i, keep, edges) for i in range(len(self.prompts)))

    def _loss(self, i: int, keep: Keep, edges: Edges | None) -> float:
        prompts, masks = self.prompts[i], {name: mask[None].float() for name, mask in keep.items()}
        cut = None if edges is None else compact_edges(keep, edges)
        with torch.no_grad():
            found = float(self._mean(answer_differences(prompts, self.rows[i], masks, self.values, cut)))
        if self.signal == "complete":
            return found
        generator = torch.Generator().manual_seed(self.seed)
        alphas = {name: torch.rand(DRAWS, mask.shape[1], generator=generator).to(mask) for name, mask in masks.items()}
        if self.signal == "random":
            losses = [
                ascend(prompts, self.rows[i], masks, _nth(alphas, n), self.values, 0.0, cut)[1] for n in range(DRAWS)
            ]
            return max(found, float(torch.stack(losses).mean()))
        for start in ({name: torch.ones_like(mask) for name, mask in masks.items()}, _nth(alphas, 0)):
            alpha = start
            for _ in range(STEPS):
                alpha, loss = ascend(prompts, self.rows[i], masks, alpha, self.values, STEP_SIZE, cut)
                found = max(found, float(loss))
        return found

    @staticmethod
    def _mean(differences: Tensor) -> Tensor:
        return F.softplus(-differences).mean()


def compact_edges(keep: Keep, edges: Edges) -> dict[str, list[EdgeMask]]:
    """Edge masks between kept nodes, as a masked pass takes them."""
    found = {}
    for target, mask in edges.items():
        to, read = keep[target].nonzero()[:, 0], keep[source_of(target)].nonzero()[:, 0]
        found[target] = [EdgeMask(to, read, mask[to][:, read].float())]
    return found


def fewest(count: int, start: int, reaches: Callable[[int], bool]) -> int:
    """The smallest k in 1..count that bisection finds to reach the target; `count` itself is taken to.

    Args:
        start: the first k tried.

    The loss is not monotone in k; the k found reaches the target, and the last smaller one tried did not.
    """
    low, high = 0, count
    probe = min(max(1, start), max(1, count - 1))
    while high - low > 1:
        if reaches(probe):
            high = probe
        else:
            low = probe
        probe = (low + high) // 2
    return high


def discretise(scores: Mapping[str, Tensor], deciding: Deciding, target: float) -> dict[str, Bool[Tensor, " W"]]:
    """The fewest top-ranked nodes whose deciding loss is at most `target`."""
    ranked = torch.cat(list(scores.values())).sort(descending=True).values

    def masks(k: int) -> dict[str, Tensor]:
        threshold = ranked[k - 1]
        return {name: score >= threshold for name, score in scores.items()}

    return masks(fewest(len(ranked), int((ranked > 0).sum()), lambda k: deciding.loss(masks(k)) <= target))


def discretise_edges(
    scores: Mapping[str, Float[Tensor, "W_target W_source"]], keep: Keep, deciding: Deciding, target: float
) -> dict[str, Bool[Tensor, "W_target W_source"]]:
    """Edge masks without all but the fewest top-ranked edges whose deciding loss is at most `target`.

    Args:
        scores: per target location, −∞ where there is no edge between kept nodes.
    """
    flat = torch.cat([score.flatten() for score in scores.values()])
    ranked = flat[flat > float("-inf")].sort(descending=True).values

    def masks(k: int) -> dict[str, Tensor]:
        threshold = ranked[k - 1]
        return {name: (score >= threshold) | (score == float("-inf")) for name, score in scores.items()}

    if not len(ranked):
        return {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    start = int((ranked > 0).sum())
    return masks(fewest(len(ranked), start, lambda k: deciding.loss(keep, masks(k)) <= target))


def edge_scores_like(model: SparseTransformer) -> dict[str, Float[Tensor, "W_target W_source"]]:
    """−∞ for every edge."""
    return {name: torch.full_like(weight, float("-inf")) for name, weight in edge_weights(model).items()}


def _nth(stacked: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    return {name: value[n : n + 1] for name, value in stacked.items()}
