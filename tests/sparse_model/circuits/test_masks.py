"""M1: learned masks."""

from collections.abc import Callable

import pytest
import torch

from sparse_model import SparseConfig
from sparse_model.circuits.masks import NodeMasks
from sparse_model.transformer.nodes import node_locations


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_step_passes_back_the_derivative_of_the_sigmoid_at_the_temperature(
    temperature: float, tiny_config: Callable[..., SparseConfig]
) -> None:
    masks = NodeMasks(tiny_config(), noise=1.0)
    weight = {name: torch.randn(mask.shape) for name, mask in masks.keep(temperature).items()}
    loss = sum((weight[name] * mask).sum() for name, mask in masks.keep(temperature).items())
    loss.backward()
    name = "1.mlp.post_act"
    tau = masks.tau[masks.locations.index(name)]
    copy = tau.detach().clone().requires_grad_()
    (weight[name] * torch.sigmoid(copy / temperature)).sum().backward()
    torch.testing.assert_close(tau.grad, copy.grad)


def test_forward_keeps_exactly_what_is_above_zero(tiny_config: Callable[..., SparseConfig]) -> None:
    masks = NodeMasks(tiny_config(), noise=1.0)
    with torch.no_grad():
        masks.tau[0][0, 0] = 0.0
    found = masks.keep(1.0)[masks.locations[0]][0]
    assert found.tolist() == [1.0 if tau > 0 else 0.0 for tau in masks.tau[0][0].tolist()]
    assert 0 < found.sum() < len(found)


def test_a_tied_query_and_key_share_one_mask_and_add_their_gradients(tiny_config: Callable[..., SparseConfig]) -> None:
    masks = NodeMasks(tiny_config(), tied=True, noise=1.0)
    found = masks.keep(1.0)
    assert "0.attn.k" not in masks.locations
    assert torch.equal(found["0.attn.q"], found["0.attn.k"])
    (2 * found["0.attn.q"].sum() + 3 * found["0.attn.k"].sum()).backward()
    tau = masks.tau[masks.locations.index("0.attn.q")]
    soft = tau.detach().sigmoid()
    torch.testing.assert_close(tau.grad, 5 * soft * (1 - soft))
    loose = NodeMasks(tiny_config(), tied=False, noise=1.0).keep(1.0)
    assert not torch.equal(loose["0.attn.q"], loose["0.attn.k"])


def test_the_number_kept_counts_both_of_a_tied_pair(tiny_config: Callable[..., SparseConfig]) -> None:
    masks = NodeMasks(tiny_config(), noise=0.0, bias=0.1)
    assert masks.kept(masks.keep(1.0)).tolist() == [sum(node_locations(tiny_config()).values())]


def test_clamping_holds_every_score_within_one(tiny_config: Callable[..., SparseConfig]) -> None:
    masks = NodeMasks(tiny_config(), noise=5.0)
    masks.clamp()
    scores = torch.cat(list(masks.scores(0).values()))
    assert scores.abs().max() == 1
    assert (scores.abs() < 1).any()


def test_every_seed_starts_as_it_would_alone(tiny_config: Callable[..., SparseConfig]) -> None:
    together = NodeMasks(tiny_config(), seeds=(3, 5))
    for place, seed in enumerate((3, 5)):
        alone = NodeMasks(tiny_config(), seeds=(seed,)).scores(0)
        assert all(torch.equal(score, alone[name]) for name, score in together.scores(place).items())
    assert not torch.equal(together.tau[0][0], together.tau[0][1])
