"""What a page is made of: sections of blocks. Reports and artefacts become these; the template only draws them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bridges.reports.numbers import MISSING, figure, setting

LISTED = 8
"""Values of a list that a table of settings or measures spells out."""


@dataclass(frozen=True)
class Line:
    """A figure and, in fainter type beside it, what it is compared to."""

    text: str
    note: str = ""
    word: str = ""
    """a verdict's word, drawn in its colour instead of the text"""


@dataclass(frozen=True)
class Cell:
    """One or several lines of a table cell."""

    lines: tuple[Line, ...]

    @classmethod
    def of(cls, content: "str | Line | Cell | Sequence[Line]") -> "Cell":
        """From plain text, a line, or lines."""
        if isinstance(content, Cell):
            return content
        if isinstance(content, str):
            return cls((Line(content),))
        return cls((content,) if isinstance(content, Line) else tuple(content))


@dataclass(frozen=True)
class Table:
    """Rows under named columns; the first cell of a row is its header. `fold` is a line to hide it behind."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    fold: str = ""
    text_columns: int = 1
    """leading columns of words; the others hold figures"""

    @property
    def is_broad(self) -> bool:
        """Whether a narrow screen shows only part of it, so that it says that it scrolls."""
        return len(self.columns) > 3

    @classmethod
    def of(
        cls, caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], fold: str = "", text_columns: int = 1
    ) -> "Table":
        """From rows of anything a cell can be made of."""
        cells = tuple(tuple(Cell.of(cell) for cell in row) for row in rows)
        return cls(caption, tuple(columns), cells, fold, text_columns)


@dataclass(frozen=True)
class Drawing:
    """An SVG element with its caption; a wide one keeps its size on small screens and scrolls."""

    kind: ClassVar[str] = "drawing"
    svg: str
    caption: str = ""
    wide: bool = False
    on_paper: bool = False
    """keep its colours, on white, on a dark page"""


@dataclass(frozen=True)
class SideBySide:
    """Drawings next to each other where there is room."""

    kind: ClassVar[str] = "side_by_side"
    drawings: tuple[Drawing, ...]
    caption: str = ""


@dataclass(frozen=True)
class Prose:
    """A paragraph; one that gives the reason of a verdict has the verdict's word."""

    kind: ClassVar[str] = "prose"
    text: str
    word: str = ""


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Token:
    """A token of a prompt, marked where the pair differs."""

    text: str
    differs: bool


@dataclass(frozen=True)
class Prompt:
    """One prompt of a pair and its answer."""

    name: str
    tokens: tuple[Token, ...]
    answer: str


@dataclass(frozen=True)
class PromptPair:
    """The two prompts of a pair, next to each other where there is room."""

    kind: ClassVar[str] = "prompt_pair"
    prompts: tuple[Prompt, Prompt]
    caption: str


@dataclass(frozen=True)
class Check:
    """A gate of a verdict as the page shows it; `state` is passed, failed or undecided (it could not be measured)."""

    name: str
    state: str
    measured: str
    required: str
    meaning: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Checklist:
    """Gates of a verdict, one a line."""

    kind: ClassVar[str] = "checklist"
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Tile:
    """One figure, what it is, its interval or remark; the main one is set apart."""

    label: str
    value: str
    note: str = ""
    main: bool = False


@dataclass(frozen=True)
class Tiles:
    """A row of figures, one a cell, that wraps on narrow screens."""

    kind: ClassVar[str] = "tiles"
    tiles: tuple[Tile, ...]
    caption: str = ""


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown on demand, behind a line that says what they are."""

    kind: ClassVar[str] = "fold"
    summary: str
    blocks: "tuple[Block, ...]"


Block = Table | Drawing | SideBySide | Prose | Heading | PromptPair | Checklist | Tiles | Fold


@dataclass(frozen=True)
class Section:
    """A headed part of the page; `anchor` is unique in it."""

    title: str
    anchor: str
    blocks: tuple[Block, ...]
    word: str = ""
    """of its verdict; empty without one"""


@dataclass(frozen=True)
class Page:
    """A whole page: title, one sentence that says it all, an explanation, sections."""

    title: str
    sentence: str
    word: str = ""
    """of its verdict; empty without one"""
    explanation: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    sections: tuple[Section, ...] = field(default_factory=tuple)


def settings_table(caption: str, values: Mapping[str, Any], fold: str = "") -> Table:
    """Nested settings as rows of dotted names, with all digits somebody chose."""
    rows = [(name, setting(value)) for name, value in flatten(values)]
    return Table.of(caption, ("name", "value"), rows, fold, text_columns=2)


def measures_table(caption: str, values: Mapping[str, Any]) -> Table:
    """Nested measurements as rows of dotted names, to three significant digits."""
    rows = [(name, figure(value)) for name, value in flatten(values)]
    return Table.of(caption, ("name", "value"), rows, text_columns=2)


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """`(dotted name, plain value)` of a nested mapping.

    Lists become text, long ones their beginning and length; mappings within lists are numbered from 0.
    """
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            nested = {str(number): item for number, item in enumerate(value) if isinstance(item, Mapping)}
            found += flatten(nested, f"{prefix}{key}.")
            plain = [
                figure(item) if isinstance(item, float) else str(item)
                for item in value
                if not isinstance(item, Mapping)
            ]
            if plain or not value:
                found.append((f"{prefix}{key}", _shortened(plain)))
        else:
            found.append((f"{prefix}{key}", value))
    return found


def _shortened(values: Sequence[str]) -> str:
    rest = f", … ({len(values)} in all)" if len(values) > LISTED else ""
    return ", ".join(values[:LISTED]) + rest if values else MISSING
