"""Choosing and judging a circuit's paired edit (M5, METHOD §6), one direction at a time.

Loop and strength are chosen on validation pairs: of those that do nearly what the full patch does, in both directions, the
smallest edit. Everything reported comes from held-out pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats

from bridges.edits.mapping import SiteDirections
from bridges.edits.paired import Loop, PairedRun
from bridges.validation.controls import (
    best_coordinates_effect,
    class_mean_effect,
    draws_of,
    random_effects,
    random_nodes,
    untrained_run,
)
from bridges.validation.effects import Effect, recovered, summary
from bridges.validation.isolation import ReferenceText
from bridges.validation.manifold import NaturalReads
from foundation.statistics import mean_estimate, permutation_p

DOSES = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0)
SUFFICIENT_RECOVERED = 0.85
SUFFICIENT_P_TARGET = 0.8
"""What a sufficient edit recovers, at least and (mirrored at 1) at most, and its P(target), of the full patch's."""


@dataclass(frozen=True)
class PairedChoice:
    """Loop and strength with the validation figures they were chosen by (`loop → [recovered at each dose]`)."""

    loop: Loop
    strength: float
    curves: dict[str, list[float]]


def choose_paired(runs: Sequence[PairedRun], doses: Sequence[float] = DOSES) -> PairedChoice:
    """One loop and strength for all directions, from validation pairs.

    Of the choices that are sufficient in their worst direction, the one with the smallest dense change; without
    any, the one whose recovered is nearest to 1.
    """
    curves: dict[str, list[float]] = {}
    candidates: list[tuple[bool, float, float, Loop, float]] = []
    loops: tuple[Loop, ...] = ("open", "closed")
    for loop in loops:
        found = [_by_dose(run, loop, doses) for run in runs]
        recovered_by_dose, share_by_dose, size_by_dose = np.array(found).transpose(1, 2, 0)
        curves[loop] = recovered_by_dose.mean(-1).tolist()
        for number, dose in enumerate(doses):
            miss = float(np.abs(recovered_by_dose[number] - 1).max())
            is_sufficient = miss <= 1 - SUFFICIENT_RECOVERED and share_by_dose[number].min() >= SUFFICIENT_P_TARGET
            candidates.append((is_sufficient, miss, float(size_by_dose[number].mean()), loop, dose))
    sufficient = [candidate for candidate in candidates if candidate[0]]
    best = min(sufficient, key=lambda c: c[2]) if sufficient else min(candidates, key=lambda c: c[1])
    return PairedChoice(best[3], best[4], curves)


def _by_dose(run: PairedRun, loop: Loop, doses: Sequence[float]) -> list[list[float]]:
    """At each dose: recovered, P(target) over the full patch's, and the mean squared dense change over sites and tokens."""
    none, full = Effect.of(run.unedited(), run.direction), Effect.of(run.patched(), run.direction)
    edited = run.edited(torch.tensor(doses), loop)
    span = (full.logit_difference - none.logit_difference).mean()
    effects = [Effect.of(logits, run.direction) for logits in edited.logits]
    sizes = torch.stack([delta.square().sum(-1).mean((1, 2)) for delta in edited.deltas]).sum(0)
    return [
        [float((effect.logit_difference - none.logit_difference).mean() / span) for effect in effects],
        [float(effect.p_target.mean() / full.p_target.mean()) for effect in effects],
        sizes.tolist(),
    ]


