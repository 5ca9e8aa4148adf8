"""From one traced forward to a `BlockSpec` per layer: what each module is for, told by which tensor went where.

Per layer, with h the layer's input:
 1. the attention is the child that mixes positions; the MLP is the chain of other weighted children that follows it;
 2. a read norm is a norm whose output is what the attention (MLP) was given;
 3. the layer is parallel where the MLP's norm saw h too, sequential where it saw what attention left behind;
 4. contribution norm, skip source, scale and stream norm follow from h_next = stream_norm(skip + scale * c).
Nothing is assumed from the family's name. The probe then checks every role on other tokens, by other code.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dense_adapters.block_spec import Argument, BlockSpec, CallTemplate, ContributionSpec
from dense_adapters.norms import is_norm
from dense_adapters.trace import Call

_PASSING = (nn.Dropout, nn.Identity)
"""Modules that pass their input on in evaluation mode, and play no role."""

_MIXER_WORDS = ("attention", "attn")


def resolve_layer(index: int, call: Call, multipliers: tuple[float, ...]) -> BlockSpec:
    """Read the roles of one layer off its trace.

    multipliers: factors the configuration names, one of which may scale the contributions; those the layer itself holds
    (a depth scale, computed when it was made) and 1.0 are tried too.
    A layer with a role that could not be told comes back opaque, with the reason.
    """
    try:
        return _LayerReading(index, call, multipliers).spec()
    except _UnclearRoleError as unclear:
        return BlockSpec(index, "opaque", reason=f"{type(call.module).__name__} {unclear}")


class _UnclearRoleError(Exception):
    """A role that the trace does not decide."""


def same(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two tensors hold the same numbers; [B*T,D] and [B,T,D] are not told apart."""
    if a is None or b is None or a.numel() != b.numel() or a.dtype != b.dtype:
        return False
    return a is b or torch.equal(a.reshape(-1), b.reshape(-1))


_ROUNDING_UNITS = 32
"""How far two ways of summing the same tensors may differ, in units of the dtype's epsilon at the largest entry."""


