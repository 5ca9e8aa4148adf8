"""Mixed paths: at the ends of the scale they are the models themselves."""

from collections.abc import Callable

import pytest
import torch

from bridges.mixed_paths import MixedPath, follow
from bridges.objective import run_tails
from bridges.protocol import residual_sites

DEPTHS = pytest.mark.parametrize("depths", [{}, {"n_layer": 1, "dense_layers": 3}], ids=str)


@DEPTHS
def test_a_path_that_never_leaves_a_model_is_that_models_forward(
    depths: dict, pair: Callable, tokens: torch.Tensor
) -> None:
    sparse, dense, bridge = pair(**depths)
    segments = len(bridge.alignment.sites) - 1

    def end(in_dense: bool) -> torch.Tensor:
        path = MixedPath((in_dense,) * (segments + 1))
        assert path.crossings == 0
        return follow(path, bridge, sparse.walk(tokens), dense.walk(tokens))

    torch.testing.assert_close(end(True), dense.model(tokens).logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(end(False), sparse(tokens).logits, atol=1e-5, rtol=1e-5)


@DEPTHS
def test_a_path_with_one_crossing_is_the_tail_from_there(depths: dict, pair: Callable, tokens: torch.Tensor) -> None:
    sparse, dense, bridge = pair(**depths)
    sites = bridge.alignment.sites
    for j in range(1, len(sites)):
        walks = sparse.walk(tokens), dense.walk(tokens)
        path = MixedPath((True,) * j + (False,) * (len(sites) - j))
        assert path.crossings == 1
        encoded = bridge.encode(j, residual_sites(dense, walks[1])[sites[j].dense])
        expected = walks[0].unembed(run_tails(sparse, walks[0], {sites[j].sparse: encoded}))
        torch.testing.assert_close(follow(path, bridge, walks[0], walks[1]), expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(expected, sparse(tokens).logits, atol=1e-2)


def test_paths_are_drawn_evenly_and_follow_from_the_seed() -> None:
    def draw(seed: int) -> list[MixedPath]:
        generator = torch.Generator().manual_seed(seed)
        return [MixedPath.draw(2, generator) for _ in range(400)]

    assert draw(0) == draw(0) != draw(1)
    counts = [draw(0).count(path) for path in set(draw(0))]
    assert len(counts) == 8
    assert min(counts) > 25
