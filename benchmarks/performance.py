"""Run the speed and size benchmarks and write their figures into a page.

    python benchmarks/performance.py RESULTS [--into docs/performance.md]

Each benchmark runs in a process of its own and leaves RESULTS/NAME.json; one whose file is there already is not run again.
Every figure of the page comes from these files, with the day they were made.
"""

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from sparse_model.studies.page import write_between

RUNS = {
    "train_step": ["train_step.py", "--repeats", "15"],
    "batches": ["batches.py", "--repeats", "15"],
    "compiled_step": ["compiled_step.py", "--repeats", "9"],
    "compiled_step_512": ["compiled_step.py", "--repeats", "5", "--width", "512"],
    "document_mask": ["document_mask.py"],
    "split_processes": ["split_processes.py"],
    "projection": ["projection.py", "--repeats", "7"],
    "abs_topk": ["abs_topk.py", "--repeats", "9"],
    "abs_topk_kernel": ["abs_topk_kernel.py"],
    "sparse_execution": ["sparse_execution.py", "--repeats", "5"],
    "sparse_forward": ["sparse_execution.py", "--repeats", "3", "--width", "1024", "--forward"],
    "calibration": ["sparse_execution.py", "--repeats", "9", "--calibrate"],
    "saved_size": ["saved_size.py"],
}


Figures = dict[str, Any]


def lines_of(found: Figures, path: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Every leaf of nested tables as (path, value)."""
    lines: list[tuple[str, str]] = []
    for key, value in found.items():
        place = (*path, str(key).replace("_", " "))
        lines += lines_of(value, place) if isinstance(value, dict) else [(" · ".join(place), _shown(value))]
    return lines


def grid(found: Figures) -> list[list[str]] | None:
    """Tables of like figures as the rows of one, their names in front and on top; None where they are not alike."""
    cases = {name: dict(lines_of(figures)) for name, figures in _cases(found)}
    if len(cases) < 2 or len({tuple(figures) for figures in cases.values()}) > 1:
        return None
    columns = next(iter(cases.values()))
    rows = [["", *columns], *([name, *figures.values()] for name, figures in cases.items())]
    return rows if len(cases) >= len(columns) else [list(row) for row in zip(*rows, strict=True)]


def _cases(found: Figures, path: tuple[str, ...] = ()) -> list[tuple[str, Figures]]:
    """The innermost tables that hold a figure, by the path to them."""
    cases = []
    for key, value in found.items():
        place = (*path, str(key))
        if not isinstance(value, dict):
            return []
        if all(isinstance(inner, dict) for inner in value.values()):
            cases += _cases(value, place)
        else:
            cases.append((" · ".join(place), value))
    return cases


def _shown(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) and not 1 <= abs(value) < 1e6 else str(value)


def table(command: str, day: str, found: Figures) -> str:
    """Command, day, one line per single figure, and one table for each group of like ones."""
    single: Figures = {}
    grids: list[tuple[str, list[list[str]]]] = []
    like = {key: value for key, value in found.items() if isinstance(value, dict)}
    together = grid(like)
    for key, value in found.items():
        rows = grid(value) if key in like and together is None else None
        if rows is not None:
            grids.append((str(key).replace("_", " "), rows))
        elif key not in like or together is None:
            single[key] = value
    if together is not None:
        grids.append(("", together))
    lines = [f"`python benchmarks/{command}`, {day}:", "", *_drawn([["figure", "value"], *map(list, lines_of(single))])]
    for name, rows in grids:
        lines += ["", *_drawn([[name or rows[0][0], *rows[0][1:]], *rows[1:]])]
    return "\n".join(lines)


def _drawn(rows: list[list[str]]) -> list[str]:
    first, *rest = ("| " + " | ".join(row) + " |" for row in rows)
    return [first, "|---" * len(rows[0]) + "|", *rest]


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--into", type=Path)
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    for name, (script, *options) in RUNS.items():
        path = arguments.results / f"{name}.json"
        if not path.is_file():
            line = [sys.executable, str(Path(__file__).parent / script), *options]
            done = subprocess.run(line, capture_output=True, text=True, check=True)
            path.write_text(done.stdout, encoding="utf-8")
        if arguments.into:
            day = datetime.date.fromtimestamp(path.stat().st_mtime).isoformat()
            found = json.loads(path.read_text("utf-8"))
            write_between(arguments.into, name, table(" ".join((script, *options)), day, found))


if __name__ == "__main__":
    main()
