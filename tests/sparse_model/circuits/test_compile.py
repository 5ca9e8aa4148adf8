"""A compiled circuit is the masked model: in double precision to the last digits, over every switch it covers."""

from collections.abc import Callable

import pytest
import torch

from foundation.errors import UserError
from sparse_model import SparseTransformer
from sparse_model.circuits.ablation import Ablate, final_logits
from sparse_model.circuits.alone import Alone, masked_logits
from sparse_model.circuits.compile import Compiled
from sparse_model.circuits.prefixes import distinct_prefixes
from sparse_model.circuits.selection import kept_of_varying, prefers_fewer
from sparse_model.transformer.abs_topk import abs_topk_reference
from sparse_model.transformer.nodes import node_locations
from tests.sparse_model.circuits.conftest import own_pairs, random_keep

COVERED = [
    {},
    {"topk_fraction": None},
    {"topk_fraction": 0.5, "position": "added"},
    {"topk_locations": ("attn_in", "mlp_neuron")},
    {"topk_locations": ("attn_v", "mlp_out"), "activation": "relu"},
    {"bias": False, "bigram_table": "learned"},
    {"tie_word_embeddings": True, "norm_eps": 0.3},
    {"n_layer": 1},
    {"document_token": 39, "position": "added"},
    {"n_layer": 3, "position": "added"},
]
REFUSED = [
    ({"norm": "layer"}, "norm"),
    ({"attention_sink": True}, "attention_sink"),
    ({"position": "concatenated", "d_position": 4}, "position"),
    ({"residual_activation": "relu"}, "residual_activation"),
    ({"topk_locations": ("resid_post_mlp",)}, "resid_post_mlp"),
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


@pytest.mark.parametrize("changes", COVERED, ids=str)
def test_a_program_gives_the_masked_models_logits_over_every_switch(
    changes: dict, tiny_sparse: Callable[..., SparseTransformer]
) -> None:
    model = sparse(tiny_sparse(**changes))
    pairs, values = own_pairs(model, 1), frozen_at(model)
    pairs.tokens_a.clamp_(max=38)  # no document begins inside a prompt
    pairs.tokens_b.clamp_(max=38)
    alone = Alone(model, pairs, values)
    batch = pairs.prompts()
    for share, seed in ((0.05, 0), (0.2, 1), (0.5, 2), (1.0, 3), (0.0, 4)):
        keep = random_keep(model, share, seed)
        keep["0.attn.k"] = random_keep(model, share, seed + 10)["0.attn.k"]  # not tied to its query
        expected = final_logits(model, batch.tokens, batch.last, Ablate(keep, values))
        torch.testing.assert_close(Compiled(model, keep, values).logits(alone.frozen), expected, atol=1e-10, rtol=0)
    assert expected.std() > 0.1


@torch.no_grad()
def test_equal_magnitudes_are_decided_as_abs_topk_does(tiny_sparse: Callable[..., SparseTransformer]) -> None:
    model = sparse(tiny_sparse(topk_locations=("attn_in", "mlp_in"), norm_eps=1e-6))
    for name, parameter in model.named_parameters():
        parameter.fill_(1.0) if "ln_" in name else parameter.mul_(4).round_().clamp_(-1, 1)
    # whole numbers all the way to the last sublayer's input, where rounding cannot decide what is equal
    values = {name: value.mul(4).round_() for name, value in frozen_at(model).items()}
    pairs = own_pairs(model, 1)
    batch, alone = pairs.prompts(), Alone(model, pairs, values)
    for seed in range(12):
        keep = random_keep(model, 0.5, seed)
        for name in ("0.attn.v", "1.attn.v", "0.mlp.post_act"):
            keep[name][:] = False
        expected = final_logits(model, batch.tokens, batch.last, Ablate(keep, values))
        torch.testing.assert_close(Compiled(model, keep, values).logits(alone.frozen), expected, atol=1e-9, rtol=0)


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


def test_single_channels_are_settled_as_abs_topk_does_ties_included() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, 6, (60, 9), generator=generator).double()
    channel = torch.randint(0, 9, (60,), generator=generator)
    for k in range(1, 10):
        kept = abs_topk_reference(x, k).gather(1, channel[:, None])[:, 0] != 0
        assert torch.equal(prefers_fewer(x, channel, k), kept)


