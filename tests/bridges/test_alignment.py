"""Which site meets which: twins at equal depth, layer boundaries otherwise."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.alignment import AlignedSite, align, layer_boundaries
from foundation.errors import UserError


@dataclass(frozen=True)
class Part:
    """A sublayer's description."""

    kind: str
    layer: int


class Described:
    """A stack of which only the description matters."""

    d_model = 1

    def __init__(self, layers: int, parallel: bool = False) -> None:
        kinds = ("block",) if parallel else ("attention", "mlp")
        self.sublayers = tuple(Part(kind, layer) for layer in range(layers) for kind in kinds)

    def walk(self, tokens: object, attention_mask: object = None) -> None:
        """Never walked."""


@given(st.integers(1, 6))
def test_equal_stacks_meet_at_every_site(layers: int) -> None:
    alignment = align(Described(layers), Described(layers))
    assert alignment.sites == tuple(AlignedSite(i, i) for i in range(2 * layers + 1))
    assert alignment.is_identity


@given(st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_unequal_stacks_meet_at_layer_boundaries_in_order_from_end_to_end(
    sparse: int, dense: int, parallel: bool
) -> None:
    a, b = Described(sparse), Described(dense, parallel)
    if sparse > dense:
        with pytest.raises(UserError, match=f"lower n_layer to {dense} or less"):
            align(a, b)
        return
    alignment = align(a, b)
    if sparse == dense and not parallel:
        return
    assert not alignment.is_identity
    assert alignment.sites[0] == AlignedSite(0, 0)
    assert alignment.sites[-1] == AlignedSite(len(a.sublayers), len(b.sublayers))
    assert len(alignment.sites) == sparse + 1
    assert {site.dense for site in alignment.sites} <= set(layer_boundaries(b))
    assert all(x.sparse < y.sparse and x.dense < y.dense for x, y in pairwise(alignment.sites))


def test_two_sparse_layers_meet_five_dense_ones_at_the_nearest_boundary() -> None:
    assert align(Described(2), Described(5)).sites == (AlignedSite(0, 0), AlignedSite(2, 4), AlignedSite(4, 10))


def test_boundaries_of_parallel_blocks_are_their_sites() -> None:
    assert layer_boundaries(Described(3, parallel=True)) == [0, 1, 2, 3]
    assert layer_boundaries(Described(3)) == [0, 2, 4, 6]
