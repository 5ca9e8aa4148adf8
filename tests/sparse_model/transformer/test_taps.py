"""Taps: reach every location, compose, and are errors when misspelt or idle."""

from collections.abc import Callable

import pytest
import torch

from foundation.errors import UserError
from sparse_model import SparseTransformer
from sparse_model.transformer.nodes import locations
from sparse_model.transformer.taps import At, Chain, Recorder

Make = Callable[..., SparseTransformer]


@pytest.mark.parametrize(
    "changes", [{}, {"position": "concatenated", "d_position": 6}, {"attention_sink": True}], ids=str
)
def test_a_tap_is_called_once_at_every_location_in_order_with_its_width(
    changes: dict[str, object], tiny_sparse: Make, tokens: torch.Tensor
) -> None:
    model = tiny_sparse(**changes)
    seen = []

    def tap(name: str, tensor: torch.Tensor) -> torch.Tensor:
        seen.append((name, tensor.shape[-1]))
        return tensor

    model(tokens, tap=tap)
    assert seen == list(locations(model.config).items())


def test_what_a_tap_returns_is_what_the_pass_goes_on_with(tiny_sparse: Make, tokens: torch.Tensor) -> None:
    model = tiny_sparse()
    with torch.no_grad():
        model.transformer["h"][1].mlp.c_proj.weight.zero_()
        model.transformer["h"][1].mlp.c_proj.bias.zero_()
    silent = model(tokens).logits
    full = tiny_sparse()
    ablated = full(tokens, tap=At({"1.mlp.resid_delta": torch.zeros_like})).logits
    torch.testing.assert_close(ablated, silent)
    assert not torch.allclose(full(tokens).logits, silent)


@pytest.mark.parametrize(
    "name", ["0.attn.act_in", "1.attn.q", "0.attn.y", "1.resid_mid", "0.mlp.post_act", "final_resid"]
)
def test_editing_any_location_changes_the_logits(name: str, tiny_sparse: Make, tokens: torch.Tensor) -> None:
    model = tiny_sparse()
    assert not torch.allclose(
        model(tokens).logits, model(tokens, tap=At({name: lambda x: x + torch.randn_like(x)})).logits
    )


def test_a_misspelt_location_is_refused_before_the_pass(tiny_sparse: Make, tokens: torch.Tensor) -> None:
    with pytest.raises(UserError, match=r"did you mean '0\.mlp\.post_act'"):
        tiny_sparse()(tokens, tap=At({"0.mlp.postact": torch.zeros_like}))
    with pytest.raises(UserError, match="unknown node location"):
        tiny_sparse()(tokens, tap=Chain(Recorder(), Recorder(["2.attn.q"])))


def test_a_tap_that_never_fired_is_an_error(tiny_sparse: Make, tokens: torch.Tensor) -> None:
    model = tiny_sparse()
    tap = At({"1.attn.q": torch.zeros_like})
    tap.begin(model.config)
    walk = model.walk(tokens)
    walk.sublayer(0, walk.embedding(), tap=tap)
    with pytest.raises(UserError, match=r"the tap at '1\.attn\.q' never fired"):
        tap.finish()
    with pytest.raises(UserError, match="never fired"):
        Chain(Chain(tap)).finish()


def test_firing_in_an_earlier_pass_does_not_excuse_being_idle_in_this_one(
    tiny_sparse: Make, tokens: torch.Tensor
) -> None:
    model, tap = tiny_sparse(), At({"0.attn.q": torch.zeros_like})
    model(tokens, tap=tap)
    tap.begin(model.config)
    with pytest.raises(UserError, match="never fired"):
        tap.finish()


def test_taps_compose_from_left_to_right(tiny_sparse: Make, tokens: torch.Tensor) -> None:
    model = tiny_sparse()
    before, after = Recorder(["0.mlp.post_act"]), Recorder(["0.mlp.post_act"])
    double = At({"0.mlp.post_act": lambda x: 2 * x})
    add = At({"0.mlp.post_act": lambda x: x + 1})
    model(tokens, tap=Chain(before, double, add, after))
    torch.testing.assert_close(after.activations["0.mlp.post_act"], 2 * before.activations["0.mlp.post_act"] + 1)


def test_recorded_activations_carry_gradients_to_the_logits(tiny_sparse: Make, tokens: torch.Tensor) -> None:
    recorder = Recorder(["1.attn.v"])
    logits = tiny_sparse()(tokens, tap=recorder).logits
    (gradient,) = torch.autograd.grad(logits.square().sum(), recorder.activations["1.attn.v"])
    assert gradient.abs().sum() > 0
    assert set(recorder.activations) == {"1.attn.v"}
