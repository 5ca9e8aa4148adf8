"""Revival: silent neurons and channels are made anew while the density anneals.

A unit outside AbsTopK's choice gets no gradient, and weights that fall to zero stay there unless one step lifts them over
the projection's threshold. So, every `revive_every` steps within `revive_between` of the anneal:

1. Find the units that stay zero on the last `revive_batches` batches (`sparse_model.training.activity`).
2. Choose among them at random, at most `revive_share` of all units of a kind, so that the rest keep most of their weights.
3. Give each its fair share of incoming and outgoing weights, density · width (at least the floor), at random places, with
   random signs, with magnitudes drawn from those that the projection will leave standing; the bias is zero.
4. Forget the optimiser's moments of those weights. The projection that follows makes room by cutting the smallest others.

Every choice follows from (seed, step), so a resumed run, and every process of one, does the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foundation.errors import UserError
from sparse_model.training.activity import SilentUnits
from sparse_model.training.sharding import opened
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.model import SparseTransformer

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Revived:
    """How many units were made anew, over all layers."""

    neurons: int
    qk: int
    v: int

    def to_json(self) -> dict[str, float]:
        """`revived_neurons`, `revived_qk`, `revived_v`."""
        return {"revived_neurons": self.neurons, "revived_qk": self.qk, "revived_v": self.v}


def is_due(config: TrainConfig, step: int) -> bool:
    """Whether revival follows step `step` (0-based)."""
    if not config.revive_every or (step + 1) % config.revive_every:
        return False
    progress = (step + 1) / (config.anneal * config.steps)
    return config.revive_between[0] <= progress <= config.revive_between[1]


def check_revivable(projected: nn.Module | None, config: TrainConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        UserError: nothing to revive, or an empty interval.
    """
    if not config.revive_every:
        return
    if not isinstance(projected, SparseTransformer):
        raise UserError("--revive-every belongs to weight-sparse models; leave it at 0 for a dense one")
    low, high = config.revive_between
    if not 0 <= low < high <= 1:
        raise UserError(
            f"--revive-between {low} {high}: give two rising fractions of the anneal between 0 and 1, such as 0.1 0.8"
        )


@torch.no_grad()
def revive(
    model: SparseTransformer,
    optimizer: Optimizer,
    silent: Sequence[SilentUnits],
    config: TrainConfig,
    density: float,
    step: int,
) -> Revived:
    """Make silent units anew, in place; the caller projects afterwards.

    Args:
        silent: per layer, from `silent_units`.
        density: kept fraction of the sublayers' matrices at this step.
    """
    chance = np.random.default_rng((config.seed, step))
    counts = np.zeros(3, dtype=np.int64)
    for block, dead in zip(model.blocks, silent, strict=True):
        neurons, qk, v = (_some(mask, config.revive_share, chance) for mask in (dead.neurons, dead.qk, dead.v))
        counts += (len(neurons), len(qk), len(v))
        attention, width = block.attn, model.config.d_attn
        fresh = _Fresh(optimizer, density, config.floor, chance)
        fresh.rows(attention.c_attn, np.concatenate([qk, width + qk, 2 * width + v]))
        fresh.columns(attention.c_proj, v)
        fresh.rows(block.mlp.c_fc, neurons)
        fresh.columns(block.mlp.c_proj, neurons)
    return Revived(*(int(count) for count in counts))


def _some(mask: Tensor, share: float, chance: np.random.Generator) -> np.ndarray:
    """At most `share` of all units (at least one), drawn from the masked ones, in rising order."""
    dead = np.flatnonzero(mask.cpu().numpy())
    most = max(1, int(share * len(mask)))
    return np.sort(chance.permutation(dead)[:most])


class _Fresh:
    """Writes new weights into chosen rows or columns and clears their moments."""

    def __init__(self, optimizer: Optimizer, density: float, floor: int, chance: np.random.Generator) -> None:
        self.optimizer, self.density, self.floor, self.chance = optimizer, density, floor, chance

    def rows(self, linear: nn.Linear, units: np.ndarray) -> None:
        """New incoming weights and zero biases of these outputs."""
        self._write(linear.weight, units, 0)
        if linear.bias is not None:
            index = torch.from_numpy(units).to(linear.bias.device)
            with opened(linear.bias, *self._moments(linear.bias)) as tensors:
                for tensor in tensors:
                    tensor[index] = 0

    def columns(self, linear: nn.Linear, units: np.ndarray) -> None:
        """New outgoing weights of these inputs."""
        self._write(linear.weight, units, 1)

    def _write(self, parameter: Tensor, units: np.ndarray, axis: int) -> None:
        """Fill the rows (axis 0) or columns (axis 1) `units` of a matrix."""
        if not len(units):
            return
        with opened(parameter, *self._moments(parameter)) as (weight, *moments):
            view = weight.transpose(0, axis)  # the units are its rows
            index = torch.from_numpy(units).to(view.device)
            for tensor in (view, *(moment.transpose(0, axis) for moment in moments)):
                tensor[index] = 0
            fan = view.shape[1]
            each = min(fan, max(1, self.floor, round(self.density * fan)))
            magnitudes = self._standing(weight, each * len(units))
            places = np.argpartition(self.chance.random((len(units), fan)), each - 1, axis=1)[:, :each]
            drawn = self.chance.integers(len(magnitudes), size=places.shape)
            signs = self.chance.choice((-1.0, 1.0), size=places.shape)
            values = magnitudes[torch.from_numpy(drawn).to(view.device)] * torch.from_numpy(signs).to(magnitudes)
            view[index[:, None], torch.from_numpy(places).to(view.device)] = values

    def _standing(self, parameter: Tensor, entering: int) -> Tensor:
        """Magnitudes of the entries that will stay when `entering` new ones join the tensor's kept ones, descending."""
        magnitudes = parameter.abs().flatten()
        room = round(self.density * parameter.numel()) - entering
        living = int(magnitudes.count_nonzero())
        if not living:  # every unit of the tensor is made anew: the initialisation's own scale
            return magnitudes.new_full((1,), 0.02)
        return magnitudes.topk(max(1, min(living, room))).values

    def _moments(self, parameter: Tensor) -> list[Tensor]:
        state = self.optimizer.state.get(parameter, {})
        return [state[name] for name in MOMENTS if name in state]
