"""What commands print: one JSON object on stdout, or tables for people; everything else on stderr.

Of several processes that run one command together, only the first prints. What tokens, files and models are called is
text, never markup, and cannot move the cursor or turn the reading direction (`foundation.text`).
"""

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from foundation.text import visible

PIPED_WIDTH = 140
"""Characters of a table that does not go to a terminal."""


def is_first_process() -> bool:
    """Whether this is the only process of a command, or the first that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """A line of progress, on stderr."""
    if is_first_process():
        sys.stderr.write(visible(message) + "\n")


def tell(text: str) -> None:
    """Lines of a command's result, on stdout."""
    if is_first_process():
        sys.stdout.write(visible(text) + "\n")


def suggest(*words: str | Path) -> None:
    """The command to try next, as it would be typed, on stderr."""
    say("next: " + shlex.join(["sparsebridge", *map(str, words)]))


def print_json(values: Mapping[str, Any]) -> None:
    """One machine-readable object on stdout."""
    if is_first_process():
        sys.stdout.write(json.dumps(values, allow_nan=False) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> None:
    """A table on stdout; columns of figures are set flush right, those that hold a word flush left."""
    if not is_first_process():
        return
    table = Table(
        title=_text(title, "table.title"), title_justify="left",
        caption=_text(note, "table.caption") if note else None, caption_justify="left",
    )  # fmt: skip
    for number, column in enumerate(columns):
        is_text = number == 0 or any(row[number][:1].isalpha() for row in rows)
        is_inner = 0 < number < len(columns) - 1
        table.add_column(
            _text(column), justify="left" if is_text else "right", no_wrap=is_inner, min_width=1 if number else 12
        )
    for row in rows:
        table.add_row(*map(_text, row))
    console = Console(soft_wrap=False, highlight=False)
    if not console.is_terminal:  # a file or a pipe has no edge: names stay whole
        console = Console(soft_wrap=False, highlight=False, width=max(console.width, PIPED_WIDTH))
    console.print(table)


def print_side_by_side(title: str, texts: Mapping[str, str], note: str) -> None:
    """Texts beside each other on stdout, each under its name, with their own line ends."""
    if not is_first_process():
        return
    table = Table(
        title=_text(title, "table.title"), title_justify="left", caption=_text(note, "table.caption"),
        caption_justify="left", expand=True,
    )  # fmt: skip
    for name in texts:
        table.add_column(_text(name), ratio=1, overflow="fold")
    table.add_row(*map(_text, texts.values()))
    Console(soft_wrap=False, highlight=False).print(table)


class Pieces:
    """Shows text on stderr piece by piece as it comes, under the name of whose it is."""

    def __init__(self) -> None:
        self._name = ""

    def __call__(self, name: str, piece: str) -> None:
        """The next piece."""
        if not is_first_process():
            return
        if name != self._name:
            self.end()
            sys.stderr.write(f"{name}: ")
            self._name = name
        sys.stderr.write(visible(piece))
        sys.stderr.flush()

    def end(self) -> None:
        """End the line, if one was begun."""
        if self._name and is_first_process():
            sys.stderr.write("\n")
        self._name = ""


def _text(content: str, style: str = "") -> Text:
    """A cell: what it says, escaped, and never read as markup."""
    return Text(visible(content), style)


def interval(estimate: Mapping[str, float], digits: int = 3) -> str:
    """`value [low, high]` of an estimate's JSON."""
    return f"{estimate['value']:.{digits}f} [{estimate['low']:.{digits}f}, {estimate['high']:.{digits}f}]"
