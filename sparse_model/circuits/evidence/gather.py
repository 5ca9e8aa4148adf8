"""Gather: every check of this folder on one circuit, what prunes again, its grade, and one JSON object of it all."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sparse_model.circuits.evidence.agreement import agreement
from sparse_model.circuits.evidence.check import Asked, all_checks
from sparse_model.circuits.evidence.controls import KINDS, control_runs
from sparse_model.circuits.evidence.finding import Finding
from sparse_model.circuits.evidence.grades import Grade, grade
from sparse_model.circuits.evidence.necessity import Necessity
from sparse_model.circuits.evidence.outcome import Subject
from sparse_model.circuits.evidence.sufficiency import Sufficiency
from sparse_model.circuits.prune import prune
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.tasks.token_pairs import TokenPairs

ONE_SEED = "one seed only; pass --seeds to prune with more"
QUICK = "skipped by --quick"


@dataclass(frozen=True)
class Evidence:
    """Findings by name, why the others are missing, and the grade."""

    findings: dict[str, Finding]
    missing: dict[str, str]
    grade: Grade
    seconds: dict[str, float]
    """wall-clock time per check"""

    @property
    def sufficiency(self) -> Sufficiency:
        """Always measured."""
        return cast(Sufficiency, self.findings["sufficiency"])

    @property
    def necessity(self) -> Necessity:
        """Always measured."""
        return cast(Necessity, self.findings["necessity"])

    def to_json(self) -> dict[str, Any]:
        """One object: `findings.<name>` with figures and a sentence, `missing`, `grade`, `seconds`."""
        return {
            "findings": {name: finding.to_json() for name, finding in self.findings.items()},
            "missing": self.missing,
            "grade": self.grade.to_json(),
            "seconds": self.seconds,
        }


def gather(
    subject: Subject,
    train: TokenPairs,
    validation: TokenPairs,
    blocks: NDArray[np.integer] | None,
    config: PruneConfig,
    draws: int = 100,
    seeds: int = 0,
    controls: Path | None = None,
) -> Evidence:
    """All evidence about one circuit, on the subject's pairs.

    Args:
        train, validation: the pairs the circuit was made with.
        blocks: text for the ablation values of the shuffled model; None leaves out whatever prunes again.
        config: how the circuit was pruned; the control runs do the same.
        draws: random node sets per control.
        controls: file the control runs are taken from, or kept in.
        seeds: seeds to prune with for the agreement, beside what the circuit holds; 0 for none.
    """
    quick = blocks is None
    model, circuit = subject.model, subject.circuit
    findings: dict[str, Finding] = {}
    missing: dict[str, str] = {}
    seconds: dict[str, float] = {}

    def check(name: str, run: Callable[[], Finding | None], reason: str = "") -> None:
        started = time.perf_counter()
        found = run()
        seconds[name] = time.perf_counter() - started
        if found is None:
            missing[name] = reason
        else:
            findings[name] = found

    asked = Asked(subject, train, draws)
    for name, one in all_checks().items():
        check(name, partial(one.run, asked), one.missing)
    runs = list(circuit.metrics.get("seeds", []))
    if seeds > len(runs) and not quick:
        changed = config.model_copy(update={"seeds": seeds, "edge_steps": 0})
        runs = list(prune(model, train, validation, circuit.values, changed).metrics["seeds"])
    check(
        "agreement",
        lambda: agreement(model.config, runs, subject.seed),
        QUICK if quick and seeds > len(runs) else ONE_SEED,
    )
    if blocks is None:
        missing |= dict.fromkeys(KINDS, QUICK)
    else:
        started = time.perf_counter()
        findings |= control_runs(model, circuit, train, blocks, config, controls)
        seconds["control_runs"] = time.perf_counter() - started
    return Evidence(findings, missing, grade(findings), seconds)
