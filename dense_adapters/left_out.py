"""Positions that an edit leaves alone: special tokens, and the first one of a text.

In many pretrained models the first position is a sink whose stream is hundreds of times longer than all others, and chat
templates put tokens between the turns that no text contains. What is done or measured there says little about text.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class LeftOut:
    """Which positions are left out: those of some tokens, and the first of each text; by default none."""

    tokens: tuple[int, ...] = ()
    """token ids"""
    first: bool = False

    @classmethod
    def special(cls, tokenizer: PreTrainedTokenizerBase) -> "LeftOut":
        """Every special token of a tokenizer, added ones such as turn marks among them, and the first position."""
        added = {token for token, what in tokenizer.added_tokens_decoder.items() if what.special}
        return cls(tuple(sorted(added | set(tokenizer.all_special_ids))), True)

    def __bool__(self) -> bool:
        return self.first or bool(self.tokens)

    def positions(self, tokens: Int[Tensor, "B T"], starts: Bool[Tensor, "B T"] | None = None) -> Bool[Tensor, "B T"]:
        """True where a position is left out.

        Args:
            starts: where texts begin; None means in the first column.
        """
        found = torch.isin(tokens, torch.tensor(self.tokens, dtype=tokens.dtype, device=tokens.device))
        if not self.first:
            return found
        if starts is None:
            starts = (torch.arange(tokens.shape[1], device=tokens.device) == 0).expand_as(tokens)
        return found | starts

    def kept(self, tokens: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
        """True where a position is not left out, of texts that begin in the first column."""
        return ~self.positions(tokens)
