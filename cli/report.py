"""`sparsebridge report`: a self-contained HTML page from any artefact."""

from pathlib import Path
from typing import Annotated

import typer

from cli.app import App
from cli.options import Overwrite
from cli.output import say
from cli.replacing import check_drawing
from foundation.errors import UserError

app = App(help=__doc__)


@app.command()
def report(
    path: Annotated[
        Path, typer.Argument(help="an artefact folder: report, bridge, circuit, edit, model", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="file to write; unset: PATH's own name with .html, in this folder"),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw an artefact as one HTML page without outside references. The artefact itself is left as it is.

    Example: sparsebridge report runs/bridge
    """
    target = out or Path(f"{path.resolve().name}.html")
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give an artefact that a sparsebridge command wrote")
    if target.resolve().is_relative_to(path.resolve()):
        raise UserError(f"{target}: lies within the artefact, which is left as it is; choose another --out")
    kind = check_drawing(target, overwrite, (".html",))
    if not target.parent.is_dir():
        raise UserError(f"{target}: its folder does not exist; make it, or choose another --out")
    from bridges.reports.page import render_artefact
    from foundation.writing import write_file

    write_file(target, render_artefact(path), overwrite, kind)
    say(f"page written to {target}")
