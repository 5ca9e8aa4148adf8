"""Grades: which gates a circuit's evidence passes, and the letter that follows.

A  every gate passed
B  the three basic gates and all control runs passed, and at most one of the others not
C  the three basic gates passed
D  a basic gate failed

What was not measured, or could not be decided, counts as not passed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sparse_model.circuits.evidence.controls import SEPARATES
from sparse_model.circuits.evidence.finding import Finding

HELD_OUT_LOSS = 0.30
P_VALUE = 0.05
HALF_OF_CHANCE = 0.35
JACCARD = 0.36


@dataclass(frozen=True)
class GradeGate:
    """One requirement on one finding."""

    name: str
    kind: str
    """basic, control or stress"""
    finding: str
    threshold: float
    reason: str
    value: Callable[[Any], float | None]
    passes: Callable[[Any], bool]
    undecided: Callable[[Any], str] = lambda _: ""
    """why it could not have passed whatever the circuit; empty where it could"""


def too_few(losses: Sequence[float]) -> str:
    """Why so few random sets cannot give the p asked for; empty where they can."""
    if 1 / (len(losses) + 1) <= P_VALUE:
        return ""
    return f"{len(losses)} random sets cannot give a p of {P_VALUE}; {math.ceil(1 / P_VALUE) - 1} can (--draws)"


GATES = (
    GradeGate(
        "sufficient", "basic", "sufficiency", HELD_OUT_LOSS,
        "upper end of the calibrated held-out loss at most twice the usual target of 0.15 nats",
        lambda f: f.calibrated_loss.high, lambda f: f.calibrated_loss.high <= HELD_OUT_LOSS,
    ),
    GradeGate(
        "necessary", "basic", "necessity", P_VALUE,
        "removing the circuit hurts more than 95 % of equal node sets outside it (p at most)",
        lambda f: f.p_outside, lambda f: f.p_outside <= P_VALUE, lambda f: too_few(f.outside_losses),
    ),
    GradeGate(
        "necessary in size", "basic", "necessity", HALF_OF_CHANCE,
        "removing the circuit brings the whole model's loss to at least half of chance (lower end)",
        lambda f: f.necessity_loss.low, lambda f: f.necessity_loss.low >= HALF_OF_CHANCE,
    ),
    GradeGate(
        "nonsense", "control", "nonsense", SEPARATES,
        "answers without a rule need at least this many times the nodes, or cannot be forced at all",
        lambda f: f.ratio, lambda f: f.separates,
    ),
    GradeGate(
        "reversed", "control", "reversed", SEPARATES,
        "the wrong answers need at least this many times the nodes, or cannot be forced at all",
        lambda f: f.ratio, lambda f: f.separates,
    ),
    GradeGate(
        "arbitrary", "control", "arbitrary", SEPARATES,
        "unrelated tokens in the answers' place need at least this many times the nodes, or cannot be forced at all",
        lambda f: f.ratio, lambda f: f.separates,
    ),
    GradeGate(
        "random weights", "control", "random_weights", SEPARATES,
        "a model with shuffled weights needs at least this many times the nodes, or cannot be forced at all",
        lambda f: f.ratio, lambda f: f.separates,
    ),
    GradeGate(
        "necessary among all", "stress", "necessity", P_VALUE,
        "removing the circuit hurts more than 95 % of equal sets of any nodes (p at most)",
        lambda f: f.p_any, lambda f: f.p_any <= P_VALUE, lambda f: too_few(f.any_losses),
    ),
    GradeGate(
        "frozen norms", "stress", "frozen_norm", HALF_OF_CHANCE,
        "under the whole model's norm scales the loss stays at most half of chance (upper end)",
        lambda f: f.frozen_norm_loss.high, lambda f: f.frozen_norm_loss.high <= HALF_OF_CHANCE,
    ),
    GradeGate(
        "adversary", "stress", "adversarial", HALF_OF_CHANCE,
        "under the worst subset of removals found the loss stays at most half of chance (upper end)",
        lambda f: f.adversarial_loss.high, lambda f: f.adversarial_loss.high <= HALF_OF_CHANCE,
    ),
    GradeGate(
        "interchange", "stress", "interchange", HALF_OF_CHANCE,
        "with any share of its nodes at the whole model's activations the loss stays at most half of chance (upper end)",
        lambda f: f.worst.high, lambda f: f.worst.high <= HALF_OF_CHANCE,
    ),
    GradeGate(
        "seeds", "stress", "agreement", JACCARD,
        "any two seeds agree on more of their nodes (Jaccard) than was published for circuits of a dense model",
        lambda f: f.lowest, lambda f: f.lowest > JACCARD,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class GateResult:
    """What one gate said."""

    name: str
    kind: str
    passed: bool | None
    """None where it was not measured"""
    value: float | None
    threshold: float
    reason: str
    undecided: str = ""
    """why it could not have passed; empty where it could"""

    @property
    def state(self) -> str:
        """`yes`, `no`, `not measured`, or why it is undecided."""
        if self.undecided:
            return f"undecided: {self.undecided}"
        return {True: "yes", False: "no", None: "not measured"}[self.passed]


@dataclass(frozen=True)
class Grade:
    """The letter and what it rests on."""

    letter: str
    gates: list[GateResult]

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return asdict(self)


def grade(findings: Mapping[str, Finding | None]) -> Grade:
    """Judge findings by name (`sufficiency`, `necessity`, …); absent ones and None were not measured."""
    results = []
    for gate in GATES:
        found = findings.get(gate.finding)
        passed, value = (None, None) if found is None else (gate.passes(found), gate.value(found))
        open_ = "" if found is None else gate.undecided(found)
        results.append(GateResult(gate.name, gate.kind, passed, value, gate.threshold, gate.reason, open_))
    failed = {kind: sum(not r.passed for r in results if r.kind == kind) for kind in ("basic", "control", "stress")}
    if failed["basic"]:
        letter = "D"
    elif failed["control"] or failed["stress"] > 1:
        letter = "C"
    else:
        letter = "B" if failed["stress"] else "A"
    return Grade(letter, results)
