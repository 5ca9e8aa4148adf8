"""What an edit costs elsewhere, and how far it leaves the natural distribution."""

import pytest
import torch
import torch.nn.functional as F

from bridges.edits.readout import Readout
from bridges.edits.rules import Add, Move
from bridges.edits.standing import StandingEdit, StandingSite
from bridges.validation import isolation
from bridges.validation.isolation import ReferenceText
from bridges.validation.manifold import NaturalStreams
from foundation.errors import UserError


def edit_of(validated, amount: float) -> StandingEdit:
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randn(2, 20, generator=generator) for _ in range(2)]
    rule = Add(torch.full((2,), amount))
    return StandingEdit(
        "t", "c", "", (StandingSite(1, ("x", "y"), Readout(rows[0], torch.zeros(2)), rows[1], rule),), 1.0
    )


@pytest.fixture(autouse=True)
def _mostly_unrelated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model of 40 tokens gives few answers less than 1 %."""
    monkeypatch.setattr(isolation, "UNRELATED_BELOW", 0.5)


def test_an_edit_that_does_nothing_costs_nothing_and_a_large_one_costs(validated) -> None:
    nothing = validated.text.isolation(edit_of(validated, 0.0), [3])
    assert nothing["kl"]["value"] == pytest.approx(0, abs=1e-6)
    assert nothing["ce_change"]["value"] == pytest.approx(0, abs=1e-6)
    assert nothing["acts_on"] == 0
    small, large = (validated.text.isolation(edit_of(validated, amount), [3]) for amount in (0.1, 3.0))
    assert large["kl"]["value"] > small["kl"]["value"] > 1e-5
    assert large["acts_on"] == 1
    assert validated.text.isolation(edit_of(validated, 3.0), [3], strength=0.0)["kl"]["value"] == pytest.approx(
        0, abs=1e-6
    )


@torch.no_grad()
def test_related_positions_are_left_out_of_the_cost(validated, monkeypatch: pytest.MonkeyPatch) -> None:
    text, edit = validated.text, edit_of(validated, 1.0)
    model = validated.dense.model
    before = F.log_softmax(model(text.tokens).logits, -1)
    with edit.applied(validated.dense):
        after = F.log_softmax(model(text.tokens).logits, -1)
    kl = (before.exp() * (before - after)).sum(-1)
    answers = [3, 17]
    chances = before[..., answers].exp().sum(-1)
    limit = float(chances.median())  # a random model is never sure: its middle stands for 1 %
    monkeypatch.setattr(isolation, "UNRELATED_BELOW", limit)
    unrelated = chances < limit
    assert unrelated.any()
    assert not unrelated.all()
    found = text.isolation(edit, answers)
    per_block = torch.stack([k[u].mean() for k, u in zip(kl, unrelated, strict=True) if u.any()])
    assert found["positions"] == pytest.approx(unrelated.float().mean().item())
    assert found["kl"]["value"] == pytest.approx(per_block.mean().item(), rel=1e-3)
    assert found["kl"]["value"] != pytest.approx(kl.mean().item(), rel=1e-2)
    assert torch.equal(text.unrelated([*answers, *answers]), unrelated)


def test_text_on_which_no_position_is_unrelated_is_refused_and_not_counted_as_isolated(
    validated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "UNRELATED_BELOW", 0.0)
    with pytest.raises(UserError, match="no position"):
        validated.text.isolation(edit_of(validated, 1.0), [3])


def test_a_move_acts_only_on_the_tokens_it_recognises(validated) -> None:
    (site,) = edit_of(validated, 1.0).sites
    z = site.encode(validated.text.h[1])
    rule = Move(z[0, 0], z[0, 0] + 2, z.mean((0, 1)) + 50, torch.eye(2), torch.full((2,), 2.0), 1e-3)
    edit = StandingEdit("t", "c", "", (StandingSite(1, site.nodes, site.readout, site.decoder, rule),))
    same = (validated.text.tokens == validated.text.tokens[0, 0]).sum()
    found = validated.text.isolation(edit, [3])["acts_on"] * validated.text.tokens.numel()
    assert 1 <= round(found) <= int(same)


def test_natural_streams_lie_at_one_and_far_ones_far_out() -> None:
    mixing = torch.randn(6, 6)
    natural = NaturalStreams((torch.randn(50, 40, 6) @ mixing) + 3)
    assert natural.excess(torch.randn(2000, 6) @ mixing + 3) == pytest.approx(1, abs=0.1)
    assert natural.excess(torch.randn(200, 6) @ mixing + 30) > 5
    assert natural.excess(4 * torch.randn(2000, 6) @ mixing + 3) == pytest.approx(4, abs=0.4)


def test_text_is_dealt_to_parts_that_share_nothing(validated) -> None:
    parts = [validated.text.part(number, 3) for number in range(3)]
    blocks = [tuple(block) for part in parts for block in part.tokens.tolist()]
    assert sorted(blocks) == sorted(tuple(block) for block in validated.text.tokens.tolist())
    for part in parts:
        for h, again in zip(part.h, ReferenceText(validated.dense, part.tokens.numpy()).h, strict=True):
            torch.testing.assert_close(h, again)
