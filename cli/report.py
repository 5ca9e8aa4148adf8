"""`sparsebridge report`: a self-contained HTML page from any artefact."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from cli.app import App
from cli.options import Overwrite
from cli.output import say, suggest
from cli.replacing import check_drawing
from foundation.errors import UserError
from foundation.kinds import kind_of

app = App(help=__doc__)

NEXT: Mapping[str, Callable[[Path], tuple[str | Path, ...]]] = {
    "corpus": lambda path: ("bridge", "train", "MODEL", "--corpus", path, "--out", "bridge"),
    "bridge": lambda path: ("circuit", "prune", path, "--task", "TASK", "--out", "circuit"),
    "circuit": lambda path: ("circuit", "evaluate", path, "--model", "BRIDGE"),
    "edit": lambda path: ("edit", "apply", path, "--dense", "MODEL", "--prompt", "TEXT"),
    "sparse model": lambda path: ("task", "check", path),
    "dense model": lambda path: ("dense", "check", path),
}
"""Kind of artefact → the command to try after looking at its page."""


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
    say(f"page written to {target}; open it in a browser")
    following = NEXT.get(kind_of(path) or "")
    if following is not None:
        suggest(*following(path))
