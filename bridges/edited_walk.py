"""One walk through a dense model with changes on the way: what every paired edit, patch, control and standing edit is run by."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from bridges.protocol import ResidualStack, Walk


class SiteChange(NamedTuple):
    """What to do at a site: new residual from the residual, and (or) new read from (residual, read)."""

    residual: Callable[[Tensor], Tensor] | None = None
    read: Callable[[Tensor, Tensor], Tensor] | None = None


def edited_walk(
    stack: ResidualStack, walk: Walk, h: Float[Tensor, "kB T D"], changes: Mapping[int, SiteChange]
) -> Float[Tensor, "kB T D"]:
    """Final stream of a walk from the embedding h, changed at the given sites (residual first, then read)."""
    for i in range(len(stack.sublayers) + 1):
        change = changes.get(i, SiteChange())
        if change.residual is not None:
            h = change.residual(h)
        if i == len(stack.sublayers):
            return h
        read = None if change.read is None else change.read(h, walk.read(i, h))
        h = walk.sublayer(i, h, read=read)
    return h
