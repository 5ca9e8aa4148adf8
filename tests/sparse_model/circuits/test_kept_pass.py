"""A small circuit's pass computes kept channels alone and is the frozen model, in double precision, under every switch."""

from collections.abc import Callable

import pytest
import torch

from sparse_model import SparseTransformer
from sparse_model.circuits.ablation import Ablate, final_logits
from sparse_model.circuits.deciding_loss import compact_edges
from sparse_model.circuits.edges import cut_edges, edges_between
from sparse_model.circuits.kept_sublayers import KeptPass
from sparse_model.circuits.masked_pass import answer_differences
from sparse_model.circuits.prompts import Prompts
from sparse_model.circuits.selection import kept_of_varying
from sparse_model.tasks.loss import logit_difference
from sparse_model.transformer.abs_topk import abs_topk_reference
from sparse_model.transformer.nodes import node_locations
from tests.sparse_model.circuits.conftest import own_pairs, random_keep
from tests.sparse_model.circuits.test_masked_pass import SWITCHES

MORE = [
    {"topk_fraction": 0.5, "position": "added"},
    {"topk_locations": ("attn_in", "mlp_neuron")},
    {"topk_locations": ("attn_v", "mlp_out"), "activation": "relu"},
    {"tie_word_embeddings": True, "norm_eps": 0.3},
]


