"""Massive activations: found by their threshold, and left out of what they would drown."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bridges.artefact import dense_rms, measure_rms_ratio
from bridges.evaluate import evaluate_bridge
from bridges.losses import nmse
from bridges.massive import after_first, first_over_rest, massive_channels, nmse_three_ways
from bridges.objective import BridgeConfig, BridgedObjective
from bridges.protocol import residual_sites


@pytest.fixture
def stream() -> torch.Tensor:
    """A unit stream [4, 10, 16] whose first position is 200 times as long and whose channels 3 and 7 are 30 times as large."""
    h = torch.randn(4, 10, 16, generator=torch.Generator().manual_seed(0))
    h[..., [3, 7]] *= 30
    h[:, 0] *= 200
    return h


def test_channels_a_hundred_times_the_median_power_are_massive_and_one_just_below_is_not(stream: torch.Tensor) -> None:
    assert massive_channels(stream).nonzero().flatten().tolist() == [3, 7]
    level = torch.ones(2, 5, 9)
    level[..., 4] = 10.001
    level[..., 5] = 9.999
    assert massive_channels(level).nonzero().flatten().tolist() == [4]
    only_first = torch.ones(2, 5, 9)
    only_first[:, 0, 6] = 1e4
    assert not massive_channels(only_first).any()


def test_a_prediction_right_at_the_first_position_alone_looks_perfect_until_that_is_left_out(
    stream: torch.Tensor,
) -> None:
    prediction = after_first(stream).mean((0, 1)).expand_as(stream).clone()
    prediction[:, 0] = stream[:, 0]
    found = nmse_three_ways(prediction, stream, massive_channels(stream))
    assert found[""] < 1e-3
    assert found["_later"] == pytest.approx(1, abs=1e-5)
    assert found["_ordinary"] == pytest.approx(1, abs=1e-5)


def test_a_prediction_right_in_the_massive_channels_alone_looks_good_until_they_are_left_out(
    stream: torch.Tensor,
) -> None:
    prediction = after_first(stream).mean((0, 1)).expand_as(stream).clone()
    prediction[:, 0] = stream[:, 0]
    prediction[..., [3, 7]] = stream[..., [3, 7]]
    found = nmse_three_ways(prediction, stream, massive_channels(stream))
    assert found["_later"] < 0.02
    assert found["_ordinary"] == pytest.approx(1, abs=1e-5)
    assert 100 < first_over_rest(stream) < 400


def test_unit_and_rms_ratio_leave_the_first_position_out_when_asked(pair: Callable, blocks: np.ndarray) -> None:
    sparse, dense, bridge = pair()
    tokens = torch.from_numpy(blocks[:4].astype("int64"))
    with torch.no_grad():
        h_sparse, h_dense = (residual_sites(stack, stack.walk(tokens)) for stack in (sparse, dense))
    for skip in (False, True):
        start = int(skip)
        ours, theirs = (
            torch.stack([h[:, start:].pow(2).mean(-1).sqrt().mean() for h in streams])
            for streams in (h_sparse, h_dense)
        )
        torch.testing.assert_close(dense_rms(dense, bridge, blocks[:4], skip_first=skip), theirs)
        measure_rms_ratio(sparse, dense, bridge, blocks[:4], skip_first=skip)
        torch.testing.assert_close(bridge.rms_ratio, ours / theirs)


def test_the_loss_leaves_the_first_position_out_when_asked_and_only_there(pair: Callable, tokens: torch.Tensor) -> None:
    models = pair()
    sparse, dense, bridge = models
    with_it, without = (
        BridgedObjective(*models, BridgeConfig(skip_first=skip))(tokens, draw=0) for skip in (False, True)
    )
    h_sparse, h_dense = (residual_sites(stack, stack.walk(tokens)) for stack in (sparse, dense))
    expected = sum(
        nmse(bridge.encode(j, d)[:, 1:], s[:, 1:]) + nmse(bridge.decode(j, s)[:, 1:], d[:, 1:])
        for j, (s, d) in enumerate(zip(h_sparse, h_dense, strict=True))
    )
    torch.testing.assert_close(without["nmse"], expected)
    assert not torch.isclose(with_it["nmse"], without["nmse"], rtol=1e-3)
    for name in ("kl", "dense_to_sparse", "sparse_to_dense"):
        torch.testing.assert_close(with_it[name], without[name])


def test_an_evaluation_reports_every_nmse_three_ways_and_names_sites_that_meet_nothing(
    pair: Callable, blocks: np.ndarray
) -> None:
    models = pair(n_layer=1, dense_layers=3)
    found = evaluate_bridge(*models, blocks[:8], batch_size=4, mixed_paths=1).to_json()
    assert found["unmet_sparse_sites"] == [1]
    for site in found["sites"]:
        assert {f"nmse_{map_}coder{which}" for map_ in ("en", "de") for which in ("", "_later", "_ordinary")} <= set(
            site
        )
        assert site["massive_channels"] == 0
        assert site["nmse_decoder_later"] == pytest.approx(site["nmse_decoder_ordinary"])
        assert site["nmse_decoder_later"] != site["nmse_decoder"]


def test_an_evaluation_reports_unit_and_kl_with_and_without_the_first_position(
    pair: Callable, blocks: np.ndarray
) -> None:
    sparse, dense, bridge = pair()
    found = evaluate_bridge(sparse, dense, bridge, blocks[:4], mixed_paths=0).to_json()
    tokens = torch.from_numpy(blocks[:4].astype("int64"))
    with torch.no_grad():
        h = residual_sites(dense, dense.walk(tokens))
        target = dense.model(tokens).logits.log_softmax(-1)

        def kl(logits: torch.Tensor) -> torch.Tensor:
            return (target.exp() * (target - logits.log_softmax(-1))).sum(-1)

        whole = kl(sparse(tokens).logits)
        last = kl(sparse.walk(tokens).unembed(bridge.encode(len(h) - 1, h[-1])))
    for name, each in (("kl_dense_sparse", whole), ("kl_dense_sparse_later", whole[:, 1:])):
        assert found[name]["value"] == pytest.approx(each.mean().item(), rel=1e-3)
    site = found["sites"][-1]
    for which, start in (("", 0), ("_later", 1)):
        rms = h[-1][:, start:].pow(2).mean(-1).sqrt().mean()
        assert site[f"rms_dense{which}"] == pytest.approx(rms.item(), rel=1e-4)
        assert site[f"kl_dense_to_sparse{which}"] == pytest.approx(last[:, start:].mean().item(), rel=1e-3)
    assert site["rms_dense"] != site["rms_dense_later"]


def test_the_bundled_recipe_says_how_its_models_were_made_where_defaults_have_changed_since() -> None:
    import tomllib

    stated: dict[str, Any] = tomllib.loads(Path("cli/bundled/recipe.toml").read_text("utf-8"))["bridge"]
    assert stated["cross_entropy"] == 1.0
    assert BridgeConfig().cross_entropy == 0.0
