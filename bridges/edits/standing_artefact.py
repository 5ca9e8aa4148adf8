"""Standing edit artefacts: a folder with `edit.json` and `edit.safetensors`, small enough to share (DESIGN: artefacts).

A standing edit holds, per dense site, the encoder and decoder rows of its nodes and its rule; it needs neither the sparse
model nor the corpus.
"""

from pathlib import Path

import torch

from bridges.edits.edit_folder import opened_edit, save_edit
from bridges.edits.rules import make_rule
from bridges.edits.standing import StandingEdit, StandingSite

PARTS = ("encoder", "bias", "decoder")
KEYS = ("form", "task", "claim", "model_fingerprint", "strength", "sites", "metrics")


def save_standing(edit: StandingEdit, folder: Path, overwrite: bool = False) -> None:
    """Write the artefact."""
    tensors: dict[str, torch.Tensor] = {}
    sites = []
    for number, site in enumerate(edit.sites):
        for part in PARTS:
            tensors[f"{number}/{part}"] = getattr(site, part)
        tensors |= {f"{number}/rule/{name}": value for name, value in site.rule.tensors().items()}
        sites.append(
            {
                "dense_site": site.dense_site,
                "nodes": list(site.nodes),
                "rule": site.rule.name,
                "rule_values": site.rule.scalars(),
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
            rule = make_rule(site["rule"], {**site["rule_values"], **numbers})
            parts = {part: tensors[f"{number}/{part}"] for part in PARTS}
            sites.append(StandingSite(site["dense_site"], tuple(site["nodes"]), rule=rule, **parts))
    return StandingEdit(
        task=description["task"],
        claim=description["claim"],
        model_fingerprint=description["model_fingerprint"],
        sites=tuple(sites),
        strength=description["strength"],
        metrics=description["metrics"],
    )
