"""Choosing loop and strength, and what is reported of the choice."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from bridges.edits.paired import PairedRun
from bridges.validation import paired
from bridges.validation.effects import Effect, recovered
from bridges.validation.paired import choose_paired, concentration, judge_paired
from bridges.validation.verdict import Thresholds

DOSES = (0.0, 1.0, 2.0)


class Numbered(PairedRun):
    """A run that is nothing but its number."""

    def __init__(self, number: int) -> None:
        self.number = number


def choose(monkeypatch: pytest.MonkeyPatch, **figures: Sequence[Sequence[Sequence[float]]]) -> tuple[str, float]:
    """`loop=[(recovered, P share, size) by dose]` for one or two directions."""

    def by_dose(run, loop: str, doses: Sequence[float]) -> list[list[float]]:
        return figures[loop][run.number]

    monkeypatch.setattr(paired, "_by_dose", by_dose)
    runs = [Numbered(number) for number in range(len(figures["open"]))]
    found = choose_paired(runs, DOSES)
    return found.loop, found.strength


def test_of_two_sufficient_edits_the_smaller_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    enough = [[0.0, 0.95, 1.0], [0.0, 0.99, 1.0]]
    assert choose(monkeypatch, open=[[*enough, [0, 3, 9]]], closed=[[*enough, [0, 2, 8]]]) == ("closed", 1.0)
    assert choose(monkeypatch, open=[[*enough, [0, 1, 9]]], closed=[[*enough, [0, 2, 8]]]) == ("open", 1.0)


def test_the_worst_direction_decides_whether_an_edit_is_sufficient(monkeypatch: pytest.MonkeyPatch) -> None:
    good = [[0.0, 0.97, 1.0], [0.0, 1.0, 1.0], [0, 1, 2]]
    bad = [[0.0, 0.3, 1.0], [0.0, 1.0, 1.0], [0, 1, 2]]
    nothing = [[0.0, 0.1, 0.2], [0.0, 0.1, 0.2], [0, 1, 2]]
    assert choose(monkeypatch, open=[good, good], closed=[nothing, nothing]) == ("open", 1.0)
    assert choose(monkeypatch, open=[good, bad], closed=[nothing, nothing]) == ("open", 2.0)


def test_an_edit_that_does_not_raise_the_targets_probability_is_not_sufficient(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [[0.0, 1.0, 1.02], [0.0, 0.1, 1.0], [0, 1, 2]]
    nothing = [[0.0, 0.1, 0.2], [0.0, 0.1, 0.2], [0, 1, 2]]
    assert choose(monkeypatch, open=[found], closed=[nothing]) == ("open", 2.0)


def test_without_a_sufficient_edit_the_nearest_to_one_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    weak = [[0.0, 0.1, 0.3], [0.0, 0.1, 0.1], [0, 1, 2]]
    weaker = [[0.0, 0.1, 0.2], [0.0, 0.1, 0.1], [0, 0.1, 0.2]]
    assert choose(monkeypatch, open=[weaker], closed=[weak]) == ("closed", 2.0)


def test_the_figures_of_a_dose_are_recovered_share_and_size(validated) -> None:
    run = validated.run
    recovered_by_dose, shares, sizes = paired._by_dose(run, "closed", (0.0, 1.0))
    none, full = Effect.of(run.unedited(), run.direction), Effect.of(run.patched(), run.direction)
    edited = run.edited(torch.tensor([1.0]), "closed")
    effect = Effect.of(edited.logits[0], run.direction)
    assert recovered_by_dose[0] == pytest.approx(0, abs=1e-4)
    assert recovered_by_dose[1] == pytest.approx(recovered(effect, none, full).value, rel=1e-4)
    assert shares[1] == pytest.approx(effect.p_target.mean() / full.p_target.mean(), rel=1e-4)
    assert sizes[0] == 0
    assert sizes[1] == pytest.approx(sum(float(d[0].square().sum(-1).mean()) for d in edited.deltas), rel=1e-4)


def test_a_judgement_reports_the_choice_its_doses_and_its_controls(validated) -> None:
    run = validated.run
    choice = paired.PairedChoice("closed", 0.65, {})
    found = judge_paired(run, run, choice, validated.text, draws=4)
    none, full = Effect.of(run.unedited(), run.direction), Effect.of(run.patched(), run.direction)
    edit = Effect.of(run.edited(torch.tensor([0.65]), "closed").logits[0], run.direction)
    assert found["recovered"]["value"] == pytest.approx(recovered(edit, none, full).value, rel=1e-4)
    assert found["edited"]["p_target"]["value"] == pytest.approx(edit.p_target.mean(), rel=1e-4)
    toward = np.sign((full.logit_difference - none.logit_difference).mean())
    wrong = (toward * (edit.logit_difference - none.logit_difference) < 0).mean()
    assert found["wrong_way"] == pytest.approx(wrong)
    assert round(found["p_value"] * 5, 6) in (1, 2, 3, 4, 5)
    curve = {row["strength"]: row["logit_difference"]["value"] for row in found["dose_response"]}
    assert 0.65 in curve
    assert curve[0.0] == pytest.approx(none.logit_difference.mean(), abs=1e-4)
    assert set(found["controls"]) == {"untrained_bridge", "random_nodes"}
    assert set(found["baselines"]) == {"class_mean_difference", "best_coordinates"}
    assert [site["dense_site"] for site in found["on_manifold"]] == [0, 2]


def test_concentration_ends_at_the_whole_edit(validated) -> None:
    run, choice = validated.run, paired.PairedChoice("open", 1.0, {})
    rows = concentration(run, [1, 24], choice)
    none, full = Effect.of(run.unedited(), run.direction), Effect.of(run.patched(), run.direction)
    whole = Effect.of(run.edited(torch.tensor([1.0]), "open").logits[0], run.direction)
    assert [row["nodes"] for row in rows] == [2, 48]
    assert rows[1]["value"] == pytest.approx(recovered(whole, none, full).value, rel=1e-3)
    assert rows[0]["value"] != pytest.approx(rows[1]["value"], rel=1e-3)


def test_an_edit_counts_as_sufficient_only_where_its_gate_would_pass() -> None:
    limits = Thresholds()
    assert limits.p_target_share <= paired.SUFFICIENT_P_TARGET
    assert (
        limits.recovered_low <= paired.SUFFICIENT_RECOVERED <= 2 - paired.SUFFICIENT_RECOVERED <= limits.recovered_high
    )
