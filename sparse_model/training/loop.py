"""The training loop (METHOD §2), one for every objective:

    for each step: loss terms → gradient → RMS clip → AdamW at the scheduled rate → keep the top-k weights
                   → (now and then) revive silent units, evaluate, diagnose, log, save

It checkpoints, resumes bit for bit, stops cleanly on SIGTERM and Ctrl-C, and refuses to go on with numbers that
are not finite. `accelerate` supplies devices, mixed precision, accumulation, and processes that share the batch, and
the parameters too if asked (`sparse_model.training.sharding`).
"""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from jaxtyping import Int
from torch import Tensor, nn

from foundation.errors import StoppedEarly, UserError
from sparse_model.training import checkpoint, diagnostics, revival, sharding
from sparse_model.training.activity import silent_units
from sparse_model.training.batches import Batches
from sparse_model.training.compilation import as_written, check_compiler, compile_steps
from sparse_model.training.health import Health
from sparse_model.training.interruption import agree_to_stop, stop_signals
from sparse_model.training.metrics import Metrics, check_tracker
from sparse_model.training.objective import Objective
from sparse_model.training.optimizer import gradient_norms, gradient_spans, limit_gradient, make_optimizer
from sparse_model.training.projection import project, sparse_tensors
from sparse_model.training.schedule import anneal_is_over, densities_at, density_at, learning_rate_factor
from sparse_model.training.speed import count_flops, matmul_rate
from sparse_model.training.train_config import TrainConfig
from sparse_model.training.validation import Validation, held_out_terms
from sparse_model.transformer.model import SparseTransformer


def train(
    objective: nn.Module,
    batches: Batches,
    config: TrainConfig,
    folder: Path,
    run: dict[str, Any] | None = None,
    validation: Validation | None = None,
) -> list[dict[str, float]]:
    """Train in place and return the logged metrics.

    Args:
        objective: an `Objective`; what it trains is changed in place.
        batches: where a step's sequences come from.
        folder: holds `checkpoints/`, `metrics.jsonl` and `diagnostics.jsonl`; a run found there is resumed.
        run: everything else the run depends on (fingerprints, configs); a checkpoint of another run is refused.
        validation: held-out text for the validation curve and the best checkpoint.

    Raises:
        UserError: a loss or gradient is not finite, the disk is full, or `folder` holds another run.
        StoppedEarly: after SIGTERM or SIGINT, once the state is saved.
    """
    if not isinstance(objective, Objective):
        raise TypeError(f"{type(objective).__name__} is not an Objective")
    folder, checkpoints = Path(folder), Path(folder) / "checkpoints"
    revival.check_revivable(objective.projected, config)
    check_tracker(config)
    check_compiler(config)
    split = sharding.requested(objective)
    if config.save == "best" and (validation is None or not config.evaluate_every):
        raise UserError("--save best needs a validation loss to choose by; set --evaluate-every above 0")
    accelerator = Accelerator(
        cpu=stays_on_cpu(objective),
        gradient_accumulation_steps=config.accumulate,
        mixed_precision="no" if config.precision == "fp32" else "bf16",
        log_with=None if config.log_to == "none" else config.log_to,
        project_dir=folder,
        fsdp_plugin=split,
    )
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    _check_shares(config, batches.batch_size, accelerator)
    given, objective = objective, sharding.make_splittable(objective, split, accelerator)
    model = objective.projected if isinstance(objective.projected, SparseTransformer) else None
    optimizer = make_optimizer(objective, config)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    identity = {"config": config.identity(), **(run or {})}
    if accelerator.is_main_process:
        checkpoint.remove_unfinished(checkpoints)
    wrapped, optimizer = accelerator.prepare(objective, optimizer)
    compile_steps(objective, config)
    start = checkpoint.restore(checkpoints, objective, optimizer, identity)
    tensors = sparse_tensors(objective.projected) if objective.projected is not None else ()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    spans = gradient_spans(optimizer.param_groups, config)
    names = {p: name for name, p in objective.named_parameters()}
    health = Health([names[p] for p in parameters], config, accelerator)
    turnover = diagnostics.Turnover(tensors)
    length = batches.blocks.shape[1]

    with stop_signals() as stop, Metrics(folder, config, accelerator, start, batches.batch_size * length) as metrics:
        if start:
            metrics.say(f"going on after step {start} of {config.steps}")
        for step in range(start, config.steps):
            done, last = step + 1, step + 1 == config.steps
            factor, density = learning_rate_factor(config, step), density_at(config, step)
            densities = densities_at(config, step)
            flat = learning_rate_factor(config, step, sharkfin=False)
            for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = rate * (factor if group["sharkfin"] else flat)
            diagnosing = model is not None and diagnostics.is_due(config, done)
            if diagnosing:
                turnover.remember()
            parts = batches.at(step, rank, world).to(device).chunk(config.accumulate)
            first = step == start
            with count_flops() if first else nullcontext() as counted, as_written(config) if first else nullcontext():
                terms = _optimise(accelerator, wrapped, optimizer, parameters, spans, parts, step, config, health)
            project(tensors, densities, config.floor)

            more = {"density": density, "lr": config.lr * factor}
            writing = done % config.log_every == 0 or last
            if model is not None and revival.is_due(config, step):
                with sharding.outside_a_step(objective):
                    silent = _silent(accelerator, model, batches, step, config)
                more |= revival.revive(model, optimizer, silent, config, density, step).to_json()
                project(tensors, densities, config.floor)
                writing = True
            if validation is not None and config.evaluate_every and (done % config.evaluate_every == 0 or last):
                with sharding.outside_a_step(objective), as_written(config):
                    more |= held_out_terms(objective, validation, config, accelerator)
                writing = True
            if counted is not None:
                metrics.flops_per_step = float(counted.get_total_flops())
                metrics.flop_rate = matmul_rate(device, torch.bfloat16 if config.precision == "bf16" else torch.float32)
            if writing or diagnosing:
                health.check()
            if writing:
                metrics.write(done, terms, more)
            if diagnosing:
                with accelerator.autocast(), sharding.outside_a_step(objective):
                    metrics.diagnose(done, diagnostics.diagnose(cast(SparseTransformer, model), parts, turnover))
            if "validation_loss" in more and anneal_is_over(config, step):
                loss = more["validation_loss"]
                checkpoint.save_best(checkpoints, done, objective, identity, loss, accelerator.is_main_process)
            stopping = agree_to_stop(stop, accelerator, done)
            if done % config.checkpoint_every == 0 or last or stopping:
                health.check()
                keep, writes = config.keep_checkpoints, accelerator.is_main_process
                checkpoint.save(checkpoints, done, objective, optimizer, identity, keep, writes)
                accelerator.wait_for_everyone()
            if stopping and not last:
                raise StoppedEarly(f"stopped after step {done} of {config.steps}; run the same command to go on")
            metrics.advance()
    sharding.bring_back(objective, given)
    return metrics.rows


