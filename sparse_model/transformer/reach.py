"""How far attention reaches in a batch: causal, not to padding, and not into other documents of a packed block.

Positions count from the first real token, and where documents are kept apart from each document's own first token. So a
document reads the same wherever it stands in a block, and the same as alone.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Reach:
    """`allowed` [B, 1, T, T] says which earlier token (last axis) each token may attend to; None for all of them.

    `place` [B, T] is the position of each token; None where it is its index.

    Args:
        attention_mask: False (or 0) for left padding [B, T]; None for none.
        document_token: the token that begins a document; None where documents are not kept apart. What stands before
            the first such token is a document of its own.
    """

    def __init__(
        self, tokens: Int[Tensor, "B T"], attention_mask: Tensor | None, document_token: int | None = None
    ) -> None:
        self.allowed: Bool[Tensor, "B 1 T T"] | None = None
        self.place: Int[Tensor, "B T"] | None = None
        visible = None if attention_mask is None or bool(attention_mask.all()) else attention_mask.bool()
        starts = None if document_token is None else tokens == document_token
        if starts is not None and visible is not None:
            starts = starts & visible
        if starts is not None and visible is None and starts.device.type == "cpu" and not bool(starts[:, 1:].any()):
            starts = None  # one document each; looking costs nothing here, but would make a device wait
        if visible is None and starts is None:
            return
        T = tokens.shape[1]
        allowed = torch.ones(T, T, dtype=torch.bool, device=tokens.device).tril()[None]
        if visible is None:
            place = torch.arange(T, device=tokens.device).expand(len(tokens), T)
        else:
            place = (visible.long().cumsum(-1) - 1).clamp(min=0)
            allowed = allowed & visible[:, None, :]
        if starts is not None:
            document = starts.cumsum(-1)
            allowed = allowed & (document[:, :, None] == document[:, None, :])
            place = place - torch.where(starts, place, 0).cummax(-1).values
        if visible is not None:
            # a padding query sees itself, so that its softmax stays finite; nothing reads its output
            allowed = allowed | torch.eye(T, dtype=torch.bool, device=tokens.device)
        self.allowed, self.place = allowed[:, None], place
