"""Which site meets which: twins at equal depth, otherwise layer boundaries, or every site where there is room."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.alignment import AlignedSite, SiteAlignment, align, layer_boundaries
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


@given(st.integers(1, 9), st.integers(1, 20), st.booleans())
def test_by_the_rule_every_each_site_has_a_place_of_its_own_where_the_dense_model_has_room(
    sparse: int, dense: int, parallel: bool
) -> None:
    a, b = Described(sparse), Described(dense, parallel)
    if sparse > dense or (sparse == dense and not parallel):
        return
    alignment, boundaries = align(a, b, "every"), align(a, b)
    assert set(boundaries.sites) <= set(alignment.sites)
    assert all(x.sparse < y.sparse and x.dense < y.dense for x, y in pairwise(alignment.sites))
    assert {site % 2 for site in alignment.unmet} <= {1}
    if not parallel or dense >= 2 * sparse:
        assert [site.sparse for site in alignment.sites] == list(range(2 * sparse + 1))
        assert alignment.unmet == ()
    if dense >= 2 * sparse:
        assert {site.dense for site in alignment.sites} <= set(layer_boundaries(b))
    assert boundaries.unmet == tuple(range(1, 2 * sparse, 2))


def test_four_sparse_layers_meet_thirty_dense_ones_at_nine_layer_boundaries() -> None:
    places = [site.dense // 2 for site in align(Described(4), Described(30), "every").sites]
    assert places == [0, 4, 8, 11, 15, 18, 22, 26, 30]


def test_a_sparse_layer_that_meets_one_dense_layer_meets_it_between_attention_and_mlp_if_there_is_such_a_place() -> (
    None
):
    assert align(Described(2), Described(3), "every").sites == tuple(
        AlignedSite(i, d) for i, d in enumerate((0, 2, 4, 5, 6))
    )
    parallel = align(Described(2), Described(3, parallel=True), "every")
    assert parallel.sites == (AlignedSite(0, 0), AlignedSite(1, 1), AlignedSite(2, 2), AlignedSite(4, 3))
    assert parallel.unmet == (3,)


def test_the_rule_changes_nothing_between_equal_stacks_and_is_kept_in_the_artefact() -> None:
    assert align(Described(2), Described(2), "every") == align(Described(2), Described(2))
    for alignment in (
        align(Described(2), Described(5), "every"),
        align(Described(2), Described(5)),
        align(Described(1), Described(1)),
    ):
        assert SiteAlignment.from_json(alignment.to_json()) == alignment
    old = {"sites": [[0, 0], [2, 4]], "is_identity": False}
    assert SiteAlignment.from_json(old).rule == "boundaries"
    assert SiteAlignment.from_json({**old, "is_identity": True}).rule == "identity"
