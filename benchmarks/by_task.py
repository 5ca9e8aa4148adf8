"""What the pruning benchmarks share: tasks measured one by one, kept in a file, and summed up over tasks.

A record is one JSON object with a `task`, and one line of the file; a run that was stopped goes on with the tasks whose
records are missing. Ratios are summed up as geometric means with a bootstrap interval over tasks.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foundation.statistics import Estimate, mean_estimate


def options(description: str | None, tasks: Sequence[str], block: str) -> argparse.ArgumentParser:
    """The options that all benchmarks over tasks have.

    Args:
        tasks: measured unless some are named.
        block: name of the two comments that --into writes between.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=list(tasks))
    parser.add_argument("--target", type=float, default=0.15, help="task loss to prune to, nats")
    parser.add_argument("--out", type=Path, help="JSON lines; tasks found there are not run again")
    parser.add_argument("--into", type=Path, help=f"write the tables between the `{block}` comments of this page")
    return parser


def records(
    tasks: Sequence[str],
    measure: Callable[[str], dict[str, Any]],
    kept: Path | None,
    whole: Callable[[dict[str, Any]], bool] = lambda record: True,
) -> list[dict[str, Any]]:
    """One record per task, in the order of `tasks`; those missing in `kept`, or not whole, are measured and added to it."""
    lines = kept.read_text("utf-8").splitlines() if kept is not None and kept.exists() else []
    done = {record["task"]: record for record in map(json.loads, lines) if whole(record)}
    for task in tasks:
        if task not in done:
            done[task] = {"task": task, **measure(task)}
            if kept is not None:
                with kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(done[task]) + "\n")
    return [done[task] for task in tasks]


def geometric_mean(ratios: Sequence[float]) -> Estimate:
    """e to the mean logarithm, with its 95 % bootstrap interval over tasks."""
    logs = mean_estimate(np.log(ratios))
    return Estimate(*(math.exp(value) for value in (logs.value, logs.low, logs.high)))


def times(ratios: Sequence[float], digits: int) -> str:
    """`value [low, high] times`, of a geometric mean."""
    found = geometric_mean(ratios)
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}] times"
