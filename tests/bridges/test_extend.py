"""Further meeting points: fitted maps find a planted linear relation, trained places keep their weights, disorder is refused."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from bridges.alignment import AlignedSite, SiteAlignment, align
from bridges.bridge import Bridge
from bridges.extend import Ridge, extend_bridge, extended_alignment
from dense_adapters import DenseStack
from foundation.errors import UserError
from sparse_model import SparseTransformer

BLOCKS, HELD_OUT = np.random.default_rng(0).integers(0, 40, (2, 12, 16))


def test_ridge_regression_finds_a_linear_map_and_its_offset_from_rows_that_come_in_parts() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(3, 5, generator=generator), torch.randn(3, generator=generator)
    x = torch.randn(200, 5, generator=generator) + 4
    ridge = Ridge(5, 3)
    for part in x.split(60):
        ridge.add(part, part @ weight.T + bias)
    found, offset = ridge.solve(1e-9)
    torch.testing.assert_close(found, weight, atol=1e-4, rtol=0)
    torch.testing.assert_close(offset, bias, atol=1e-3, rtol=0)
    assert ridge.solve(1e3)[0].norm() < 0.1 * weight.norm()  # so strong a ridge leaves the mean alone


def test_a_new_place_predicts_held_out_text_better_than_its_mean_and_trained_places_stay_as_they_are(
    tiny_sparse: Callable[..., SparseTransformer], tiny_gpt2: Callable
) -> None:
    sparse, dense = tiny_sparse(topk_fraction=None), DenseStack(tiny_gpt2(n_layer=4))
    bridge = Bridge(align(sparse, dense, "boundaries"), 24, 20, 1.0, seed=3).eval()
    new = AlignedSite(3, 6)
    found = extend_bridge(bridge, sparse, dense, [new], BLOCKS, HELD_OUT)
    places = found.bridge.alignment.sites
    assert [site.sparse for site in places] == [0, 2, 3, 4]
    assert found.bridge.alignment.rule == "extended"
    for old, site in enumerate(bridge.alignment.sites):
        kept = found.bridge.decoders[places.index(site)]
        assert torch.equal(kept.weight, bridge.decoders[old].weight)
        assert float(found.bridge.rms_ratio[places.index(site)]) == float(bridge.rms_ratio[old])
    (figures,) = found.sites
    assert (figures["sparse_site"], figures["dense_site"]) == (3, 6)
    assert figures["nmse_decoder_later"] < 0.9
    assert figures["nmse_encoder_later"] < 0.9


@pytest.mark.parametrize(
    ("sites", "said"),
    [
        ([(4, 7)], "inner sites are 1 to 3 of the sparse"),
        ([(3, 4)], "do not come one after another"),
        ([(2, 6)], "do not come one after another"),
        ([(1, 2), (1, 3)], "do not come one after another"),
        ([], "no site to add"),
    ],
)
def test_sites_that_do_not_lie_between_their_neighbours_are_refused(sites: list[tuple[int, int]], said: str) -> None:
    alignment = SiteAlignment((AlignedSite(0, 0), AlignedSite(2, 4), AlignedSite(4, 8)), False)
    with pytest.raises(UserError, match=said):
        extended_alignment(alignment, [AlignedSite(*site) for site in sites], 4, 8)


def test_too_little_text_is_refused_with_what_would_do(
    tiny_sparse: Callable[..., SparseTransformer], tiny_gpt2: Callable
) -> None:
    sparse, dense = tiny_sparse(), DenseStack(tiny_gpt2(n_layer=4))
    bridge = Bridge(align(sparse, dense, "boundaries"), 24, 20, 0.25)
    with pytest.raises(UserError, match=r"15 tokens .* pass more --blocks \(at least 2\)"):
        extend_bridge(bridge, sparse, dense, [AlignedSite(3, 6)], BLOCKS[:1], BLOCKS)
