"""Controls have the edit's size and nothing of its content."""

import pytest
import torch

from bridges.validation.controls import (
    best_coordinates_effect,
    class_mean_effect,
    draws_of,
    random_effects,
    random_nodes,
    untrained_run,
)
from bridges.validation.effects import Effect


def test_random_edits_have_the_edits_norm_at_every_site_and_token_and_one_direction_per_site(
    validated, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = validated.run, []
    edit = run.edited(torch.tensor([1.3]), "closed")
    whole = type(run).with_changes

    def spy(self, changes):
        seen.append(changes)
        return whole(self, changes)

    monkeypatch.setattr(type(run), "with_changes", spy)
    effects = random_effects(run, edit, draws=12, seed=0)
    assert len(effects) == 12
    assert [len(changes[0]) for changes in seen] == [10, 2]
    for changes in seen:
        for change, delta in zip(changes, edit.deltas, strict=True):
            torch.testing.assert_close(
                change.norm(dim=-1), delta[0].norm(dim=-1).expand(change.shape[:-1]), atol=1e-4, rtol=1e-4
            )
            unit = change / change.norm(dim=-1, keepdim=True).clamp(min=1e-12)
            moved = delta[0].norm(dim=-1) > 1e-3
            assert all(unit[draw][moved].std(0).max() < 1e-3 for draw in range(len(change)))
            assert (unit[0][moved][0] @ unit[1][moved][0]).abs() < 0.95
    assert len(set(draws_of(effects).round(6))) == 12


def test_draws_of_another_seed_differ_and_of_the_same_do_not(validated) -> None:
    edit = validated.run.edited(torch.tensor([1.0]), "open")
    first, again, other = (draws_of(random_effects(validated.run, edit, 3, seed)) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).all()


def test_an_untrained_bridge_keeps_nodes_and_norms_and_loses_the_directions(validated) -> None:
    found = untrained_run(validated.run, 0)
    for mine, theirs in zip(found.sites, validated.run.sites, strict=True):
        assert mine.nodes == theirs.nodes
        torch.testing.assert_close(mine.directions.norm(dim=-1), theirs.directions.norm(dim=-1))
        cosine = torch.nn.functional.cosine_similarity(mine.directions, theirs.directions)
        assert cosine.abs().mean() < 0.5


def test_random_nodes_are_as_many_per_sublayer_and_really_mapped(validated) -> None:
    part = validated.run.with_sites(validated.run.sites)
    found = random_nodes(part.sites[:1], validated.bridge, validated.sparse, validated.dense, 0)
    assert [(s.dense_site, len(s.nodes)) for s in found] == [(s.dense_site, len(s.nodes)) for s in part.sites[:1]]
    assert {node.part for site in found for node in site.nodes} == {"act_in"}


def test_patching_every_coordinate_is_the_full_patch(validated) -> None:
    run = validated.run  # 24 nodes and 20 coordinates
    full, best = Effect.of(run.patched(), run.direction), best_coordinates_effect(run, run)
    torch.testing.assert_close(
        torch.tensor(best.logit_difference), torch.tensor(full.logit_difference), atol=1e-4, rtol=1e-4
    )


def test_the_class_mean_of_a_single_pair_is_its_own_full_patch_at_one_site(validated) -> None:
    from bridges.edits.paired import Direction, PairedRun

    d = validated.run.direction
    one = Direction(d.base[:1], d.counterfactual[:1], d.last[:1], d.original[:1], d.target[:1])
    run = PairedRun(one, validated.run.sites[:1], validated.bridge, validated.sparse, validated.dense)
    found, full = class_mean_effect(run, run), Effect.of(run.patched(), one)
    assert found.logit_difference[0] == pytest.approx(full.logit_difference[0], abs=1e-4)
    assert found.logit_difference[0] != pytest.approx(Effect.of(run.unedited(), one).logit_difference[0], abs=1e-4)
