"""Standing edit artefacts: a folder with `edit.json` and `edit.safetensors`, small enough to share (DESIGN: artefacts).

A standing edit holds, per dense site, the encoder and decoder rows of its nodes and its rule; it needs neither the sparse
model nor the corpus.
"""

from pathlib import Path

import torch

from bridges.edits.rules import make_rule
from bridges.edits.standing import StandingEdit, StandingSite
from sparse_model.artefacts import atomic_folder, read_json, read_tensors, save_tensors, write_json
from sparse_model.settings import UserError

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
    with atomic_folder(Path(folder), overwrite) as temporary:
        save_tensors(temporary / "edit.safetensors", tensors)
        write_json(
            temporary / "edit.json",
            {
                "form": "standing",
                "task": edit.task,
                "claim": edit.claim,
                "model_fingerprint": edit.model_fingerprint,
                "strength": edit.strength,
                "sites": sites,
                "metrics": dict(edit.metrics),
            },
        )


def load_standing(folder: Path) -> StandingEdit:
    """Read the artefact.

    Raises:
        UserError: it is missing, damaged or not a standing edit.
    """
    description = read_json(Path(folder), "edit.json", "edit")
    if description.get("form") != "standing":
        raise UserError(f"{folder}: is a {description.get('form')} edit, not a standing one")
    description = read_json(Path(folder), "edit.json", "edit", KEYS)
    tensors = read_tensors(Path(folder) / "edit.safetensors", "edit")
    sites = []
    try:
        for number, site in enumerate(description["sites"]):
            prefix = f"{number}/rule/"
            numbers = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            rule = make_rule(site["rule"], {**site["rule_values"], **numbers})
            parts = {part: tensors[f"{number}/{part}"] for part in PARTS}
            sites.append(StandingSite(site["dense_site"], tuple(site["nodes"]), rule=rule, **parts))
    except KeyError as error:
        raise UserError(f"{folder}: has no {error}; the edit is damaged, copy or map it again") from None
    return StandingEdit(
        task=description["task"],
        claim=description["claim"],
        model_fingerprint=description["model_fingerprint"],
        sites=tuple(sites),
        strength=description["strength"],
        metrics=description["metrics"],
    )


def edit_form(folder: Path) -> str:
    """`standing` or `paired`.

    Raises:
        UserError: the folder holds no edit, or one of a form this version does not know.
    """
    form = read_json(Path(folder), "edit.json", "edit").get("form")
    if form not in ("standing", "paired"):
        raise UserError(f"{folder}: edits of form '{form}' are unknown to this version; update sparsebridge")
    return str(form)
