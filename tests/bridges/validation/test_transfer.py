"""M6 and M7: an exact bridge transfers everything, one that knows nothing transfers nothing."""

import numpy as np
import pytest
import torch

from bridges.validation.contrast import Contrast
from bridges.validation.node_sets import SiteChannels, Translation, by_place
from bridges.validation.planted import PLANTS, PlantedStack
from bridges.validation.specificity import circuit_change, specificity, strongest_place
from bridges.validation.transfer import family, fit, permuted, transfer, untrained
from sparse_model.transformer.nodes import Node

NODES = tuple(Node(layer, "attn", "resid_delta", channel) for layer in (0, 1) for channel in range(0, 24, 3))


def planted(validated, name: str) -> Translation:
    stack = PlantedStack(validated.sparse, name, seed=1)
    return Translation(validated.contrast, validated.sparse, stack, stack.bridge())


@torch.no_grad()
@pytest.mark.parametrize("name", PLANTS)
def test_a_plant_computes_what_its_sparse_model_computes(name: str, validated) -> None:
    stack, tokens = PlantedStack(validated.sparse, name, seed=1), validated.contrast.base
    walk = stack.walk(tokens)
    h = walk.embedding()
    for i in range(len(stack.sublayers)):
        h = walk.sublayer(i, h)
    torch.testing.assert_close(walk.unembed(h), validated.sparse(tokens).logits, atol=1e-4, rtol=1e-4)
    bridge = stack.bridge()
    own = validated.sparse.walk(tokens).embedding()
    torch.testing.assert_close(bridge.decode(0, own), walk.embedding(), atol=1e-4, rtol=1e-4)
    if name == "centred":
        assert float(walk.embedding().mean().abs()) > 1
    if name == "deeper":
        assert len(stack.sublayers) == 2 * len(validated.sparse.sublayers)


@pytest.mark.parametrize("name", PLANTS)
def test_through_an_exact_bridge_the_sparse_model_predicts_every_intervention(name: str, validated) -> None:
    found = planted(validated, name)
    fitted = transfer(found, by_place(NODES, found.bridge, 24), nulls=1)
    assert fitted.fit.slope.value == pytest.approx(1, abs=1e-2)
    assert fitted.fit.r2.value == pytest.approx(1, abs=1e-2)
    kinds = {point["kind"] for point in fitted.points}
    assert kinds == {"channel", "part", "circuit", "outside", "complement", "all"}
    assert {point["place"] for point in fitted.points} == set(found.inner_places)
    assert fitted.null_r2 < 0.9


def test_bridges_that_know_nothing_keep_the_norms_of_their_columns_and_carry_something_else(validated) -> None:
    found = planted(validated, "rotated")
    own = found.bridge.decoders[1].weight
    drawn = untrained(found.bridge, 0).decoders[1].weight
    torch.testing.assert_close(drawn.norm(dim=0), own.norm(dim=0))
    assert not torch.allclose(drawn, own, atol=0.1)
    shuffled = permuted(found, 0).decoders[2].weight
    live = found.live(2, found.contrast.counted | found.contrast.role("changed"))
    assert torch.equal(shuffled[:, ~live], found.bridge.decoders[2].weight[:, ~live])
    torch.testing.assert_close(
        shuffled.norm(dim=0).sort().values, found.bridge.decoders[2].weight.norm(dim=0).sort().values
    )
    assert torch.equal(found.bridge.decoders[1].weight, own), "the bridge itself stays as it is"


def test_the_fit_is_through_the_origin_and_its_spread_about_the_mean() -> None:
    predicted = np.array([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]])
    exact = fit(predicted, 2 * predicted)
    assert (exact.slope.value, exact.r2.value, exact.rank.value) == (
        pytest.approx(2),
        pytest.approx(1),
        pytest.approx(1),
    )
    flat = fit(predicted, np.full((3, 2), 0.5) + np.array([[0.1], [0.0], [-0.1]]))
    assert flat.r2.value <= 0
    assert flat.rank.value == pytest.approx(-1)


def test_the_family_touches_neither_the_embedding_nor_the_final_stream(validated) -> None:
    found = Translation(validated.contrast, validated.sparse, validated.dense, validated.bridge)
    nodes = (*NODES, Node(0, "attn", "act_in", 1), Node(1, "mlp", "resid_delta", 2))
    placed = by_place(nodes, found.bridge, 24)
    assert set(placed) >= {0, 4}
    assert {one.channels.place for one in family(found, placed)} == {1, 2, 3}


def test_the_circuit_is_compared_to_sets_of_its_own_norm_and_p_is_its_rank(validated) -> None:
    found = Translation(validated.contrast, validated.sparse, validated.dense, validated.bridge)
    channels = SiteChannels(3, (), (0, 3, 6))
    everywhere = torch.ones(24, dtype=torch.bool)
    measured = specificity(found, channels, (everywhere, everywhere), draws=99)
    assert measured is not None
    assert measured.difference.value == pytest.approx(measured.circuit.value - measured.outside.value, abs=1e-6)
    at_least = sum(effect >= measured.circuit.value for effect in measured.outside_effects)
    assert measured.p_value == pytest.approx((1 + at_least) / 100)
    every = SiteChannels(3, tuple(range(24)), ())
    assert specificity(found, every, (everywhere, everywhere), draws=99) is None


def test_the_place_is_the_inner_one_where_the_edit_does_most(validated) -> None:
    found = Translation(Contrast.of(validated.splits.validation), validated.sparse, validated.dense, validated.bridge)
    placed = by_place((*NODES, Node(0, "attn", "act_in", 1)), found.bridge, 24)
    chosen = strongest_place(found, placed)
    assert chosen in found.inner_places
    span = (found.dense.full.difference - found.dense.none.difference).sum()
    effects = {}
    for place in (1, 3):
        (answers,) = found.dense.edited(place, circuit_change(found, placed[place])[None])
        effects[place] = float((answers.difference - found.dense.none.difference).sum() / span)
    assert chosen == max(effects, key=lambda place: effects[place])
    assert strongest_place(found, {0: placed[0]}) is None
