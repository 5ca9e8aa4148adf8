"""Figures in the docs are written there by the command that made them, between two comments."""

from pathlib import Path

from sparse_model.settings import UserError


def write_between(page: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- end of NAME -->` in a Markdown file.

    Raises:
        UserError: the file has no such pair of comments.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    whole = page.read_text("utf-8") if page.is_file() else ""
    before, opened, rest = whole.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise UserError(f"{page}: has no lines '{begin}' and '{end}'; add them where the figures belong")
    page.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}", encoding="utf-8")
