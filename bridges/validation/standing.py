"""Choosing and judging a circuit's standing edits (METHOD §5, §6).

Per direction: fit a `move` edit at every aligned site where the circuit has stream channels, choose site and strength on
training and validation prompts (enough flips on both, then least KL on unrelated text), report on held-out ones.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bridges.bridge import Bridge
from bridges.edits.fit import move_edit, stream_channels
from bridges.edits.paired import Direction
from bridges.edits.standing import StandingEdit, walk_edited
from bridges.validation.effects import Effect
from bridges.validation.isolation import ReferenceText
from dense_adapters import DenseStack
from foundation.errors import UserError
from foundation.statistics import mean_estimate
from sparse_model.circuits.circuit import Circuit
from sparse_model.transformer.model import SparseTransformer

STRENGTHS = (1.0, 1.5, 2.0, 3.0)
ENOUGH_FLIPS = 0.95
"""Flip rate above which a smaller disturbance is preferred to more flips."""


def choose_standing(
    circuit: Circuit,
    fit_on: Direction,
    choose_on: Direction,
    bridge: Bridge,
    sparse: SparseTransformer,
    dense: DenseStack,
    text: ReferenceText,
    claim: str,
    strengths: Sequence[float] = STRENGTHS,
) -> StandingEdit:
    """The best `move` edit of the circuit by validation.

    Raises:
        UserError: no aligned site carries a node of the circuit.
    """
    answers = set(choose_on.original.tolist()) | set(choose_on.target.tolist())
    channels = stream_channels(circuit, sparse)
    tried: list[tuple[float, StandingEdit]] = []
    for place, site in enumerate(bridge.alignment.sites):
        if site.sparse not in channels:
            continue
        edit = move_edit(circuit, fit_on, bridge, sparse, dense, place, text.h, claim)
        for strength in strengths:
            candidate = replace(edit, strength=strength)
            flips = min(standing_effect(dense, candidate, prompts).flips for prompts in (choose_on, fit_on))
            tried.append((flips, candidate))
    if not tried:
        raise UserError(f"the circuit for '{circuit.task}' has no stream channel at an aligned site; prune it again")
    most = max(flips for flips, _ in tried)
    enough = [candidate for flips, candidate in tried if flips >= min(most, ENOUGH_FLIPS)]
    return min(enough, key=lambda candidate: text.isolation(candidate, answers)["kl"]["value"])


@torch.no_grad()
def standing_effect(
    dense: DenseStack, edit: StandingEdit, direction: Direction, strength: float | None = None
) -> Effect:
    """Effect on the presented prompts, without looking at their counterfactuals."""
    h = walk_edited(dense, edit, direction.base, strength)
    return _effect(dense, h, direction)


def _effect(dense: DenseStack, h: torch.Tensor, direction: Direction) -> Effect:
    rows = torch.arange(len(h), device=h.device)
    return Effect.of(dense.walk(direction.base).unembed(h[rows, direction.last][:, None])[:, 0], direction)


def judge_standing(
    dense: DenseStack, edit: StandingEdit, direction: Direction, text: ReferenceText, seed: int = 0
) -> dict[str, Any]:
    """Held-out figures of one standing edit: flips of class-a prompts, what it does to class-b prompts and to other text."""
    effect = standing_effect(dense, edit, direction)
    back = Direction(direction.counterfactual, direction.base, direction.last, direction.target, direction.original)
    untouched = standing_effect(dense, edit, back)
    flipped = (effect.logit_difference > 0).astype(np.float64)
    answers = set(direction.original.tolist()) | set(direction.target.tolist())
    return {
        "dense_site": edit.sites[0].dense_site,
        "nodes": len(edit.sites[0].nodes),
        "strength": edit.strength,
        "flip_rate": mean_estimate(flipped, seed).to_json(),
        "p_target": mean_estimate(effect.p_target, seed).to_json(),
        "other_class_kept": float((untouched.logit_difference < 0).mean()),
        "isolation": text.isolation(edit, answers, seed=seed),
    }


def claim_of(task: str, forward: bool) -> str:
    """What a standing edit of a task is said to do."""
    origin, goal = ("a", "b") if forward else ("b", "a")
    return f"where {task} calls for answer {origin}, give answer {goal}"
