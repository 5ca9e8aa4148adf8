"""The small batch that models are resolved and proven on, and how far two tensors on it are apart."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dense_adapters.errors import AttachError
from dense_adapters.skeleton import model_inputs

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Allowed error by the dtype of the residual stream. Half precision only tells gross mistakes; attach in float32 to
prove.
"""

PROBE_LENGTH = 9


def probe_batch(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Two rows of pseudo-random tokens [2,T] and their mask, the second row padded on the left by two."""
    embedding = model.get_input_embeddings()
    vocabulary = model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(20240229)
    tokens = torch.randint(0, vocabulary, (2, PROBE_LENGTH), generator=generator)
    mask = torch.ones_like(tokens)
    mask[1, :2] = 0
    weight = next(embedding.parameters())
    device = weight.device if weight.device.type != "meta" else torch.device("cpu")
    return tokens.to(device), mask.to(device)


def difference(a: Tensor, b: Tensor, real: Tensor, scale: float, share: float) -> float:
    """Largest |a - b| / max(scale, share * |b|) over real positions [B,T]; inf where shapes or values are wrong."""
    if a.numel() != b.numel():
        return float("inf")
    rows = real.reshape(-1).to(b.device)
    a = a.detach().to(b.device).double().reshape(len(rows), -1)[rows]
    b = b.detach().double().reshape(len(rows), -1)[rows]
    error = float(((a - b).abs() / (share * b.abs()).clamp(min=max(scale, 1e-30))).max())
    return error if error == error else float("inf")


def rms(x: Tensor, real: Tensor) -> float:
    """Root mean square of x [B,T,*] over real positions [B,T]."""
    rows = real.reshape(-1).to(x.device)
    return float(x.detach().double().reshape(len(rows), -1)[rows].pow(2).mean().sqrt())


@torch.no_grad()
def require_causal(model: PreTrainedModel, tokens: Tensor) -> None:
    """Raise AttachError where a logit moves when a later token changes: no next-token logits to speak of then."""
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 7) % model.config.get_text_config().vocab_size
    before, after = (model(**model_inputs(model, t, None)).logits[:, :-1] for t in (tokens, changed))
    real = torch.ones_like(tokens[:, :-1], dtype=torch.bool)
    error = difference(after, before, real, 1.0, 1.0)
    if error > TOLERANCE[before.dtype]:
        raise AttachError(
            f"{type(model).__name__} attends to later tokens (logits move by {error:.2g}), as encoders do; "
            "attach a decoder-only causal language model"
        )