def _gap(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the larger of 1 and b's greatest entry."""
    if a.numel() != b.numel():
        return float("inf")
    a, b = a.double().reshape(-1), b.double().reshape(-1)
    return float((a - b).abs().max() / b.abs().max().clamp(min=1.0))


@dataclass
class _Branch:
    """One contribution under reading: its modules in call order, the norm in front and the copy of what was added."""

    calls: list[Call]
    read_norm: Call | None = None

    @property
    def first(self) -> Call:
        return self.calls[0]

    @property
    def read(self) -> Tensor:
        assert self.first.hidden_in is not None
        return self.first.hidden_in

    @property
    def out(self) -> Tensor:
        assert self.calls[-1].hidden_out is not None
        return self.calls[-1].hidden_out


class _LayerReading:
    def __init__(self, index: int, call: Call, multipliers: tuple[float, ...]) -> None:
        self.index = index
        self.call = call
        own = (value for value in vars(call.module).values() if isinstance(value, float) and value > 0)
        self.multipliers = (*multipliers, *own)
        self.norms = [child for child in call.children if is_norm(child.module)]
        self.h = self._copy(call.hidden_in)
        self.h_next = self._copy(call.hidden_out)
        self.used: set[int] = set()

    @staticmethod
    def _copy(tensor: Tensor | None) -> Tensor:
        if tensor is None:
            raise _UnclearRoleError("takes or returns no hidden states")
        return tensor

    def spec(self) -> BlockSpec:
        attention, mlp = self._branches()
        attention.read_norm, attention_sees = self._norm_in_front(attention)
        if not same(attention_sees, self.h):
            raise _UnclearRoleError(f"`{attention.first.name}` reads neither the layer's input nor a norm of it")
        mlp.read_norm, mlp_sees = self._norm_in_front(mlp)
        return self._parallel(attention, mlp) or self._sequential(attention, mlp, mlp_sees)

    def _branches(self) -> tuple[_Branch, _Branch]:
        worked = [c for c in self.call.children if not is_norm(c.module) and not isinstance(c.module, _PASSING)]
        mixers = [c for c in worked if any(w in (c.name + type(c.module).__name__).lower() for w in _MIXER_WORDS)]
        names = ", ".join(f"{c.name}: {type(c.module).__name__}" for c in worked)
        if len(mixers) != 1:
            raise _UnclearRoleError(f"has {len(mixers) or 'no'} attention modules, not one, among ({names})")
        if worked[0] is not mixers[0]:
            raise _UnclearRoleError(f"runs `{worked[0].name}` before its attention ({names})")
        rest = [c for c in worked if c is not mixers[0]]
        if not rest:
            raise _UnclearRoleError(f"has no MLP beside its attention ({names})")
        for before, after in pairwise(rest):
            if not same(before.hidden_out, after.hidden_in):
                raise _UnclearRoleError(f"`{before.name}` and `{after.name}` are separate MLP branches ({names})")
        return _Branch([mixers[0]]), _Branch(rest)

    def _norm_in_front(self, branch: _Branch) -> tuple[Call | None, Tensor]:
        """The norm whose output the branch was given, and the tensor that norm (or else the branch) saw."""
        given = branch.first.given
        for norm in self.norms:
            if norm.returned is given:
                return norm, self._copy(norm.hidden_in)
        for norm in self.norms:
            if same(norm.hidden_out, branch.read):
                return norm, self._copy(norm.hidden_in)
        return None, branch.read

    def _contribution(self, branch: _Branch) -> tuple[Tensor, Call | None]:
        for norm in self.norms:
            if same(norm.hidden_in, branch.out):
                return self._copy(norm.hidden_out), norm
        return branch.out, None

    def _parallel(self, attention: _Branch, mlp: _Branch) -> BlockSpec | None:
        shared = mlp.read_norm is not None and mlp.read_norm is attention.read_norm
        # By identity, not by value: where the attention adds nothing, what follows it equals the input too.
        saw = mlp.read_norm.given if mlp.read_norm else mlp.first.given
        if not shared and saw is not self.call.given and saw is not attention.first.given:
            return None
        a, a_norm = self._contribution(attention)
        m, m_norm = self._contribution(mlp)
        scale = self._scale(self.h, a + m, self.h_next)
        if scale is None:
            return None
        return BlockSpec(
            self.index,
            "parallel",
            self._role(attention, a_norm, None, scale, "residual", self.h),
            self._role(mlp, m_norm, None, scale, "residual", self.h),
        )

    def _sequential(self, attention: _Branch, mlp: _Branch, mid: Tensor) -> BlockSpec:
        # A norm in front of the MLP is its read norm where the layer's output builds on the norm's input, and
        # a stream norm (post-norm placement) where it builds on the norm's output.
        front = mlp.read_norm
        end = self._join(mlp, mid, self.h_next, front)
        if end is None and front is not None:
            mlp.read_norm = None
            end = self._join(mlp, mlp.read, self.h_next, None)
            begin = self._join(attention, self.h, mlp.read, attention.read_norm)
        else:
            begin = self._join(attention, self.h, mid, attention.read_norm)
        if begin is None or end is None:
            part = "attention" if begin is None else "MLP"
            raise _UnclearRoleError(
                f"the residual after its {part} is not the residual before plus a scaled contribution"
            )
        return BlockSpec(self.index, "sequential", begin, end)

    def _join(self, branch: _Branch, before: Tensor, after: Tensor, read_norm: Call | None) -> ContributionSpec | None:
        """How a branch's output takes the stream from `before` to `after`, or None where no known way fits."""
        residual_given = any(same(v, before) for v in _extra_tensors(branch.first))
        normed_given = read_norm is not None and any(same(v, branch.read) for v in _extra_tensors(branch.first))
        if (residual_given or normed_given) and same(branch.out, after):
            skip: Literal["residual", "normed"] = "residual" if residual_given else "normed"
            return self._role(branch, None, None, 1.0, skip, before, adds_residual=True)
        c, norm = self._contribution(branch)
        for contribution, contribution_norm in ((c, norm), (branch.out, None)):
            scale = self._scale(before, contribution, after)
            if scale is not None:
                return self._role(branch, contribution_norm, None, scale, "residual", before)
            for stream in self.norms:
                if same(stream.hidden_out, after):
                    scale = self._scale(before, contribution, self._copy(stream.hidden_in))
                    if scale is not None:
                        return self._role(branch, contribution_norm, stream, scale, "residual", before)
        if read_norm is not None:
            scale = self._scale(branch.read, branch.out, after)
            if scale is not None:
                return self._role(branch, None, None, scale, "normed", before)
        return None

    def _scale(self, skip: Tensor, contribution: Tensor, after: Tensor) -> float | None:
        """The multiplier, named by the configuration or 1, that best fits after = skip + scale * contribution; or
        None.
        """
        errors = {s: _gap(skip.reshape(-1) + s * contribution.reshape(-1), after) for s in (*self.multipliers, 1.0)}
        scale = min(errors, key=errors.__getitem__)
        return scale if errors[scale] <= _ROUNDING_UNITS * torch.finfo(after.dtype).eps else None

    def _role(
        self,
        branch: _Branch,
        contribution_norm: Call | None,
        stream_norm: Call | None,
        scale: float,
        skip: Literal["residual", "normed"],
        before: Tensor,
        adds_residual: bool = False,
    ) -> ContributionSpec:
        return ContributionSpec(
            modules=tuple(call.name for call in branch.calls),
            call=self._template(branch.first, branch.read, before, adds_residual),
            read_norm=branch.read_norm.name if branch.read_norm else None,
            contribution_norm=contribution_norm.name if contribution_norm else None,
            stream_norm=stream_norm.name if stream_norm else None,
            scale=scale,
            skip=skip,
            adds_residual=adds_residual,
        )

    def _template(self, call: Call, read: Tensor, before: Tensor, adds_residual: bool) -> CallTemplate:
        seen: list[bool] = []

        def argument(name: int | str, value: Any) -> Argument:
            if isinstance(value, Tensor):
                # A module that adds the residual itself was given it; elsewhere the same tensor is the read again.
                if value is call.given and not (seen and adds_residual):
                    seen.append(True)
                    return Argument("read")
                if value is call.given or (value.is_floating_point() and same(value, read)):
                    return Argument("normed")
                if value.is_floating_point() and same(value, before):
                    return Argument("residual")
            elif value is None or isinstance(value, bool | int | float | str):
                return Argument("constant", value=value)
            path = _find(value, self.call)
            if path is None:
                raise _UnclearRoleError(f"argument {name!r} of `{call.name}` is computed inside the layer")
            return Argument("layer", path=path)

        args = tuple(argument(position, value) for position, value in enumerate(call.args))
        kwargs = tuple((name, argument(name, value)) for name, value in call.kwargs.items())
        return CallTemplate(args, kwargs)


def _extra_tensors(call: Call) -> list[Tensor]:
    """The tensors a module was given besides its hidden states; the same object given twice counts as extra once."""
    values = [v for v in (*call.args, *call.kwargs.values()) if isinstance(v, Tensor) and v.is_floating_point()]
    extras = list(values)
    for position, value in enumerate(values):
        if value is call.given:
            del extras[position]
            break
    return extras


def _find(wanted: Any, call: Call) -> tuple[int | str, ...] | None:
    """The keys under which the layer was given this very object: (argument,) or (argument, key) inside a tuple or
    dict.
    """
    given: list[tuple[int | str, Any]] = [*enumerate(call.args), *call.kwargs.items()]
    for key, value in given:
        if value is wanted:
            return (key,)
        inner: dict[int | str, Any] = {}
        if isinstance(value, dict | tuple):
            inner = value if isinstance(value, dict) else dict(enumerate(value))
        for inner_key, inner_value in inner.items():
            if inner_value is wanted:
                return (key, inner_key)
    return None
