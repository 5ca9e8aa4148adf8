"""The judge is judged (METHOD §6): node sets and bridges that explain nothing must not be `explains`, planted truths must.

Placebos     complement, every node, random nodes of equal number, another task's circuit; the circuit through an untrained
             bridge, through permuted decoders, and with the class means' difference in the place of what its nodes say
Rivals       the most moved nodes in equal number per location, unpruned: such a set may be a circuit, so its verdict is shown
             but counts neither way
Plants       see `planted`: the circuit in dense stacks whose exact bridge is known
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool
from scipy import stats
from torch import Tensor

from bridges.bridge import Bridge
from bridges.protocol import ResidualStack
from bridges.validation.contrast import Contrast, masked
from bridges.validation.in_sparse import InSparse, in_sparse
from bridges.validation.node_sets import Translation
from bridges.validation.planted import PLANTS, PlantedStack
from bridges.validation.transfer import permuted, untrained
from bridges.validation.validate import TRANSFER_PAIRS, Carry, Evidence, Validator, spread
from sparse_model.circuits.calibration import fitted
from sparse_model.circuits.circuit import Circuit, random_circuit
from sparse_model.circuits.evidence.outcome import Subject
from sparse_model.tasks.splits import Splits
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.taps import Recorder

PLACEBOS = ("complement", "every_node", "random", "other_task", "untrained_bridge", "permuted_decoders", "class_means")
RIVALS = ("most_moved",)
PLANTED = tuple(f"planted_{name}" for name in PLANTS)
KINDS = ("circuit", *PLACEBOS, *RIVALS, *PLANTED)
CALIBRATION_PAIRS = 64
PLANT_PAIRS = 12
Keep = Mapping[str, Bool[Tensor, " W"]]


@dataclass(frozen=True)
class Trial:
    """One verdict of the suite."""

    task: str
    kind: str
    seed: int
    word: str
    failed: tuple[str, ...]
    """gates that did not hold"""
    figures: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {**self.__dict__, "failed": list(self.failed), "figures": dict(self.figures)}


class Suite:
    """All trials of one task and circuit; streams are shared between them."""

    def __init__(
        self,
        circuit: Circuit,
        other: Circuit | None,
        bridge: Bridge,
        sparse: SparseTransformer,
        dense: ResidualStack,
        splits: Splits,
        draws: int = 100,
        seed: int = 0,
    ) -> None:
        self.circuit, self.other, self.bridge, self.sparse = circuit, other, bridge, sparse
        self.splits, self.draws, self.seed = splits, draws, seed
        self.validator = Validator(bridge, sparse, dense, splits, seed)

    def run(self, kind: str) -> Trial | None:
        """One trial; None where another task's circuit is asked for and there is none."""
        if kind == "other_task" and self.other is None:
            return None
        found = self._judged(kind)
        return Trial(
            self.circuit.task,
            kind,
            self.seed,
            found.word,
            tuple(gate.name for gate in found.gates if not gate.passed),
            _figures(found),
        )

    def _judged(self, kind: str) -> Evidence:
        carries: dict[str, Carry] = {
            "untrained_bridge": lambda found: found.with_bridge(untrained(found.bridge, self.seed)),
            "permuted_decoders": lambda found: found.with_bridge(permuted(found, self.seed)),
            "class_means": lambda found: ClassMeans(found, self._means),
        }
        if kind.startswith("planted_"):
            return self._planted(kind.removeprefix("planted_"))
        if kind in (*carries, "circuit"):
            return self.validator.judge(self.circuit.nodes, self._inside, self.draws, carries.get(kind), full=False)
        circuit = self._set(kind)
        inside = in_sparse(self.sparse, circuit, self.splits.held_out, seed=self.seed)
        return self.validator.judge(circuit.nodes, inside, self.draws, full=False)

    @cached_property
    def _inside(self) -> InSparse:
        """What the circuit does in the sparse model, which no bridge changes."""
        return in_sparse(self.sparse, self.circuit, self.splits.held_out, seed=self.seed)

    def _planted(self, name: str) -> Evidence:
        (plant,) = (one for one in PLANTS if one == name)
        stack = PlantedStack(self.sparse, plant, self.seed)
        few = self.splits.held_out.select(spread(len(self.splits.held_out), TRANSFER_PAIRS))
        choose = self.splits.validation.select(spread(len(self.splits.validation), PLANT_PAIRS))
        splits = replace(self.splits, held_out=few, validation=choose)
        validator = Validator(stack.bridge(), self.sparse, stack, splits, self.seed)
        validator.known = self.validator.known  # the same sparse model on the same pairs
        return validator.judge(self.circuit.nodes, self._inside, self.draws, full=False)

    def _set(self, kind: str) -> Circuit:
        """A circuit that holds other nodes than the pruned one, calibrated on training pairs as that is."""
        circuit = self.circuit
        keep: Keep
        if kind == "complement":
            keep = {name: ~mask for name, mask in circuit.keep.items()}
        elif kind == "every_node":
            keep = {name: torch.ones_like(mask) for name, mask in circuit.keep.items()}
        elif kind == "random":
            keep = random_circuit(circuit, torch.Generator().manual_seed(self.seed + 17), outside=False)
        elif kind == "other_task":
            keep = self.other.keep if self.other is not None else circuit.keep
        elif kind == "most_moved":
            keep = most_moved(self.sparse, circuit, Contrast.of(self.splits.train))
        else:
            raise ValueError(f"no such kind of trial: {kind}")
        return calibrated(self.sparse, replace(circuit, keep=keep, edges=None), self.splits)

    @property
    def _means(self) -> dict[int, dict[str, Tensor]]:
        """Per place and direction the mean difference of the dense stream over counted training positions."""
        train = self.validator.train
        counted = train.contrast.counted
        found: dict[int, dict[str, Tensor]] = {}
        for place, site in enumerate(self.bridge.alignment.sites):
            gap = train.difference(site.dense)
            found[place] = {
                name: gap[rows][counted[rows]].mean(0) if bool(counted[rows].any()) else gap.new_zeros(gap.shape[-1])
                for name, rows in train.contrast.directions.items()
            }
        return found


