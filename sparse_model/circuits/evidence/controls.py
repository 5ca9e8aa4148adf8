"""Control runs: node masks of the same prompts learned, ranked and eliminated alike where there is nothing to find.

Nonsense: answers that follow no rule. Reversed: the opposite of what the model does, which its nodes know as well as the
task. Arbitrary: the task's rule with unrelated tokens for its answers (all in `tasks.nonsense`). Shuffled weights: a model
that learned nothing (see `random_weights`).

If pruning can force any of them with as few nodes as the task, few nodes prove nothing.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparse_model.circuits.ablation import ablation_values
from sparse_model.circuits.circuit import Circuit
from sparse_model.circuits.evidence.control_cache import cached_curves
from sparse_model.circuits.evidence.finding import Finding
from sparse_model.circuits.evidence.forced import Forced, force, ranked_losses, with_elimination
from sparse_model.circuits.evidence.random_weights import shuffled
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.tasks.nonsense import arbitrary_answers, nonsense, reversed_answers
from sparse_model.tasks.token_pairs import TokenPairs
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.threads import side_by_side


@dataclass(frozen=True)
class Control(Finding):
    """The task's own ranking against a control's, at equal loss on the training pairs each was learned from."""

    loss: float
    """the control's: the target, or the lowest it reaches, in nats"""
    reached: bool
    """whether the control reaches the target at any size"""
    nodes: int
    """the task needs for the target"""
    control_nodes: int
    """the control needs for its loss"""
    ratio: float | None
    """control over task, at equal loss; None where the control does not reach the target"""
    control_loss_at_size: float
    """the control's lowest loss with at most as many nodes as the task needs for its target (chance 0.693)"""
    curve: dict[int, float]
    control_curve: dict[int, float]

    @property
    def separates(self) -> bool:
        """Whether the control fails where the task succeeds, by size or altogether."""
        return self.ratio is None or self.ratio >= SEPARATES

    def _compared(self, control: str) -> str:
        if self.ratio is not None:
            return (
                f"{control} reaches the target loss of {self.loss:.2f} with {self.control_nodes} nodes, {self.ratio:.1f} times "
                f"the task's {self.nodes}; at the task's size its loss is {self.control_loss_at_size:.2f}."
            )
        return (
            f"{control} never reaches the target: its lowest loss is {self.loss:.2f}, with {self.control_nodes} nodes "
            f"(the task: {self.nodes}); at the task's size its loss is {self.control_loss_at_size:.2f} (chance 0.69)."
        )


SEPARATES = 2.0
"""Times as many nodes that a control has to need."""


@dataclass(frozen=True)
class Nonsense(Control):
    """The control of answers that follow no rule."""

    @property
    def sentence(self) -> str:
        """What the figures mean."""
        return self._compared("Pruned for answers that follow no rule, the same model")


@dataclass(frozen=True)
class Reversed(Control):
    """The control of exchanged answers."""

    @property
    def sentence(self) -> str:
        """What the figures mean."""
        return self._compared("Pruned for the wrong answer of every pair, the same model")


@dataclass(frozen=True)
class Arbitrary(Control):
    """The control of unrelated tokens in the answers' place."""

    @property
    def sentence(self) -> str:
        """What the figures mean."""
        return self._compared("Pruned to say unrelated tokens in the answers' place, the same model")


@dataclass(frozen=True)
class RandomWeights(Control):
    """The control of weights that were never trained: each matrix's nonzero values exchanged among themselves."""

    @property
    def sentence(self) -> str:
        """What the figures mean."""
        return self._compared("With its weights shuffled inside their sparsity mask, the model")


def compared(kind: type[Control], task: Forced, control: Forced, target: float) -> Control:
    """The comparison at the target, or at the lowest loss that the control reaches."""
    reached = control.nodes_at(target) is not None
    loss = target if reached else control.lowest
    nodes, control_nodes = task.nodes_at(max(target, task.lowest)), control.nodes_at(loss)
    if control_nodes is None or nodes is None:
        raise AssertionError("a curve reaches its own lowest loss")
    ratio = control_nodes / max(nodes, 1) if reached else None
    at_size = control.at_most(nodes)
    return kind(loss, reached, nodes, control_nodes, ratio, at_size, task.curve, control.curve)


def control_runs(
    model: SparseTransformer,
    circuit: Circuit,
    train: TokenPairs,
    blocks: NDArray[np.integer],
    config: PruneConfig,
    cache: Path | None = None,
) -> dict[str, Control]:
    """Nonsense, reversed and arbitrary answers, and shuffled weights, with masks as `config` says.

    Args:
        train: the pairs the circuit was learned from.
        blocks: text for the shuffled model's ablation values.
        cache: a file that the control runs are taken from, or kept in (see `control_cache`).
    """

    def run() -> dict[str, Forced]:
        random = shuffled(model, config.seed)
        runs = {
            "nonsense": lambda: force(model, nonsense(train, config.seed), circuit.values, config),
            "reversed": lambda: force(model, reversed_answers(train), circuit.values, config),
            "arbitrary": lambda: force(model, arbitrary_answers(train, config.seed), circuit.values, config),
            "random_weights": lambda: force(random, train, ablation_values(random, blocks, config.ablation), config),
        }
        return dict(zip(runs, side_by_side(list(runs.values())), strict=True))

    key = {
        "model": circuit.model_fingerprint, "task": train.name, "number of pairs": len(train),
        "number of text blocks": len(blocks), "setting": config.to_json(), "set of controls": list(KINDS),
    }  # fmt: skip
    curves = cached_curves(cache, key, run)
    if circuit.scores is None:
        task = force(model, train, circuit.values, config)
    else:
        losses = ranked_losses(model, circuit.scores, train, circuit.values, config)
        task = with_elimination(model, [(circuit.scores, losses)], train, circuit.values, config)
    return {name: compared(kind, task, curves[name], config.target_loss) for name, kind in KINDS.items()}


KINDS: dict[str, type[Control]] = {
    "nonsense": Nonsense,
    "reversed": Reversed,
    "arbitrary": Arbitrary,
    "random_weights": RandomWeights,
}
