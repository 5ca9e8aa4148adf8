"""Prove at load that the stack is the model: every layer, on a small padded batch, against the model's own forward.

For each sublayer, starting from the residual the model itself had there:
 - norm:     gain * normalised(h) + bias, by the norm's description alone   = what the sublayer was given
 - read:     walk.read(h)                                                   = what the sublayer was given
 - residual: skip + scale * (what the module itself returned)               = the model's next residual
 - sublayer: walk.sublayer(h)                                               = the model's next residual
 - edits:    the live layer under a read (residual) edit                    = the walk with that read (residual) put in
and for the whole model: the composed walk's logits = the model's own, and no logit depends on a later token. Errors
are the largest difference over entries at unpadded positions, each divided by a scale of its own: for residuals how
far the sublayer moves the stream (RMS), so that a wrong multiplier shows however large the stream is; for reads their
RMS; for logits 1; and never less than a share of the entry itself (see SHARE), below which sums in another order
differ anyway.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from dense_adapters.contribution import Contribution
from dense_adapters.editing import attach_edit
from dense_adapters.errors import AttachError
from dense_adapters.norms import describe_norm
from dense_adapters.positions import ForwardScope
from dense_adapters.probe_batch import TOLERANCE, difference, first_line, probe_batch, rms
from dense_adapters.probe_report import ProbeReport, Refusal
from dense_adapters.resolved import ResolvedStack
from dense_adapters.skeleton import model_inputs
from dense_adapters.trace import Call, Trace, first_tensor, trace_forward
from dense_adapters.walk import Walk

SHARE = {torch.float64: 1e-2, torch.float32: 1e-2, torch.float16: 1.0, torch.bfloat16: 1.0}
"""The least scale of an entry's error, as a share of that entry."""

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


@torch.no_grad()
def run_probe(stack: ResolvedStack) -> ProbeReport:
    """Check every site of `stack` against the model's own forward and report; never raises for a site that fails."""
    tokens, mask = probe_batch(stack.model)
    tokens = (tokens + 1) % stack.model.config.get_text_config().vocab_size
    inputs = model_inputs(stack.model, tokens, mask)
    trace = trace_forward(stack.anatomy, inputs)
    return _Probe(stack, tokens, mask, trace).run()


