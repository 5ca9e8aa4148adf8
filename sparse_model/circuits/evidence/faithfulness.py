"""Faithfulness over size (MIB): f(k) = (m(C_k) − m(∅)) / (m(full) − m(∅)), m the mean logit difference, C_k the k best nodes.

CPR = ∫ f, CMD = ∫ |1 − f| over k as a fraction of all nodes (trapezoids between the sizes below). A perfect ranking has
CPR 1 (more where circuits overshoot the model) and CMD 0; a random ranking is beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foundation.statistics import Estimate, statistic_estimate
from sparse_model.circuits.evidence.check import Check
from sparse_model.circuits.evidence.finding import Finding
from sparse_model.circuits.evidence.outcome import Outcome, Subject

SHARES = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Faithfulness(Finding):
    """f by share of nodes kept, and its integrals."""

    curve: dict[float, float]
    cpr: Estimate
    cmd: Estimate
    random_curve: dict[float, float]
    random_cpr: Estimate
    random_cmd: Estimate

    @property
    def sentence(self) -> str:
        """What the figures mean."""
        return (
            f"Over all sizes the best-ranked nodes recover CPR {self.cpr} of the model's logit difference and miss it by "
            f"CMD {self.cmd} (randomly ranked ones: {self.random_cpr.value:.2f} and {self.random_cmd.value:.2f})."
        )


def faithfulness(subject: Subject) -> Faithfulness | None:
    """Measure it on the subject's pairs; None where the circuit does not hold its ranking."""
    if subject.circuit.scores is None:
        return None
    generator = subject.generator()
    random = {name: torch.rand(len(mask), generator=generator) for name, mask in subject.circuit.keep.items()}
    curve, cpr, cmd = _integrals(subject, subject.circuit.scores)
    return Faithfulness(curve, cpr, cmd, *_integrals(subject, random))


def _integrals(subject: Subject, scores: Mapping[str, Tensor]) -> tuple[dict[float, float], Estimate, Estimate]:
    ranked = torch.cat(list(scores.values())).sort(descending=True).values
    found: dict[int, Outcome] = {}
    for share in SHARES:
        k = round(share * len(ranked))
        threshold = ranked[k - 1] if k else float("inf")
        nodes = int((ranked >= threshold).sum())  # equal scores come together
        if nodes not in found:
            whole = nodes == len(ranked)
            keep = {name: score >= threshold for name, score in scores.items()}
            found[nodes] = subject.whole if whole else subject.only(keep)
    shares = np.array(list(found)) / len(ranked)
    differences = [outcome.difference.view(2, -1).mean(0).numpy() for outcome in found.values()]

    def over(faithful: bool, *samples: np.ndarray, axis: int = -1) -> np.ndarray:
        means = np.stack([np.mean(sample, axis=axis) for sample in samples])
        f = (means - means[0]) / (means[-1] - means[0])
        return np.asarray(np.trapezoid(f if faithful else np.abs(1 - f), shares, axis=0))

    means = [float(sample.mean()) for sample in differences]
    curve = {share: (m - means[0]) / (means[-1] - means[0]) for share, m in zip(shares.tolist(), means, strict=True)}
    cpr, cmd = (
        statistic_estimate(tuple(differences), lambda *s, axis=-1, faithful=faithful: over(faithful, *s, axis=axis))
        for faithful in (True, False)
    )
    return curve, cpr, cmd


CHECK = Check(60, lambda asked: faithfulness(asked.subject), "the circuit was saved without its ranking; prune again")
