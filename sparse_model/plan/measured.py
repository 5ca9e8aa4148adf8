"""Utilisation learned from runs that were measured, instead of one assumption for all.

`measured.json` holds finished runs: on what, how much work a step is, how long it took. A planned run takes the utilisation of
the one whose steps are most like its own, on the same device where that has any, else on another GPU. It is a lower bound where
it was made before the trainer became faster, or beside other work; its `note` says so. `benchmarks/utilisation.py` adds to it.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparse_model.plan.hardware import ASSUMED_UTILISATION, find_device

PATH = Path(__file__).with_name("measured.json")


@dataclass(frozen=True)
class MeasuredRun:
    """One finished run of one process."""

    name: str
    device: str
    """of the table of datasheets"""
    precision: str
    flops_per_step: float
    """by the plan's own formulas"""
    seconds_per_step: float
    """median over the run's logged rows"""
    date: str
    note: str
    sizes: str = ""
    """of the sparse model, in words"""
    tokens: int = 0
    """it was trained on"""
    dense_parameters: int = 0
    """of the model it was bridged to"""
    kl: float | None = None
    """KL(dense ‖ sparse) at the end of training, on training batches, in nats/token"""

    @property
    def utilisation(self) -> float:
        """Share of the datasheet's peak that the run reached."""
        return self.flops_per_step / (self.seconds_per_step * find_device(self.device).peak(self.precision))


@dataclass(frozen=True)
class Utilisation:
    """A share of the peak rate, and where it comes from."""

    share: float
    source: str


def measured_runs(path: Path = PATH) -> tuple[MeasuredRun, ...]:
    """The runs kept with the package."""
    return tuple(MeasuredRun(**row) for row in json.loads(path.read_text("utf-8")))


def write_runs(runs: tuple[MeasuredRun, ...], path: Path = PATH) -> None:
    """Replace the table."""
    rows: list[dict[str, Any]] = [asdict(run) for run in runs]
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def expected_utilisation(
    device: str, precision: str, flops_per_step: float, runs: tuple[MeasuredRun, ...] | None = None
) -> Utilisation:
    """What a run with steps of that much work on one device can be expected to reach.

    Args:
        device: of the table of datasheets, or `cpu`, whose peak is timed on the spot.
        flops_per_step: of one device, one micro-batch after the other.
    """
    runs = measured_runs() if runs is None else runs
    alike = [run for run in runs if run.precision == precision and (run.device == "cpu") == (device == "cpu")]
    if not alike:
        return Utilisation(ASSUMED_UTILISATION, "an assumption; --measure replaces it")
    same = [run for run in alike if run.device == device]
    nearest = min(same or alike, key=lambda run: abs(math.log(run.flops_per_step / flops_per_step)))
    times = flops_per_step / nearest.flops_per_step
    source = f"as {nearest.name} on {nearest.device} ({nearest.date}, steps of {1 / times:.2g} times the work; {nearest.note})"
    return Utilisation(nearest.utilisation, source)


def reached_by(dense_parameters: int, runs: tuple[MeasuredRun, ...] | None = None) -> str | None:
    """What the bridged run nearest in the dense model's size came to, in one line; None without such a run."""
    bridged = [
        run for run in (measured_runs() if runs is None else runs) if run.dense_parameters and run.kl is not None
    ]
    if not bridged:
        return None
    run = min(bridged, key=lambda run: abs(math.log(run.dense_parameters / max(1, dense_parameters))))
    return (
        f"{run.name} (dense model of {run.dense_parameters:,} parameters; sparse model of {run.sizes}; {run.tokens:,} tokens) "
        f"reached KL(dense ‖ sparse) {run.kl:.2g} nats/token on training batches"
    )
