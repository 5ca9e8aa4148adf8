"""Edits in weight space: take a direction out of, or add a bias along it to, exactly the weights that read a site.

With x the normed input of sublayer i, u a unit direction [D] and W a weight that reads x (rows act as W x):

    remove:  x' = x - s (u.x) u     is     W' = W - s (W u) u^T
    bias:    x' = x + a u           is     b' = b + a W u

Where a reader has no bias, the read norm's own bias takes a u, if it has one and nothing but the readers sees it;
failing that, a family whose configuration can switch biases on (Llama's `attention_bias`, `mlp_bias`) gets them
switched on.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dense_adapters.editing import EditFn
from dense_adapters.errors import AttachError
from dense_adapters.readers import Reader, find_readers
from dense_adapters.resolved import ResolvedStack
from dense_adapters.tying import same_memory

_CHECK_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 2e-1}


@dataclass(frozen=True)
class RemoveDirection:
    """Take `strength` (1.0: all) of the read's component along `direction` [D] out of what sublayer `site` reads."""

    site: int
    direction: Tensor
    strength: float = 1.0

    def as_hook(self) -> EditFn:
        """The same edit for `DenseStack.editing`, kind="read"."""
        u = self.direction / self.direction.norm()
        return lambda h, x: x - self.strength * (x @ u.to(x))[..., None] * u.to(x)


@dataclass(frozen=True)
class AddBias:
    """Add `amount` times the unit vector along `direction` [D] to what sublayer `site` reads."""

    site: int
    direction: Tensor
    amount: float = 1.0

    def as_hook(self) -> EditFn:
        """The same edit for `DenseStack.editing`, kind="read"."""
        u = self.direction / self.direction.norm()
        return lambda h, x: x + self.amount * u.to(x)


WeightEdit = RemoveDirection | AddBias


@dataclass(frozen=True)
class WeightChanges:
    """New values by parameter name, and configuration switches that must be on for the model to hold them."""

    tensors: dict[str, Tensor]
    switches: dict[str, bool]


@torch.no_grad()
def weight_changes(stack: ResolvedStack, edits: tuple[WeightEdit, ...]) -> WeightChanges:
    """The weights that make the model compute `edits`, in the order given, by itself; the model is only read.

    Raises:
        AttachError: weights are tied, shared, quantised or offloaded, or cannot hold the edit, or a direction is of another
            width or of length zero; the message says which.
    """
    changed: dict[str, Tensor] = {}
    switches: dict[str, bool] = {}
    # The last edit acts last on the read, so it is the first to be folded into the weight behind it.
    for position, edit in reversed(list(enumerate(edits))):
        if edit.direction.shape != (stack.d_model,) or not float(edit.direction.norm()) > 0:
            raise AttachError(f"the direction at site {edit.site} must be a nonzero vector of width {stack.d_model}")
        u = (edit.direction / edit.direction.norm()).double()
        x, readers = find_readers(stack, edit.site)
        for reader in readers:
            _refuse_unbakeable(stack, reader)
        if isinstance(edit, RemoveDirection):
            new = _removals(readers, u, edit.strength, changed)
        else:
            new = _biases(stack, edit.site, readers, u * edit.amount, changed, switches)
        in_norm = not any(name.startswith(tuple(f"{reader.name}." for reader in readers)) for name in new)
        if in_norm and any(isinstance(e, RemoveDirection) and e.site == edit.site for e in edits[:position]):
            raise AttachError(
                f"the bias at site {edit.site} goes into the norm, where it acts before any removal; "
                "give AddBias before RemoveDirection"
            )
        if not in_norm:
            _check_on_the_spot(edit, x, readers, changed, new)
        changed.update(new)
    return WeightChanges(changed, switches)


def _current(name: str, stored: Tensor, changed: dict[str, Tensor]) -> Tensor:
    return changed.get(name, stored.detach())


def _removals(readers: tuple[Reader, ...], u: Tensor, strength: float, changed: dict[str, Tensor]) -> dict[str, Tensor]:
    new = {}
    for reader in readers:
        for weight in reader.weights:
            name = f"{reader.name}.{weight}"
            w = _current(name, reader.module.get_parameter(weight), changed)
            new[name] = w.clone()
            if strength:
                v = u.to(w.device)
                wide = w.double()
                along = torch.outer(v, v @ wide) if reader.input_first else (wide @ v)[..., None] * v
                new[name] = (wide - strength * along).to(w.dtype)
    return new


