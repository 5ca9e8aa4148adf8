"""Isolation (METHOD §6): what an edit does where it should do nothing.

Measured on held-out corpus positions at which the unedited model gives the task's answers together less than 1 %; at the
others the edit is supposed to act. KL(original ‖ edited) in nats per token, and the change of the next-token
cross-entropy.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bridges.edits.standing import StandingEdit, walk_edited
from bridges.losses import kl_per_token
from bridges.protocol import residual_sites
from dense_adapters import DenseStack
from foundation.errors import UserError
from foundation.statistics import mean_estimate

UNRELATED_BELOW = 0.01
"""Probability of the task's answers together below which a position is unrelated."""


class ReferenceText:
    """Held-out token blocks [N, T] and the unedited model's behaviour on them, computed once."""

    @torch.no_grad()
    def __init__(self, dense: DenseStack, blocks: NDArray[np.integer], device: str = "cpu") -> None:
        self.dense = dense
        self.tokens = torch.from_numpy(np.asarray(blocks, dtype=np.int64)).to(device)
        walk = dense.walk(self.tokens)
        self.h = residual_sites(dense, walk)
        """dense streams [N, T, D] at every site"""
        self.log_probs = F.log_softmax(walk.unembed(self.h[-1]).float(), dim=-1)

    def part(self, number: int, of: int) -> "ReferenceText":
        """Every `of`-th block from `number` on, so that what is fitted, chosen and reported sees different text."""
        part = object.__new__(ReferenceText)
        part.dense, part.tokens = self.dense, self.tokens[number::of]
        part.h, part.log_probs = [h[number::of] for h in self.h], self.log_probs[number::of]
        return part

    def unrelated(self, answers: Iterable[int]) -> Tensor:
        """Positions [N, T] at which the answers together have less than 1 %."""
        index = torch.tensor(sorted(set(answers)), device=self.tokens.device)
        return self.log_probs[..., index].exp().sum(-1) < UNRELATED_BELOW

    @torch.no_grad()
    def isolation(
        self, edit: StandingEdit, answers: Iterable[int], strength: float | None = None, seed: int = 0
    ) -> dict[str, Any]:
        """Keys `kl` and `ce_change` (nats per token, intervals over sequences), `positions` (unrelated share of tokens),
        `acts_on` (share of tokens whose stream the edit changes by itself).

        Raises:
            UserError: no position is unrelated, so isolation cannot be measured.
        """
        h = walk_edited(self.dense, edit, self.tokens, strength)
        logits = self.dense.walk(self.tokens).unembed(h)
        unrelated = self.unrelated(answers).double()
        kl = kl_per_token(self.log_probs, logits).double()
        edited = F.log_softmax(logits.float(), dim=-1)
        following = self.tokens[:, 1:, None]
        change = (self.log_probs[:, :-1].gather(-1, following) - edited[:, :-1].gather(-1, following))[..., 0].double()
        counts, ce_counts = unrelated.sum(1), unrelated[:, :-1].sum(1)
        if not bool(ce_counts.any()):
            raise UserError(
                f"no position of the reference text gives the answers less than {UNRELATED_BELOW:.0%} together; pass other text "
                "(--corpus) or more of it (--blocks)"
            )
        per_block = ((kl * unrelated).sum(1) / counts)[counts > 0]
        ce_per_block = ((change * unrelated[:, :-1]).sum(1) / ce_counts)[ce_counts > 0]
        acted = torch.zeros_like(unrelated, dtype=torch.bool)
        for site in edit.sites:
            acted |= edit.change(site, self.h[site.dense_site], self.tokens, strength).norm(dim=-1) > 0
        return {
            "kl": mean_estimate(per_block.cpu().numpy(), seed).to_json(),
            "ce_change": mean_estimate(ce_per_block.cpu().numpy(), seed).to_json(),
            "positions": float(unrelated.mean()),
            "acts_on": float(acted.double().mean()),
        }
