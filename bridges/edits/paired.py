"""Paired edits to share and apply: the dense side of M5 alone, with both prompts' activations read off the dense model.

With z = encoder rows · h^d + bias, a read node's activation is g · z / (ρ · RMS(h^d)), so that in M5 gain and ratio cancel:

    Δread^d[t] = strength · (z_cf[t] / RMS(h^d_cf[t]) − z[t] / RMS(h^d[t])) · decoder rows ⊙ γ^d     (centred for LayerNorm)

Open loop takes z from the presented prompt as it is; closed loop from the stream as the edits upstream have left it.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from bridges.bridge import Bridge
from bridges.edits.edit_folder import PARTS, EditRecord, SiteRecord, checked_parts, read_edit, save_edit
from bridges.edits.mapping import SiteDirections
from bridges.protocol import residual_sites
from dense_adapters import DenseStack, EditFn
from foundation.errors import UserError

Loop = Literal["open", "closed"]


class PairedSiteRecord(SiteRecord):
    """A site in `edit.json`."""

    kind: Literal["read", "residual"]


class PairedRecord(EditRecord):
    """The keys of a paired edit's `edit.json`."""

    loop: Loop
    sites: list[PairedSiteRecord] = Field(min_length=1)


@dataclass(frozen=True)
class PairedSite:
    """One dense site: encoder rows [n, D], bias [n], and decoder rows [n, D] (⊙ γ^d, centred, where a read is edited)."""

    dense_site: int
    kind: Literal["read", "residual"]
    nodes: tuple[str, ...]
    encoder: Float[Tensor, "n D"]
    bias: Float[Tensor, " n"]
    decoder: Float[Tensor, "n D"]

    def coordinates(self, h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B n"]:
        """z of a dense stream, over the stream's RMS where a read is edited."""
        z = h.float() @ self.encoder.T.to(h.device) + self.bias.to(h.device)
        return z if self.kind == "residual" else z / h.float().square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)


@dataclass(frozen=True)
class PairedEdit:
    """A circuit's paired edit of one dense model."""

    task: str
    claim: str
    model_fingerprint: str
    sites: tuple[PairedSite, ...]
    loop: Loop = "open"
    strength: float = 1.0

    def applied(
        self,
        stack: DenseStack,
        prompt: Int[Tensor, "1 T"],
        counterfactual: Int[Tensor, "1 U"],
        strength: float | None = None,
    ) -> AbstractContextManager[None]:
        """A context in which the model runs on `prompt` under the edit towards `counterfactual`, at the prompt's tokens.

        Raises:
            UserError: the prompts differ in length, or a site would be edited twice.
        """
        if prompt.shape != counterfactual.shape:
            raise UserError(
                f"the prompt has {prompt.shape[1]} tokens, the counterfactual {counterfactual.shape[1]}; a paired edit needs "
                "prompts of equal length"
            )
        kinds = {site.kind for site in self.sites}
        if len(kinds) > 1:
            raise UserError("the edit mixes reads and residuals; map its read nodes and its write nodes apart")
        amount = self.strength if strength is None else strength
        with torch.no_grad():
            base = residual_sites(stack, stack.walk(prompt))
            other = residual_sites(stack, stack.walk(counterfactual))

        def at(site: PairedSite) -> EditFn:
            then, goal = site.coordinates(base[site.dense_site]), site.coordinates(other[site.dense_site])
            target = then + amount * (goal - then)

            def edit(h: Tensor, x: Tensor) -> Tensor:
                now = site.coordinates(h) if self.loop == "closed" else then
                length = min(h.shape[1], target.shape[1])  # without a cache the model sees prompt and continuation
                change = torch.zeros_like(x)
                change[:, :length] = ((target - now[:, : target.shape[1]])[:, :length] @ site.decoder.to(h.device)).to(
                    x
                )
                return x + change

            return edit

        return stack.editing(
            {site.dense_site: at(site) for site in self.sites},
            kind="read" if kinds == {"read"} else "residual",
            where="prompt",
            prompt_length=prompt.shape[1],
        )


def make_paired(
    sites: Sequence[SiteDirections],
    bridge: Bridge,
    dense: DenseStack,
    task: str,
    claim: str,
    loop: Loop,
    strength: float,
) -> PairedEdit:
    """The shareable form of mapped read or write nodes.

    Raises:
        UserError: a neuron is among them, which cannot be read off the dense stream.
    """
    found = []
    for site in sites:
        if any(node.part == "post_act" for node in site.nodes):
            raise UserError(
                "a neuron cannot be read off the dense stream; map read (act_in) or write (resid_delta) nodes"
            )
        index = torch.tensor([node.channel for node in site.nodes])
        encoder = bridge.encoders[site.place]
        decoder = bridge.decoders[site.place].weight[:, index].T.detach()
        if site.kind == "read":
            if dense.norm_centres(site.dense_site):
                decoder = decoder - decoder.mean(-1, keepdim=True)
            decoder = decoder * dense.norm_gain(site.dense_site).to(decoder)
        rows, bias = encoder.weight[index].detach(), encoder.bias[index].detach()
        found.append(PairedSite(site.dense_site, site.kind, tuple(map(str, site.nodes)), rows, bias, decoder))
    return PairedEdit(task, claim, dense.fingerprint, tuple(found), loop, strength)


def save_paired(edit: PairedEdit, folder: Path, overwrite: bool = False) -> None:
    """Write the artefact (`edit.json`, `edit.safetensors`)."""
    tensors = {f"{n}/{part}": getattr(site, part) for n, site in enumerate(edit.sites) for part in PARTS}
    description = {
        "task": edit.task,
        "claim": edit.claim,
        "model_fingerprint": edit.model_fingerprint,
        "loop": edit.loop,
        "strength": edit.strength,
        "sites": [{"dense_site": s.dense_site, "kind": s.kind, "nodes": list(s.nodes)} for s in edit.sites],
    }
    save_edit(folder, "paired", description, tensors, overwrite)


def load_paired(folder: Path) -> PairedEdit:
    """Read the artefact.

    Raises:
        UserError: it is missing, damaged or not a paired edit.
    """
    record, tensors = read_edit(folder, "paired", PairedRecord)
    parts = checked_parts(folder, record.sites, tensors, {})
    for number, site in enumerate(record.sites):
        if len(site.nodes) != len(parts[f"{number}/bias"]):
            raise UserError(
                f"{folder}: site {number} names {len(site.nodes)} nodes, edit.safetensors holds another number"
            )
    sites = tuple(
        PairedSite(site.dense_site, site.kind, tuple(site.nodes), *(parts[f"{number}/{part}"] for part in PARTS))
        for number, site in enumerate(record.sites)
    )
    return PairedEdit(record.task, record.claim, record.model_fingerprint, sites, record.loop, record.strength)