@pytest.mark.parametrize(("changes", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_what_a_program_does_not_cover_is_refused_by_name_and_runs_masked_with_the_reason(
    changes: dict, reason: str, tiny_sparse: Callable[..., SparseTransformer]
) -> None:
    model = sparse(tiny_sparse(**changes))
    pairs, values, keep = own_pairs(model, 1), frozen_at(model), random_keep(model, 0.05)
    with pytest.raises(UserError, match=reason):
        Compiled(model, keep, values)
    alone, batch = Alone(model, pairs, values), pairs.prompts()
    assert reason in (alone.not_compiled or "")
    assert not alone.pays(keep)
    expected = final_logits(model, batch.tokens, batch.last, Ablate(keep, values))
    torch.testing.assert_close(alone.logits(keep), expected, atol=1e-12, rtol=0)


def test_taps_and_given_scales_act_in_a_program_as_in_the_masked_model(
    tiny_sparse: Callable[..., SparseTransformer],
) -> None:
    model = sparse(tiny_sparse(position="added"))
    alone = Alone(model, own_pairs(model, 1), frozen_at(model))
    keep = random_keep(model, 0.3)
    shift = torch.linspace(0.5, 1.5, len(alone.prefixes), dtype=torch.float64)
    seen: dict[str, set[int]] = {}

    def tap(location: str, channels: torch.Tensor, rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        seen.setdefault(location, set()).update(channels.tolist())
        by_position = 1 + alone.prefixes.position[rows].double()[:, None] / 7
        return x * by_position + channels / 40

    scales = shift.expand(len(model.sublayers) + 1, -1)
    plain = masked_logits(alone, keep)
    for arguments in ({"tap": tap}, {"scales": scales}, {"tap": tap, "scales": scales}):
        expected = masked_logits(alone, keep, **arguments)
        found = Compiled(model, keep, alone.values).logits(alone.frozen, **arguments)
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
        assert (expected - plain).abs().max() > 0.1
    assert seen["1.mlp.post_act"] == set(keep["1.mlp.post_act"].nonzero().flatten().tolist())


def test_prompts_of_several_documents_run_masked(tiny_sparse: Callable[..., SparseTransformer]) -> None:
    model = sparse(tiny_sparse(document_token=39))
    pairs, keep = own_pairs(model, 1), random_keep(model, 0.05)
    pairs.tokens_a[0, 2] = 39
    alone, batch = Alone(model, pairs, frozen_at(model)), pairs.prompts()
    assert "document_token" in (alone.not_compiled or "")
    with pytest.raises(UserError, match="document_token"):
        _ = alone.frozen
    expected = final_logits(model, batch.tokens, batch.last, Ablate(keep, alone.values))
    torch.testing.assert_close(alone.logits(keep), expected, atol=1e-12, rtol=0)


def test_prefixes_are_what_the_prompts_have_in_common() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 3, (12, 5), generator=generator)
    last = torch.randint(1, 5, (12,), generator=generator)
    found = distinct_prefixes(tokens, last)
    expected = {tuple(row[: t + 1].tolist()) for row, end in zip(tokens, last, strict=True) for t in range(end + 1)}
    assert len(found) == len(expected)
    flat = tokens.flatten()
    for m, end in enumerate(last.tolist()):
        assert found.rows[m, end] == found.end[m] == found.rows[m, -1]
        for t in range(end + 1):
            row = int(found.rows[m, t])
            assert (int(found.token[row]), int(found.position[row])) == (int(tokens[m, t]), t)
            assert found.ancestors[row, : t + 1].tolist() == found.rows[m, : t + 1].tolist()
            first = int(found.first[row])
            start = first - t
            assert flat[start : first + 1].tolist() == tokens[m, : t + 1].tolist()
            of_cell = int(found.cell_row[found.cell[row]])
            assert (found.token[of_cell], found.position[of_cell]) == (found.token[row], found.position[row])
    assert len(found.cell_row) == len({(int(t), int(p)) for t, p in zip(found.token, found.position, strict=True)})


def test_a_program_runs_only_where_it_pays(known) -> None:
    alone = Alone(known.model, known.train, known.values)
    assert alone.pays(random_keep(known.model, 0.05))
    assert not alone.pays(random_keep(known.model, 0.5))
    assert not Alone(known.model, known.train, known.values, compiled=False).pays(random_keep(known.model, 0.05))
