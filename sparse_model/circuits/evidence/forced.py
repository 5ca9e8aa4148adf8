"""Forcing: how many nodes pruning needs to bring any pairs, on any model, to a loss; the yardstick of the control runs.

Unlike `prune.prune` it takes tasks that the whole model cannot do, decides on the training pairs themselves (a control
has nothing that could hold on others), and says what was reached where the target was not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sparse_model.circuits.attribution import attribution_scores, break_ties
from sparse_model.circuits.calibration import fitted
from sparse_model.circuits.deciding_loss import Deciding
from sparse_model.circuits.evidence.outcome import outcome_of
from sparse_model.circuits.learn import learn_masks
from sparse_model.circuits.prompts import Prompts
from sparse_model.circuits.prune import discretised
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.tasks.token_pairs import TokenPairs
from sparse_model.transformer.model import SparseTransformer

Ranking = Mapping[str, Tensor]
GROWTH = 1.35
DECIDING = 64


@dataclass(frozen=True)
class Forced:
    """Binary loss in nats over the number of nodes kept: the top-ranked ones, and those elimination left."""

    curve: dict[int, float]

    def nodes_at(self, loss: float) -> int | None:
        """The fewest nodes seen to reach a loss; None where none did."""
        return min((nodes for nodes, found in self.curve.items() if found <= loss), default=None)

    @property
    def lowest(self) -> float:
        """The lowest loss at any size."""
        return min(self.curve.values())

    def at_most(self, nodes: int) -> float:
        """The lowest loss with at most that many nodes."""
        return min(loss for size, loss in self.curve.items() if size <= nodes)

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return asdict(self)


def force(model: SparseTransformer, pairs: TokenPairs, values: Mapping[str, Tensor], config: PruneConfig) -> Forced:
    """Learn, rank and eliminate as pruning does, one seed, and follow the loss over the number of nodes kept.

    First at a tenth of the task's price per node, since what cannot be had cheaply may be given up altogether at the full
    price. That is tried only where the target was reached; then the better of both counts at every size.

    Args:
        values: ablation values of this model.
    """
    prompts = Prompts(model, pairs)
    importance = attribution_scores(prompts, values, config.tied)
    ranked: list[tuple[Ranking, Forced]] = []
    for k_coef in (config.k_coef / 10, config.k_coef):
        masks = learn_masks(prompts, values, config.model_copy(update={"k_coef": k_coef}), [config.seed], pairs.name)
        scores = break_ties(masks.scores(0), importance)
        ranked.append((scores, ranked_losses(model, scores, pairs, values, config)))
        if ranked[-1][1].nodes_at(config.target_loss) is None:
            break
    return with_elimination(model, ranked, pairs, values, config)


def with_elimination(
    model: SparseTransformer,
    ranked: Sequence[tuple[Ranking, Forced]],
    pairs: TokenPairs,
    values: Mapping[str, Tensor],
    config: PruneConfig,
) -> Forced:
    """The lowest loss of any ranking at every size, and the set that elimination leaves of the best one at the target.

    Args:
        ranked: each ranking with its `ranked_losses`.
    """
    curve: dict[int, float] = {}
    for _, found in ranked:
        for nodes, loss in found.curve.items():
            curve[nodes] = min(loss, curve.get(nodes, loss))
    sizes = [
        (size, i) for i, (_, found) in enumerate(ranked) if (size := found.nodes_at(config.target_loss)) is not None
    ]
    needed = bool(sizes) and min(sizes)[0] > 0  # where no node is needed there is nothing to eliminate
    if needed and config.signal != "adversarial":
        decide = Deciding(
            model, [pairs.select(slice(0, DECIDING))], values, config.calibrate_in_decision, config.max_scale
        )
        scores, target = ranked[min(sizes)[1]][0], config.target_loss
        keep = discretised(model, scores, decide, target, config.elimination)
        nodes, loss = sum(int(mask.sum()) for mask in keep.values()), decide.loss(keep)
        curve[nodes] = min(loss, curve.get(nodes, loss))
    return Forced(dict(sorted(curve.items())))


def ranked_losses(
    model: SparseTransformer,
    scores: Mapping[str, Tensor],
    pairs: TokenPairs,
    values: Mapping[str, Tensor],
    config: PruneConfig,
) -> Forced:
    """The loss of the top-ranked nodes over their number: sizes a third apart, and a bisection towards the target.

    Nodes of equal score come together, so sizes between are not seen. Each loss is calibrated as pruning calibrates.
    """
    prompts = Prompts(model, pairs.select(slice(0, DECIDING)))
    rows = prompts.rows()
    ranked = torch.cat(list(scores.values())).sort(descending=True).values
    curve: dict[int, float] = {}

    def size(k: int) -> int:
        """How many nodes score at least as much as the k-th."""
        return int((ranked >= ranked[k - 1]).sum()) if k else 0

    def loss(k: int) -> float:
        nodes = size(k)
        if nodes not in curve:
            threshold = ranked[k - 1] if k else float("inf")
            keep = {name: score >= threshold for name, score in scores.items()}
            outcome = outcome_of(prompts, rows, keep, values)
            if config.calibrate_in_decision:
                outcome = outcome.calibrated(fitted(outcome.difference, config.max_scale))
            curve[nodes] = outcome.loss
        return curve[nodes]

    sizes, step = [0], 8.0
    while step < len(ranked):
        sizes.append(round(step))
        step *= GROWTH
    sizes.append(len(ranked))
    reached = next((number for number, k in enumerate(sizes) if loss(k) <= config.target_loss), None)
    for k in sizes:
        loss(k)
    if reached:
        low, high = sizes[reached - 1], sizes[reached]
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if loss(middle) <= config.target_loss else (middle, high)
    return Forced(dict(sorted(curve.items())))
