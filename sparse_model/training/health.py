"""Whether every loss term and gradient of a run has been finite; if not, which was the first and when.

Nothing here waits for the device until `check` is called, so the first bad step is remembered on the device.
"""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float
from torch import Tensor

from foundation.errors import UserError
from sparse_model.training.train_config import TrainConfig

NAMED = 3
"""Tensors named in the message; the rest are counted."""


class Health:
    """Watches the loss terms and the gradient of every parameter of `names`."""

    def __init__(self, names: Sequence[str], config: TrainConfig, accelerator: Accelerator) -> None:
        self.names, self.config, self.accelerator = tuple(names), config, accelerator
        self._terms: tuple[str, ...] = ()
        self._step = torch.zeros((), dtype=torch.long, device=accelerator.device)
        self._bad: Bool[Tensor, " X"] | None = None

    def watch(self, step: int, terms: dict[str, Tensor], norms: Float[Tensor, " P"]) -> None:
        """Note step `step` (1-based)."""
        self._terms = tuple(terms)
        values = torch.cat([torch.stack([value.float().reshape(()) for value in terms.values()]), norms.float()])
        bad = ~values.isfinite()
        if self._bad is None:
            self._bad = torch.zeros_like(bad)
        first = (self._step == 0) & bad.any()
        self._bad = torch.where(first, bad, self._bad)
        self._step = torch.where(first, step, self._step)

    def check(self) -> None:
        """Raise if anything was not finite; every process sees what any of them saw.

        Raises:
            UserError: with the step, the tensors and the remedy.
        """
        if self._bad is None:
            return
        bad = self._bad
        if self.accelerator.num_processes > 1:
            bad = self.accelerator.reduce(bad.float(), "sum") > 0
        if not bool(bad.any()):
            return
        terms = [name for name, is_bad in zip(self._terms, bad.tolist(), strict=False) if is_bad]
        gradients = [name for name, is_bad in zip(self.names, bad.tolist()[len(self._terms) :], strict=True) if is_bad]
        what = f"the loss term '{_first(terms)}'" if terms else f"the gradient of {_listed(gradients)}"
        raise UserError(
            f"{what} is not finite at step {int(self._step) or 'an earlier step'} (lr {self.config.lr:g}, "
            f"{self.config.precision}); lower --lr, set --gradient-rms normalise or lengthen --warmup; "
            "the last checkpoint is good"
        )


def _first(terms: list[str]) -> str:
    """A part of the loss rather than the sum that it spoils."""
    return next((name for name in terms if name != "loss"), "loss")


def _listed(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
