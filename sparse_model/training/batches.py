"""Batches as a pure function of the step, so that a resumed run sees the same data.

Blocks are visited in a new random order every epoch; a step's sequences, and each process's share of them,
follow from (seed, step) alone.
"""

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from foundation.errors import UserError


class Batches:
    """Sequences of token blocks [N, T] (any integer type, may be memory-mapped).

    Raises:
        UserError: fewer blocks than one batch needs.
    """

    def __init__(self, blocks: NDArray[np.integer], batch_size: int, seed: int) -> None:
        if len(blocks) < batch_size:
            raise UserError(
                f"the corpus has {len(blocks)} training blocks, fewer than batch_size {batch_size}; build a larger one"
            )
        self.blocks, self.batch_size, self.seed = blocks, batch_size, seed
        self.per_epoch = len(blocks) // batch_size
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def at(self, step: int, rank: int = 0, world: int = 1) -> Int[Tensor, "b T"]:
        """The step's sequences for one of `world` processes, int64."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self.blocks))
        chosen = self._order[place * self.batch_size : (place + 1) * self.batch_size][rank::world]
        return torch.from_numpy(np.asarray(self.blocks[np.sort(chosen)], dtype=np.int64))