class ClassMeans(Translation):
    """A translation that ignores what the nodes say: wherever a set changes anything, the class means' difference is added."""

    def __init__(self, found: Translation, means: Mapping[int, Mapping[str, Tensor]]) -> None:
        self.__dict__.update(found.__dict__)
        self._means_by_place = means

    def dense_change(self, place: int, change: Tensor) -> Tensor:
        """The same change for every set that changes anything."""
        acts = (change.abs().amax(-1, keepdim=True) > 0).to(change)
        means = self._means_by_place[place]
        whole = acts.new_zeros(*acts.shape[:-1], len(next(iter(means.values()))))
        for name, rows in self.contrast.directions.items():
            whole[..., rows, :, :] = acts[..., rows, :, :] * means[name].to(acts)
        return whole


@torch.no_grad()
def most_moved(sparse: SparseTransformer, circuit: Circuit, contrast: Contrast) -> dict[str, Tensor]:
    """As many nodes per location as the circuit has: those whose activations differ most between the two prompts."""
    base, other = Recorder(list(circuit.keep)), Recorder(list(circuit.keep))
    sparse(contrast.base, tap=base)
    sparse(contrast.counterfactual, tap=other)
    real = torch.arange(contrast.base.shape[1], device=contrast.base.device)[None] <= contrast.last[:, None]
    keep = {}
    for name, mask in circuit.keep.items():
        moved = masked(other.activations[name] - base.activations[name], real).abs().mean((0, 1))
        top = moved.topk(int(mask.sum())).indices
        keep[name] = torch.zeros_like(mask).index_fill_(0, top.to(mask.device), True)
    return keep


def calibrated(sparse: SparseTransformer, circuit: Circuit, splits: Splits) -> Circuit:
    """The circuit with the scale (not negative) and shift that suit training pairs best, as pruned ones have theirs."""
    subject = Subject(sparse, circuit, splits.train.select(slice(0, CALIBRATION_PAIRS)))
    return replace(circuit, calibration=fitted(subject.uncalibrated.difference))


def _figures(found: Evidence) -> dict[str, Any]:
    report = found.report
    effect, m7 = report.get("effect", {}), report.get("specificity")
    return {
        "loss": report["in_sparse"]["loss"],
        "necessity": report["in_sparse"]["necessity"],
        "slope": report["transfer"]["slope"],
        "r2": report["transfer"]["r2"],
        "carried": effect.get("decoded"),
        "circuit": effect.get("circuit"),
        "difference": None if m7 is None else m7["difference"],
        "place": report.get("place"),
    }


def rate_bound(hits: int, trials: int) -> float:
    """One-sided 95 % upper bound (Clopper–Pearson) on a rate seen `hits` times in `trials`."""
    return 1.0 if hits >= trials else float(stats.beta.ppf(0.95, hits + 1, trials - hits))
