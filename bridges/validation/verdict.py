"""The verdict: named gates, each a figure beside its threshold. An explanation holds when all of them pass."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Gate:
    """One condition: what was measured, what it must be, and what it means if it is not."""

    name: str
    passed: bool
    measured: str
    required: str
    meaning: str

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return asdict(self)


@dataclass(frozen=True)
class Thresholds:
    """What counts as a valid edit."""

    recovered_low: float = 0.75
    recovered_high: float = 1.25
    p_target_share: float = 0.8
    random_recovered: float = 0.1
    p_value: float = 0.01
    flip_rate: float = 0.9
    isolation_kl: float = 0.02
    wrong_way: float = 0.1


def verdict(paired: dict[str, Any], standing: dict[str, Any], limits: Thresholds | None = None) -> list[Gate]:
    """Gates over both directions (`a_to_b`, `b_to_a`) of the paired and standing figures."""
    limits = limits or Thresholds()
    both = list(paired.values())
    recovered = [found["recovered"]["value"] for found in both]
    shares = [
        found["edited"]["p_target"]["value"] / max(found["full_patch"]["p_target"]["value"], 1e-12) for found in both
    ]
    random = [found["random"]["recovered"] for found in both]
    p_values = [found["p_value"] for found in both]
    wrong = [found["wrong_way"] for found in both]
    flips = [found["flip_rate"]["value"] for found in standing.values()]
    kls = [found["isolation"]["kl"]["value"] for found in standing.values()]
    gates = [
        Gate(
            "controllable",
            all(limits.recovered_low <= r <= limits.recovered_high for r in recovered)
            and all(share >= limits.p_target_share for share in shares),
            f"recovers {_list(recovered)} of the full patch's logit difference, {_list(shares)} of its P(target)",
            f"recovered within {limits.recovered_low}–{limits.recovered_high} and P(target) at least {limits.p_target_share} of "
            "the full patch's, both directions",
            "the mapped nodes do not carry the behaviour in the dense model",
        ),
        Gate(
            "better than controls",
            all(abs(r) <= limits.random_recovered for r in random) and all(p < limits.p_value for p in p_values),
            f"random directions of equal norm recover {_list(random)}, p {_list(p_values, 4)}",
            f"random at most {limits.random_recovered}, p below {limits.p_value}",
            "directions that claim nothing do as much",
        ),
        Gate(
            "robust",
            all(share <= limits.wrong_way for share in wrong),
            f"{_list(wrong)} of held-out prompts move the wrong way",
            f"at most {limits.wrong_way}",
            "the effect is an average over prompts that disagree",
        ),
    ]
    if standing:
        gates += [
            Gate(
                "acts alone",
                all(flip >= limits.flip_rate for flip in flips),
                f"the standing edit flips {_list(flips)} of held-out prompts",
                f"at least {limits.flip_rate}, both directions",
                "without the counterfactual prompt the edit does not find its mark",
            ),
            Gate(
                "isolated",
                all(kl <= limits.isolation_kl for kl in kls),
                f"the standing edit costs {_list(kls, 4)} nats/token on unrelated text",
                f"at most {limits.isolation_kl}",
                "the edit changes text it should not touch",
            ),
        ]
    return gates


def _list(values: list[float], digits: int = 2) -> str:
    return " / ".join(f"{value:.{digits}f}" for value in values)
