"""What a run says while it goes: `metrics.jsonl`, `diagnostics.jsonl`, a tracker if one is wanted, and the progress line.

`metrics.jsonl` always has a row per logged step, averaged over processes; a resumed run drops the rows it will repeat.
"""

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, get_available_trackers
from torch import Tensor
from tqdm import tqdm

from foundation.errors import UserError
from sparse_model.training.train_config import TrainConfig

METRICS, DIAGNOSTICS = "metrics.jsonl", "diagnostics.jsonl"
PROJECT = "sparsebridge"


def check_tracker(config: TrainConfig) -> None:
    """Refuse a tracker that is not there.

    Raises:
        UserError: its package is not installed.
    """
    # a folder of that name, as wandb leaves one, looks like a package to importlib, and accelerate then logs nothing
    if config.log_to != "none" and config.log_to not in map(str, get_available_trackers()):
        raise UserError(
            f"--log-to {config.log_to}: the package is not installed; pip install {config.log_to}, or pass --log-to none"
        )


class Metrics:
    """The logs of one run in `folder`; a context that closes the tracker and the progress line.

    Args:
        start: steps already done.
        tokens: of one step over all processes.
    """

    def __init__(self, folder: Path, config: TrainConfig, accelerator: Accelerator, start: int, tokens: int) -> None:
        self.folder, self.config, self.accelerator, self.tokens = folder, config, accelerator, tokens
        self.rows = self._kept(METRICS, start)
        self.diagnoses = self._kept(DIAGNOSTICS, start)
        self.flops_per_step = 0.0
        """Of this process; 0 while unknown."""
        self.flop_rate = 0.0
        self._clock, self._clock_step = time.perf_counter(), start
        self._bar = tqdm(
            total=config.steps,
            initial=start,
            unit="step",
            disable=not (accelerator.is_main_process and sys.stderr.isatty()),  # redrawn lines would fill a log
            dynamic_ncols=True,
            mininterval=2,
        )
        if config.log_to != "none":
            name = folder.name.removesuffix(".run")
            options = {
                "tensorboard": {"purge_step": start + 1} if start else {},
                "wandb": {"dir": str(folder), "name": name},
                "trackio": {"name": name},
            }
            project = "tensorboard" if config.log_to == "tensorboard" else PROJECT
            settings = None if config.log_to == "tensorboard" else config.to_json()
            with contextlib.redirect_stdout(sys.stderr):  # trackio says much on stdout
                accelerator.init_trackers(project, settings, {config.log_to: options[config.log_to]})

    def _kept(self, name: str, start: int) -> list[dict[str, Any]]:
        """Rows of an earlier part of the run, rewritten without those it will repeat or left half written."""
        path, rows = self.folder / name, []
        if start and path.is_file():
            whole = [line for line in path.read_text("utf-8").splitlines() if line.endswith("}")]
            rows = [row for row in map(json.loads, whole) if row["step"] <= start]
        if self.accelerator.is_main_process:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return rows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # where stderr is a file on the disk that is full
            self._bar.close()
        if self.config.log_to != "none":
            with contextlib.redirect_stdout(sys.stderr):
                for tracker in self.accelerator.trackers:
                    self._finish(tracker)

    def _finish(self, tracker: GeneralTracker) -> None:
        if tracker.name == "trackio" and self.accelerator.is_main_process:
            import trackio

            trackio.finish()  # the tracker's own leaves the run current, so that it is finished again, aloud, at exit
        else:
            tracker.finish()

    def advance(self) -> None:
        """Move the progress line by one step."""
        self._bar.update()

    def write(self, step: int, terms: Mapping[str, Tensor], more: Mapping[str, float]) -> None:
        """Log one row; waits for the device.

        Args:
            terms: this process's loss terms; averaged over the processes.
            more: figures that are the same on every process.

        Raises:
            UserError: the file cannot be written.
        """
        values = torch.stack([value.float() for value in terms.values()])
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, "mean")
        now = time.perf_counter()
        rate = (step - self._clock_step) / (now - self._clock)
        self._clock, self._clock_step = now, step
        row = {"step": step, **dict(zip(terms, values.tolist(), strict=True)), **more}
        row |= {"steps_per_second": rate, "tokens_per_second": rate * self.tokens}
        if self.flop_rate:
            row["mfu"] = rate * self.flops_per_step / self.flop_rate
        self.rows.append(row)
        self._append(METRICS, row)
        self._track(row, step)
        shown = {"loss": f"{row['loss']:.3f}", "density": f"{row['density']:.3f}"}
        self._bar.set_postfix({**shown, "tok/s": f"{row['tokens_per_second']:,.0f}"}, refresh=False)

    def diagnose(self, step: int, diagnosis: Mapping[str, Any]) -> None:
        """Log one diagnosis; nested tables become `table/key` for the tracker."""
        row = {"step": step, **diagnosis}
        self.diagnoses.append(row)
        self._append(DIAGNOSTICS, row)
        flat: dict[str, float] = {}
        for name, value in diagnosis.items():
            inner = {f"{name}/{key}": x for key, x in value.items()} if isinstance(value, Mapping) else {name: value}
            flat |= inner
        self._track(flat, step)

    def say(self, message: str) -> None:
        """One line on stderr, from the main process."""
        if self.accelerator.is_main_process:
            tqdm.write(message, file=sys.stderr)

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        try:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise self._unwritable(name, error) from None

    def _track(self, values: Mapping[str, float], step: int) -> None:
        if self.config.log_to == "none":
            return
        try:
            self.accelerator.log({name: value for name, value in values.items() if name != "step"}, step=step)
        except OSError as error:
            raise self._unwritable(self.config.log_to, error) from None

    def _unwritable(self, name: str, error: OSError) -> UserError:
        return UserError(
            f"{self.folder / name}: cannot be written ({error.strerror or error}); free some space and run the same "
            "command to go on from the last checkpoint"
        )
