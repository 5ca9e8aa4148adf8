"""How objects show themselves: tables for notebooks, and names without the way to them."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path


def html_table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table; every cell is escaped."""
    head = "".join(f"<th style='text-align:left'>{escape(heading)}</th>" for heading in headings)
    body = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f"<table><caption style='text-align:left;caption-side:top'>{escape(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def short_name(name: str | Path) -> str:
    """A hub id or relative path as it is; of an absolute path the last two parts, which do not depend on the machine."""
    path = Path(name)
    return str(Path(*path.parts[-2:])) if path.is_absolute() else str(name)
