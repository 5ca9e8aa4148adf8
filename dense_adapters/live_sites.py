"""Where on the running model each site can be seen and changed, as hooks on modules the model calls anyway.

Reads are changed at the module that consumes them, so the skip path keeps the unedited stream. A residual before a
layer is the layer's input. A residual in the middle of a layer exists only as a sum inside the layer's `forward`, so
the change is added to the contribution just before it: the read and the skip path after it then both see it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from dense_adapters.block_spec import ContributionSpec
from dense_adapters.contribution import Contribution
from dense_adapters.positions import ForwardScope
from dense_adapters.resolved import ResolvedStack
from dense_adapters.trace import first_tensor, hidden_argument

Change = Callable[[Tensor, Tensor], Tensor]
"""(residual [B,t,D], value at the site [B,t,D]) -> the value to put there."""


Places = tuple[int | str, ...]
"""Positions and names of the arguments that carry one value into a module."""


@contextmanager
def before(module: nn.Module, places: Places, scope: ForwardScope, visit: Any, first: bool = False) -> Iterator[None]:
    """Call visit(value [B,t,D]) on the value a module is given at `places`; a returned tensor replaces it at all of
    them.

    A module that is expected to be given position 0 may be given `hidden_states` by name instead.
    """

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not scope.active:
            return None
        given = hidden_argument(args, kwargs) if places == HIDDEN else _at(places[0], args, kwargs)
        new = visit(given.reshape(scope.batch, -1, given.shape[-1]))
        if new is None:
            return None
        new = new.reshape(given.shape)
        if places == HIDDEN:
            return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})
        replaced = tuple(new if position in places else value for position, value in enumerate(args))
        return replaced, {name: new if name in places else value for name, value in kwargs.items()}

    handle = module.register_forward_pre_hook(hook, with_kwargs=True, prepend=first)
    try:
        yield
    finally:
        handle.remove()


HIDDEN: Places = (0,)
"""Where layers and norms are given the residual stream."""


def _at(place: int | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[place] if isinstance(place, int) else kwargs[place]


@contextmanager
def after(module: nn.Module, scope: ForwardScope, visit: Any) -> Iterator[None]:
    """Call visit(value [B,t,D]) on a module's first answer; a returned tensor replaces it."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if not scope.active:
            return None
        given = first_tensor(output)
        new = visit(given.reshape(scope.batch, -1, given.shape[-1]))
        if new is None:
            return None
        new = new.reshape(given.shape)
        return new if isinstance(output, Tensor) else type(output)((new, *output[1:]))

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def read_places(spec: ContributionSpec) -> Places:
    """The arguments through which a module receives its read."""
    positions = tuple(position for position, argument in enumerate(spec.call.args) if argument.source == "read")
    return (*positions, *(name for name, argument in spec.call.kwargs if argument.source == "read"))


def _norm_or_reader(part: Contribution) -> tuple[nn.Module, Places]:
    """The first module of a branch that sees the residual stream, and the arguments it sees it in."""
    return (part.read_norm, HIDDEN) if part.read_norm is not None else (part.modules[0], read_places(part.spec))


@contextmanager
def change_read(stack: ResolvedStack, site: int, scope: ForwardScope, change: Change) -> Iterator[None]:
    """Put change(h, x) in place of the normed input x of sublayer `site`, where its modules read it."""
    if site == len(stack.sublayers):
        with _change_final_read(stack, scope, change):
            yield
        return
    parts = stack.contributions[site]
    seen: dict[str, Tensor] = {}

    def note_residual(h: Tensor) -> None:
        seen["h"] = h

    def change_first(x: Tensor) -> Tensor:
        seen["x"], seen["new"] = x, change(seen.get("h", x), x)
        return seen["new"]

    def change_second(x: Tensor) -> Tensor:
        if parts[0].read_norm is parts[1].read_norm:
            return seen["new"]
        return x + (seen["new"] - seen["x"]) * stack.gain_ratio(site).to(x)

    with ExitStack() as hooks:
        if parts[0].read_norm is not None:
            hooks.enter_context(before(parts[0].read_norm, HIDDEN, scope, note_residual))
        for part, visit in zip(parts, (change_first, change_second), strict=False):
            hooks.enter_context(before(part.modules[0], read_places(part.spec), scope, visit, first=True))
        yield


@contextmanager
def _change_final_read(stack: ResolvedStack, scope: ForwardScope, change: Change) -> Iterator[None]:
    if stack.final_norm is None:
        with change_residual(stack, stack.n_sites - 1, scope, change):
            yield
        return
    seen: dict[str, Tensor] = {}
    with (
        before(stack.final_norm, HIDDEN, scope, lambda h: seen.update(h=h)),
        after(stack.final_norm, scope, lambda x: change(seen["h"], x)),
    ):
        yield


@contextmanager
def change_residual(stack: ResolvedStack, site: int, scope: ForwardScope, change: Change) -> Iterator[None]:
    """Put change(h, h) in place of the residual h at `site`, for everything downstream."""
    layers = stack.layers
    if site == len(stack.sublayers):
        with after(layers[-1], scope, lambda h: change(h, h)):
            yield
        return
    layer = layers[stack.sublayers[site].layer]
    if stack.sublayers[site].kind != "mlp":
        with before(layer, HIDDEN, scope, lambda h: change(h, h), first=True):
            yield
        return
    part = stack.contributions[site - 1][0]
    last = part.contribution_norm if part.contribution_norm is not None else part.modules[-1]
    if part.stream_norm is not None or part.spec.adds_residual:
        with after(part.stream_norm if part.stream_norm is not None else last, scope, lambda h: change(h, h)):
            yield
        return
    seen: dict[str, Tensor] = {}

    def shift(c: Tensor) -> Tensor:
        h = seen["skip"] + c * part.spec.scale
        return c + (change(h, h) - h) / part.spec.scale

    # The skip path starts from the layer's input, or from the norm where the family keeps the normed stream.
    takes_normed = part.spec.skip == "normed" and part.read_norm is not None
    source = (
        after(part.read_norm, scope, lambda x: seen.update(skip=x))
        if takes_normed and part.read_norm is not None
        else before(layer, HIDDEN, scope, lambda h: seen.update(skip=h))
    )
    with source, after(last, scope, shift):
        yield


@contextmanager
def observe(
    stack: ResolvedStack, site: int, kind: str, scope: ForwardScope, note: Callable[[Tensor], None]
) -> Iterator[None]:
    """Call note(value [B,t,D]) with the read or the residual that the running model has at `site`."""
    layers = stack.layers
    if site == len(stack.sublayers):
        if kind == "read" and stack.final_norm is not None:
            context = after(stack.final_norm, scope, note)
        else:
            context = after(layers[-1], scope, note)
    elif kind == "read":
        part = stack.contributions[site][0]
        context = before(part.modules[0], read_places(part.spec), scope, note)
    elif stack.sublayers[site].kind == "mlp":
        module, place = _norm_or_reader(stack.contributions[site][0])
        context = before(module, place, scope, note)
    else:
        context = before(layers[stack.sublayers[site].layer], HIDDEN, scope, note)
    with context:
        yield
