"""What bridges ask of a model: a residual stack and the walk of one batch through it.

The sparse model and, through `dense_adapters`, any Hugging Face causal LM are residual stacks. Site i is the
residual stream just before sublayer i; the last site is before the final norm.
"""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class SublayerDescription(Protocol):
    """One sublayer: `attention`, `mlp`, or a whole parallel `block`."""

    @property
    def kind(self) -> str:
        """attention | mlp | block"""
        ...

    @property
    def layer(self) -> int:
        """Index of the layer it belongs to."""
        ...


@runtime_checkable
class Walk(Protocol):
    """The steps of one batch; h may stack k streams over the same tokens along the batch axis."""

    def embedding(self) -> Float[Tensor, "B T D"]:
        """The stream before the first sublayer."""
        ...

    def read(self, i: int, h: Float[Tensor, "kB T D"]) -> Float[Tensor, "kB T D"]:
        """Normed input of sublayer i."""
        ...

    def sublayer(self, i: int, h: Float[Tensor, "kB T D"], read: Any = None) -> Float[Tensor, "kB T D"]:
        """The stream after sublayer i; `read` replaces its normed input."""
        ...

    def unembed(self, h: Float[Tensor, "kB t D"]) -> Float[Tensor, "kB t V"]:
        """Logits of the final stream; position by position."""
        ...


@runtime_checkable
class ResidualStack(Protocol):
    """A model as a list of sublayers that each add to one residual stream."""

    @property
    def d_model(self) -> int:
        """Width of the stream."""
        ...

    @property
    def sublayers(self) -> tuple[Any, ...]:
        """Descriptions, in order (see `SublayerDescription`)."""
        ...

    def walk(self, tokens: Int[Tensor, "B T"], attention_mask: Tensor | None = None) -> Any:
        """A `Walk` over one batch."""
        ...


def residual_sites(stack: ResidualStack, walk: Walk) -> list[Float[Tensor, "B T D"]]:
    """The stream at every site of the stack, embedding first."""
    sites = [walk.embedding()]
    for i in range(len(stack.sublayers)):
        sites.append(walk.sublayer(i, sites[-1]))
    return sites
