"""Every gate fails by its own figure and by no other."""

import copy
from typing import Any

import pytest

from bridges.validation.verdict import Thresholds, verdict


def figures() -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures that pass every gate, both directions."""
    paired = {
        "recovered": {"value": 1.0},
        "edited": {"p_target": {"value": 0.8}},
        "full_patch": {"p_target": {"value": 0.85}},
        "random": {"recovered": 0.0},
        "p_value": 0.005,
        "wrong_way": 0.0,
    }
    standing = {"flip_rate": {"value": 1.0}, "isolation": {"kl": {"value": 0.01}}}
    return (
        {name: copy.deepcopy(paired) for name in ("a_to_b", "b_to_a")},
        {name: copy.deepcopy(standing) for name in ("a_to_b", "b_to_a")},
    )


def failed(paired: dict[str, Any], standing: dict[str, Any]) -> list[str]:
    return [gate.name for gate in verdict(paired, standing) if not gate.passed]


def test_good_figures_pass_all_five_gates() -> None:
    gates = verdict(*figures())
    assert [gate.name for gate in gates] == ["controllable", "better than controls", "robust", "acts alone", "isolated"]
    assert all(gate.passed for gate in gates)
    assert all(gate.to_json()["required"] for gate in gates)


@pytest.mark.parametrize(
    ("place", "value", "gate"),
    [
        (("recovered", "value"), Thresholds().recovered_low - 0.01, "controllable"),
        (("recovered", "value"), Thresholds().recovered_high + 0.01, "controllable"),
        (("edited", "p_target", "value"), 0.79 * 0.85, "controllable"),
        (("random", "recovered"), 0.11, "better than controls"),
        (("random", "recovered"), -0.11, "better than controls"),
        (("p_value",), 0.01, "better than controls"),
        (("wrong_way",), 0.11, "robust"),
        (("flip_rate", "value"), 0.89, "acts alone"),
        (("isolation", "kl", "value"), 0.021, "isolated"),
    ],
)
@pytest.mark.parametrize("direction", ["a_to_b", "b_to_a"])
def test_one_figure_over_its_threshold_in_one_direction_fails_its_gate_alone(
    place: tuple[str, ...], value: float, gate: str, direction: str
) -> None:
    paired, standing = figures()
    found = (standing if place[0] in ("flip_rate", "isolation") else paired)[direction]
    for key in place[:-1]:
        found = found[key]
    found[place[-1]] = value
    assert failed(paired, standing) == [gate]


def test_without_standing_edits_their_gates_are_not_claimed() -> None:
    assert [gate.name for gate in verdict(figures()[0], {})] == ["controllable", "better than controls", "robust"]
