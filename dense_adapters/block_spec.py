"""The roles of one transformer layer, as frozen records of names and numbers (no tensors, no modules).

A layer adds two contributions to the residual stream h, one by attention and one by the MLP. Everything that families
do differently is one of the fields below:

    x      = read_norm(h)                                 (h itself where there is no read norm)
    c      = contribution_norm(module(x, ...))            (sandwich and post-norm families)
    h_next = stream_norm(skip + scale * c)                (skip is h, or x for BLOOM's post-layernorm residual)

`adds_residual` says that the module itself returns `skip + c` (BLOOM, MPT). In a parallel layer both contributions
read the same h and are added together, which makes the layer one `block` sublayer.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["attention", "mlp", "block"]
Source = Literal["read", "normed", "residual", "layer", "constant"]


@dataclass(frozen=True)
class Sublayer:
    """One step of the residual stack: its kind and the layer it belongs to."""

    kind: Kind
    layer: int

    def __str__(self) -> str:
        return f"{self.kind} of layer {self.layer}"


@dataclass(frozen=True)
class Argument:
    """Where one argument of a module call comes from.

    source: `read` the (possibly edited) normed input, `normed` the unedited one, `residual` the residual stream,
        `layer` an argument the layer itself was called with, `constant` a literal.
    path: for `layer`, the keys that lead to the value: a position or name, then keys inside a tuple or dict.
    value: for `constant`, the literal.
    """

    source: Source
    path: tuple[int | str, ...] = ()
    value: bool | int | float | str | None = None


@dataclass(frozen=True)
class CallTemplate:
    """How a layer calls one of its modules: positional arguments, then keyword arguments."""

    args: tuple[Argument, ...]
    kwargs: tuple[tuple[str, Argument], ...]


@dataclass(frozen=True)
class ContributionSpec:
    """One attention or MLP and the way its output joins the residual stream. Names are relative to the layer module.

    modules: applied one after the other; the first one reads, the last one's output is the contribution.
    scale: factor on the contribution before it is added (Granite's residual multiplier); 1.0 is none.
    """

    modules: tuple[str, ...]
    call: CallTemplate
    read_norm: str | None
    contribution_norm: str | None
    stream_norm: str | None
    scale: float
    skip: Literal["residual", "normed"]
    adds_residual: bool


@dataclass(frozen=True)
class BlockSpec:
    """The roles of one layer.

    An `opaque` layer is one whose roles the trace does not decide; `reason` says why. It is one `block` sublayer that
    is run
    whole: its residuals are known, what it reads is not.
    """

    layer: int
    arrangement: Literal["sequential", "parallel", "opaque"]
    attention: ContributionSpec | None = None
    mlp: ContributionSpec | None = None
    reason: str | None = None

    @property
    def contributions(self) -> tuple[ContributionSpec, ...]:
        """The attention's and the MLP's roles, in the order they run; empty for an opaque layer."""
        return tuple(part for part in (self.attention, self.mlp) if part is not None)

    def roles(self) -> dict[str, Any]:
        """A JSON-ready description without the call templates."""
        record = asdict(self)
        for part in ("attention", "mlp"):
            if record[part] is not None:
                del record[part]["call"]
        return record
