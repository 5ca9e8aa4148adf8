"""A circuit: kept nodes and edges, what the others are frozen at, and the calibration of the two logits."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foundation.artefacts import atomic_folder, save_tensors, write_json
from foundation.errors import UserError
from foundation.fingerprints import model_fingerprint, tensors_fingerprint
from sparse_model.circuits.ablation import Ablate
from sparse_model.circuits.calibration import Calibration
from sparse_model.circuits.circuit_file import DESCRIPTION, TENSORS, forward_order, read_circuit
from sparse_model.circuits.edges import circuit_edges, cut_edges, drop_unread
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.nodes import Node, node_locations


@dataclass(frozen=True)
class Circuit:
    """The part of one sparse model that does one task.

    `keep[location]` [W] marks the kept channels, `values[location]` [W] is what the others are frozen at.
    `edges[target]` [W_target, W_source] is False where an edge is removed (see `circuits.edges`); None keeps them all.
    `scores[location]` [W] ranks all nodes, higher kept first; None where the ranking was not stored.
    `pairs` holds `seed`, and by split how many pairs it was made with and reported on; empty where that is not known.
    """

    task: str
    model_fingerprint: str
    keep: Mapping[str, Bool[Tensor, " W"]]
    values: Mapping[str, Float[Tensor, " W"]]
    ablation: str
    calibration: Calibration = field(default_factory=Calibration)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    edges: Mapping[str, Bool[Tensor, "W_target W_source"]] | None = None
    scores: Mapping[str, Float[Tensor, " W"]] | None = None
    pairs: Mapping[str, int] = field(default_factory=dict)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Kept nodes in forward order."""
        return tuple(
            Node.parse(f"{name}:{channel}")
            for name in sorted(self.keep, key=forward_order)
            for channel in self.keep[name].nonzero().flatten().tolist()
        )

    def to(self, device: torch.device | str) -> "Circuit":
        """The same circuit with every tensor on a device."""

        def there(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: value.to(device) for name, value in tensors.items()}

        return replace(
            self,
            keep=there(self.keep),
            values=there(self.values),
            edges=None if self.edges is None else there(self.edges),
            scores=None if self.scores is None else there(self.scores),
        )

    def only(self) -> Ablate:
        """The tap under which the circuit works alone."""
        return Ablate(self.keep, self.values)

    def without(self) -> Ablate:
        """The tap that removes the circuit and keeps the rest."""
        return Ablate({name: ~mask for name, mask in self.keep.items()}, self.values)

    def within(self, model: SparseTransformer) -> SparseTransformer:
        """The model in which the circuit's taps act: its removed edges cut, or the model itself where there are none."""
        return model if self.edges is None else cut_edges(model, self.edges, self.values)

    def check_model(self, model: SparseTransformer, name: str = "this sparse model") -> None:
        """Refuse another model than the circuit's own.

        Raises:
            UserError: the fingerprints differ.
        """
        found = model_fingerprint(model)
        if found != self.model_fingerprint:
            raise UserError(
                f"{name}: the circuit for '{self.task}' was pruned from another sparse model (fingerprint "
                f"{self.model_fingerprint[:12]}, not {found[:12]}); pass its own model or prune again"
            )
        widths = node_locations(model.config)
        for location, mask in self.keep.items():
            if widths.get(location) != len(mask):
                raise UserError(
                    f"{name}: has {widths.get(location, 'no')} channels at {location}, the circuit for '{self.task}' "
                    f"{len(mask)}; the circuit is damaged, copy or prune it again"
                )

    def save(self, folder: Path, overwrite: bool = False) -> None:
        """Write the artefact: `circuit.json` and `circuit.safetensors`."""
        with atomic_folder(Path(folder), overwrite, "circuit") as temporary:
            tensors = {f"keep/{name}": mask.to(torch.uint8) for name, mask in self.keep.items()}
            tensors |= {f"value/{name}": value for name, value in self.values.items()}
            tensors |= {f"score/{name}": score.clone() for name, score in (self.scores or {}).items()}
            for name, edges in (self.edges or {}).items():
                tensors[f"cut/{name}"] = (~edges).nonzero().to(torch.int32)
            save_tensors(temporary / TENSORS, tensors)
            write_json(
                temporary / DESCRIPTION,
                {
                    "task": self.task,
                    "model_fingerprint": self.model_fingerprint,
                    "ablation": self.ablation,
                    "calibration": {"scale": self.calibration.scale, "shift": self.calibration.shift},
                    "nodes": [str(node) for node in self.nodes],
                    "metrics": dict(self.metrics),
                    "settings": dict(self.settings),
                    "pairs": dict(self.pairs),
                    "tensors_fingerprint": tensors_fingerprint(tensors),
                },
            )

    @classmethod
    def load(cls, folder: Path) -> "Circuit":
        """Read a circuit artefact.

        Raises:
            UserError: it is missing, damaged or inconsistent.
        """
        record, tensors = read_circuit(Path(folder))
        circuit = cls(
            task=record.task,
            model_fingerprint=record.model_fingerprint,
            keep=tensors.keep,
            values=tensors.values,
            ablation=record.ablation,
            calibration=Calibration(record.calibration.scale, record.calibration.shift),
            metrics=record.metrics,
            settings=record.settings,
            edges=tensors.edges,
            scores=tensors.scores,
            pairs=record.pairs,
        )
        if [str(node) for node in circuit.nodes] != record.nodes:
            raise UserError(
                f"{folder}: circuit.json and circuit.safetensors name different nodes; the circuit is damaged"
            )
        return circuit


__all__ = ["Calibration", "Circuit", "circuit_edges", "drop_unread", "random_circuit"]


def random_circuit(circuit: Circuit, generator: torch.Generator, outside: bool) -> dict[str, Bool[Tensor, " W"]]:
    """As many random nodes per location as the circuit has; keys follow their queries.

    Args:
        outside: draw from the nodes the circuit does not keep (all of them, where there are fewer than it has); else from
            all nodes, the circuit's own among them.
    """
    keep: dict[str, Tensor] = {}
    for name, mask in circuit.keep.items():
        if name.endswith(".k") and bool((mask == circuit.keep[name[:-1] + "q"]).all()):
            keep[name] = keep[name[:-1] + "q"].clone()
            continue
        pool = (~mask).nonzero().flatten() if outside else torch.arange(len(mask))
        chosen = pool[torch.randperm(len(pool), generator=generator)[: int(mask.sum())]]
        keep[name] = torch.zeros_like(mask).index_fill_(0, chosen, True)
    return keep
