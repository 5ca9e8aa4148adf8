"""The study behind `tune`: a name in a storage that any number of workers add trials to, for one model and one problem.

A study is about one model, its tasks' pairs and every setting outside the search; trials of anything else do not belong
in it. The worker that makes a study queues the given settings as its first trial. Each trial draws from a seed of its own,
so workers that start together try different points. A trial whose worker was killed is tried again by the next one.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from foundation.errors import UserError
from sparse_model.circuits.prune_config import PruneConfig

SEARCHED = ("k_coef", "lr", "ramp", "temperature", "init_bias", "init_noise", "weight_decay", "edge_coef")
"""Settings that trials choose; all others are fixed, and part of what a study is about."""
HEARTBEAT = 60
"""Seconds between a worker's signs of life; after two without one its trial counts as failed."""
RETRIES = 2
"""Times a trial is tried again whose worker was killed."""
LOCK_SECONDS = 60
"""A worker waits this long for another one's write to a SQLite file."""
_ABOUT = "about"


def open_study(name: str, storage: str, about: Mapping[str, Any], config: PruneConfig) -> optuna.Study:
    """The study of this name in the storage, made where there is none.

    Args:
        about: what the trials share beside the fixed settings of `config`; plain JSON values.

    Raises:
        UserError: the storage cannot be opened, or the study is about something else.
    """
    about = {**about, **{key: value for key, value in config.to_json().items() if key not in SEARCHED}}
    sampler = SampledByNumber(config.seed)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=0)
    try:
        with _experimental():
            opened = RDBStorage(
                storage,
                engine_kwargs={"connect_args": {"timeout": LOCK_SECONDS}} if storage.startswith("sqlite") else None,
                heartbeat_interval=HEARTBEAT,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=RETRIES),
            )
        try:
            study = optuna.create_study(storage=opened, study_name=name, sampler=sampler, pruner=pruner)
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(study_name=name, storage=opened, sampler=sampler, pruner=pruner)
        else:  # one worker alone gets here
            study.set_user_attr(_ABOUT, about)
            study.enqueue_trial(given_parameters(config))
    except Exception as error:  # any of a database driver's own
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--storage {storage}: cannot be opened ({reason}); pass a URL such as sqlite:///tune.db"
        ) from None
    differing = _differing(study.user_attrs.get(_ABOUT, {}), about)
    if differing:
        raise UserError(
            f"study '{name}' in {storage} is about something else: {differing}; choose another --study or --storage"
        )
    return study


def given_parameters(config: PruneConfig) -> dict[str, Any]:
    """The settings that trials choose, as `config` has them."""
    return {name: getattr(config, name) for name in SEARCHED if name != "edge_coef" or config.edge_steps}


class SampledByNumber(optuna.samplers.BaseSampler):
    """TPE (Bergstra et al. 2011, multivariate) whose draws depend on the trial's number and not on the worker.

    Args:
        seed: trial n draws from seed + n.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Draw anew from the trial's own seed."""
        with _experimental():
            self._sampler = optuna.samplers.TPESampler(
                multivariate=True, constant_liar=True, seed=self.seed + trial.number
            )
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The parameters drawn together."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """One draw of all of them."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """One draw of a parameter by itself."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """Let TPE keep what it needs of the trial."""
        self._sampler.after_trial(study, trial, state, values)


def _differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """`key there, not here` for every key that differs."""

    def shown(values: Mapping[str, Any], key: str) -> str:
        value = values.get(key, "unknown")
        return " ".join(map(str, value)) if isinstance(value, list) else str(value)

    keys = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    return ", ".join(f"{key.replace('_', ' ')} {shown(found, key)}, not {shown(wanted, key)}" for key in keys)


@contextlib.contextmanager
def _experimental() -> Iterator[None]:
    """Optuna calls heartbeats and two switches of TPE experimental; the warning would stand in every worker's output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
