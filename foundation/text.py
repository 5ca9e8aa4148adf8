"""Foreign text made visible: the one place where it is escaped, for the terminal and for pages.

Text from tokens, tasks, models, files and file names may hold characters that move the cursor, recolour the terminal, turn
the reading direction or cannot be encoded at all. `visible` writes them out (`\\x1b`, `\\u202e`, `\\udcff`); every
other character stays. Markup is the business of whoever draws: tables take text as text, pages escape `<` by themselves.
"""

import re
import unicodedata
from typing import Any

KEPT = "\n\t"
_CANDIDATES = re.compile(r"[^\n\t\x20-\x7e\xa0-\xac\xae-\u02ff]")
"""What is not plain at a glance; most text has none of it."""
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Controls, format characters (direction marks, joiners, byte-order mark), lone surrogates, line and paragraph ends."""
_JOINERS = "\u200c\u200d"
"""Spell words in several scripts, and move nothing."""


def visible(text: str) -> str:
    """The text with controls, direction marks and lone surrogates written as escapes; line ends and tabs stay."""
    return _CANDIDATES.sub(_escape, text)


def one_line(text: str) -> str:
    """`visible`, on a single line."""
    return visible(" ".join(text.split()))


def drawn(value: Any) -> Any:
    """What a page shows of a value: strings made visible, anything else as it is."""
    return visible(value) if type(value) is str else value


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    if unicodedata.category(character) not in _HIDDEN or character in _JOINERS:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
