"""Taps: functions `tap(name, tensor) -> tensor` handed to a forward pass, called at every location.

Recording, masking, ablating and editing are taps and compose. There is no global hook state. A tap that names
its locations is checked: an unknown name is refused before the pass, one that never fired after it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

from foundation.errors import UserError
from sparse_model.transformer.nodes import check_location
from sparse_model.transformer.sparse_config import SparseConfig


@runtime_checkable
class Tap(Protocol):
    """What a forward pass calls at every location; returns the tensor to go on with."""

    def __call__(self, name: str, tensor: Tensor, /) -> Tensor: ...


class At:
    """Apply functions at named locations.

    Args:
        actions: location → function of the tensor there.

    `begin` and `finish` are called by a whole forward pass and make a misspelt or idle location an error.
    """

    def __init__(self, actions: Mapping[str, Callable[[Tensor], Tensor]]) -> None:
        self.actions = dict(actions)
        self._fired: set[str] = set()

    def __call__(self, name: str, tensor: Tensor, /) -> Tensor:
        action = self.actions.get(name)
        if action is None:
            return tensor
        self._fired.add(name)
        return action(tensor)

    def begin(self, config: SparseConfig) -> None:
        """Refuse locations the model does not have.

        Raises:
            UserError: unknown location.
        """
        for name in self.actions:
            check_location(config, name)
        self._fired.clear()

    def finish(self) -> None:
        """Refuse to have been idle.

        Raises:
            UserError: a location never came up in the pass.
        """
        idle = sorted(set(self.actions) - self._fired)
        if idle:
            raise UserError(f"the tap at '{idle[0]}' never fired; this pass does not reach that location")


class Recorder(At):
    """Keep the tensors at `names` (all that pass, for None) in `self.activations`, gradients attached."""

    def __init__(self, names: Iterable[str] | None = None) -> None:
        self.activations: dict[str, Tensor] = {}
        self._all = names is None
        super().__init__({name: lambda tensor: tensor for name in names or ()})

    def __call__(self, name: str, tensor: Tensor, /) -> Tensor:
        if self._all or name in self.actions:
            self._fired.add(name)
            self.activations[name] = tensor
        return tensor


class Chain:
    """Several taps, one after the other at every location."""

    def __init__(self, *taps: Tap) -> None:
        self.taps = taps

    def __call__(self, name: str, tensor: Tensor, /) -> Tensor:
        for tap in self.taps:
            tensor = tap(name, tensor)
        return tensor

    def begin(self, config: SparseConfig) -> None:
        """Begin every tap that checks its names."""
        for tap in self.taps:
            if isinstance(tap, At | Chain):
                tap.begin(config)

    def finish(self) -> None:
        """Finish every tap that checks its names."""
        for tap in self.taps:
            if isinstance(tap, At | Chain):
                tap.finish()


def no_tap(name: str, tensor: Tensor, /) -> Tensor:
    """The tap that changes nothing."""
    return tensor
