"""Cross-entropy of a language model on held-out text, one figure per sequence so that intervals can be drawn."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm


@torch.no_grad()
def sequence_losses(model: nn.Module, blocks: NDArray[np.integer], batch_size: int = 16) -> Float[np.ndarray, " N"]:
    """Mean next-token cross-entropy of each of N token blocks [N, T], in nats per token.

    Args:
        model: maps tokens to an output with `.logits`.
        batch_size: blocks per forward pass.
    """
    device = next(model.parameters()).device
    losses = []
    for start in tqdm(range(0, len(blocks), batch_size), desc="evaluating", unit="batch", delay=2, leave=False):
        tokens = torch.from_numpy(np.asarray(blocks[start : start + batch_size], dtype=np.int64)).to(device)
        logits = model(tokens).logits[:, :-1].transpose(1, 2).float()
        losses.append(F.cross_entropy(logits, tokens[:, 1:], reduction="none").mean(-1).cpu())
    return torch.cat(losses).double().numpy()
