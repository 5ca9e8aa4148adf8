"""What some version of the model does on a set of pairs, and the subject that all checks question."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from foundation.statistics import Estimate, clustered_estimate
from sparse_model.circuits.calibration import Calibration
from sparse_model.circuits.circuit import Circuit
from sparse_model.circuits.masked_pass import NodeTap, answer_differences
from sparse_model.circuits.prompts import PromptRows, Prompts
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
        self.prompts = Prompts(model, pairs)
        self.rows = self.prompts.rows()
        within = circuit.within(model)
        self._within = self.prompts if within is model else Prompts(within, pairs)

    @cached_property
    def whole(self) -> Outcome:
        """The whole model."""
        return self.only({name: torch.ones_like(mask) for name, mask in self.circuit.keep.items()})

    @cached_property
    def by_itself(self) -> Outcome:
        """The circuit, all else frozen."""
        return self.running()

    @cached_property
    def uncalibrated(self) -> Outcome:
        """The same without its calibration."""
        return self.outcome(self._within, self.circuit.keep)

    def running(self, tap: NodeTap | None = None, scales: Tensor | None = None) -> Outcome:
        """The circuit, all else frozen, under a tap or given norm scales."""
        alone = self.outcome(self._within, self.circuit.keep, tap, scales)
        return alone.calibrated(self.circuit.calibration)

    def only(self, keep: Mapping[str, Tensor]) -> Outcome:
        """Another node set, with all edges, all else frozen."""
        return self.outcome(self.prompts, keep)

    def without(self, nodes: Mapping[str, Tensor]) -> Outcome:
        """The whole model with a node set frozen."""
        return self.only({name: ~mask for name, mask in nodes.items()})

    def outcome(
        self, prompts: Prompts, keep: Mapping[str, Tensor], tap: NodeTap | None = None, scales: Tensor | None = None
    ) -> Outcome:
        """What the kept nodes alone do on these prompts' model."""
        return outcome_of(prompts, self.rows, keep, self.circuit.values, tap, scales)

    def generator(self) -> torch.Generator:
        """A fresh generator of the subject's seed."""
        return torch.Generator().manual_seed(self.seed)


@torch.no_grad()
def outcome_of(
    prompts: Prompts,
    rows: PromptRows,
    keep: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    tap: NodeTap | None = None,
    scales: Tensor | None = None,
) -> Outcome:
    """The outcome of kept nodes alone, all else frozen at `values`; `tap` and `scales` as of `answer_differences`."""
    masks = {name: mask[None].to(prompts.model.dtype) for name, mask in keep.items()}
    return Outcome(answer_differences(prompts, rows, masks, values, None, tap, scales)[0], prompts.templates)
