"""The verdict (METHOD §6): `explains`, `steers` or `fails`, from named gates over ends of intervals.

explains   every gate but `moves` holds: both models do the task; the bridge carries it; the circuit is sufficient and
           necessary in the sparse model; what the sparse model does predicts what the dense model does (M6); and the circuit
           does more than matched sets outside it (M7)
steers     not that, but the circuit's edit moves the answer at strength 1 more than directions of equal norm
fails      neither
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bridges.validation.in_sparse import InSparse
from bridges.validation.specificity import Specificity
from bridges.validation.transfer import Transfer
from foundation.statistics import Estimate
from foundation.verdicts import Gate, Word

MOVES = "moves"


@dataclass(frozen=True)
class Thresholds:
    """What a gate requires of the worse end of its interval."""

    accuracy: float = 0.85
    """of either model on the task; a fraction"""
    carried: float = 0.6
    """effect of the stream decoded whole at the circuit's place; share of the dense model's own difference"""
    loss: float = 0.5 * float(np.log(2))
    """of the circuit alone, calibrated; nats, half of chance"""
    necessity: float = 0.5
    """what goes with the circuit and not with others; share of the sparse model's own logit difference"""
    slope_low: float = 0.5
    slope_high: float = 2.0
    r2: float = 0.5
    specific: float = 0.1
    """circuit − matched sets; share of the dense model's own difference"""
    p_value: float = 0.01
    moves: float = 0.1
    """circuit's edit, and more than directions of equal norm; share of the dense model's own difference"""


@dataclass(frozen=True)
class Findings:
    """What a verdict is made of; effects are shares of the dense model's own difference at the circuit's place."""

    accuracy_dense: Estimate
    accuracy_sparse: Estimate
    carried: Estimate | None
    """None where the circuit has no channel at an inner place"""
    in_sparse: InSparse
    transfer: Transfer
    specificity: Specificity | None
    """None where nothing lies outside the circuit"""
    circuit: Estimate | None
    beyond_isotropic: Estimate | None
    """circuit − random directions of equal norm"""


def gates(found: Findings, limits: Thresholds | None = None) -> tuple[Gate, ...]:
    """All gates, in the order of the argument."""
    limits = limits or Thresholds()
    inside, fit, m7 = found.in_sparse, found.transfer.fit, found.specificity
    lower = min(found.accuracy_dense, found.accuracy_sparse, key=lambda e: e.low)
    return (
        Gate(
            "does the task",
            lower.low >= limits.accuracy,
            f"accuracy {found.accuracy_dense} of the dense model, {found.accuracy_sparse} of the sparse one",
            f"at least {limits.accuracy} in both",
            "a model that does not do the task cannot be explained on it",
            "choose a task both models do (sparsebridge task check)",
        ),
        Gate(
            "carried",
            found.carried is not None and found.carried.low >= limits.carried,
            f"the whole stream, decoded at the circuit's place, brings {_shown(found.carried)} of the dense model's difference",
            f"at least {limits.carried}",
            "the bridge loses the task on the way to the dense model, or the circuit meets it nowhere but at the changed token",
            "train the bridge longer or with every site aligned (bridge train --align every)",
        ),
        Gate(
            "sufficient",
            inside.loss.high <= limits.loss,
            f"alone, calibrated, the circuit's loss is {inside.loss} (uncalibrated {inside.uncalibrated})",
            f"at most {limits.loss:.3f} nats, half of chance",
            "in the sparse model the circuit does not do the task by itself on held-out templates",
            "prune with a lower --target-loss or more pairs",
        ),
        Gate(
            "necessary",
            inside.necessity is not None and inside.necessity.low >= limits.necessity,
            f"without the circuit {_shown(inside.necessity)} more of the sparse model's difference between the answers is gone "
            f"than without as many others (loss {inside.removed}, without others {_shown(inside.removed_others)})",
            f"at least {limits.necessity} of it",
            "most of the sparse model's answer comes from elsewhere, or there is nothing else to compare the circuit to",
            "the rest holds a copy of the circuit: prune with several --seeds and compare",
        ),
        Gate(
            "predicted",
            fit.slope.low >= limits.slope_low
            and fit.slope.high <= limits.slope_high
            and fit.r2.low >= limits.r2
            and fit.r2.low > found.transfer.null_r2,
            f"effects in the dense model over those in the sparse one: slope {fit.slope}, R² {fit.r2}, rank correlation "
            f"{fit.rank}; bridges that know nothing reach R² {found.transfer.null_r2:.2f}",
            f"slope within {limits.slope_low}–{limits.slope_high}, R² at least {limits.r2} and above those bridges'",
            "what the sparse model does under an intervention does not say what the dense model does",
            "the two models solve the task differently: train the bridge longer, or look at the scatter for where they part",
        ),
        Gate(
            "specific",
            m7 is not None and m7.difference.low >= limits.specific and m7.p_value <= limits.p_value,
            "nothing outside the circuit to compare it to"
            if m7 is None
            else f"the circuit does {m7.difference} more than {m7.draws} matched sets outside it, p {m7.p_value:.3f}",
            f"at least {limits.specific} of the dense model's difference, p at most {limits.p_value}",
            "other node sets of the same size and norm do as much",
            "prune again with other --seeds, or treat it as a way to steer",
        ),
        Gate(
            MOVES,
            found.circuit is not None
            and found.beyond_isotropic is not None
            and found.circuit.low >= limits.moves
            and found.beyond_isotropic.low > 0,
            f"the circuit's edit brings {_shown(found.circuit)}, {_shown(found.beyond_isotropic)} more than random directions of "
            "its norm",
            f"at least {limits.moves}, and more than random directions",
            "the edit does not move the dense model's answer",
            "the circuit's channels at that place are too few: look at the causal map for where the answer is carried",
        ),
    )


def word_of(found: Sequence[Gate]) -> Word:
    """The verdict that gates give."""
    if all(gate.passed for gate in found if gate.name != MOVES):
        return "explains"
    return "steers" if any(gate.passed for gate in found if gate.name == MOVES) else "fails"


def reason_of(found: Sequence[Gate]) -> str:
    """One sentence: why the verdict is no better."""
    word = word_of(found)
    failed = [gate for gate in found if not gate.passed and (word == "fails" or gate.name != MOVES)]
    if word == "explains":
        return "every gate holds"
    names = ", ".join(gate.name for gate in failed)
    return f"not {names}: {failed[0].meaning}"


def _shown(estimate: Estimate | None) -> str:
    return "nothing" if estimate is None else str(estimate)
