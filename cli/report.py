"""`sparsebridge report`: a self-contained HTML page from any artefact."""

from pathlib import Path
from typing import Annotated

import typer

from cli.output import say

app = typer.Typer(rich_markup_mode=None, help=__doc__)


@app.command()
def report(
    path: Annotated[
        Path, typer.Argument(help="an artefact folder: report, bridge, circuit, edit, model", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="file to write; unset: report.html inside PATH")
    ] = None,
) -> None:
    """Draw an artefact as one HTML page without outside references.

    Example: sparsebridge report runs/bridge
    """
    from bridges.reports.page import render_artefact
    from foundation.errors import UserError

    target = out or path / "report.html"
    page = render_artefact(path)
    if not target.parent.is_dir():
        raise UserError(f"{target}: its folder does not exist; make it, or choose another --out")
    partial = target.with_name(f".{target.name}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(target)
    say(f"page written to {target}")
