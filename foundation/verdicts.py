"""The words of a verdict and the gates it rests on, for the judge that gives them and the pages and commands that show them."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Word = Literal["explains", "steers", "fails"]
WORDS: tuple[Word, ...] = ("explains", "steers", "fails")
"""From best to worst."""


@dataclass(frozen=True)
class Gate:
    """One condition: what was measured, what it must be, what it means if it is not, and what to do then."""

    name: str
    passed: bool
    measured: str
    required: str
    meaning: str
    remedy: str

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return asdict(self)
