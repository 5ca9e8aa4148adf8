"""Loss terms that compare a bridge's output with the stream it estimates: their weights and what they are, in one place.

    term = Σ_sites  f(f_i(h^d_i), h^s_i) + f(g_i(h^s_i), h^d_i)          the sparse stream detached where it is the target

A new term is a weight in `SiteTerms` and a function in `TERMS` under the same name. The weight becomes a setting, an option of
`bridge train` and part of every artefact; the term appears in the metrics where its weight is not 0. Terms of this kind cost
next to nothing beside the bridges themselves, so that plans leave them out. No torch is imported to read the settings.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from foundation.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor


class SiteTerms(Settings):
    """Weights of the terms; 0 leaves one out."""

    nmse: float = Field(1.0, ge=0, description="c₁, weight of M2")


def _nmse(prediction: "Tensor", target: "Tensor") -> "Tensor":
    from bridges.losses import nmse

    return nmse(prediction, target)


TERMS: Mapping[str, Callable[["Tensor", "Tensor"], "Tensor"]] = {"nmse": _nmse}
"""Name → a function of an estimate and its target, both [B, T, W], to a mean over B and T."""
