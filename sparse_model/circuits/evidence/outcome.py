"""What some version of the model does on a set of pairs, and the subject that all checks question."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from foundation.statistics import Estimate, clustered_estimate
from sparse_model.circuits.ablation import final_logits
from sparse_model.circuits.alone import Alone
from sparse_model.circuits.calibration import Calibration
from sparse_model.circuits.circuit import Circuit
from sparse_model.circuits.compile import NodeTap
from sparse_model.circuits.masked_pass import answer_differences
from sparse_model.circuits.prompts import Prompts
from sparse_model.tasks.loss import logit_difference
from sparse_model.tasks.token_pairs import TokenPairs
from sparse_model.transformer.model import SparseTransformer


class Outcome:
    """Right minus wrong logit [M = 2N] of both prompts of N pairs; every figure is over pairs, a pair's prompts averaged.

    Intervals resample templates with all their pairs.
    """

    def __init__(self, difference: Float[Tensor, " M"], templates: Sequence[str]) -> None:
        self.difference, self.templates = difference.detach().double().cpu(), templates

    def calibrated(self, calibration: Calibration) -> "Outcome":
        """The same under a scale and a shift."""
        return Outcome(calibration.margin(self.difference), self.templates)

    def losses(self) -> NDArray[np.float64]:
        """Binary loss per pair, in nats."""
        return self._by_pair(torch.nn.functional.softplus(-self.difference))

    def right(self) -> NDArray[np.float64]:
        """Share of a pair's prompts answered rightly."""
        return self._by_pair((self.difference > 0).double())

    @property
    def loss(self) -> float:
        """Mean binary loss, in nats (chance 0.693)."""
        return float(torch.nn.functional.softplus(-self.difference).mean())

    def loss_estimate(self) -> Estimate:
        """Binary loss with its interval."""
        return self.estimate(self.losses())

    def accuracy_estimate(self) -> Estimate:
        """Share of prompts answered rightly, with its interval."""
        return self.estimate(self.right())

    def estimate(self, values: NDArray[np.floating]) -> Estimate:
        """The mean of values per pair, with its interval."""
        return clustered_estimate(values, self.templates)

    def worst_template(self) -> tuple[str, float]:
        """The template with the highest mean loss, and that loss."""
        by_template: dict[str, list[float]] = {}
        for template, loss in zip(self.templates, self.losses(), strict=True):
            by_template.setdefault(template, []).append(float(loss))
        means = {template: sum(losses) / len(losses) for template, losses in by_template.items()}
        worst = max(means, key=lambda template: means[template])
        return worst, means[worst]

    def _by_pair(self, values: Tensor) -> NDArray[np.float64]:
        found: NDArray[np.float64] = values.view(2, -1).mean(0).numpy()
        return found


class Subject:
    """A circuit, its model and the held-out pairs it is questioned on.

    Wherever the circuit runs alone, its calibration is part of it; the whole model and other node sets have none.

    Args:
        pairs: pairs the circuit was not made with.
        seed: of random node sets.
    """

    def __init__(self, model: SparseTransformer, circuit: Circuit, pairs: TokenPairs, seed: int = 0) -> None:
        self.model, self.circuit, self.pairs, self.seed = model, circuit, pairs, seed
        self.alone = Alone(circuit.within(model), pairs, circuit.values)
        self._every = Alone(model, pairs, circuit.values)
        self._prompts = Prompts(model, pairs)

    @cached_property
    def whole(self) -> Outcome:
        """The whole model."""
        return outcome_of(self.alone, final_logits(self.model, self.alone.batch.tokens, self.alone.batch.last).detach())

    @cached_property
    def by_itself(self) -> Outcome:
        """The circuit, all else frozen."""
        return self.running()

    @cached_property
    def uncalibrated(self) -> Outcome:
        """The same without its calibration."""
        return outcome_of(self.alone, self.alone.logits(self.circuit.keep))

    def running(self, tap: NodeTap | None = None, scales: Tensor | None = None) -> Outcome:
        """The circuit, all else frozen, under a tap or given norm scales."""
        logits = self.alone.logits(self.circuit.keep, tap, scales)
        return outcome_of(self.alone, logits).calibrated(self.circuit.calibration)

    def only(self, keep: Mapping[str, Tensor]) -> Outcome:
        """Another node set, with all edges, all else frozen."""
        return outcome_of(self._every, self._every.logits(keep))

    @torch.no_grad()
    def without(self, nodes: Mapping[str, Tensor]) -> Outcome:
        """The whole model with a node set frozen."""
        keep = {name: (~mask)[None].to(self.model.dtype) for name, mask in nodes.items()}
        rows = self._prompts.rows()
        return Outcome(answer_differences(self._prompts, rows, keep, self.circuit.values)[0], self.pairs.template)

    def generator(self) -> torch.Generator:
        """A fresh generator of the subject's seed."""
        return torch.Generator().manual_seed(self.seed)


def outcome_of(alone: Alone, logits: Float[Tensor, "M V"]) -> Outcome:
    """The outcome of logits after both prompts of every pair."""
    return Outcome(logit_difference(logits.double(), alone.batch.answer, alone.batch.other), alone.templates)
