"""Roles of positions, and answers under edits against the models run by themselves."""

import pytest
import torch

from bridges.protocol import residual_sites
from bridges.validation import contrast as module
from bridges.validation.contrast import Contrast, Streams, masked
from tests.bridges.validation.conftest import CHANGED, token_pairs


def test_every_real_token_after_the_change_has_one_role_and_padding_has_none() -> None:
    contrast = Contrast.of(token_pairs(6, 1))
    roles = torch.stack([contrast.role(name) for name in module.ROLES])
    assert int(roles.sum(0).max()) == 1
    place = torch.arange(7)[None]
    assert torch.equal(roles.any(0), (place >= CHANGED) & (place <= contrast.last[:, None]))
    assert torch.equal(contrast.role("changed").nonzero()[:, 1], torch.full((12,), CHANGED))
    assert torch.equal(contrast.counted, (place > CHANGED) & (place <= contrast.last[:, None]))


def test_a_prompt_whose_last_token_is_the_changed_one_has_nothing_to_rest_a_verdict_on() -> None:
    pairs = token_pairs(4, 1)
    pairs.last[:] = CHANGED
    contrast = Contrast.of(pairs)
    assert not contrast.counted.any()
    assert contrast.role("changed")[:, CHANGED].all()


@torch.no_grad()
def test_answers_are_logit_differences_and_probabilities_of_the_models_own_logits(validated) -> None:
    contrast = validated.contrast
    streams = Streams(validated.dense, contrast, [0, 1])
    rows = torch.arange(len(contrast))
    for tokens, answers in ((contrast.base, streams.none), (contrast.counterfactual, streams.full)):
        logits = validated.dense.model(tokens).logits[rows, contrast.last].double()
        expected = logits[rows, contrast.target] - logits[rows, contrast.original]
        torch.testing.assert_close(answers.difference, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(answers.p_target, logits.softmax(-1)[rows, contrast.target], atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("which", ["dense", "sparse"])
def test_patching_the_whole_stream_at_any_site_gives_the_counterfactuals_answers(which: str, validated) -> None:
    stack, contrast = getattr(validated, which), validated.contrast
    sites = list(range(len(stack.sublayers) + 1))
    streams = Streams(stack, contrast, sites)
    for site in sites:
        (patched,) = streams.edited(site, streams.difference(site)[None])
        torch.testing.assert_close(patched.difference, streams.full.difference, atol=1e-4, rtol=1e-3)
        (nothing,) = streams.edited(site, torch.zeros_like(streams.base[site])[None])
        torch.testing.assert_close(nothing.difference, streams.none.difference, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_masked_edit_is_the_walk_with_those_positions_changed_and_stacking_changes_nothing(
    validated, monkeypatch: pytest.MonkeyPatch
) -> None:
    sparse, contrast = validated.sparse, validated.contrast
    streams = Streams(sparse, contrast, [1, 3])
    changes = torch.stack([masked(torch.randn(12, 7, 24), contrast.role(name)) for name in ("between", "last")])
    together = streams.edited(1, changes)
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 1)
    for change, one, again in zip(changes, together, streams.edited(1, changes), strict=True):
        walk = sparse.walk(contrast.base)
        h = residual_sites(sparse, walk)[1] + change
        for i in range(1, 4):
            h = walk.sublayer(i, h)
        rows = torch.arange(12)
        logits = walk.unembed(h)[rows, contrast.last].double()
        expected = logits[rows, contrast.target] - logits[rows, contrast.original]
        torch.testing.assert_close(one.difference, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(again.difference, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_bigram_table_reads_each_prompts_last_token(tiny_sparse) -> None:
    sparse = tiny_sparse(bigram_table="learned").requires_grad_(False)
    sparse.bigram_table.normal_()
    contrast = Contrast.of(token_pairs(5, 4))
    streams = Streams(sparse, contrast, [4])
    rows = torch.arange(len(contrast))
    logits = sparse(contrast.base).logits[rows, contrast.last].double()
    expected = logits[rows, contrast.target] - logits[rows, contrast.original]
    torch.testing.assert_close(streams.none.difference, expected, atol=1e-4, rtol=1e-4)
