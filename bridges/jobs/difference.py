"""One circuit judged on two dense models: a base, and the same with an adapter (LoRA and its kind) merged in.

The bridge was trained to the base, and the pairs, the text and the circuit are the same for both. So what differs between the two
verdicts is what the adapter changed, or that the bridge no longer fits what it changed: `carried` tells the two apart.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bridges.jobs.judge import judge
from bridges.jobs.material import Material
from bridges.validation.validate import Validation
from dense_adapters import load_stack
from foundation.errors import UserError
from sparse_model.circuits.circuit import Circuit


@dataclass(frozen=True)
class Difference:
    """Two verdicts on one circuit, and the fingerprint of the adapted model."""

    base: Validation
    adapted: Validation
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """Keys `base` and `adapted` (whole reports), `adapted_fingerprint`, and `figures`: name → both values."""
        return {
            "task": self.base.report["task"],
            "base": self.base.report,
            "adapted": self.adapted.report,
            "adapted_fingerprint": self.fingerprint,
            "figures": {
                name: {"base": before, "adapted": after}
                for (name, before), after in zip(
                    figures(self.base.report).items(), figures(self.adapted.report).values(), strict=True
                )
            },
        }


def figures(report: dict[str, Any]) -> dict[str, dict[str, float] | None]:
    """What two verdicts are compared by, each an estimate's JSON; None where the circuit has no place in the dense model."""
    effect, m7 = report.get("effect") or {}, report.get("specificity") or {}
    return {
        "accuracy of the dense model": report["accuracy"]["dense"],
        "circuit's edit": effect.get("circuit"),
        "whole stream, decoded": effect.get("decoded"),
        "patch": effect.get("patch"),
        "M6: slope": report["transfer"]["slope"],
        "M7: more than matched sets": m7.get("difference"),
    }


def judge_difference(
    circuit: Circuit, material: Material, dense: str, adapter: Path, draws: int = 100, trust_remote_code: bool = False
) -> Difference:
    """Judge a circuit on the material's model and on the same with an adapter.

    Args:
        dense: where the material's dense model is.

    Raises:
        AttachError: the folder holds no adapter, or one that does not fit the model.
        UserError: the adapter changes nothing, or what `judge` raises.
    """
    device = material.device
    stack, tokenizer = load_stack(dense, device, trust_remote_code, adapter)
    before = material.pairing.stack.fingerprint
    if stack.fingerprint == before:
        raise UserError(f"{adapter}: the adapter leaves every weight as it was; give one that was trained")
    adapted = replace(material, pairing=replace(material.pairing, stack=stack, tokenizer=tokenizer))
    return Difference(judge(circuit, material, draws), judge(circuit, adapted, draws), stack.fingerprint)
