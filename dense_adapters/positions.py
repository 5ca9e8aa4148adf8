"""Which positions of the running forward pass an edit may touch: prompt or generated, never padding or what is left out.

A hook on a layer sees only a slice of the sequence: all of it in a plain forward or without cache, one new token with
one. `ForwardScope` is told at the start of every forward of the whole model what slice it is. A position is
*generated* where its index is not below the prompt length. The prompt length is the length of the first forward with
an empty cache; a later cache-free forward continues it where it repeats what was there and appends to it, and starts
a new prompt otherwise.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dense_adapters.left_out import LeftOut

Where = Literal["prompt", "generated", "both"]


class ForwardScope:
    """The slice [B,t] of positions the model is now running, and which of them may be touched.

    Outside a forward of the whole model (a walk, a probe of one layer) nothing is in scope and hooks do nothing.
    """

    def __init__(self, where: Where, prompt_length: int | None, left_out: LeftOut = LeftOut()) -> None:
        """prompt_length: tokens of prompt including padding; None means: told from the forwards themselves."""
        if where not in ("prompt", "generated", "both"):
            raise ValueError(f"where={where!r} is unknown; choose prompt, generated or both")
        self.where = where
        self.left_out = left_out
        self.given_length = prompt_length
        self.prompt_length = prompt_length
        self.active = False
        self.batch = 0
        self.count = 0
        self.touched: Tensor | None = None
        self._previous: Tensor | None = None

    @contextmanager
    def following(self, model: nn.Module) -> Iterator[None]:
        """Keep up with the forwards of `model` while open."""
        handles = [
            model.register_forward_pre_hook(self._enter, with_kwargs=True),
            model.register_forward_hook(self._leave, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def covering(self, batch: int, length: int) -> Iterator[None]:
        """Treat what runs inside as one forward of [batch, length] positions, all of which may be touched."""
        self.active, self.batch, self.count, self.touched = True, batch, length, None
        try:
            yield
        finally:
            self.active = False

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.active = False

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            raise RuntimeError("edits and recordings need an uncompiled model; pass disable_compile=True to generate")
        tokens = kwargs.get("input_ids", args[0] if args else None)
        if tokens is None:
            tokens = kwargs["inputs_embeds"]
        self.batch, length = tokens.shape[0], tokens.shape[1]
        cache = kwargs.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        prompt = self._prompt_positions(tokens, past)
        real = _real_positions(kwargs.get("attention_mask"), past, length)
        self.count, self.touched = length, real
        if self.where != "both":
            self.count = prompt if self.where == "prompt" else length - prompt
            if 0 < self.count < length:
                chosen = torch.arange(length, device=tokens.device) < prompt
                chosen = (chosen if self.where == "prompt" else ~chosen)[None, :, None]
                self.touched = chosen if real is None else chosen & real
        if self.left_out:
            kept = ~self._left_out_positions(tokens, kwargs.get("attention_mask"), real, past)[..., None]
            self.touched = kept if self.touched is None else self.touched & kept
        self.active = True

    def _left_out_positions(self, tokens: Tensor, mask: Any, real: Tensor | None, past: int) -> Tensor:
        """Which of this forward's positions [B,t] are left out; a text begins at its first position that is no padding."""
        if tokens.ndim != 2:
            raise ValueError("an edit that leaves tokens out needs input_ids, not inputs_embeds")
        if isinstance(mask, Tensor) and mask.ndim == 2:
            starts = (mask.bool() & (mask.cumsum(1) == 1))[:, past : past + tokens.shape[1]]
        elif past:
            starts = torch.zeros_like(tokens, dtype=torch.bool)
        elif real is not None:
            starts = real[..., 0] & (real[..., 0].cumsum(1) == 1)
        else:
            starts = None
        return self.left_out.positions(tokens, starts)

    def _prompt_positions(self, tokens: Tensor, past: int) -> int:
        """How many of this forward's positions belong to the prompt."""
        length = tokens.shape[1]
        if self.where == "both":
            return length
        if past == 0 and self.given_length is None and not self._continues(tokens):
            self.prompt_length = length
        if self.prompt_length is None or (past and length > 1 and self.given_length is None):
            raise ValueError(
                f"{length} positions after {past} cached ones may be prompt or generated; "
                "pass prompt_length to editing()"
            )
        if past == 0:
            self._previous = tokens
        return min(max(self.prompt_length - past, 0), length)

    def _continues(self, tokens: Tensor) -> bool:
        """Whether every row starts with some row of the previous forward (beams change places) and adds one token."""
        before = self._previous
        if before is None or tokens.ndim != 2 or before.ndim != 2 or tokens.shape != (len(before), before.shape[1] + 1):
            return False
        return bool((tokens[:, None, :-1] == before[None]).all(-1).any(1).all())


def _real_positions(mask: Any, past: int, length: int) -> Tensor | None:
    """Which of this forward's positions are tokens rather than padding, [B,t,1]; None where all are.

    mask: the 2-D padding mask, or what `generate` prepares for a static cache: a 4-D mask or a dict of them, in which a
    padded position is one that may not see itself.
    """
    if isinstance(mask, dict):
        mask = next((m for m in mask.values() if m is not None), None)
    if mask is None or (past and length == 1):
        return None
    if mask.ndim == 2:
        return mask[:, past : past + length, None].bool()
    own = torch.arange(length, device=mask.device)
    seen = mask[:, 0, own, past + own]
    return (seen if seen.dtype == torch.bool else seen == 0)[..., None]
