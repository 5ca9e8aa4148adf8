"""Figures in the docs are written there by the command that made them, between two comments."""

import sys
from pathlib import Path

from foundation.errors import UserError


def publish(text: str, name: str, page: Path | None) -> None:
    """Print a text of figures, or write it between the comments of a page, where one is given."""
    if page is None:
        sys.stdout.write(text + "\n")
    else:
        write_between(page, name, text)


def write_between(page: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- end of NAME -->` in a Markdown file.

    Raises:
        UserError: the file has no such pair of comments.
    """
    before, _, after = _split(page, name)
    page.write_text(f"{before}\n{text.strip()}\n{after}", encoding="utf-8")


def read_between(page: Path, name: str) -> str:
    """What stands there.

    Raises:
        UserError: the file has no such pair of comments.
    """
    return _split(page, name)[1].strip()


def _split(page: Path, name: str) -> tuple[str, str, str]:
    """All up to the first comment, what stands between the two, and all from the second."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    whole = page.read_text("utf-8") if page.is_file() else ""
    before, opened, rest = whole.partition(begin)
    between, closed, after = rest.partition(end)
    if not opened or not closed:
        raise UserError(f"{page}: has no lines '{begin}' and '{end}'; add them where the figures belong")
    return before + begin, between, end + after
