"""What every check returns: figures with intervals and a sentence that says what they mean."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any

from foundation.statistics import Estimate


@dataclass(frozen=True)
class Finding(ABC):
    """Base of the results of all checks; subclasses add their figures and say them in `sentence`."""

    @property
    @abstractmethod
    def sentence(self) -> str:
        """What the figures mean, in plain words."""

    def to_json(self) -> dict[str, Any]:
        """Figures by field name, intervals as {value, low, high}, and the sentence."""
        figures = {field.name: plain(getattr(self, field.name)) for field in fields(self)}
        return {**figures, "sentence": self.sentence}


def plain(value: Any) -> Any:
    """Estimates and containers of them as plain types."""
    if isinstance(value, Estimate):
        return value.to_json()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
