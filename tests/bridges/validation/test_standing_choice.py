"""Choosing standing edits: inner places, strengths up to 1, and nothing where nothing can be read."""

from dataclasses import replace

import pytest
import torch

from bridges.validation import isolation
from bridges.validation.standing import KINDS, STRENGTHS, StandingChoice, flips_of, standing_edits
from dense_adapters import LeftOut
from foundation.errors import UserError
from foundation.fingerprints import model_fingerprint
from sparse_model.circuits.circuit import Circuit
from sparse_model.tasks.splits import Splits
from sparse_model.transformer.nodes import node_locations
from tests.bridges.validation.conftest import CHANGED


@pytest.fixture(autouse=True)
def _mostly_unrelated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "UNRELATED_BELOW", 0.5)


def circuit_of(validated) -> Circuit:
    keep = {name: torch.arange(w) % 4 == 1 for name, w in node_locations(validated.sparse.config).items()}
    values = {name: torch.zeros(len(mask)) for name, mask in keep.items()}
    return Circuit("tiny", model_fingerprint(validated.sparse), keep, values, "zero")


def choice_of(validated, splits: Splits | None = None) -> StandingChoice:
    parts = validated.bridge, validated.sparse, validated.dense, splits or validated.splits, validated.text
    return StandingChoice(circuit_of(validated), *parts)


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_stands_at_an_inner_place_at_a_strength_of_at_most_one_and_flips_what_a_walk_says(
    kind, validated
) -> None:
    choice = choice_of(validated)
    edit = choice.choose(kind, "a_to_b")
    (site,) = edit.sites
    assert 0 < site.dense_site < 4
    assert edit.strength in STRENGTHS
    assert max(STRENGTHS) == 1
    judged = choice.judge(edit, "a_to_b")
    assert judged["flip_rate"]["value"] == pytest.approx(
        flips_of(validated.dense, edit, choice.held_out.contrast, "a_to_b")
    )
    if kind != "class_mean":
        assert len(site.nodes) == len(choice.places[site.dense_site])


def test_a_choice_that_leaves_positions_out_fits_elsewhere_and_says_what_it_leaves(validated) -> None:
    every = choice_of(validated)
    tokens = every.train.contrast.base
    left_out = LeftOut((int(tokens[0, int(every.train.contrast.last[0])]),), True)
    parts = validated.bridge, validated.sparse, validated.dense, validated.splits, validated.text
    choice = StandingChoice(circuit_of(validated), *parts, left_out=left_out)
    place = next(iter(choice.places))
    fitted, plain = (which._fitted("circuit", place, "a_to_b") for which in (choice, every))
    assert fitted.left_out == left_out
    assert not plain.left_out
    readout, text = fitted.sites[0].readout, choice.fit_text
    corpus = readout(text.h[fitted.sites[0].dense_site])[left_out.kept(text.tokens)]
    torch.testing.assert_close(fitted.sites[0].rule.mean_corpus, corpus.mean(0))
    assert not torch.allclose(fitted.sites[0].rule.mean_corpus, plain.sites[0].rule.mean_corpus)


def test_prompts_that_end_in_the_changed_token_leave_nothing_to_stand_on(validated) -> None:
    splits = []
    for pairs in (validated.splits.train, validated.splits.validation, validated.splits.held_out):
        splits.append(replace(pairs, last=torch.full_like(pairs.last, CHANGED)))
    choice = choice_of(validated, Splits(*splits))
    with pytest.raises(UserError, match="no class to move"):
        choice.choose("circuit", "a_to_b")
    parts = validated.bridge, validated.sparse, validated.dense, Splits(*splits), validated.text
    assert standing_edits(circuit_of(validated), *parts) == ({}, {})
