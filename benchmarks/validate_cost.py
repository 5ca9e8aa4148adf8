"""What `edit validate` costs on circuits that are there: wall-clock time and largest memory, one process a task.

    python -m benchmarks.validate_cost runs/verdicts/circuits --kept runs/validate.jsonl --into docs/verdicts.md [--check]

Bundled models, default settings, as many threads as torch takes. A stopped run goes on where it stopped. The figures mean
something on an otherwise idle machine alone. Targets: 90 s and 4 GB a task (--check exits 1 above them).
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.by_task import records
from sparse_model.studies.page import publish

BUNDLED = Path(__file__).resolve().parents[1] / "cli" / "bundled"
SECONDS, GIGABYTES = 90, 4


def measure(circuits: Path, task: str) -> dict[str, Any]:
    """Run it once.

    Raises:
        RuntimeError: it ended with something else than a verdict.
    """
    command = [
        sys.executable, "-m", "cli.main", "edit", "validate", str(circuits / task), "--bridge", str(BUNDLED / "bridge"),
        "--dense", str(BUNDLED / "dense"), "--json",
    ]  # fmt: skip
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - started
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{task}: exit code {done.returncode}: {done.stderr.strip()}")
    # of all children so far: the largest of them, which is what the target is about
    return {"seconds": seconds, "gigabytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6}


def text(found: list[dict[str, Any]]) -> str:
    """One sentence: medians and the worst, with the task."""
    slowest = max(found, key=lambda one: one["seconds"])
    largest = max(found, key=lambda one: one["gigabytes"])
    median = statistics.median(one["seconds"] for one in found)
    return (
        f"`edit validate`, {len(found)} tasks: {median:.0f} s in the median, at most {slowest['seconds']:.0f} s "
        f"({slowest['task']}; {SECONDS} s wanted) and {largest['gigabytes']:.1f} GB ({GIGABYTES} GB wanted)."
    )


def main() -> int:
    """Measure what is missing, print or publish the sentence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("circuits", type=Path, help="a folder with one circuit folder per task")
    parser.add_argument("--kept", type=Path, required=True, help="one JSON line a task is kept here")
    parser.add_argument("--into", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    tasks = sorted(folder.name for folder in arguments.circuits.iterdir() if folder.is_dir())
    found = records(tasks, partial(measure, arguments.circuits), arguments.kept, lambda record: "seconds" in record)
    publish(text(found), "validate-cost", arguments.into)
    over = any(one["seconds"] > SECONDS or one["gigabytes"] > GIGABYTES for one in found)
    return int(arguments.check and over)


if __name__ == "__main__":
    sys.exit(main())
