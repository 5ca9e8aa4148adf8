"""Each rule by its definition; strength 0 is no edit."""

from dataclasses import dataclass
from typing import ClassVar, Self

import pytest
import torch

from bridges.edits.fit import contrast_tokens
from bridges.edits.rules import RULES, Add, Clamp, Move, Rule, Scale, ToMean, find_rule, make_rule, rules_of_nodes
from foundation.errors import UserError

MEAN, VALUE = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5])
A, B, CORPUS = torch.tensor([4.0, 0.0]), torch.tensor([0.0, 4.0]), torch.tensor([-3.0, -3.0])
SHIFT = torch.tensor([-7.0, 6.0])


def move(radius: float = 2.0) -> Move:
    return Move(A, B, CORPUS, torch.eye(2), SHIFT, radius)


@pytest.fixture
def z() -> torch.Tensor:
    return torch.tensor([[[4.2, 0.3], [0.1, 3.9], [-3.0, -2.0], [50.0, 1.0]]])


@pytest.mark.parametrize("strength", [-1.0, 0.25, 1.0, 2.0])
def test_simple_rules_are_their_formulas(strength: float, z: torch.Tensor) -> None:
    after = {
        "ablate": (1 - strength) * z + strength * MEAN,
        "clamp": (1 - strength) * z + strength * VALUE,
        "scale": (1 + strength) * z,
        "add": z + strength * VALUE,
    }
    rules = {"ablate": ToMean(MEAN), "clamp": Clamp(VALUE), "scale": Scale(), "add": Add(VALUE)}
    for name, rule in rules.items():
        torch.testing.assert_close(z + rule.change(z, strength), after[name])


@pytest.mark.parametrize("rule", [ToMean(MEAN), Scale(), Clamp(VALUE), Add(VALUE), move()], ids=lambda rule: rule.name)
def test_strength_zero_changes_nothing(rule: Rule, z: torch.Tensor) -> None:
    assert not rule.change(z, 0.0).any()
    assert rule.change(z, 1.0).any()


def test_a_move_shifts_class_a_by_its_shift_and_leaves_all_others(z: torch.Tensor) -> None:
    change = move().change(z, 1.5)
    torch.testing.assert_close(change[0, 0], 1.5 * SHIFT)
    assert not change[0, 1:].any()  # of class b, of the corpus, and nearest to a but too far from it
    torch.testing.assert_close(move(radius=100.0).change(z, 1.0)[0, 3], SHIFT)


def test_distances_are_measured_after_whitening() -> None:
    token = torch.tensor([2.1, 1.0])  # nearer to a
    assert move(100.0).is_class_a(token)
    squeezed = Move(A, B, CORPUS, torch.diag(torch.tensor([0.01, 1.0])), SHIFT, 100.0)  # only the second axis counts
    assert squeezed.is_class_a(token)
    assert not squeezed.is_class_a(torch.tensor([4.0, 2.5]))
    assert move(100.0).is_class_a(torch.tensor([4.0, 2.5]))


@pytest.mark.parametrize("rule", [ToMean(MEAN), Scale(), Clamp(VALUE), Add(VALUE), move()], ids=lambda rule: rule.name)
def test_a_rule_is_made_again_from_its_name_and_numbers(rule: Rule, z: torch.Tensor) -> None:
    again = make_rule(rule.name, {**rule.scalars(), **rule.tensors()})
    assert type(again) is type(rule)
    torch.testing.assert_close(again.change(z, 0.8), rule.change(z, 0.8))


def test_unknown_rules_and_wrong_numbers_are_refused() -> None:
    with pytest.raises(UserError, match=f"choose one of {', '.join(RULES)}"):
        make_rule("push", {})
    with pytest.raises(UserError, match="needs mean, got value"):
        make_rule("ablate", {"value": VALUE})
    with pytest.raises(UserError, match="needs nothing"):
        make_rule("scale", {"value": VALUE})


def test_contrast_tokens_are_where_the_prompts_differ_most_and_never_padding() -> None:
    z_a, z_b = torch.zeros(2, 4, 3), torch.zeros(2, 4, 3)
    z_b[0, 1], z_b[0, 2], z_b[0, 3] = 1.0, 0.4, 9.0  # the last is padding
    z_b[1, 3] = 2.0
    allowed = torch.arange(4)[None] <= torch.tensor([[2], [3]])
    found = contrast_tokens(z_a, z_b, allowed)
    assert found.tolist() == [[False, True, False, False], [False, False, False, True]]


@dataclass(frozen=True)
class Mirror(Rule):
    """Turn nodes around."""

    name: ClassVar[str] = "mirror"

    @classmethod
    def of_nodes(cls, corpus: torch.Tensor, value: float | None) -> Self:
        """Takes anything."""
        return cls()

    def change(self, z: torch.Tensor, strength: float) -> torch.Tensor:
        """-2z."""
        return -2 * strength * z


def test_a_rule_added_to_the_list_is_found_made_and_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "mirror" not in rules_of_nodes()
    monkeypatch.setitem(RULES, "mirror", Mirror)
    assert "mirror" in rules_of_nodes()
    assert make_rule("mirror", {}) == Mirror()
    with pytest.raises(UserError, match=r"mirror: Turn nodes around"):
        find_rule("push")


def test_every_rule_is_made_from_nodes_with_its_own_needs_or_refuses(z: torch.Tensor) -> None:
    corpus = torch.arange(6.0).view(3, 2)
    assert ToMean.of_nodes(corpus, None).mean.tolist() == [2.0, 3.0]
    assert Clamp.of_nodes(corpus, 2.0).value.tolist() == [2.0, 2.0]
    assert Scale.of_nodes(corpus, None) == Scale()
    for rule, value, message in ((Add, None, "needs --value"), (Scale, 1.0, "takes no --value"), (Move, None, "alone")):
        with pytest.raises(UserError, match=message):
            rule.of_nodes(corpus, value)
    assert rules_of_nodes() == ("ablate", "scale", "clamp", "add")


def test_a_changed_token_that_is_not_allowed_is_never_a_contrast() -> None:
    z_a, z_b = torch.zeros(1, 3, 2), torch.zeros(1, 3, 2)
    z_b[0, 0], z_b[0, 2] = 9.0, 1.0
    assert contrast_tokens(z_a, z_b, torch.tensor([[False, True, True]])).tolist() == [[False, False, True]]
    assert not contrast_tokens(z_a, z_a, torch.tensor([[False, True, False]]))[0, 0]
