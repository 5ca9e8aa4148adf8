"""Encoders keep k channels, decoders are linear, and both follow from the seed."""

from collections.abc import Callable

import pytest
import torch

from bridges.alignment import AlignedSite, SiteAlignment
from bridges.bridge import Bridge
from sparse_model.transformer.abs_topk import abs_topk_reference

SITES = SiteAlignment((AlignedSite(0, 0), AlignedSite(2, 4), AlignedSite(4, 10)), False)


@pytest.fixture
def bridge() -> Bridge:
    return Bridge(SITES, 24, 20, 0.25)


def test_encoding_is_a_linear_map_then_the_six_largest_of_24_channels(bridge: Bridge) -> None:
    h = torch.randn(2, 5, 20)
    for j, encoder in enumerate(bridge.encoders):
        expected = abs_topk_reference(h @ encoder.weight.T + encoder.bias, 6)
        torch.testing.assert_close(bridge.encode(j, h), expected)
        assert (bridge.encode(j, h) != 0).sum(-1).eq(6).all()


def test_decoding_is_linear_and_each_site_has_its_own(bridge: Bridge) -> None:
    a, b = torch.randn(2, 5, 24), torch.randn(2, 5, 24)
    for j in range(3):
        affine = bridge.decode(j, a + b) + bridge.decode(j, torch.zeros_like(a))
        torch.testing.assert_close(affine, bridge.decode(j, a) + bridge.decode(j, b), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(bridge.decode(0, a), bridge.decode(1, a))


def test_the_same_seed_makes_the_same_bridge_and_another_does_not(bridge: Bridge) -> None:
    def state(seed: int) -> dict[str, torch.Tensor]:
        return Bridge(SITES, 24, 20, 0.25, seed).state_dict()

    assert all(torch.equal(value, bridge.state_dict()[name]) for name, value in state(0).items())
    assert not torch.equal(state(1)["encoders.0.weight"], bridge.state_dict()["encoders.0.weight"])


def test_a_sparse_site_finds_its_place_or_none(bridge: Bridge) -> None:
    assert [bridge.place_of_sparse(site) for site in range(5)] == [0, None, 1, None, 2]


def test_the_narrowest_encoder_keeps_one_channel() -> None:
    assert (Bridge(SITES, 4, 20, 0.01).encode(0, torch.randn(3, 20)) != 0).sum(-1).eq(1).all()


def test_rms_ratios_are_those_of_the_streams(pair: Callable, blocks: object) -> None:
    from bridges.artefact import measure_rms_ratio
    from bridges.protocol import residual_sites

    sparse, dense, bridge = pair(n_layer=1, dense_layers=2)
    measure_rms_ratio(sparse, dense, bridge, blocks[:4])
    tokens = torch.from_numpy(blocks[:4].astype("int64"))
    h_sparse, h_dense = (residual_sites(stack, stack.walk(tokens)) for stack in (sparse, dense))
    for j, (s, d) in enumerate(((0, 0), (2, 4))):
        rms = [h.pow(2).mean(-1).sqrt().mean() for h in (h_sparse[s], h_dense[d])]
        assert bridge.rms_ratio[j].item() == pytest.approx((rms[0] / rms[1]).item(), rel=1e-4)


def test_folding_the_units_changes_neither_map_and_leaves_plain_linear_weights(bridge: Bridge) -> None:
    bridge.set_dense_scale(torch.tensor([0.5, 3.0, 100.0]))
    for decoder in bridge.decoders:
        torch.nn.init.normal_(decoder.bias)
    h_dense, h_sparse = torch.randn(2, 5, 20), torch.randn(2, 5, 24)
    before = [(bridge.encode(j, h_dense), bridge.decode(j, h_sparse)) for j in range(3)]
    bridge.fold_dense_scale()
    assert bridge.dense_scale.eq(1).all()
    for j, (encoded, decoded) in enumerate(before):
        torch.testing.assert_close(bridge.encode(j, h_dense), encoded)
        torch.testing.assert_close(bridge.decode(j, h_sparse), decoded)
        torch.testing.assert_close(bridge.decoders[j](h_sparse), decoded)


def test_in_its_own_units_a_stream_a_hundred_times_larger_encodes_the_same(bridge: Bridge) -> None:
    h = torch.randn(2, 5, 20)
    plain = bridge.encode(0, h)
    bridge.set_dense_scale(torch.tensor([100.0, 1.0, 1.0]))
    torch.testing.assert_close(bridge.encode(0, 100 * h), plain)
