"""A circuit's folder, checked: `circuit.json` and `circuit.safetensors`, which hold

keep/LOCATION, value/LOCATION, score/LOCATION [W]   mask, frozen value and (for all locations or none) rank of every channel
cut/LOCATION [n, 2]                                 the removed edges into a location: target channel, source channel
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from foundation.artefacts import Description, check_fingerprint, read_description, read_tensors
from foundation.errors import UserError
from foundation.tensors import Expected, check_tensors
from foundation.text import one_line
from sparse_model.circuits.edges import SOURCES

DESCRIPTION, TENSORS = "circuit.json", "circuit.safetensors"
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
NODE_LOCATION = re.compile(r"(0|[1-9][0-9]{0,5})\.(" + "|".join(map(re.escape, PART_ORDER)) + ")")


class CalibrationRecord(Description):
    """Scale and shift of the logit difference."""

    scale: float
    shift: float


class CircuitRecord(Description):
    """The keys of `circuit.json`; those with a default came later."""

    task: str
    model_fingerprint: str
    ablation: str
    calibration: CalibrationRecord
    nodes: list[str]
    metrics: dict[str, Any]
    settings: dict[str, Any]
    pairs: dict[str, int] = Field(default_factory=dict)
    tensors_fingerprint: str | None = None


@dataclass(frozen=True)
class CircuitTensors:
    """The tensors by location, in forward order; edges and scores as in `Circuit`."""

    keep: dict[str, Bool[Tensor, " W"]]
    values: dict[str, Float[Tensor, " W"]]
    scores: dict[str, Float[Tensor, " W"]] | None
    edges: dict[str, Bool[Tensor, "W_target W_source"]] | None


def read_circuit(folder: Path) -> tuple[CircuitRecord, CircuitTensors]:
    """Description and tensors of a circuit artefact.

    Raises:
        UserError: it is missing, damaged or inconsistent.
    """
    record = read_description(CircuitRecord, folder, DESCRIPTION, "circuit")
    place = Path(folder) / TENSORS
    tensors = read_tensors(place, "circuit")
    check_fingerprint(tensors, record.tensors_fingerprint, place, "circuit")
    return record, _by_location(tensors, place)


def forward_order(location: str) -> tuple[int, int]:
    """Sorts locations as a forward pass reaches them."""
    layer, _, part = location.partition(".")
    return int(layer), PART_ORDER.index(part)


def _by_location(tensors: Mapping[str, Tensor], place: Path) -> CircuitTensors:
    def named(kind: str) -> list[str]:
        return [name.removeprefix(f"{kind}/") for name in tensors if name.startswith(f"{kind}/")]

    masks = named("keep")
    if not masks or set(masks) != set(named("value")) or not all(NODE_LOCATION.fullmatch(name) for name in masks):
        raise UserError(f"{place}: holds no mask and value per location; the circuit is damaged")
    order = sorted(masks, key=forward_order)
    widths = {name: tensors[f"keep/{name}"].numel() for name in order}
    expected = {f"keep/{name}": Expected((width,), "mask") for name, width in widths.items()}
    expected |= {f"value/{name}": Expected((width,)) for name, width in widths.items()}
    scored, cut = named("score"), named("cut")
    if scored:
        expected |= {f"score/{name}": Expected((width,)) for name, width in widths.items()}
    for name in cut:
        if name not in widths or _source(name) not in widths:
            raise UserError(f"{place}: cuts edges into '{one_line(name)}', which has none; the circuit is damaged")
        expected[f"cut/{name}"] = Expected((None, 2), "int", 0)
    found = check_tensors(tensors, expected, place, "circuit")
    edges = {name: _uncut(found[f"cut/{name}"], widths[name], widths[_source(name)], name, place) for name in cut}
    return CircuitTensors(
        keep={name: found[f"keep/{name}"] for name in order},
        values={name: found[f"value/{name}"] for name in order},
        scores={name: found[f"score/{name}"] for name in order} if scored else None,
        edges=edges or None,
    )


def _source(location: str) -> str:
    layer, _, part = location.partition(".")
    return f"{layer}.{SOURCES.get(part)}"


def _uncut(pairs: Tensor, targets: int, sources: int, name: str, place: Path) -> Tensor:
    """The edge mask [targets, sources] from the list of removed edges [n, 2]."""
    if len(pairs) and bool((pairs.amax(0) >= torch.tensor([targets, sources])).any()):
        raise UserError(f"{place}: cuts edges of '{name}' beyond its channels; the circuit is damaged")
    edges = torch.ones(targets, sources, dtype=torch.bool)
    edges[tuple(pairs.T)] = False
    return edges
