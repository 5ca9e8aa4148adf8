"""Record what the live model reads, or its residual stream, at chosen sites, while a context is open."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Literal

from torch import Tensor

from dense_adapters.errors import AttachError
from dense_adapters.live_sites import observe
from dense_adapters.positions import ForwardScope
from dense_adapters.resolved import ResolvedStack


class Recording:
    """Values per site, one tensor [B,t,D] per forward of the model, in order; detached."""

    def __init__(self, sites: Iterable[int]) -> None:
        self._values: dict[int, list[Tensor]] = {site: [] for site in sites}

    def __getitem__(self, site: int) -> Tensor:
        """The value [B,t,D] of the last forward."""
        return self._values[site][-1]

    def forwards(self, site: int) -> tuple[Tensor, ...]:
        """The values of every forward; under `generate` with a cache the prompt [B,T,D], then [B,1,D] per token."""
        return tuple(self._values[site])

    def note(self, site: int, value: Tensor) -> None:
        """Append the value of one forward."""
        self._values[site].append(value.detach().clone())


@contextmanager
def recording(
    stack: ResolvedStack, sites: Iterable[int], kind: Literal["read", "residual"] = "residual"
) -> Iterator[Recording]:
    """Yield a Recording that fills as the model runs inside the context.

    Raises:
        IndexError: there is no such site.
        AttachError: the probe refused the site, or on exit, no forward ran.
    """
    if kind not in ("read", "residual"):
        raise ValueError(f"kind={kind!r} is unknown; choose read or residual")
    sites = tuple(sites)
    record = Recording(sites)
    scope = ForwardScope("both", None)
    with ExitStack() as hooks:
        hooks.enter_context(scope.following(stack.model))
        for site in sites:
            stack.require(site, "read" if kind == "read" else "entry")
            hooks.enter_context(observe(stack, site, kind, scope, partial(record.note, site)))
        yield record
    if any(not record.forwards(site) for site in sites):
        raise AttachError("nothing was recorded; run the model inside the recording context")
