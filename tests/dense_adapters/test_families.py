"""Every family's stack against a second, independently built model that the package never saw."""

import pytest
import torch

from dense_adapters import DenseStack
from sparse_model.studies.page import read_between
from tests.dense_adapters.expected import first_norm, names_of, observe
from tests.dense_adapters.family_table import DOCUMENT, family_table
from tests.dense_adapters.tiny_models import CASES, NEWCOMERS, Case, tokens_and_mask

every_case = pytest.mark.parametrize("case", [*CASES, *NEWCOMERS], ids=lambda case: case.id)


@every_case
def test_every_site_of_every_family_passes_the_probe(case: Case, stack: DenseStack) -> None:
    assert stack.report.ok, [str(refusal) for refusal in stack.report.refused]
    assert stack.report.max_logit_error <= 1e-4
    assert stack.n_sites == len(stack.sublayers) + 1


@every_case
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "left-padded"])
def test_walking_gives_the_residuals_reads_and_logits_of_an_independent_model(
    case: Case, stack: DenseStack, padded: bool
) -> None:
    tokens, mask = tokens_and_mask()
    attention_mask = mask if padded else None
    real = mask.bool() if padded else torch.ones_like(mask, dtype=torch.bool)
    wanted = observe(case, tokens, attention_mask)
    walk = stack.walk(tokens, attention_mask)
    h = walk.embedding()
    reads = iter(
        zip(wanted.attention_reads, wanted.mlp_reads, strict=True)
        if case.arrangement == "parallel"
        else [r for pair in zip(wanted.attention_reads, wanted.mlp_reads, strict=True) for r in pair]
    )
    for site in range(len(stack.sublayers)):
        _close(h, wanted.residuals[site], real)
        expected = next(reads)
        _close(walk.read(site, h), expected[0] if isinstance(expected, tuple) else expected, real)
        h = walk.sublayer(site, h)
    _close(h, wanted.residuals[-1], real)
    if wanted.final_read is not None:
        _close(walk.read(len(stack.sublayers), h), wanted.final_read, real)
    _close(walk.unembed(h), wanted.logits, real)


@every_case
def test_resolved_roles_are_those_an_expert_names(case: Case, stack: DenseStack) -> None:
    names = names_of(case)
    for block in stack.blocks:
        assert block.arrangement == case.arrangement
        assert block.attention is not None
        assert block.mlp is not None
        assert block.attention.modules == (names.attention,)
        assert block.mlp.modules[0] == names.mlp
        assert block.attention.read_norm == names.attention_norm
        assert (block.attention.contribution_norm is not None) == (case.norms in ("sandwich", "post"))
        assert (block.attention.stream_norm is not None) == (case.norms == "stream")
        assert block.attention.scale == dict(case.options).get("residual_multiplier", 1.0)


@every_case
def test_the_gain_of_a_read_norm_is_the_effective_one(case: Case, stack: DenseStack) -> None:
    gain, centres = first_norm(case)
    torch.testing.assert_close(stack.norm_gain(0), gain)
    assert stack.norm_centres(0) == centres
    assert stack.norm_gain(len(stack.sublayers)).shape == (stack.d_model,)


@every_case
def test_stacked_streams_walk_as_each_stream_alone(case: Case, stack: DenseStack) -> None:
    tokens, mask = tokens_and_mask(batch=4)
    walk = stack.walk(tokens, mask)
    h = walk.embedding()
    other = h + 0.3 * torch.roll(h, 1, -1)
    both = torch.cat([h, other])
    for site in range(len(stack.sublayers)):
        h, other, both = (walk.sublayer(site, stream) for stream in (h, other, both))
    together = walk.unembed(both)
    apart = torch.cat([walk.unembed(h), walk.unembed(other)])
    real = torch.cat([mask, mask]).bool()
    _close(together, apart, real)


def test_the_guides_table_of_families_is_the_one_the_tests_make() -> None:
    assert read_between(DOCUMENT, "families") == family_table(), "run python -m tests.dense_adapters.family_table"


def _close(found: torch.Tensor, wanted: torch.Tensor, real: torch.Tensor) -> None:
    torch.testing.assert_close(found[real], wanted.reshape(found.shape)[real], atol=1e-4, rtol=1e-4)