def _biases(
    stack: ResolvedStack,
    site: int,
    readers: tuple[Reader, ...],
    shift: Tensor,
    changed: dict[str, Tensor],
    switches: dict[str, bool],
) -> dict[str, Tensor]:
    bare = [reader for reader in readers if not isinstance(getattr(reader.module, "bias", None), Tensor)]
    norm_bias = _norm_bias(stack, site)
    if bare and norm_bias is not None:
        name, b = norm_bias
        b = _current(name, b, changed)
        return {name: b.clone() if not shift.any() else (b.double() + shift.to(b.device)).to(b.dtype)}
    if bare:
        switches.update(_bias_switch(stack, site, bare))
    new = {}
    for reader in readers:
        w = _current(f"{reader.name}.weight", reader.module.get_parameter("weight"), changed)
        name = f"{reader.name}.bias"
        out = w.shape[1] if reader.input_first else w.shape[0]
        stored = reader.module._parameters.get("bias")
        b = _current(name, w.new_zeros(out) if stored is None else stored, changed)
        v = shift.to(w.device)
        moved = v @ w.double() if reader.input_first else w.double() @ v
        new[name] = b.clone() if not shift.any() else (b.double() + moved).to(b.dtype)
    return new


def _norm_bias(stack: ResolvedStack, site: int) -> tuple[str, Tensor] | None:
    """The bias of the read norm, where it has one and only this site's readers see it."""
    parts = stack.contributions[site] if site < len(stack.sublayers) else ()
    if any(part.spec.skip == "normed" for part in parts):
        return None
    norm = parts[0].read_norm if parts else stack.final_norm
    bias = None if norm is None else norm._parameters.get("bias")
    if bias is None:
        return None
    name = next(name for name, module in stack.model.named_modules() if module is norm)
    _refuse_parameter(stack, f"{name}.bias", bias)
    return f"{name}.bias", bias


def _bias_switch(stack: ResolvedStack, site: int, bare: list[Reader]) -> dict[str, bool]:
    """The configuration switch that gives these readers biases, or AttachError where the family has none."""
    names = ", ".join(reader.name for reader in bare)
    kind = stack.sublayers[site].kind if site < len(stack.sublayers) else "head"
    switch = {"attention": "attention_bias", "mlp": "mlp_bias"}.get(kind)
    if switch is None or switch not in stack.model.config.to_dict() or not all(_plain(r.module) for r in bare):
        raise AttachError(
            f"{names} cannot hold a bias: they and their norm have none and no switch of the configuration adds one; "
            "remove a direction instead, or edit with hooks"
        )
    return {switch: True}


def _plain(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)


def _refuse_unbakeable(stack: ResolvedStack, reader: Reader) -> None:
    if not reader.weights:
        raise AttachError(f"{reader.name} ({type(reader.module).__name__}) has no plain weight to bake into; use hooks")
    for weight in reader.weights:
        _refuse_parameter(stack, f"{reader.name}.{weight}", reader.module.get_parameter(weight))


def _refuse_parameter(stack: ResolvedStack, name: str, parameter: Tensor) -> None:
    """Refuse a parameter that is not an ordinary one of its own.

    Raises:
        AttachError: a parameter is not an ordinary one of its own.
    """
    plain = type(parameter) is nn.Parameter and parameter.dtype in _CHECK_TOLERANCE
    if not plain or not _loaded_unquantised(stack.model):
        raise AttachError(f"{name} is quantised ({parameter.dtype}) and read-only; load the model unquantised to bake")
    if parameter.device.type == "meta":
        raise AttachError(f"{name} is offloaded; load the model onto one device to bake")
    owners = [n for n, p in stack.model.named_parameters(remove_duplicate=False) if same_memory(p, parameter)]
    if len(owners) > 1:
        raise AttachError(
            f"{name} is tied or shared ({', '.join(owners)}), so baking would change more; untie it first"
        )


def _loaded_unquantised(model: PreTrainedModel) -> bool:
    """Whether a model was loaded unquantised or dequantised while loading.

    A GGUF file leaves its quantiser on the model either way; there the parameters' own types tell.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None:
        return True
    config = quantizer.quantization_config
    return bool(getattr(config, "dequantize", False)) or getattr(config, "quant_method", None) == "gguf"


def _check_on_the_spot(
    edit: WeightEdit, x: Tensor, readers: tuple[Reader, ...], before: dict[str, Tensor], new: dict[str, Tensor]
) -> None:
    """Each reader with its new weights on x must answer as it did, with the weights before this edit, on the edited
    x.
    """
    edited = edit.as_hook()(x, x)
    for reader in readers:
        own = {**reader.module._parameters}
        old = {n: _current(f"{reader.name}.{n}", p, before) for n, p in own.items() if p is not None}
        now = {n: new.get(f"{reader.name}.{n}", p) for n, p in old.items()}
        wanted = reader.answer(old, edited)
        grown = new.get(f"{reader.name}.bias") if own.get("bias") is None else None
        found = reader.answer(now, x) + (0 if grown is None else grown)
        error = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1.0))
        if not error <= _CHECK_TOLERANCE[x.dtype]:
            raise AttachError(f"{reader.name} does not read site {edit.site} linearly (error {error:.2g}); use hooks")


def describe(edit: WeightEdit) -> dict[str, Any]:
    """A JSON-ready description of an edit."""
    size = {"strength": edit.strength} if isinstance(edit, RemoveDirection) else {"amount": edit.amount}
    return {"kind": type(edit).__name__, "site": edit.site, **size, "direction": edit.direction.tolist()}
