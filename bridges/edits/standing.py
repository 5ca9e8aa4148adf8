"""Standing edits (METHOD §5): no second prompt. At each token

    read     z = f(h^d) at the nodes             as the bridge encodes the dense stream, AbsTopK included
    change   Δz = rule(z, strength)
    write    Δh^d = Δz · decoder rows            into the residual stream

A `StandingEdit` holds all it needs as small tensors: neither the sparse model nor the corpus. It acts through
`DenseStack.editing`, so under `generate` with a key–value cache too.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bridges.edited_walk import SiteChange, edited_walk
from bridges.edits.readout import Readout
from bridges.edits.rules import Rule
from dense_adapters import DenseStack, EditFn, LeftOut

Where = Literal["prompt", "generated", "both"]


@dataclass(frozen=True)
class StandingSite:
    """One dense site of an edit: what it reads, decoder rows [n, D] (per unit of activation), rule."""

    dense_site: int
    nodes: tuple[str, ...]
    readout: Readout
    decoder: Float[Tensor, "n D"]
    rule: Rule

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return replace(
            self, readout=self.readout.to(device), decoder=self.decoder.to(device), rule=self.rule.to(device)
        )

    def encode(self, h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B n"]:
        """z of a dense stream on the site's device."""
        return self.readout(h.float())

    def change(self, h: Float[Tensor, "*B D"], strength: float) -> Float[Tensor, "*B D"]:
        """Δh^d."""
        here = self if self.decoder.device == h.device else self.to(h.device)
        return (here.rule.change(here.encode(h), strength) @ here.decoder).to(h)


@dataclass(frozen=True)
class StandingEdit:
    """A shareable edit of one dense model; strength 0 is no edit, 1 a full one."""

    task: str
    claim: str
    """what the edit is said to do, in a sentence"""
    model_fingerprint: str
    sites: tuple[StandingSite, ...]
    strength: float = 1.0
    metrics: Mapping[str, Any] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)
    """positions it never touches"""

    def functions(self, strength: float | None = None) -> dict[int, EditFn]:
        """Site → edit function for `DenseStack.editing` of residuals."""
        amount = self.strength if strength is None else strength

        def at(site: StandingSite) -> EditFn:
            return lambda h, x: x + site.change(h, amount)

        return {site.dense_site: at(site) for site in self.sites}

    def change(
        self, site: StandingSite, h: Float[Tensor, "B T D"], tokens: Int[Tensor, "B T"], strength: float | None = None
    ) -> Float[Tensor, "B T D"]:
        """Δh^d at one of its sites, for texts that begin in the first column; 0 at what is left out."""
        change = site.change(h, self.strength if strength is None else strength)
        return change * self.left_out.kept(tokens)[..., None].to(change) if self.left_out else change

    def applied(
        self, stack: DenseStack, strength: float | None = None, where: Where = "both"
    ) -> AbstractContextManager[None]:
        """A context in which the model runs under the edit."""
        return stack.editing(self.functions(strength), kind="residual", where=where, left_out=self.left_out)


@torch.no_grad()
def walk_edited(
    stack: DenseStack, edit: StandingEdit, tokens: Tensor, strength: float | None = None
) -> Float[Tensor, "B T D"]:
    """Final residual stream of `tokens` [B, T] under the edit, by a walk (what the hooks do, without hooks)."""

    def change(site: StandingSite) -> SiteChange:
        return SiteChange(residual=lambda h: h + edit.change(site, h, tokens, strength))

    walk = stack.walk(tokens)
    return edited_walk(stack, walk, walk.embedding(), {site.dense_site: change(site) for site in edit.sites})
