"""Standing edit artefacts: a folder with `edit.json` and `edit.safetensors`, small enough to share (DESIGN: artefacts).

A standing edit holds, per dense site, the encoder (all rows, where AbsTopK decides over them), the decoder rows of its nodes
and its rule; it needs neither the sparse model nor the corpus. `keeps` is the k of AbsTopK, null for a linear readout;
`left_out_*` say which positions the edit never touches.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from bridges.edits.edit_folder import EditRecord, SiteRecord, checked_parts, read_edit, save_edit, site_shape
from bridges.edits.readout import Readout, TopKGate
from bridges.edits.rules import make_rule, tensor_shapes
from bridges.edits.standing import StandingEdit, StandingSite
from dense_adapters import LeftOut
from foundation.errors import UserError
from foundation.tensors import Expected


class StandingSiteRecord(SiteRecord):
    """A site in `edit.json`; `keeps` is how many channels its gate lets through, null where it has none."""

    rule: str
    rule_values: dict[str, float]
    keeps: Annotated[int, Field(ge=1)] | None = None


class StandingRecord(EditRecord):
    """The keys of a standing edit's `edit.json`."""

    sites: list[StandingSiteRecord] = Field(min_length=1)
    metrics: dict[str, Any]
    left_out_tokens: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list)
    left_out_first: bool = False


def save_standing(edit: StandingEdit, folder: Path, overwrite: bool = False) -> None:
    """Write the artefact."""
    tensors: dict[str, torch.Tensor] = {}
    sites = []
    for number, site in enumerate(edit.sites):
        readout, gate = site.readout, site.readout.gate
        tensors |= {f"{number}/encoder": readout.encoder, f"{number}/bias": readout.bias}
        tensors[f"{number}/decoder"] = site.decoder
        if gate is not None:
            tensors |= {f"{number}/gate/encoder": gate.encoder, f"{number}/gate/bias": gate.bias}
            tensors[f"{number}/gate/channels"] = gate.channels
        tensors |= {f"{number}/rule/{name}": value for name, value in site.rule.tensors().items()}
        sites.append(
            {
                "dense_site": site.dense_site,
                "nodes": list(site.nodes),
                "rule": site.rule.name,
                "rule_values": site.rule.scalars(),
                "keeps": None if gate is None else gate.k,
            }
        )
    description = {
        "task": edit.task,
        "claim": edit.claim,
        "model_fingerprint": edit.model_fingerprint,
        "strength": edit.strength,
        "sites": sites,
        "metrics": dict(edit.metrics),
        "left_out_tokens": list(edit.left_out.tokens),
        "left_out_first": edit.left_out.first,
    }
    save_edit(folder, "standing", description, tensors, overwrite)


def load_standing(folder: Path) -> StandingEdit:
    """Read the artefact.

    Raises:
        UserError: it is missing, damaged or not a standing edit.
    """
    record, tensors = read_edit(folder, "standing", StandingRecord)
    more: dict[str, Expected] = {}
    for number, site in enumerate(record.sites):
        n, width = site_shape(number, tensors)
        shapes = tensor_shapes(site.rule, n or 0)
        if site.rule == "move" and f"{number}/rule/shift" not in tensors:  # made before 0.1.0 was released
            del shapes["shift"]
        more |= {f"{number}/rule/{name}": Expected(shape) for name, shape in shapes.items()}
        if site.keeps is not None:
            rows, _ = site_shape(number, tensors, "gate/encoder")
            more |= {f"{number}/gate/encoder": Expected((rows, width)), f"{number}/gate/bias": Expected((rows,))}
            more[f"{number}/gate/channels"] = Expected((n,), "int", 0, (rows or 1) - 1)
            if rows is not None and site.keeps > rows:
                raise UserError(f"{folder}: site {number} keeps {site.keeps} channels of {rows}; the edit is damaged")
    parts = checked_parts(folder, record.sites, tensors, more)
    sites = [_site(site, number, parts) for number, site in enumerate(record.sites)]
    left_out = LeftOut(tuple(record.left_out_tokens), record.left_out_first)
    return StandingEdit(
        record.task, record.claim, record.model_fingerprint, tuple(sites), record.strength, record.metrics, left_out
    )


def _site(site: StandingSiteRecord, number: int, parts: Mapping[str, Tensor]) -> StandingSite:
    prefix = f"{number}/rule/"
    numbers = {name.removeprefix(prefix): value for name, value in parts.items() if name.startswith(prefix)}
    if site.rule == "move" and "shift" not in numbers:
        numbers["shift"] = numbers["mean_b"] - numbers["mean_a"]
    rule = make_rule(site.rule, {**site.rule_values, **numbers})
    gate = None
    if site.keeps is not None:
        encoder, bias, channels = (parts[f"{number}/gate/{part}"] for part in ("encoder", "bias", "channels"))
        gate = TopKGate(encoder, bias, site.keeps, channels)
    readout = Readout(parts[f"{number}/encoder"], parts[f"{number}/bias"], gate)
    return StandingSite(site.dense_site, tuple(site.nodes), readout, parts[f"{number}/decoder"], rule)
