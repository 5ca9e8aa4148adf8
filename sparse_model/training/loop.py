"""The training loop (METHOD §2), one for every objective:

    for each step: loss terms → gradient → RMS clip → AdamW at the scheduled rate → keep the top-k weights

It checkpoints, resumes bit for bit, stops cleanly on SIGTERM and Ctrl-C, and refuses to go on with numbers that
are not finite. `accelerate` supplies devices, mixed precision, accumulation and data parallelism.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from tqdm import tqdm

from sparse_model.model import SparseTransformer
from sparse_model.settings import UserError
from sparse_model.training import checkpoint
from sparse_model.training.activity import SilentUnits, silent_units
from sparse_model.training.batches import Batches
from sparse_model.training.config import TrainConfig
from sparse_model.training.objective import Objective
from sparse_model.training.projection import project, sparse_tensors
from sparse_model.training.revival import check_revivable, is_due, revive
from sparse_model.training.schedule import density_at, learning_rate_factor


class StoppedEarly(Exception):  # noqa: N818 (an outcome, not an error)
    """A signal asked the run to stop; its state is on disk."""


def train(
    objective: nn.Module, batches: Batches, config: TrainConfig, folder: Path, run: dict[str, Any] | None = None
) -> list[dict[str, float]]:
    """Train in place and return the logged metrics.

    Args:
        objective: an `Objective`; what it trains is changed in place.
        batches: where a step's sequences come from.
        folder: holds `checkpoints/` and `metrics.jsonl`; a run found there is resumed.
        run: everything else the run depends on (fingerprints, configs); a checkpoint of another run is refused.

    Raises:
        UserError: a loss or gradient is not finite, the disk is full, or `folder` holds another run.
        StoppedEarly: after SIGTERM or SIGINT, once the state is saved.
    """
    if not isinstance(objective, Objective):
        raise TypeError(f"{type(objective).__name__} is not an Objective")
    accelerator = Accelerator(
        cpu=stays_on_cpu(objective),
        gradient_accumulation_steps=config.accumulate,
        mixed_precision="no" if config.precision == "fp32" else "bf16",
    )
    check_revivable(objective.projected, config)
    tensors = sparse_tensors(objective.projected) if objective.projected is not None else ()
    optimizer = _optimizer(objective, config)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    identity = {"config": config.to_json(), **(run or {})}
    checkpoints = Path(folder) / "checkpoints"
    start = checkpoint.restore(checkpoints, objective, optimizer, identity)
    wrapped, optimizer = accelerator.prepare(objective, optimizer)
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    _check_shares(config, batches.batch_size, world)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    metrics = _Metrics(Path(folder) / "metrics.jsonl", config, start, accelerator.is_main_process)
    healthy = torch.ones((), dtype=torch.bool, device=device)

    with _stop_signals() as stop, metrics.progress() as bar:
        for step in range(start, config.steps):
            factor = learning_rate_factor(config, step)
            for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = rate * factor
            tokens = batches.at(step, rank, world).to(device)
            terms: dict[str, Tensor] = {}
            for micro, part in enumerate(tokens.chunk(config.accumulate)):
                with accelerator.accumulate(wrapped):
                    found = wrapped(part, draw=(config.seed * config.steps + step) * config.accumulate + micro)
                    accelerator.backward(found["loss"])  # divided by the number of micro-batches there
                    for name, value in found.items():
                        terms[name] = terms.get(name, 0) + value.detach() / config.accumulate
                    if accelerator.sync_gradients:
                        terms["gradient_rms"] = limit_gradient(parameters, config)
                        healthy &= terms["loss"].isfinite() & terms["gradient_rms"].isfinite()
                    optimizer.step()
                    optimizer.zero_grad()
            density = density_at(config, step)
            project(tensors, density, config.floor)
            revived: dict[str, float] = {}
            if is_due(config, step) and isinstance(objective.projected, SparseTransformer):
                silent = _silent(accelerator, objective.projected, batches, step, config)
                revived = revive(objective.projected, optimizer, silent, config, density, step).to_json()
                project(tensors, density, config.floor)

            done = step + 1
            last = done == config.steps
            if done % config.log_every == 0 or last or revived:
                metrics.write(done, terms, density, factor, healthy, bar, revived)
            if done % config.checkpoint_every == 0 or last or stop.is_set():
                metrics.check(done, terms, healthy)
                if accelerator.is_main_process:
                    checkpoint.save(checkpoints, done, objective, optimizer, identity, config.keep_checkpoints)
                accelerator.wait_for_everyone()
            if stop.is_set() and not last:
                raise StoppedEarly(f"stopped after step {done} of {config.steps}; run the same command to go on")
            bar.update()
    return metrics.rows


def _silent(
    accelerator: Accelerator, model: SparseTransformer, batches: Batches, step: int, config: TrainConfig
) -> tuple[SilentUnits, ...]:
    """The units silent on the latest batches, whole on every process, as the main process sees them."""
    pieces = (
        piece.to(accelerator.device)
        for back in range(min(config.revive_batches, step + 1))
        for piece in batches.at(step - back).chunk(config.accumulate * accelerator.num_processes)
    )
    with accelerator.autocast():
        silent = silent_units(model, pieces)
    if accelerator.num_processes > 1:
        for layer in silent:
            for mask in (layer.neurons, layer.qk, layer.v):
                broadcast(mask, from_process=0)
    return silent


def stays_on_cpu(objective: nn.Module) -> bool:
    """Whether to leave an accelerator alone: everything is on the CPU, and no launcher was asked to place it."""
    launched = any(name in os.environ for name in ("LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"))
    return not launched and all(parameter.device.type == "cpu" for parameter in objective.parameters())


def _check_shares(config: TrainConfig, batch_size: int, world: int) -> None:
    """Refuse a batch that does not split evenly, since the mean of unequal parts' means is not the batch's mean.

    Raises:
        UserError: with the two numbers and the remedy.
    """
    if batch_size % (world * config.accumulate):
        raise UserError(
            f"batch_size {batch_size} does not split evenly over {world} processes and {config.accumulate} micro-batches; "
            f"make it a multiple of {world * config.accumulate}"
        )


def limit_gradient(parameters: list[nn.Parameter], config: TrainConfig) -> Tensor:
    """Scale all gradients so that their root mean square is at most (or exactly) the limit; returns it as it was."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    count = sum(g.numel() for g in gradients)
    rms = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))) / count**0.5
    if config.gradient_rms != "off":
        scale = config.gradient_rms_limit / rms.clamp(min=1e-12)
        if config.gradient_rms == "clip":
            scale = scale.clamp(max=1.0)
        torch._foreach_mul_(gradients, scale)
    return rms


