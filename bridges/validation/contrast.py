"""Both models on both prompts of each pair: what every intervention starts from, computed once.

A *contrast* takes every pair in both directions: rows 0..N−1 present prompt a (its counterfactual is b), rows N..2N−1
present b. Positions have roles: *changed* where the two prompts differ, *last* the prompt's last token where that is not
itself changed, *between* every token after the first change that is neither. Padding has no role.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bridges.protocol import ResidualStack, Walk
from sparse_model.tasks.token_pairs import TokenPairs

ROLES = ("changed", "between", "last")
COUNTED = ("between", "last")
"""Roles whose edits a verdict may rest on; an edit of a changed token can do its work by re-embedding the token."""
TOKENS_AT_ONCE = 16_384
"""Tokens of stacked streams that go through a model together."""


class Answers(NamedTuple):
    """What a model says at the last token of M prompts."""

    difference: Float[Tensor, " M"]
    """logit(target) − logit(original)"""
    p_target: Float[Tensor, " M"]
    """probability of the target over the whole vocabulary"""


@dataclass(frozen=True)
class Contrast:
    """M = 2N presented prompts with their counterfactuals."""

    base: Int[Tensor, "M T"]
    counterfactual: Int[Tensor, "M T"]
    last: Int[Tensor, " M"]
    original: Int[Tensor, " M"]
    """answer to the presented prompt"""
    target: Int[Tensor, " M"]
    """answer to the counterfactual"""
    templates: tuple[str, ...]
    """template of each prompt; intervals resample these"""

    @classmethod
    def of(cls, pairs: TokenPairs) -> "Contrast":
        """Both directions of some pairs, without common padding."""
        width = int(pairs.last.max()) + 1
        a, b = pairs.tokens_a[:, :width], pairs.tokens_b[:, :width]
        return cls(
            base=torch.cat([a, b]),
            counterfactual=torch.cat([b, a]),
            last=pairs.last.repeat(2),
            original=torch.cat([pairs.answer_a, pairs.answer_b]),
            target=torch.cat([pairs.answer_b, pairs.answer_a]),
            templates=pairs.template * 2,
        )

    def __len__(self) -> int:
        return len(self.base)

    @property
    def directions(self) -> dict[str, slice]:
        """Rows of either direction."""
        half = len(self) // 2
        return {"a_to_b": slice(0, half), "b_to_a": slice(half, None)}

    def role(self, name: str) -> Bool[Tensor, "M T"]:
        """Positions of one role."""
        place = torch.arange(self.base.shape[1], device=self.base.device)[None]
        changed = (self.base != self.counterfactual) & (place <= self.last[:, None])
        if name == "changed":
            return changed
        last = (place == self.last[:, None]) & ~changed
        if name == "last":
            return last
        if name != "between":
            raise ValueError(f"no such role: {name}")
        after = changed.cumsum(-1) > 0
        return after & (place < self.last[:, None]) & ~changed

    @property
    def counted(self) -> Bool[Tensor, "M T"]:
        """Positions a verdict may rest on."""
        return self.role("between") | self.role("last")


class Streams:
    """One model on both prompts: its residual streams at the sites asked for, its answers, and what it answers under edits.

    Args:
        sites: the sites whose streams are kept.
    """

    @torch.no_grad()
    def __init__(self, stack: ResidualStack, contrast: Contrast, sites: Sequence[int]) -> None:
        self.stack, self.contrast = stack, contrast
        self.walk: Walk = stack.walk(contrast.base)
        self.end = len(stack.sublayers)
        self.base = _kept(stack, self.walk, sites)
        self.counterfactual = _kept(stack, stack.walk(contrast.counterfactual), sites)
        self._by_token = {i for i in range(self.end) if self._works_by_token(i)}
        self._reader = stack.walk(_at_last(contrast.base, contrast.last)[:, None])  # a bigram table reads its tokens
        self.none = self.answers_from(self.end, self.base[self.end][None])[0]
        """answers to the presented prompts"""
        reader = stack.walk(_at_last(contrast.counterfactual, contrast.last)[:, None])
        self.full = _answers(reader, _at_last(self.counterfactual[self.end], contrast.last), contrast)
        """answers to the counterfactuals: the model's own difference is `full − none`"""

    def difference(self, site: int) -> Float[Tensor, "M T D"]:
        """Counterfactual − presented stream at a site."""
        return self.counterfactual[site] - self.base[site]

    def edited(self, site: int, change: Float[Tensor, "k M T D"]) -> list[Answers]:
        """Answers with the stream at `site` changed by each of k amounts."""
        return self.answers_from(site, self.base[site] + change)

    @torch.no_grad()
    def answers_from(self, site: int, h: Float[Tensor, "k M T D"]) -> list[Answers]:
        """Answers of k stacked streams at `site`: the walk starts there."""
        k, M, T, _ = h.shape
        at_once = max(1, TOKENS_AT_ONCE // (M * T))
        found: list[Answers] = []
        for start in range(0, k, at_once):
            piece = h[start : start + at_once]
            final = self._tail(site, piece.flatten(0, 1))
            found += [_answers(self._reader, rows, self.contrast) for rows in final.view(len(piece), M, -1)]
        return found

    def _tail(self, site: int, h: Float[Tensor, "kM T D"]) -> Float[Tensor, "kM D"]:
        """The final stream at the last tokens.

        Sublayers that work token by token are given the tokens that matter alone: the first one after the edit those the edit
        changed, the last one the last tokens.
        """
        last = self.contrast.last.repeat(len(h) // len(self.contrast))
        for i in range(site, self.end):
            if i == self.end - 1 and i in self._by_token:
                return self.walk.sublayer(i, _at_last(h, last)[None])[0]
            h = self._changed_tokens(i, h) if i == site and i in self._by_token else self.walk.sublayer(i, h)
        return _at_last(h, last)

    def _changed_tokens(self, i: int, h: Float[Tensor, "kM T D"]) -> Float[Tensor, "kM T D"]:
        """Sublayer i at the tokens that differ from the presented prompts; the others come out as they did there."""
        stacked = h.view(-1, *self.base[i].shape)
        changed = (stacked != self.base[i]).any(-1)
        out = self.base[i + 1].expand(len(stacked), *self.base[i + 1].shape[-3:]).clone()
        if bool(changed.any()):
            out[changed] = self.walk.sublayer(i, stacked[changed][None])[0]
        return out.flatten(0, 1)

    def _works_by_token(self, i: int) -> bool:
        """Whether sublayer i works token by token, so that some tokens alone may go through it: tried, not assumed."""
        if self.stack.sublayers[i].kind != "mlp" or i not in self.base or i + 1 not in self.base:
            return False
        h, whole = (_at_last(self.base[site], self.contrast.last) for site in (i, i + 1))
        try:
            alone = self.walk.sublayer(i, h[None])[0]
        except (RuntimeError, ValueError, IndexError):
            return False
        return bool(torch.allclose(alone, whole, atol=1e-4 * float(whole.abs().max()), rtol=1e-4))


def _kept(stack: ResidualStack, walk: Walk, sites: Sequence[int]) -> dict[int, Tensor]:
    """Streams at the sites asked for, and the last."""
    end = len(stack.sublayers)
    kept, h = {}, walk.embedding()
    for i in range(end + 1):
        if i in sites or i == end:
            kept[i] = h
        if i < end:
            h = walk.sublayer(i, h)
    return kept


def _at_last(h: Tensor, last: Int[Tensor, " M"]) -> Tensor:
    """What stands at each prompt's last token, of [M, T, ...]."""
    return h[torch.arange(len(h), device=h.device), last]


def _answers(walk: Walk, h: Float[Tensor, "M D"], contrast: Contrast) -> Answers:
    logits = walk.unembed(h[:, None])[:, 0].double()
    target = logits.gather(1, contrast.target[:, None])[:, 0]
    original = logits.gather(1, contrast.original[:, None])[:, 0]
    return Answers(target - original, (target - logits.logsumexp(-1)).exp())


def masked(change: Float[Tensor, "*k M T D"], positions: Bool[Tensor, "M T"]) -> Float[Tensor, "*k M T D"]:
    """The change at the given positions alone."""
    return change * positions[..., None].to(change)
