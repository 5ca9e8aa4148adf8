"""Prove at load that the stack is the model: every layer, on a small padded batch, against the model's own forward.

For each sublayer, starting from the residual the model itself had there:
 - norm:     gain * normalised(h) + bias, by the norm's description alone   = what the sublayer was given
 - read:     walk.read(h)                                                   = what the sublayer was given
 - residual: skip + scale * (what the module itself returned)               = the model's next residual
 - sublayer: walk.sublayer(h)                                               = the model's next residual
 - edits:    the live layer under a read (residual) edit                    = the walk with that read (residual) put in
and for the whole model: the composed walk's logits = the model's own, and no logit depends on a later token. Errors are the
largest absolute difference at unpadded positions, divided by the larger of 1 and the largest entry compared with.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dense_adapters.errors import AttachError
from dense_adapters.positions import ForwardScope
from dense_adapters.skeleton import model_inputs
from dense_adapters.trace import Call, Trace, trace_forward

if TYPE_CHECKING:
    from dense_adapters.stack import DenseStack

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Allowed error by the dtype of the residual stream. Half precision only tells gross mistakes; attach in float32 to prove."""

PROBE_LENGTH = 9
_STEPS = {
    "norm": ("read", "read edit"),
    "read": ("read", "read edit"),
    "residual": ("sublayer", "residual edit"),
    "sublayer": ("sublayer",),
    "read edit": ("read edit",),
    "residual edit": ("residual edit",),
    "entry": ("entry",),
    "logits": ("unembed",),
}


@dataclass(frozen=True)
class Refusal:
    """One step of one site that failed its check and may not be used."""

    site: int
    step: str
    sublayer: str
    check: str
    error: float
    tolerance: float
    detail: str = ""

    def __str__(self) -> str:
        found = self.detail or f"error {self.error:.3g} exceeds {self.tolerance:.3g}"
        return f"site {self.site} ({self.sublayer}) refused for `{self.step}`: {self.check} check failed, {found}"


