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

from sparse_model.experiments.page import write_between

RUNS = {
    "train_step": ["train_step.py", "--repeats", "15"],
    "batches": ["batches.py", "--repeats", "15"],
    "compiled_step": ["compiled_step.py", "--repeats", "9"],
    "projection": ["projection.py", "--repeats", "7"],
    "abs_topk": ["abs_topk.py", "--repeats", "9"],
    "sparse_execution": ["sparse_execution.py", "--repeats", "5"],
    "sparse_forward": ["sparse_execution.py", "--repeats", "3", "--width", "1024", "--forward"],
    "calibration": ["sparse_execution.py", "--repeats", "9", "--calibrate"],
    "saved_size": ["saved_size.py"],
}


def lines_of(found: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Every leaf of nested tables as (path, value)."""
    lines: list[tuple[str, str]] = []
    for key, value in found.items():
        place = (*path, str(key).replace("_", " "))
        lines += lines_of(value, place) if isinstance(value, dict) else [(" · ".join(place), _shown(value))]
    return lines


def _shown(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) and not 1 <= abs(value) < 1e6 else str(value)


def table(command: str, day: str, found: dict[str, Any]) -> str:
    """Command, day, and one line per figure."""
    head = [f"`python benchmarks/{command}`, {day}:", "", "| figure | value |", "|---|---|"]
    return "\n".join(head + [f"| {name} | {value} |" for name, value in lines_of(found)])


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
