"""Self-contained HTML pages: of a report, and of any artefact folder.

    report (dict) → sections of blocks (overview, task_section, …) → page.html, with figures as inline SVG

A report on disk is a folder with `report.json`, from which every view is drawn, and `report.html`.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bridges.reports.artefact_pages import artefact_page, written_by_this_version
from bridges.reports.blocks import Page
from bridges.reports.overview import report_page
from foundation.artefacts import atomic_folder, read_json, write_json
from foundation.errors import UserError
from foundation.text import drawn

REPORT, HTML = "report.json", "report.html"


def render_page(report: Mapping[str, Any]) -> str:
    """The page of a demo report (`tasks`, `evaluation`, …) or of one task's validation (`paired`, `standing`, …)."""
    return _render(report_page(report))


def write_report(folder: Path, report: Mapping[str, Any], overwrite: bool = False) -> None:
    """Write `report.json` and `report.html`; nothing is left behind on failure.

    Raises:
        UserError: the folder exists and `overwrite` is false, or a figure of the report is not finite.
    """
    found = not_finite(report)
    if found is not None:
        raise UserError(
            f"report: {found} is not a finite number, which JSON cannot hold; the measurement failed, look into it "
            "first"
        )
    with atomic_folder(Path(folder), overwrite) as temporary:
        write_json(temporary / REPORT, report)
        (temporary / HTML).write_text(render_page(report), encoding="utf-8")


def render_artefact(folder: Path) -> str:
    """The page of any artefact folder: report, bridge, circuit, edit, model, corpus or training run.

    Raises:
        UserError: the folder is missing, damaged, or no artefact.
    """
    folder = Path(folder)
    if (folder / REPORT).is_file():
        report = read_json(folder, REPORT, "report")
        with written_by_this_version(folder / REPORT):
            return render_page(report)
    return _render(artefact_page(folder))


def not_finite(values: Any, path: str = "") -> str | None:
    """Dotted path of the first number that is NaN or infinite."""
    if isinstance(values, float) and not math.isfinite(values):
        return path
    items: Sequence[tuple[Any, Any]] = ()
    if isinstance(values, Mapping):
        items = list(values.items())
    elif isinstance(values, list | tuple):
        items = list(enumerate(values))
    return next(
        (found for key, value in items if (found := not_finite(value, f"{path}.{key}".lstrip("."))) is not None), None
    )


def _render(page: Page) -> str:
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,
        finalize=drawn,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(page=page)