def judge_paired(
    run: PairedRun, training: PairedRun, choice: PairedChoice, text: ReferenceText, draws: int = 100, seed: int = 0
) -> dict[str, Any]:
    """Held-out figures of one direction, controls and baselines beside them."""
    direction = run.direction
    none, full = Effect.of(run.unedited(), direction), Effect.of(run.patched(), direction)
    doses = sorted({*DOSES, choice.strength})
    dosed = run.edited(torch.tensor(doses), choice.loop)
    effects = [Effect.of(logits, direction) for logits in dosed.logits]
    edit = effects[doses.index(choice.strength)]
    at = torch.tensor([choice.strength])
    chosen = run.edited(at, choice.loop)
    random = random_effects(run, chosen, draws, seed)
    drawn = draws_of(random)
    span = (full.logit_difference - none.logit_difference).mean()
    random_recovered = (drawn - none.logit_difference.mean()) / span
    mean_random = Effect(
        np.mean([effect.logit_difference for effect in random], axis=0),
        np.mean([effect.p_target for effect in random], axis=0),
    )
    slopes = _slopes(np.array(doses), np.array([effect.logit_difference for effect in effects]))
    toward = np.sign(span)
    controls = {
        "untrained_bridge": untrained_run(run, seed).edited(at).logits[0],
        "random_nodes": run.with_sites(
            random_nodes(run.sites, run.bridge, run.sparse, run.dense, seed)
        ).edited(at, choice.loop).logits[0],
    }  # fmt: skip
    baselines = {
        "class_mean_difference": class_mean_effect(run, training),
        "best_coordinates": best_coordinates_effect(run, training),
    }
    return {
        "loop": choice.loop,
        "strength": choice.strength,
        "pairs": len(none.logit_difference),
        "recovered": recovered(edit, none, full, seed).to_json(),
        "recovered_at_strength_1": recovered(effects[doses.index(1.0)], none, full, seed).to_json(),
        "none": summary(none, seed),
        "edited": summary(edit, seed),
        "full_patch": summary(full, seed),
        "random": {
            **summary(mean_random, seed),
            "draws": draws,
            "recovered": float(random_recovered.mean()),
            "recovered_95": [float(q) for q in np.quantile(random_recovered, [0.025, 0.975])],
        },
        "p_value": permutation_p(float(toward * edit.logit_difference.mean()), toward * drawn),
        "wrong_way": float((toward * (edit.logit_difference - none.logit_difference) < 0).mean()),
        "slope": mean_estimate(slopes, seed).to_json(),
        "dose_response": [
            {
                "strength": dose,
                "p_target": mean_estimate(effect.p_target, seed).to_json(),
                "logit_difference": mean_estimate(effect.logit_difference, seed).to_json(),
            }
            for dose, effect in zip(doses, effects, strict=True)
        ],
        "controls": {
            name: {"recovered": recovered(Effect.of(logits, direction), none, full, seed).to_json()}
            for name, logits in controls.items()
        },
        "baselines": {
            name: {"recovered": recovered(effect, none, full, seed).to_json()} for name, effect in baselines.items()
        },
        "on_manifold": _manifold(run, chosen.edited, chosen.deltas, text),
    }


def _slopes(doses: np.ndarray, differences: np.ndarray) -> np.ndarray:
    """Per pair the least-squares slope of the logit difference over strengths up to 1."""
    small = doses <= 1
    return np.array([stats.linregress(doses[small], column).slope for column in differences[small].T])


def _manifold(
    run: PairedRun, edited: Sequence[Any], deltas: Sequence[Any], text: ReferenceText
) -> list[dict[str, Any]]:
    """Per site: median Mahalanobis distance of edited values over natural ones; the unedited prompts' beside it."""
    found = []
    for number, site in enumerate(run.sites):
        natural = NaturalReads(run.value(number, text.h[site.dense_site], run.dense.walk(text.tokens)))
        changed = deltas[number][0].norm(dim=-1) > 0
        before = run.value(number, run.h_base[site.dense_site], run.walk)
        found.append(
            {
                "dense_site": site.dense_site,
                "edited": natural.excess(edited[number][0][changed]) if bool(changed.any()) else 1.0,
                "unedited": natural.excess(before[changed]) if bool(changed.any()) else 1.0,
            }
        )
    return found


def concentration(run: PairedRun, counts: Sequence[int], choice: PairedChoice) -> list[dict[str, float]]:
    """Recovered against the number of nodes per site: the most-moved of the edit's nodes, at the chosen strength."""
    none, full = Effect.of(run.unedited(), run.direction), Effect.of(run.patched(), run.direction)
    moved = [claimed.abs().mean((0, 1)) for claimed in run.claimed]
    rows = []
    for count in counts:
        sites = []
        for site, amount in zip(run.sites, moved, strict=True):
            top = amount.topk(min(count, len(site.nodes))).indices.sort().values
            nodes = tuple(site.nodes[i] for i in top.tolist())
            sites.append(SiteDirections(site.place, site.dense_site, site.kind, nodes, site.directions[top]))
        part = run.with_sites(sites)
        effect = Effect.of(part.edited(torch.tensor([choice.strength]), choice.loop).logits[0], run.direction)
        rows.append(
            {
                "nodes_per_site": count,
                "nodes": sum(len(s.nodes) for s in sites),
                **recovered(effect, none, full).to_json(),
            }
        )
    return rows