def sparse(model: SparseTransformer, seed: int = 0) -> SparseTransformer:
    """The same model with a fifth of its maps' weights left, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for block in model.blocks:
            for linear in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
                linear.weight *= torch.rand(linear.weight.shape, generator=generator) < 0.2
    return model.double().requires_grad_(False)


def frozen_at(model: SparseTransformer, size: float = 0.3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    widths = node_locations(model.config).items()
    return {name: size * torch.randn(width, generator=generator, dtype=torch.float64) for name, width in widths}


def run(prompts: Prompts, keep, values, edges=None) -> torch.Tensor:
    masks = {name: mask[None].double() for name, mask in keep.items()}
    return KeptPass(prompts, prompts.rows(), masks, values, edges or {}).run()[0]


def reference(model, pairs, keep, values) -> torch.Tensor:
    batch = pairs.prompts()
    return logit_difference(
        final_logits(model, batch.tokens, batch.last, Ablate(keep, values)), batch.answer, batch.other
    )


@torch.no_grad()
@pytest.mark.parametrize("switches", [*SWITCHES, *MORE], ids=str)
def test_it_gives_the_frozen_models_differences_under_every_switch(
    tiny_sparse: Callable[..., SparseTransformer], switches: dict
) -> None:
    model = sparse(tiny_sparse(**switches))
    pairs, values = own_pairs(model, 1), frozen_at(model)
    pairs.tokens_a[3, 2] = pairs.tokens_b[3, 2] = 0  # a document ends inside a prompt
    prompts = Prompts(model, pairs)
    for share, seed in ((0.05, 0), (0.2, 1), (0.5, 2), (1.0, 3), (0.0, 4)):
        keep = random_keep(model, share, seed)
        keep["0.attn.k"] = random_keep(model, share, seed + 10)["0.attn.k"]  # not tied to its query
        expected = reference(model, pairs, keep, values)
        torch.testing.assert_close(run(prompts, keep, values), expected, atol=1e-9, rtol=0)
        assert share == 0 or expected.std() > 0.01


@torch.no_grad()
def test_removed_edges_are_those_of_the_cut_model(tiny_sparse: Callable[..., SparseTransformer]) -> None:
    model = sparse(tiny_sparse(position="added"))
    pairs, values, keep = own_pairs(model, 1), frozen_at(model), random_keep(model, 0.6)
    generator = torch.Generator().manual_seed(2)
    edges = {
        target: ~between | (torch.rand(between.shape, generator=generator) < 0.5)
        for target, between in edges_between(model, keep).items()
    }
    found = run(Prompts(model, pairs), keep, values, compact_edges(keep, edges))
    expected = reference(cut_edges(model, edges, values), pairs, keep, values)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    assert (expected - reference(model, pairs, keep, values)).abs().max() > 0.01


@torch.no_grad()
def test_taps_and_given_scales_act_as_in_the_frozen_model(tiny_sparse: Callable[..., SparseTransformer]) -> None:
    model = sparse(tiny_sparse(position="added"))
    pairs, values, keep = own_pairs(model, 1), frozen_at(model), random_keep(model, 0.3)
    prompts = Prompts(model, pairs)
    rows, (M, T) = prompts.rows(), prompts.tokens.shape
    masks = {name: mask[None].double() for name, mask in keep.items()}
    ablate, seen = Ablate(keep, values), {}
    scales = torch.linspace(0.5, 1.5, T, dtype=torch.float64).repeat(M).expand(len(model.sublayers) + 1, -1)

    def tap(location: str, channels: torch.Tensor, tokens: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        seen.setdefault(location, set()).update(channels.tolist())
        return x * (1 + (tokens % T).double()[:, None] / 7) + channels / 40

    def plain(with_tap: bool, with_scales: bool) -> torch.Tensor:
        """By the definition, over all tokens."""

        def both(name: str, tensor: torch.Tensor, /) -> torch.Tensor:
            tensor = ablate(name, tensor)
            if not with_tap or name not in keep or not bool(keep[name].any()):
                return tensor
            channels = keep[name].nonzero().flatten()
            changed = tap(name, channels, torch.arange(M * T), tensor[..., channels].flatten(0, 1))
            return tensor.index_copy(-1, channels, changed.view(M, T, -1))

        def read(i: int, h: torch.Tensor) -> torch.Tensor | None:
            return h * scales[i].view(M, T, 1) * model.norm_gain(i) if with_scales else None

        walk = model.walk(prompts.tokens)
        h = walk.embedding()
        for i in range(len(model.sublayers)):
            h = walk.sublayer(i, h, read(i, h), both)
        final = read(len(model.sublayers), h)
        logits = walk.unembed(h) if final is None else model.lm_head(final) + model.final_logits_bias
        return logit_difference(logits[torch.arange(M), prompts.last], pairs.prompts().answer, pairs.prompts().other)

    untouched = plain(False, False)
    for with_tap, with_scales in ((True, False), (False, True), (True, True)):
        expected = plain(with_tap, with_scales)
        found = answer_differences(
            prompts, rows, masks, values, None, tap if with_tap else None, scales if with_scales else None
        )
        torch.testing.assert_close(found[0], expected, atol=1e-9, rtol=0)
        assert (expected - untouched).abs().max() > 0.1
    assert seen["1.mlp.post_act"] == set(keep["1.mlp.post_act"].nonzero().flatten().tolist())


@torch.no_grad()
def test_equal_magnitudes_are_decided_as_abs_topk_does(tiny_sparse: Callable[..., SparseTransformer]) -> None:
    model = sparse(tiny_sparse(topk_locations=("attn_in", "mlp_in"), norm_eps=1e-6))
    for name, parameter in model.named_parameters():
        parameter.fill_(1.0) if "ln_" in name else parameter.mul_(4).round_().clamp_(-1, 1)
    # whole numbers all the way to the last sublayer's input, where rounding cannot decide what is equal
    values = {name: value.mul(4).round_() for name, value in frozen_at(model).items()}
    pairs = own_pairs(model, 1)
    prompts = Prompts(model, pairs)
    for seed in range(8):
        keep = random_keep(model, 0.5, seed)
        for name in ("0.attn.v", "1.attn.v", "0.mlp.post_act"):
            keep[name][:] = False
        torch.testing.assert_close(run(prompts, keep, values), reference(model, pairs, keep, values), atol=1e-9, rtol=0)


def test_selection_among_varying_and_constant_channels_is_abs_topk_ties_included() -> None:
    generator = torch.Generator().manual_seed(0)
    for k in (1, 3, 7, 20, 29, 30):
        x = torch.randint(-3, 4, (50, 30), generator=generator).double()
        varies = torch.rand(30, generator=generator) < 0.4
        x[:, ~varies] = x[:1, ~varies]
        channels, still = varies.nonzero().flatten(), (~varies).nonzero().flatten()
        magnitude = x[0, still].abs()
        order = magnitude.argsort(descending=True)
        chosen = torch.arange(0, len(channels), 2)
        found = kept_of_varying(x[:, varies].abs(), channels, chosen, magnitude[order], still[order], k)
        expected = abs_topk_reference(x, k)[:, channels[chosen]]
        torch.testing.assert_close(torch.where(found, x[:, channels[chosen]], 0.0), expected)
