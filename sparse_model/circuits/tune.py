"""Tuning the pruner: settings whose circuits have the fewest edges at the target loss, by TPE over a shared study.

A trial prunes every task with one set of settings; its value is the geometric mean of edges. A task whose circuit
misses the target on pairs that had no say in it is penalised by e^((loss − target) / target). After each task the mean
so far is reported, and a trial worse than the median of the others at that point is given up. `study` says what trials
share, and how workers share a study; its first trial is the given settings, so that its best is never worse.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from optuna.trial import FrozenTrial
from torch import Tensor

from foundation.fingerprints import model_fingerprint, tensors_fingerprint
from sparse_model.circuits.prune import prune, task_loss
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.tasks.token_pairs import TokenPairs
from sparse_model.transformer.model import SparseTransformer

SHOWN = 12
"""Hexadecimal digits of a fingerprint that tell studies apart."""


@dataclass(frozen=True)
class TuningTask:
    """Pairs to learn from, to decide on, and to see on whether the target is kept."""

    train: TokenPairs
    validation: TokenPairs
    fresh: TokenPairs


def tune(
    model: SparseTransformer,
    tasks: Sequence[TuningTask],
    values: Mapping[str, Tensor],
    config: PruneConfig,
    study: optuna.Study,
    trials: int,
    done: Callable[[FrozenTrial], None] | None = None,
) -> None:
    """Add `trials` trials to the study; settings outside the search are those of `config`.

    Args:
        done: is told of each of these trials at its end.
    """

    def objective(trial: optuna.Trial) -> float:
        settings = suggest(trial, config)
        logs: list[float] = []
        for number, task in enumerate(tasks):
            logs.append(log_edges(model, task, values, settings))
            mean = math.exp(sum(logs) / len(logs))
            trial.report(mean, number)
            if trial.should_prune():
                raise optuna.TrialPruned
        return mean

    study.optimize(objective, n_trials=trials, callbacks=[lambda _, trial: done(trial)] if done else None)


def about_trials(
    model: SparseTransformer, tasks: Mapping[str, TuningTask], text: NDArray[np.integer]
) -> dict[str, Any]:
    """What the trials of one study share beside the pruner's fixed settings: model, tasks, pairs, and reference text [N, T].

    Pairs and text are told apart by their token ids, on which workers on different machines agree to the bit.
    """
    pairs = {
        f"{name}/{part}/{side}": getattr(getattr(task, part), f"tokens_{side}")
        for name, task in tasks.items()
        for part in ("train", "validation", "fresh")
        for side in "ab"
    }
    return {
        "model": model_fingerprint(model)[:SHOWN],
        "tasks": list(tasks),
        "evaluate_pairs": len(next(iter(tasks.values())).validation),
        "drawn_pairs": tensors_fingerprint(pairs)[:SHOWN],
        "blocks": len(text),
        "reference_text": tensors_fingerprint({"text": torch.from_numpy(np.asarray(text, dtype=np.int64))})[:SHOWN],
    }


def suggest(trial: optuna.Trial, config: PruneConfig) -> PruneConfig:
    """The settings of one trial."""
    found: dict[str, Any] = {
        "k_coef": trial.suggest_float("k_coef", 3e-4, 3e-2, log=True),
        "lr": trial.suggest_float("lr", 0.01, 0.2, log=True),
        "ramp": trial.suggest_float("ramp", 0.0, 0.9),
        "temperature": trial.suggest_float("temperature", 0.2, 3.0, log=True),
        "init_bias": trial.suggest_float("init_bias", 0.02, 0.5),
        "init_noise": trial.suggest_float("init_noise", 1e-3, 0.2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-4, 1e-1, log=True),
    }
    if config.edge_steps:
        found["edge_coef"] = trial.suggest_float("edge_coef", 3e-4, 3e-2, log=True)
    return PruneConfig.from_mapping({**config.to_json(), **found}, origin=f"trial {trial.number}")


def best_settings(study: optuna.Study, config: PruneConfig) -> PruneConfig:
    """`config` with what the best trial chose."""
    return PruneConfig.from_mapping({**config.to_json(), **study.best_params}, origin=f"study {study.study_name}")


def log_edges(model: SparseTransformer, task: TuningTask, values: Mapping[str, Tensor], config: PruneConfig) -> float:
    """Natural logarithm of a circuit's edges, with the penalty for a target missed on fresh pairs."""
    circuit = prune(model, task.train, task.validation, values, config)
    loss = task_loss(circuit.within(model), task.fresh, circuit.only(), circuit.calibration)
    return penalised(circuit.metrics["edges"], loss, config.target_loss)


def penalised(edges: int, loss: float, target: float) -> float:
    """log edges + the fraction by which the loss is above the target."""
    return math.log(max(edges, 1)) + max(0.0, loss - target) / target


def settings_toml(config: PruneConfig) -> str:
    """The settings as a TOML table that `--config` reads."""
    lines = ["[prune]"]
    for key, value in config.to_json().items():
        text = (
            str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else repr(value)
        )
        lines.append(f"{key} = {text}")
    return "\n".join(lines) + "\n"
