"""A circuit: kept nodes per location, what the others are frozen at, and the calibration of the two logits."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_model.artefacts import atomic_folder, model_fingerprint, read_json, read_tensors, save_tensors, write_json
from sparse_model.circuits.ablation import Ablate
from sparse_model.model import SparseTransformer
from sparse_model.nodes import Node
from sparse_model.settings import UserError


@dataclass(frozen=True)
class Calibration:
    """Scale and shift of the logit difference between answers a and b (1 and 0: none)."""

    scale: float = 1.0
    shift: float = 0.0


@dataclass(frozen=True)
class Edge:
    """A nonzero weight between two kept nodes."""

    source: Node
    target: Node
    weight: float


@dataclass(frozen=True)
class Circuit:
    """The part of one sparse model that does one task.

    `keep[location]` [W] marks the kept channels, `values[location]` [W] is what the others are frozen at.
    """

    task: str
    model_fingerprint: str
    keep: Mapping[str, Bool[Tensor, " W"]]
    values: Mapping[str, Float[Tensor, " W"]]
    ablation: str
    calibration: Calibration = Calibration()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Kept nodes in forward order."""
        return tuple(
            Node.parse(f"{name}:{channel}")
            for name in sorted(self.keep, key=_forward_order)
            for channel in self.keep[name].nonzero().flatten().tolist()
        )

    def only(self) -> Ablate:
        """The tap under which the circuit works alone."""
        return Ablate(self.keep, self.values)

    def without(self) -> Ablate:
        """The tap that removes the circuit and keeps the rest."""
        return Ablate({name: ~mask for name, mask in self.keep.items()}, self.values)

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

    def save(self, folder: Path, overwrite: bool = False) -> None:
        """Write the artefact: `circuit.json` and `circuit.safetensors`."""
        with atomic_folder(Path(folder), overwrite) as temporary:
            tensors = {f"keep/{name}": mask.to(torch.uint8) for name, mask in self.keep.items()}
            tensors |= {f"value/{name}": value for name, value in self.values.items()}
            save_tensors(temporary / "circuit.safetensors", tensors)
            write_json(
                temporary / "circuit.json",
                {
                    "task": self.task,
                    "model_fingerprint": self.model_fingerprint,
                    "ablation": self.ablation,
                    "calibration": {"scale": self.calibration.scale, "shift": self.calibration.shift},
                    "nodes": [str(node) for node in self.nodes],
                    "metrics": dict(self.metrics),
                    "settings": dict(self.settings),
                },
            )

    @classmethod
    def load(cls, folder: Path) -> "Circuit":
        """Read a circuit artefact.

        Raises:
            UserError: it is missing, damaged or inconsistent.
        """
        description = read_json(Path(folder), "circuit.json", "circuit", KEYS)
        tensors = read_tensors(Path(folder) / "circuit.safetensors", "circuit")
        keep = {name.removeprefix("keep/"): mask.bool() for name, mask in tensors.items() if name.startswith("keep/")}
        values = {name.removeprefix("value/"): value for name, value in tensors.items() if name.startswith("value/")}
        if set(keep) != set(values) or not all(NODE_LOCATION.fullmatch(name) for name in keep):
            raise UserError(
                f"{folder}: circuit.safetensors holds no mask and value per location; the circuit is damaged"
            )
        order = sorted(keep, key=_forward_order)
        circuit = cls(
            task=description["task"],
            model_fingerprint=description["model_fingerprint"],
            keep={name: keep[name] for name in order},
            values=values,
            ablation=description["ablation"],
            calibration=Calibration(**description["calibration"]),
            metrics=description["metrics"],
            settings=description["settings"],
        )
        if [str(node) for node in circuit.nodes] != description["nodes"]:
            raise UserError(
                f"{folder}: circuit.json and circuit.safetensors name different nodes; the circuit is damaged"
            )
        return circuit


KEYS = ("task", "model_fingerprint", "ablation", "calibration", "nodes", "metrics", "settings")
PART_ORDER = (
    "attn.act_in",
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.resid_delta",
    "mlp.act_in",
    "mlp.post_act",
    "mlp.resid_delta",
)


NODE_LOCATION = re.compile(r"\d+\.(" + "|".join(map(re.escape, PART_ORDER)) + ")")


def _forward_order(location: str) -> tuple[int, int]:
    layer, _, part = location.partition(".")
    return int(layer), PART_ORDER.index(part)


def circuit_edges(model: SparseTransformer, keep: Mapping[str, Tensor]) -> Iterator[Edge]:
    """Every nonzero weight between two kept nodes, in forward order.

    Within a layer: act_in → q, k, v; v → resid_delta (through the head's output channel of the same number);
    MLP act_in → post_act → resid_delta. Nodes of different sublayers meet in the residual stream without a weight.
    """
    for layer, block in enumerate(model.blocks):
        attention = f"{layer}.attn"
        width = model.config.d_attn
        for number, part in enumerate("qkv"):
            rows = block.attn.c_attn.weight[number * width : (number + 1) * width]
            yield from _edges(rows, f"{attention}.act_in", f"{attention}.{part}", keep)
        yield from _edges(block.attn.c_proj.weight, f"{attention}.v", f"{attention}.resid_delta", keep)
        mlp = f"{layer}.mlp"
        yield from _edges(block.mlp.c_fc.weight, f"{mlp}.act_in", f"{mlp}.post_act", keep)
        yield from _edges(block.mlp.c_proj.weight, f"{mlp}.post_act", f"{mlp}.resid_delta", keep)


def _edges(weight: Tensor, source: str, target: str, keep: Mapping[str, Tensor]) -> Iterator[Edge]:
    weight = weight.detach()
    between = (weight != 0) & keep[source][None, :].bool() & keep[target][:, None].bool()
    for row, column in between.nonzero().tolist():
        yield Edge(Node.parse(f"{source}:{column}"), Node.parse(f"{target}:{row}"), float(weight[row, column]))


def drop_unread(model: SparseTransformer, keep: Mapping[str, Bool[Tensor, " W"]]) -> dict[str, Bool[Tensor, " W"]]:
    """Remove kept nodes that no kept node reads.

    act_in, v and post_act need an outgoing edge. Queries and keys stay: frozen, they still shape attention. Repeats
    until nothing changes. Exactly the same output where AbsTopK is off; where it is on, a node also has a say in which of
    its readers' channels are among the k largest, so the output can change and is to be checked.
    """
    found = {name: mask.clone() for name, mask in keep.items()}
    while True:
        before = sum(int(mask.sum()) for mask in found.values())
        for layer, block in enumerate(model.blocks):
            attention, mlp = f"{layer}.attn", f"{layer}.mlp"
            found[f"{attention}.v"] &= _is_read(block.attn.c_proj.weight, found[f"{attention}.resid_delta"])
            heads = torch.cat([found[f"{attention}.{part}"] for part in "qkv"])
            found[f"{attention}.act_in"] &= _is_read(block.attn.c_attn.weight, heads)
            found[f"{mlp}.post_act"] &= _is_read(block.mlp.c_proj.weight, found[f"{mlp}.resid_delta"])
            found[f"{mlp}.act_in"] &= _is_read(block.mlp.c_fc.weight, found[f"{mlp}.post_act"])
        if sum(int(mask.sum()) for mask in found.values()) == before:
            return found


def _is_read(weight: Tensor, readers: Tensor) -> Tensor:
    return ((weight != 0) & readers[:, None]).any(0)


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
