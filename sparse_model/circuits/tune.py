"""Tuning the pruner: settings whose circuits have the fewest edges at the target loss, by TPE over a shared study.

A trial prunes every task with one set of settings; its value is the geometric mean of edges. A task whose circuit
misses the target on pairs that had no say in it is penalised by e^((loss − target) / target). After each task the mean
so far is reported, and a trial worse than the median of the others at that point is given up. The study lives in its
storage: it resumes by name, and any number of workers may add to it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from torch import Tensor

from sparse_model.circuits.config import PruneConfig
from sparse_model.circuits.prune import prune, task_loss
from sparse_model.model import SparseTransformer
from sparse_model.settings import UserError
from sparse_model.tasks.token_pairs import TokenPairs


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
) -> None:
    """Add `trials` trials to the study; settings outside the search are those of `config`.

    A new study first tries `config` itself, so that its best is never worse.
    """
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(_as_parameters(config))

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

    study.optimize(objective, n_trials=trials)


def open_study(name: str, storage: str, tasks: Sequence[str], target: float, seed: int) -> optuna.Study:
    """The study of this name in the storage, made where there is none.

    Raises:
        UserError: the storage cannot be opened, or the study is of other tasks or another target.
    """
    about = {"tasks": list(tasks), "target_loss": target}
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction="minimize",
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=seed),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=0),
        )
    except Exception as error:  # any of a database driver's own
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--storage {storage}: cannot be opened ({reason}); pass a URL such as sqlite:///tune.db"
        ) from None
    found = study.user_attrs.get("about")
    if found is None:
        study.set_user_attr("about", about)
    elif found != about:
        raise UserError(
            f"study '{name}' tunes tasks {', '.join(found['tasks'])} at target {found['target_loss']}, not these; "
            "choose another --study"
        )
    # workers that draw the same points would be of no use: each goes on from where the study stands
    study.sampler = optuna.samplers.TPESampler(
        multivariate=True, constant_liar=True, seed=seed + len(study.get_trials(deepcopy=False))
    )
    return study


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
    loss = task_loss(circuit.within(model), task.fresh, circuit.only())
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


def _as_parameters(config: PruneConfig) -> dict[str, Any]:
    names = ("k_coef", "lr", "ramp", "temperature", "init_bias", "init_noise", "weight_decay", "edge_coef")
    return {name: getattr(config, name) for name in names if name != "edge_coef" or config.edge_steps}
