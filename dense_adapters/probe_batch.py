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
    """Refuse logits that are not those of next tokens.

    They must be finite, the same whatever the other row of the batch holds, and unmoved by later tokens. tokens: [2,T].

    Raises:
        AttachError: logits [2,T,V] are not; the message says what was measured.
    """
    name = type(model).__name__
    require_positions(model)
    changed = tokens.clone()
    changed[1, -1] = (changed[1, -1] + 7) % model.config.get_text_config().vocab_size
    try:
        before, after = (model(**model_inputs(model, t, None)).logits for t in (tokens, changed))
    except Exception as failure:  # whatever a model's own code raises, it cannot be attached
        raise AttachError(
            f"{name} does not run on a small batch ({first_line(failure)}); check its configuration"
        ) from (failure)
    if not bool(before.isfinite().all()):
        raise AttachError(
            f"{name} gives NaN or infinite logits{_bad_weights(model)}; copy the weights again, or load in float32"
        )
    every = torch.ones_like(tokens[:1], dtype=torch.bool)
    allowed = TOLERANCE[before.dtype]
    by_row = difference(after[:1], before[:1], every, 1.0, 1.0)
    if by_row > allowed:
        raise AttachError(
            f"the answers of {name} for one text depend on the other texts of its batch (logits move by {by_row:.2g}), as "
            "where activations are quantised together; load the model unquantised"
        )
    by_time = difference(after[1:, :-1], before[1:, :-1], every[:, :-1], 1.0, 1.0)
    if by_time > allowed:
        raise AttachError(
            f"{name} attends to later tokens (logits move by {by_time:.2g}), as encoders do; "
            "attach a decoder-only causal language model"
        )


def require_positions(model: PreTrainedModel) -> None:
    """Refuse a model that cannot read the probe.

    Raises:
        AttachError: the model has fewer positions than the probe's texts have tokens.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and 0 <= positions < PROBE_LENGTH:
        raise AttachError(
            f"{type(model).__name__} has {positions} positions, fewer than the {PROBE_LENGTH} that the probe runs; "
            "attach a model for longer texts"
        )


def first_line(failure: Exception) -> str:
    """A failure as one line: its kind and the first line of its message."""
    text = str(failure).strip()
    return f"{type(failure).__name__}: {text.splitlines()[0]}" if text else type(failure).__name__


def _bad_weights(model: PreTrainedModel) -> str:
    """The first weight that is not finite, as a part of a sentence; empty where all are."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.device.type != "meta" and not bool(parameter.isfinite().all()):
            return f", as its weight {name} does"
    return ""
