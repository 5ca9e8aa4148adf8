"""Rules of standing edits: what a node's activation becomes, from what it is now, and how a rule is made. One class per rule.

A new rule is one class here and its name in `RULES`; mapping, saving and the command line take it from there.

ablate   a′ = corpus mean
scale    a′ = (1 + strength) · a            strength −1 silences, 0 changes nothing
clamp    a′ = value                          (approached with strength)
add      a′ = a + strength · value
move     where the nodes lie nearer to their class-a mean than to the class-b and corpus means, a′ = a + strength · shift
"""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foundation.errors import UserError


@dataclass(frozen=True)
class Rule:
    """What nodes with activations z [*B, n] change by; `tensors` lists the fields that are numbers per node."""

    name: ClassVar[str]

    @classmethod
    def of_nodes(cls, corpus: Float[Tensor, "M n"], value: float | None) -> Self:
        """The rule for chosen nodes.

        Args:
            corpus: their activations on M tokens of reference text.
            value: in stream units of the sparse model, the same for every node; None where none was given.

        Raises:
            UserError: the rule takes more than nodes, or a value is missing or not wanted.
        """
        raise UserError(f"rule '{cls.name}' cannot be made from nodes alone; choose {', '.join(rules_of_nodes())}")

    def change(self, z: Float[Tensor, "*B n"], strength: float) -> Float[Tensor, "*B n"]:
        """Δz at this strength; 0 for strength 0."""
        raise TypeError(f"{type(self).__name__} is not a rule of its own")

    def tensors(self) -> dict[str, Tensor]:
        """The rule's numbers, by field."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return replace(self, **{name: value.to(device) for name, value in self.tensors().items()})

    def scalars(self) -> dict[str, Any]:
        """The rule's plain values, by field."""
        return {key: value for key, value in asdict(self).items() if not isinstance(value, Tensor)}


@dataclass(frozen=True)
class ToMean(Rule):
    """Freeze nodes at their corpus means [n]."""

    name: ClassVar[str] = "ablate"
    mean: Tensor

    @classmethod
    def of_nodes(cls, corpus: Float[Tensor, "M n"], value: float | None) -> Self:
        """Takes no value."""
        _refuse_value(cls.name, value)
        return cls(corpus.mean(0))

    def change(self, z: Float[Tensor, "*B n"], strength: float) -> Float[Tensor, "*B n"]:
        """strength · (mean − z)."""
        return strength * (self.mean - z)


@dataclass(frozen=True)
class Scale(Rule):
    """Multiply nodes by 1 + strength."""

    name: ClassVar[str] = "scale"

    @classmethod
    def of_nodes(cls, corpus: Float[Tensor, "M n"], value: float | None) -> Self:
        """Takes no value: its strength says how much."""
        _refuse_value(cls.name, value)
        return cls()

    def change(self, z: Float[Tensor, "*B n"], strength: float) -> Float[Tensor, "*B n"]:
        """strength · z."""
        return strength * z


@dataclass(frozen=True)
class Clamp(Rule):
    """Hold nodes at given values [n]."""

    name: ClassVar[str] = "clamp"
    value: Tensor

    @classmethod
    def of_nodes(cls, corpus: Float[Tensor, "M n"], value: float | None) -> Self:
        """Needs a value."""
        return cls(_same_value(cls.name, value, corpus))

    def change(self, z: Float[Tensor, "*B n"], strength: float) -> Float[Tensor, "*B n"]:
        """strength · (value − z)."""
        return strength * (self.value - z)


@dataclass(frozen=True)
class Add(Rule):
    """Add given amounts [n]."""

    name: ClassVar[str] = "add"
    value: Tensor

    @classmethod
    def of_nodes(cls, corpus: Float[Tensor, "M n"], value: float | None) -> Self:
        """Needs a value."""
        return cls(_same_value(cls.name, value, corpus))

    def change(self, z: Float[Tensor, "*B n"], strength: float) -> Float[Tensor, "*B n"]:
        """strength · value, everywhere."""
        return (strength * self.value).expand_as(z)


@dataclass(frozen=True)
class Move(Rule):
    """Move tokens of class a to class b, and leave all others alone.

    Distances are measured after `whiten` [n, n] (so that a direction counts by how unusual it is within the classes and
    the corpus). A token is of class a where it is nearer to `mean_a` than to `mean_b` and `mean_corpus`, and no further
    from it than `radius`, the reach of the class in the pairs the rule was fitted on. The change is `shift` [n], in the units
    of what is written: an encoder's own class means differ less than the activations it estimates.
    """

    name: ClassVar[str] = "move"
    mean_a: Tensor
    mean_b: Tensor
    mean_corpus: Tensor
    whiten: Tensor
    shift: Tensor
    radius: float

    def is_class_a(self, z: Float[Tensor, "*B n"]) -> Bool[Tensor, "*B"]:
        """Which tokens the rule acts on."""
        means = torch.stack([self.mean_a, self.mean_b, self.mean_corpus])
        gap = (z[..., None, :] - means) @ self.whiten
        distance = gap.norm(dim=-1)
        return (distance.argmin(-1) == 0) & (distance[..., 0] <= self.radius)

    def change(self, z: Float[Tensor, "*B n"], strength: float) -> Float[Tensor, "*B n"]:
        """strength · shift on class-a tokens, 0 elsewhere."""
        return self.is_class_a(z)[..., None] * (strength * self.shift)


RULES: dict[str, type[Rule]] = {rule.name: rule for rule in (ToMean, Scale, Clamp, Add, Move)}


def rules_of_nodes() -> tuple[str, ...]:
    """Names of the rules that chosen nodes suffice for."""
    return tuple(name for name, rule in RULES.items() if "of_nodes" in vars(rule))


def find_rule(name: str) -> type[Rule]:
    """A rule by its name.

    Raises:
        UserError: there is none of that name; the message says what there is and what each does.
    """
    if name not in RULES:
        known = "; ".join(f"{rule.name}: {str(rule.__doc__).splitlines()[0].rstrip('.')}" for rule in RULES.values())
        raise UserError(f"unknown rule '{name}'; choose one of {', '.join(RULES)} ({known})")
    return RULES[name]


def _refuse_value(name: str, value: float | None) -> None:
    if value is not None:
        raise UserError(f"rule '{name}' takes no --value; leave it out, or choose another --rule")


def _same_value(name: str, value: float | None, corpus: Tensor) -> Float[Tensor, " n"]:
    if value is None:
        raise UserError(f"rule '{name}' needs --value, in stream units of the sparse model")
    return torch.full(corpus.shape[1:], float(value))


def make_rule(name: str, values: dict[str, Any]) -> Rule:
    """A rule from its name and fields.

    Raises:
        UserError: unknown name, or fields missing.
    """
    rule = find_rule(name)
    wanted = {field.name for field in fields(rule)}
    if set(values) != wanted:
        raise UserError(
            f"rule '{name}' needs {', '.join(sorted(wanted)) or 'nothing'}, got {', '.join(sorted(values)) or 'nothing'}"
        )
    return rule(**values)


def tensor_shapes(name: str, n: int) -> dict[str, tuple[int, ...]]:
    """Field → shape of the tensors of a rule for n nodes.

    Raises:
        UserError: there is no such rule.
    """
    found = [field.name for field in fields(find_rule(name)) if field.type is Tensor]
    return {field: (n, n) if field == "whiten" else (n,) for field in found}
