"""Sparse against dense: how many edges a task's circuit needs in two models of equal loss (the paper's main comparison).

1. sweep       per model and task: learn masks at each k_coef with several seeds, then per target loss the smallest
               circuit that the steps of `prune` find, from several starts
2. choose      per model, task and target the k_coef and seed with the fewest edges; both models get the same number of tries
3. summarise   geometric mean of edges over the tasks that reach the target in both models, and of the ratio dense / sparse,
               each with a bootstrap interval over tasks

An edge is a nonzero weight between two kept nodes. The ratio of the whole models' edges stands beside: a ratio of circuits
no larger than that would come from the size of the models alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundation.statistics import Estimate, mean_estimate
from sparse_model.circuits.ablation import Ablate
from sparse_model.circuits.attribution import attribution_scores, break_ties
from sparse_model.circuits.deciding_loss import Deciding, Edges, Keep, discretise_edges
from sparse_model.circuits.edges import count_edges
from sparse_model.circuits.learn import learn_masks
from sparse_model.circuits.learn_edges import learn_edges
from sparse_model.circuits.prompts import Prompts
from sparse_model.circuits.prune import discretised, reduced, task_loss, without_unread
from sparse_model.circuits.prune_config import MODELS, CompareConfig, PruneConfig
from sparse_model.tasks.token_pairs import TokenPairs
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.nodes import node_locations


@dataclass(frozen=True)
class Point:
    """The smallest circuit found for one target; losses in nats."""

    target: float
    k_coef: float
    nodes: int
    edges: int
    edges_needed: int | None
    """left by edge masks learned on these nodes (at the main target only)"""
    loss: float
    """the worse one on training and validation pairs, as decided on (calibrated by default)"""
    held_out_loss: float
    """calibrated where the decision is"""

    def to_json(self) -> dict[str, float | None]:
        """Plain types under the field names."""
        return asdict(self)


def sweep(
    model: SparseTransformer,
    train: TokenPairs,
    validation: TokenPairs,
    held_out: TokenPairs,
    values: Mapping[str, Tensor],
    config: CompareConfig,
    k_coef: float,
) -> list[Point]:
    """Step 1: the circuits of one model, task and k_coef, by target loss; targets below the whole model's loss, and
    targets that only the whole model was found to reach (its nodes rank equal), are left out.

    Args:
        values: ablation values per node location.
    """
    deciding = (train.select(slice(0, len(validation))), validation)
    decide = _Remembering(model, deciding, values, config.calibrate_in_decision)
    full = decide.loss({name: torch.ones_like(value, dtype=torch.bool) for name, value in values.items()})
    reachable = [target for target in config.targets if full <= target]
    if not reachable:
        return []
    pruning = config.pruning(k_coef)
    prompts = Prompts(model, train)
    masks = learn_masks(prompts, values, pruning, range(config.seed, config.seed + config.seeds), train.name)
    importance = attribution_scores(prompts, values, pruning.tied)
    ranked = [break_ties(masks.scores(number), importance) for number in range(config.seeds)]
    points, whole = [], whole_edges(model)
    last: list[dict[str, Tensor] | None] = [None] * config.seeds
    for target in sorted(reachable):
        last = [_smallest(model, *seed, decide, target, pruning) for seed in zip(ranked, last, strict=True)]
        keep, fewer = min((keep for keep in last if keep), key=lambda keep: count_edges(model, keep)), None
        if count_edges(model, keep) == whole:
            continue
        if target == config.at and config.edge_steps:
            edges = discretise_edges(learn_edges(prompts, keep, values, pruning), keep, decide, target)
            fewer = count_edges(model, *without_unread(model, keep, edges, decide, target))
        nodes, edges_between = sum(int(mask.sum()) for mask in keep.values()), count_edges(model, keep)
        calibration = decide.calibration(keep) if decide.calibrate else None
        held_out_loss = task_loss(model, held_out, Ablate(keep, values), calibration)
        points.append(Point(target, k_coef, nodes, edges_between, fewer, decide.loss(keep), held_out_loss))
    return points


def _smallest(
    model: SparseTransformer,
    scores: Mapping[str, Tensor],
    before: Keep | None,
    decide: Deciding,
    target: float,
    pruning: PruneConfig,
) -> dict[str, Tensor]:
    """The fewest edges that elimination is left with from each of its starts: where it gets stuck depends on them.

    Starts: all nodes the masks kept, the fewest by rank, and the circuit found for the target before.
    """
    by_rank = discretised(model, scores, decide, target)
    if not pruning.elimination_rounds:
        return by_rank
    how = pruning.elimination
    found = [discretised(model, scores, decide, target, how)]
    found += [reduced(model, start, decide, target, how) for start in (by_rank, before) if start is not None]
    return min(found, key=lambda keep: count_edges(model, keep))


class _Remembering(Deciding):
    """Deciding sets that measure a set of nodes once, however many targets ask for it."""

    _found: dict[bytes, float] | None = None

    def reaches(self, target: float, keep: Keep, edges: Edges | None = None) -> bool:
        """As `Deciding.reaches`, on all sets, since the next target asks again."""
        return self.loss(keep, edges) <= target

    def loss(self, keep: Keep, edges: Edges | None = None) -> float:
        """As `Deciding.loss`."""
        if edges is not None:
            return super().loss(keep, edges)
        self._found = {} if self._found is None else self._found
        key = torch.cat([keep[name] for name in sorted(keep)]).cpu().numpy().tobytes()
        if key not in self._found:
            self._found[key] = super().loss(keep)
        return self._found[key]


def whole_edges(model: SparseTransformer) -> int:
    """Edges of the whole model: every nonzero weight between two nodes."""
    everything = {name: torch.ones(width, dtype=torch.bool) for name, width in node_locations(model.config).items()}
    return count_edges(model, everything)


def summarise(
    sweeps: Mapping[str, Mapping[str, Sequence[Point]]], targets: Sequence[float], seed: int = 0
) -> list[dict[str, Any]]:
    """Steps 2 and 3: one row per target.

    Args:
        sweeps: model ("sparse", "dense") → task → points of every k_coef.

    Returns:
        Per target: `target`; `tasks`, task → model → the chosen point; `missing`, tasks one of the models has no circuit
        for; and unless there are no tasks (then None): `edges`, model → geometric mean over tasks, and `ratio`, dense over
        sparse, both as JSON of `Estimate`s; `edges_needed` and `ratio_needed`, the same of the fewest edges that edge
        masks left (None where none were learned); `held_out_loss`, model → mean over tasks. No edges count as one.
    """
    return [_row(sweeps, target, seed) for target in targets]


def _row(sweeps: Mapping[str, Mapping[str, Sequence[Point]]], target: float, seed: int) -> dict[str, Any]:
    chosen = {name: {task: _fewest(points, target) for task, points in sweeps[name].items()} for name in MODELS}
    tasks = [task for task in chosen["sparse"] if all(chosen[name].get(task) for name in MODELS)]
    found = {name: [point for task in tasks if (point := chosen[name][task])] for name in MODELS}
    row: dict[str, Any] = {
        "target": target,
        "tasks": {task: {name: found[name][i].to_json() for name in MODELS} for i, task in enumerate(tasks)},
        "missing": sorted({task for name in MODELS for task in chosen[name]} - set(tasks)),
        **dict.fromkeys(("edges", "ratio", "edges_needed", "ratio_needed", "held_out_loss")),
    }
    if not tasks:
        return row
    row["edges"], row["ratio"] = _compared({name: [p.edges for p in found[name]] for name in MODELS}, seed)
    row["held_out_loss"] = {name: float(np.mean([p.held_out_loss for p in found[name]])) for name in MODELS}
    needed = {name: [_needed(sweeps[name][task], target) for task in tasks] for name in MODELS}
    counts = {name: [n for n in needed[name] if n is not None] for name in MODELS}
    if all(len(counts[name]) == len(tasks) for name in MODELS):
        row["edges_needed"], row["ratio_needed"] = _compared(counts, seed)
    return row


def _fewest(points: Sequence[Point], target: float) -> Point | None:
    """The point of `target` with the fewest edges; the fewest nodes, then the first, among equals."""
    return min((point for point in points if point.target == target), key=lambda p: (p.edges, p.nodes), default=None)


def _needed(points: Sequence[Point], target: float) -> int | None:
    """The fewest edges that edge masks left."""
    return min((p.edges_needed for p in points if p.target == target and p.edges_needed is not None), default=None)


def _compared(counts: Mapping[str, Sequence[int]], seed: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Geometric means per model, and of the ratio dense / sparse."""
    logs = {name: np.log(np.maximum(1, counts[name])) for name in MODELS}
    return {name: _geometric(logs[name], seed) for name in MODELS}, _geometric(logs["dense"] - logs["sparse"], seed)


def _geometric(logs: NDArray[np.floating], seed: int) -> dict[str, float]:
    """Geometric mean with its bootstrap interval, from logarithms [tasks]."""
    found = mean_estimate(logs, seed)
    return Estimate(*(float(np.exp(value)) for value in (found.value, found.low, found.high))).to_json()