def _optimise(
    accelerator: Accelerator,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    spans: tuple[tuple[int, ...], ...],
    parts: tuple[Int[Tensor, "_ T"], ...],
    step: int,
    config: TrainConfig,
    health: Health,
) -> dict[str, Tensor]:
    """One step on this process's micro-batches; the loss terms averaged over them, and the gradient's RMS."""
    terms: dict[str, Tensor] = {}
    for micro, part in enumerate(parts):
        with accelerator.accumulate(objective):
            with accelerator.autocast():
                found = objective(part, draw=(config.seed * config.steps + step) * config.accumulate + micro)
            accelerator.backward(found["loss"])  # divided by the number of micro-batches there
            for name, value in found.items():
                terms[name] = terms.get(name, 0) + value.detach() / config.accumulate
            if accelerator.sync_gradients:
                norms = gradient_norms(parameters)
                health.watch(step + 1, terms, norms)
                terms["gradient_rms"] = limit_gradient(parameters, config, norms, spans)
            optimizer.step()
            optimizer.zero_grad()
    return terms


def _silent(
    accelerator: Accelerator, model: SparseTransformer, batches: Batches, step: int, config: TrainConfig
) -> tuple[Any, ...]:
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
    """Whether to leave an accelerator alone: everything is on the CPU, and no launcher was asked to place it elsewhere."""
    launched = any(name in os.environ for name in ("LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"))
    placed = launched and torch.accelerator.is_available()
    return not placed and all(parameter.device.type == "cpu" for parameter in objective.parameters())


def _check_shares(config: TrainConfig, batch_size: int, accelerator: Accelerator) -> None:
    """Refuse a batch that does not split evenly, since the mean of unequal parts' means is not the batch's mean.

    Raises:
        UserError: with the numbers and the remedy.
    """
    parts = accelerator.num_processes * config.accumulate
    if batch_size % parts:
        raise UserError(
            f"batch_size {batch_size} does not split evenly over {accelerator.num_processes} processes and "
            f"{config.accumulate} micro-batches; make it a multiple of {parts}"
        )
