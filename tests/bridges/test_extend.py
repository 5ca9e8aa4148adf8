"""Further meeting points: fitted maps find a planted linear relation, trained places keep their weights, disorder is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from bridges.alignment import AlignedSite, SiteAlignment, align
from bridges.artefact import load_bridge, save_bridge
from bridges.bridge import Bridge
from bridges.extend import Ridge, extend_bridge, extend_folder, extended_alignment
from bridges.pairing import Pairing
from dense_adapters import DenseStack
from foundation.errors import UserError
from sparse_model import SparseTransformer

BLOCKS, HELD_OUT = np.random.default_rng(0).integers(0, 40, (2, 24, 16))


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


def test_a_new_place_finds_the_linear_relation_there_is_and_trained_places_stay_as_they_are(
    tiny_sparse: Callable[..., SparseTransformer],
) -> None:
    sparse = tiny_sparse(
        topk_fraction=None
    )  # the dense model is the sparse one: at a twin's site the relation is exact
    alignment = SiteAlignment((AlignedSite(0, 0), AlignedSite(4, 4)), False)
    bridge = Bridge(alignment, 24, 24, 1.0, seed=3).eval()
    new = [AlignedSite(1, 1), AlignedSite(2, 3)]
    found = extend_bridge(bridge, sparse, sparse, new, BLOCKS, HELD_OUT)
    places = found.bridge.alignment.sites
    assert places == (AlignedSite(0, 0), *new, AlignedSite(4, 4))
    assert found.bridge.alignment.rule == "extended"
    for old, site in enumerate(alignment.sites):
        kept = found.bridge.decoders[places.index(site)]
        assert torch.equal(kept.weight, bridge.decoders[old].weight)
        assert float(found.bridge.rms_ratio[places.index(site)]) == float(bridge.rms_ratio[old])
    twin, other = found.sites
    assert (twin["sparse_site"], twin["dense_site"], other["dense_site"]) == (1, 1, 3)
    assert twin["nmse_decoder_later"] < 0.01
    assert twin["nmse_encoder_later"] < 0.01
    assert other["nmse_decoder_later"] > 0.01
    assert float(found.bridge.rms_ratio[1]) == pytest.approx(1)


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


def test_an_extended_folder_is_a_bridge_of_the_same_models_and_can_be_extended_again(
    pair: Callable, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    models = pair(n_layer=2, dense_layers=5)
    dense = {"name": "tiny", "fingerprint": models.dense.fingerprint}
    places = models.bridge.alignment
    (tmp_path / "trained").mkdir()
    save_bridge(
        tmp_path / "trained", models.bridge, models.sparse, tokenizer, {"dense": dense, "evaluation": {"x": {}}}
    )
    artefact = load_bridge(tmp_path / "trained")
    blocks = np.random.default_rng(1).integers(0, models.sparse.config.vocab_size, (8, models.sparse.config.block_size))
    folder = tmp_path / "trained"
    for number, sparse_site in enumerate(places.unmet):
        before = max(site.dense for site in places.sites if site.sparse < sparse_site)
        pairing = Pairing(models.dense, tokenizer, artefact)
        folder = tmp_path / f"extended{number}"
        extend_folder(pairing, [AlignedSite(sparse_site, before + 1)], blocks, blocks, folder)
        artefact = load_bridge(folder)
    assert len(places.unmet) == 2
    assert artefact.bridge.alignment.unmet == ()
    assert [len(fit["sites"]) for fit in artefact.description["extended"]] == [1, 1]
    assert artefact.description["evaluation"] == {"x": {}}
    artefact.check_dense(models.dense.fingerprint, "tiny")
    with pytest.raises(UserError, match="already exists"):
        extend_folder(pairing, [AlignedSite(1, 1)], blocks, blocks, folder)