class _Probe:
    def __init__(self, stack: ResolvedStack, tokens: Tensor, mask: Tensor, trace: Trace) -> None:
        self.stack = stack
        self.trace = trace
        self.mask = mask
        self.real = mask.bool()
        self.walk = Walk(stack, tokens, mask)
        self.tolerance = TOLERANCE[stack.dtype]
        self.report = ProbeReport(
            type(stack.model).__name__, stack.n_layers, self.tolerance, roles=[b.roles() for b in stack.blocks]
        )
        self.report.errors = [{} for _ in range(stack.n_sites)]

    def run(self) -> ProbeReport:
        walk = self.walk
        first = self.trace.layers[0].hidden_in
        assert first is not None
        self._check(0, "entry", lambda: self._read(walk.embedding(), first))
        for site, sublayer in enumerate(self.stack.sublayers):
            self._sublayer(site, self.trace.layers[sublayer.layer])
        self._final()
        return self.report

    def _check(self, site: int, check: str, measure: Callable[[], float]) -> None:
        """Record one measured error, and refuse the steps that rest on it where it is too large or cannot be had."""
        detail = ""
        try:
            error = measure()
        except Exception as failure:  # whatever a model's own code raises, this step of it is not usable
            error, detail = float("inf"), first_line(failure)
        self.report.errors[site][check] = max(error, self.report.errors[site].get(check, 0.0))
        if not detail:
            self._fold_in(check, error)
        if error > self.tolerance:
            last = site == len(self.stack.sublayers)
            name = "final norm and head" if last else str(self.stack.sublayers[site])
            for step in _STEPS[check]:
                self.report.refused.append(Refusal(site, step, name, check, error, self.tolerance, detail))

    def _fold_in(self, check: str, error: float) -> None:
        totals = {"norm": "read", "read": "read", "read edit": "read", "logits": "logit"}
        attribute = f"max_{totals.get(check, 'residual')}_error"
        setattr(self.report, attribute, max(getattr(self.report, attribute), error))

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

    def _residual(self, a: Tensor, b: Tensor, before: Tensor) -> float:
        """Error of residual a against b, on the scale of the move from `before` to b."""
        move = rms(b.reshape(before.shape).to(before.device) - before, self.real)
        return difference(a, b, self.real, move, SHARE[self.stack.dtype])

    def _read(self, a: Tensor, b: Tensor) -> float:
        """Error of read a against b, on the scale of b."""
        return difference(a, b, self.real, rms(b, self.real), SHARE[self.stack.dtype])

    def _sublayer(self, site: int, layer: Call) -> None:
        h, h_next = self.residual_at(site), self.residual_at(site + 1)
        self._check(site, "sublayer", lambda: self._residual(self.walk.sublayer(site, h), h_next, h))
        self._check(site, "residual edit", lambda: self._residual_edit_error(site, layer, h))
        if not self.stack.contributions[site]:
            self._check(site, "read", self._opaque(site))
            return
        for index, part in enumerate(self.stack.contributions[site]):
            given = _child(layer, part.spec.modules[0]).hidden_in
            assert given is not None
            self._check(site, "read", partial(self._norm_module_error, part, h, given))
            self._check(site, "norm", partial(self._norm_error, site, index, h, given))
        self._check(site, "residual", lambda: self._sum_error(site, layer, h, h_next))
        self._check(site, "read edit", lambda: self._read_edit_error(site, layer, h))

    def _opaque(self, site: int) -> Callable[[], float]:
        def refuse() -> float:
            raise AttachError(str(self.stack.blocks[self.stack.sublayers[site].layer].reason))

        return refuse

    def _norm_module_error(self, part: Contribution, h: Tensor, given: Tensor) -> float:
        return self._read(part.read(h), given)

    def _norm_error(self, site: int, part: int, h: Tensor, given: Tensor) -> float:
        spec = self.stack.norm_spec(site, part)
        return self._read(h if spec is None else spec(h), given)

    def _sum_error(self, site: int, layer: Call, h: Tensor, h_next: Tensor) -> float:
        """Residual identity from what the modules themselves returned, through the described norms, without the
        walk.
        """
        parts = self.stack.contributions[site]
        outs = []
        for part in parts:
            out = _child(layer, part.spec.contribution_norm or part.spec.modules[-1]).hidden_out
            assert out is not None
            outs.append(out.reshape(h.shape))
        total = sum(outs[1:], outs[0])
        spec = parts[0].spec
        if not spec.adds_residual:
            norm = self.stack.norm_spec(site)
            skip = h if spec.skip == "residual" or norm is None else norm(h).to(h.dtype)
            total = skip + spec.scale * total
        if parts[0].stream_norm is not None:
            stream = describe_norm(parts[0].stream_norm, self.stack.d_model, self.stack.dtype)
            assert stream is not None
            total = stream(total)
        return self._residual(total, h_next, h)

    def _edited_layer(self, site: int, layer: Call, kind: str, new: Tensor) -> Tensor:
        """The live layer's output while the value at `site` is replaced by `new`."""
        scope = ForwardScope("both", None)
        replaced: dict[int, int] = {site: 0}
        with attach_edit(self.stack, site, lambda h, x: new, kind, scope, replaced), scope.covering(*self.real.shape):
            output = layer.module(*layer.args, **layer.kwargs)
        if not replaced[site]:
            return torch.full_like(new, float("inf"))
        return first_tensor(output)

    def _rest_of_layer(self, site: int, h: Tensor) -> Tensor:
        """Walk from after sublayer `site` to the end of its layer."""
        return self.walk.sublayer(site + 1, h) if self.stack.sublayers[site].kind == "attention" else h

    def _read_edit_error(self, site: int, layer: Call, h: Tensor) -> float:
        x = self.stack.contributions[site][0].read(h)
        new = x + 0.5 * torch.roll(x, 1, -1)
        wanted = self._rest_of_layer(site, self.walk.sublayer(site, h, new))
        return self._residual(self._edited_layer(site, layer, "read", new), wanted, h)

    def _residual_edit_error(self, site: int, layer: Call, h: Tensor) -> float:
        new = h + 0.5 * torch.roll(h, 1, -1)
        wanted = self._rest_of_layer(site, self.walk.sublayer(site, new))
        return self._residual(self._edited_layer(site, layer, "residual", new), wanted, h)

    def _final(self) -> None:
        stack, walk = self.stack, self.walk
        last = len(stack.sublayers)
        h = self.residual_at(last)
        if stack.final_norm is not None:
            given = self.trace.tail[0].hidden_out
            assert given is not None
            self._check(last, "read", lambda: self._read(walk.read(last, h), given))
            self._check(last, "norm", lambda: self._norm_error(last, 0, h, given))

        def logit_error() -> float:
            stream = walk.embedding()
            for site in range(last):
                stream = walk.sublayer(site, stream)
            return difference(walk.unembed(stream), self.trace.logits, self.real, 1.0, 1.0)

        self._check(last, "logits", logit_error)


def _child(layer: Call, name: str) -> Call:
    return next(call for call in layer.children if call.name == name)
