"""Standing edit artefacts: a folder with `edit.json` and `edit.safetensors`, small enough to share (DESIGN: artefacts).

A standing edit holds, per dense site, the encoder (all rows, where AbsTopK decides over them), the decoder rows of its nodes
and its rule; it needs neither the sparse model nor the corpus. `keeps` is the k of AbsTopK, null for a linear readout.
"""

from pathlib import Path

import torch

from bridges.edits.edit_folder import opened_edit, save_edit
from bridges.edits.readout import Gate, Readout
from bridges.edits.rules import make_rule
from bridges.edits.standing import StandingEdit, StandingSite

KEYS = ("form", "task", "claim", "model_fingerprint", "strength", "sites", "metrics")


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
    }
    save_edit(folder, "standing", description, tensors, overwrite)


def load_standing(folder: Path) -> StandingEdit:
    """Read the artefact.

    Raises:
        UserError: it is missing, damaged or not a standing edit.
    """
    sites = []
    with opened_edit(folder, "standing", KEYS) as (description, tensors):
        for number, site in enumerate(description["sites"]):
            prefix = f"{number}/rule/"
            numbers = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            if site["rule"] == "move" and "shift" not in numbers:  # made before 0.1.0 was released
                numbers["shift"] = numbers["mean_b"] - numbers["mean_a"]
            rule = make_rule(site["rule"], {**site["rule_values"], **numbers})
            gate = None
            if site.get("keeps") is not None:
                parts = (tensors[f"{number}/gate/{part}"] for part in ("encoder", "bias", "channels"))
                encoder, bias, channels = parts
                gate = Gate(encoder, bias, int(site["keeps"]), channels.long())
            readout = Readout(tensors[f"{number}/encoder"], tensors[f"{number}/bias"], gate)
            decoder = tensors[f"{number}/decoder"]
            sites.append(StandingSite(site["dense_site"], tuple(site["nodes"]), readout, decoder, rule))
    return StandingEdit(
        task=description["task"],
        claim=description["claim"],
        model_fingerprint=description["model_fingerprint"],
        sites=tuple(sites),
        strength=description["strength"],
        metrics=description["metrics"],
    )
