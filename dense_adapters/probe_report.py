"""What the probe found: errors per check, roles per layer, and which steps of which sites are refused."""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Refusal:
    """One step of one site that failed its check and may not be used."""

    site: int
    step: str
    sublayer: str
    check: str
    error: float
    tolerance: float
    detail: str = ""

    def __str__(self) -> str:
        found = self.detail or f"error {self.error:.3g} exceeds {self.tolerance:.3g}"
        return f"site {self.site} ({self.sublayer}) refused for `{self.step}`: {self.check} check failed, {found}"


@dataclass
class ProbeReport:
    """The probe's findings. Errors are relative as defined in this module; seconds include resolving and probing."""

    architecture: str
    n_layers: int
    tolerance: float
    max_logit_error: float = 0.0
    max_residual_error: float = 0.0
    max_read_error: float = 0.0
    refused: list[Refusal] = field(default_factory=list)
    errors: list[dict[str, float]] = field(default_factory=list)
    roles: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every check of every site passed."""
        return not self.refused

    def to_json(self) -> str:
        """All fields and `ok` as one JSON object; an error that could not be measured is null."""
        return json.dumps(_finite({"ok": self.ok, **asdict(self)}), allow_nan=False)


def _finite(value: Any) -> Any:
    """The value with every infinity replaced by None, as JSON has none."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
