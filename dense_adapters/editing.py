"""Edit reads or residuals of the live model, in plain forwards and under `generate`, for as long as a context is open.

An edit is a function of the residual h and the value x at its site; it is given whole slices [B,t,D] and must treat
positions independently, because with a key–value cache it sees them one at a time. Positions outside `where` and
padding keep their values whatever the function returns there. An edit that never touched a position is an error when
the context closes.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import Tensor

from dense_adapters.errors import AttachError
from dense_adapters.left_out import LeftOut
from dense_adapters.live_sites import Change, change_read, change_residual
from dense_adapters.positions import ForwardScope, Where
from dense_adapters.resolved import ResolvedStack

EditFn = Callable[[Tensor, Tensor], Tensor]
"""(h [B,t,D] residual at the site, x [B,t,D] normed input) -> new value [B,t,D]; for residual edits both are the
residual.
"""

__all__ = ["EditFn", "Where", "editing"]


@contextmanager
def editing(
    stack: ResolvedStack,
    edits: Mapping[int, EditFn],
    kind: Literal["read", "residual"] = "read",
    where: Where = "both",
    prompt_length: int | None = None,
    left_out: LeftOut = LeftOut(),
) -> Iterator[None]:
    """Apply `edits` (site -> function) to the model of `stack` while open.

    kind: `read` replaces what the sublayer at the site reads, `residual` the stream itself for everything downstream.
    where: `prompt`, `generated` or `both`. prompt_length: tokens of prompt including padding; None: told from the
    forwards. left_out: positions that are not touched, by their token or as the first of a text.

    Raises:
        IndexError: there is no such site.
        AttachError: the probe refused the site, or on exit, an edit touched no position.
        ValueError: a function returned another shape.
    """
    if kind not in ("read", "residual"):
        raise ValueError(f"kind={kind!r} is unknown; choose read or residual")
    if not edits:
        raise ValueError("no edits given; pass at least one site -> function")
    scope = ForwardScope(where, prompt_length, left_out)
    touched = dict.fromkeys(edits, 0)
    with ExitStack() as hooks:
        hooks.enter_context(scope.following(stack.model))
        for site in sorted(edits):
            hooks.enter_context(attach_edit(stack, site, edits[site], kind, scope, touched))
        yield
    idle = [site for site, count in touched.items() if not count]
    if idle:
        raise AttachError(
            f"edits at sites {idle} touched no position (where={where!r}); run the model inside the context"
        )


@contextmanager
def attach_edit(
    stack: ResolvedStack, site: int, edit: EditFn, kind: str, scope: ForwardScope, touched: dict[int, int]
) -> Iterator[None]:
    """Hook one edit into the model, within `scope`, counting touched positions per row in touched[site]."""
    stack.require(site, f"{kind} edit")

    def change(h: Tensor, x: Tensor) -> Tensor:
        if not scope.count:
            return x
        new = edit(h, x)
        if new.shape != x.shape:
            raise ValueError(f"the edit at site {site} returned {tuple(new.shape)}, not {tuple(x.shape)}")
        touched[site] += scope.count
        new = new.to(x)
        return new if scope.touched is None else torch.where(scope.touched.to(x.device), new, x)

    hook: Callable[[ResolvedStack, int, ForwardScope, Change], object] = (
        change_read if kind == "read" else change_residual
    )
    with hook(stack, site, scope, change):  # type: ignore[attr-defined]
        yield