@dataclass
class ProbeReport:
    """The probe's findings. Errors are relative as defined in this module; seconds include resolving and probing."""

    architecture: str
    n_layers: int
    tolerance: float
    max_logit_error: float = 0.0
    max_residual_error: float = 0.0
    max_read_error: float = 0.0
    refused: list[Refusal] = field(default_factory=list)
    errors: list[dict[str, float]] = field(default_factory=list)
    roles: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every check of every site passed."""
        return not self.refused

    def to_json(self) -> str:
        """All fields and `ok` as one JSON object."""
        return json.dumps({"ok": self.ok, **asdict(self)})


def probe_batch(model: nn.Module) -> tuple[Tensor, Tensor]:
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


def difference(a: Tensor, b: Tensor, real: Tensor) -> float:
    """Largest |a - b| over real positions [B,T], over max(1, largest |b|); inf where the shapes or a value are wrong."""
    if a.numel() != b.numel():
        return float("inf")
    rows = real.reshape(-1).to(b.device)
    a = a.detach().to(b.device).double().reshape(len(rows), -1)[rows]
    b = b.detach().double().reshape(len(rows), -1)[rows]
    error = float((a - b).abs().max() / b.abs().max().clamp(min=1.0))
    return error if error == error else float("inf")


@torch.no_grad()
def run_probe(stack: "DenseStack", resolved_on: Trace) -> ProbeReport:
    """Check every site of `stack` against the model's own forward and report; never raises for a site that fails.

    Raises AttachError where the model is not causal: it then has no next-token logits to speak of.
    """
    tokens, mask = probe_batch(stack.model)
    tokens = (tokens + 1) % stack.model.config.get_text_config().vocab_size
    inputs = model_inputs(stack.model, tokens, mask)
    _require_causal(stack.model, tokens)
    trace = trace_forward(stack.anatomy, inputs)
    return _Probe(stack, tokens, mask, trace).run()


def _require_causal(model: nn.Module, tokens: Tensor) -> None:
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 7) % model.config.get_text_config().vocab_size
    before, after = (model(**model_inputs(model, t, None)).logits[:, :-1] for t in (tokens, changed))
    real = torch.ones_like(tokens[:, :-1], dtype=torch.bool)
    error = difference(after, before, real)
    if error > TOLERANCE[before.dtype]:
        raise AttachError(
            f"{type(model).__name__} attends to later tokens (logits move by {error:.2g}), as encoders do; "
            "attach a decoder-only causal language model"
        )


class _Probe:
    def __init__(self, stack: "DenseStack", tokens: Tensor, mask: Tensor, trace: Trace) -> None:
        self.stack = stack
        self.trace = trace
        self.mask = mask
        self.real = mask.bool()
        self.walk = stack.walk(tokens, mask)
        self.tolerance = TOLERANCE[stack.dtype]
        self.report = ProbeReport(
            type(stack.model).__name__, stack.n_layers, self.tolerance, roles=[b.roles() for b in stack.blocks]
        )
        self.report.errors = [{} for _ in range(stack.n_sites)]

    def run(self) -> ProbeReport:
        stack, walk = self.stack, self.walk
        first = self.trace.layers[0].hidden_in
        assert first is not None
        self._check(0, "entry", lambda: difference(walk.embedding(), first, self.real))
        for site, sublayer in enumerate(stack.sublayers):
            self._sublayer(site, self.trace.layers[sublayer.layer])
        self._final()
        return self.report

    def _check(self, site: int, check: str, measure: Callable[[], float]) -> None:
        """Record one measured error, and refuse the steps that rest on it where it is too large or cannot be had."""
        detail = ""
        try:
            error = measure()
        except (AttachError, TypeError, RuntimeError, ValueError, KeyError, IndexError, AttributeError) as failure:
            error, detail = (
                float("inf"),
                f"{type(failure).__name__}: {str(failure).splitlines()[0] if str(failure) else ''}",
            )
        self.report.errors[site][check] = error
        totals = {"norm": "read", "read": "read", "read edit": "read", "logits": "logit"}
        attribute = f"max_{totals.get(check, 'residual')}_error"
        setattr(self.report, attribute, max(getattr(self.report, attribute), error))
        if error > self.tolerance:
            last = site == len(self.stack.sublayers)
            name = "final norm and head" if last else str(self.stack.sublayers[site])
            for step in _STEPS[check]:
                self.report.refused.append(Refusal(site, step, name, check, error, self.tolerance, detail))

    def residual_at(self, site: int) -> Tensor:
        """The model's own residual at a site, from the trace: a layer's input or output, or the sum inside it."""
        stack = self.stack
        if site == len(stack.sublayers):
            found = self.trace.layers[-1].hidden_out
        else:
            layer = self.trace.layers[stack.sublayers[site].layer]
            if stack.sublayers[site].kind != "mlp":
                found = layer.hidden_in
            else:
                spec = stack.contributions[site][0].spec
                found = _child(layer, spec.read_norm or spec.modules[0]).hidden_in
        assert found is not None
        return found.reshape(*self.real.shape, -1)

    def _sublayer(self, site: int, layer: Call) -> None:
        stack, walk = self.stack, self.walk
        h, h_next = self.residual_at(site), self.residual_at(site + 1)
        parts = stack.contributions[site]
        for index, part in enumerate(parts):
            given = _child(layer, part.spec.modules[0]).hidden_in
            assert given is not None
            self._check(site, "read", lambda given=given, part=part: difference(part.read(h), given, self.real))

            def norm_error(given: Tensor = given, index: int = index) -> float:
                spec = stack.norm_spec(site, index)
                return difference(h if spec is None else spec(h), given, self.real)

            self._check(site, "norm", norm_error)

        def residual_error() -> float:
            total: Tensor | None = None
            for part in parts:
                out = _child(layer, part.spec.contribution_norm or part.spec.modules[-1]).hidden_out
                assert out is not None
                total = out if total is None else total + out.reshape(total.shape)
            assert total is not None
            return difference(parts[0].join(h, parts[0].read(h), total.reshape(h.shape)), h_next, self.real)

        self._check(site, "residual", residual_error)
        self._check(site, "sublayer", lambda: difference(walk.sublayer(site, h), h_next, self.real))
        self._check(site, "read edit", lambda: self._read_edit_error(site, layer, h))
        self._check(site, "residual edit", lambda: self._residual_edit_error(site, layer, h))

    def _edited_layer(self, site: int, layer: Call, kind: str, new: Tensor) -> Tensor:
        """The live layer's output while the value at `site` is replaced by `new`."""
        from dense_adapters.editing import attach_edit

        scope = ForwardScope("both", None)
        index = self.stack.sublayers[site].layer
        args, kwargs = layer.args, layer.kwargs
        replaced: dict[int, int] = {site: 0}
        with attach_edit(self.stack, site, lambda h, x: new, kind, scope, replaced), scope.covering(*self.real.shape):
            output = self.stack.anatomy.layers[index](*args, **kwargs)
        if not replaced[site]:
            return torch.full_like(new, float("inf"))
        return output if isinstance(output, Tensor) else output[0]

    def _rest_of_layer(self, site: int, h: Tensor) -> Tensor:
        """Walk from after sublayer `site` to the end of its layer."""
        return self.walk.sublayer(site + 1, h) if self.stack.sublayers[site].kind == "attention" else h

    def _read_edit_error(self, site: int, layer: Call, h: Tensor) -> float:
        x = self.stack.contributions[site][0].read(h)
        new = x + 0.5 * torch.roll(x, 1, -1)
        wanted = self._rest_of_layer(site, self.walk.sublayer(site, h, new))
        return difference(self._edited_layer(site, layer, "read", new), wanted, self.real)

    def _residual_edit_error(self, site: int, layer: Call, h: Tensor) -> float:
        new = h + 0.5 * torch.roll(h, 1, -1)
        wanted = self._rest_of_layer(site, self.walk.sublayer(site, new))
        return difference(self._edited_layer(site, layer, "residual", new), wanted, self.real)

    def _final(self) -> None:
        stack, walk = self.stack, self.walk
        last = len(stack.sublayers)
        h = self.residual_at(last)
        if stack.final_norm is not None:
            given = self.trace.tail[0].hidden_out
            assert given is not None

            def norm_error() -> float:
                spec = stack.norm_spec(last)
                return float("inf") if spec is None else difference(spec(h), given, self.real)

            self._check(last, "read", lambda: difference(walk.read(last, h), given, self.real))
            self._check(last, "norm", norm_error)

        def logit_error() -> float:
            stream = walk.embedding()
            for site in range(last):
                stream = walk.sublayer(site, stream)
            return difference(walk.unembed(stream), self.trace.logits, self.real)

        self._check(last, "logits", logit_error)


def _child(layer: Call, name: str) -> Call:
    return next(call for call in layer.children if call.name == name)
