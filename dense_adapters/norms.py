"""What a normalisation layer does, as numbers: y = gain * (x - mean) / sqrt(var + eps) + bias, mean only where it
centres.

Families store the gain as w, as 1 + w (Gemma) or not at all (OLMo), and classes with the same name differ. So the
convention is told by evaluating the module on fixed inputs and accepting the one description that reproduces it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dense_adapters.errors import AttachError
from dense_adapters.fingerprint import offloaded

_EPS_NAMES = ("eps", "variance_epsilon", "variance_eps", "epsilon")
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises its input, by class name (every family calls it some kind of Norm)."""
    return "norm" in type(module).__name__.lower()


@dataclass(frozen=True)
class NormSpec:
    """A normalisation over the last axis. gain [D] and bias [D] are effective values (Gemma's 1 + w is the gain)."""

    gain: Tensor
    bias: Tensor
    centres: bool
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise x [..., D] in float32 from this description alone."""
        x = x.float()
        if self.centres:
            x = x - x.mean(-1, keepdim=True)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.gain.float() + self.bias.float()


def describe_norm(module: nn.Module | None, width: int, dtype: torch.dtype) -> NormSpec | None:
    """The NormSpec that reproduces `module` on fixed random inputs of large and small scale; None for no module.

    Raises:
        AttachError: no description fits (a norm with other statistics, a learned scale inside, ...).
    """
    if module is None:
        return None
    weight, bias = _parameter(module, "weight"), _parameter(module, "bias")
    device = torch.device("cpu") if weight is None else weight.device
    ones = torch.ones(width, device=device)
    gains = [ones] if weight is None else [weight.detach(), 1.0 + weight.detach().float()]
    offset = torch.zeros(width, device=device) if bias is None else bias.detach()
    stated = [float(getattr(module, name)) for name in _EPS_NAMES if isinstance(getattr(module, name, None), float)]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, width, generator=generator) * torch.tensor([[3.0], [1.0], [0.3], [0.05], [0.02], [0.01]]) + 0.01
    x = x.to(device=device, dtype=dtype)
    with torch.no_grad():
        wanted = module(x).float()
    best: tuple[float, NormSpec] | None = None
    for gain in gains:
        for centres in (False, True):
            for eps in (*stated, 1e-5, 1e-6, 1e-8, 0.0):
                spec = NormSpec(gain, offset, centres, eps)
                error = float((spec(x).to(wanted.device) - wanted).abs().max())
                if best is None or error < best[0]:
                    best = (error, spec)
    assert best is not None
    limit = _TOLERANCE[dtype] * max(1.0, float(wanted.abs().max()))
    if not best[0] <= limit:
        raise AttachError(f"{type(module).__name__} is no gain * normalised + bias (error {best[0]:.2g} > {limit:.2g})")
    return best[1]


def _parameter(module: nn.Module, name: str) -> Tensor | None:
    """A norm's weight or bias where it has one, fetched from the offload store where the module's own copy is empty."""
    value = module._parameters.get(name)
    if value is None or value.device.type != "meta":
        return value
    return offloaded(module, name)