def _optimizer(objective: Objective, config: TrainConfig) -> torch.optim.AdamW:
    groups = []
    for group in objective.parameter_groups():
        for matrices in (True, False):
            chosen = [p for p in group.parameters if (p.dim() >= 2) == matrices]
            decay = config.weight_decay if matrices else 0.0
            settings = {"lr": group.lr or config.lr, "eps": group.eps or config.eps, "weight_decay": decay}
            if chosen:
                groups.append({"params": chosen, **settings})
    return torch.optim.AdamW(groups, betas=config.betas, fused=True)


class _Metrics:
    """`metrics.jsonl`, the progress line, and the check that numbers are finite."""

    def __init__(self, path: Path, config: TrainConfig, start: int, is_main: bool) -> None:
        self.path, self.config, self.start, self.is_main = path, config, start, is_main
        self.rows: list[dict[str, float]] = []
        if start and path.is_file():  # a killed run may have logged steps that it will now repeat
            kept = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.endswith("}")]
            self.rows = [row for row in kept if row["step"] <= start]
        if is_main:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")
        self._clock = time.perf_counter()
        self._clock_step = start

    def progress(self) -> Any:
        """A tqdm bar on stderr, silent on all but the main process."""
        return tqdm(
            total=self.config.steps,
            initial=self.start,
            unit="step",
            disable=not self.is_main,
            dynamic_ncols=True,
            mininterval=2,
        )

    def write(
        self,
        step: int,
        terms: dict[str, Tensor],
        density: float,
        factor: float,
        healthy: Tensor,
        bar: Any,
        more: dict[str, float],
    ) -> None:
        """Log one row; the only place of the loop that waits for the device."""
        self.check(step, terms, healthy)
        now = time.perf_counter()
        row = {"step": step, **{name: value.item() for name, value in terms.items()}, "density": density}
        row["lr"] = self.config.lr * factor
        row |= more
        row["steps_per_second"] = (step - self._clock_step) / (now - self._clock)
        self._clock, self._clock_step = now, step
        self.rows.append(row)
        if self.is_main:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        bar.set_postfix({"loss": f"{row['loss']:.3f}", "density": f"{density:.3f}"}, refresh=False)

    def check(self, step: int, terms: dict[str, Tensor], healthy: Tensor) -> None:
        """Raise if any loss or gradient since the start was not finite.

        Raises:
            UserError: with the step, the term and the remedy.
        """
        if not bool(healthy):
            bad = [name for name, value in terms.items() if not bool(value.isfinite())] or ["a loss"]
            raise UserError(
                f"{bad[0]} is not finite at or before step {step} (lr {self.config.lr}); lower --lr or set --gradient-rms clip; "
                "the last checkpoint is good"
            )


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; a second SIGINT interrupts at once. Main thread only."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, _: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


__all__ = ["StoppedEarly", "UserError", "limit_gradient", "stays_on_cpu", "train"]
