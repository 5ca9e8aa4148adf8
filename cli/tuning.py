"""Running and showing a study of `sparsebridge circuit tune`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from transformers import PreTrainedTokenizerBase

from cli.dropped import say_dropped
from cli.output import print_json, say
from foundation.errors import UserError
from sparse_model.circuits.ablation import ablation_values
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.circuits.study import open_study
from sparse_model.circuits.tune import TuningTask, about_trials, best_settings, settings_toml, tune
from sparse_model.tasks import Task, find_task
from sparse_model.tasks.token_pairs import tokenise_pairs
from sparse_model.transformer.model import SparseTransformer


@dataclass(frozen=True)
class StudyRun:
    """A study and what one worker adds to it."""

    name: str
    storage: str
    """Optuna storage URL"""
    trials: int
    """0: none, the study is only opened"""
    pairs: int
    """to decide on, and as many fresh ones"""


def run_study(
    model: SparseTransformer,
    tokenizer: PreTrainedTokenizerBase,
    text: NDArray[np.integer],
    config: PruneConfig,
    tasks: Sequence[str],
    run: StudyRun,
) -> optuna.Study:
    """Open the study and add this worker's trials, saying each on stderr.

    Args:
        text: blocks [N, T] the ablation means are taken over.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    device, pairs = str(model.device), run.pairs

    def splits(task: Task) -> TuningTask:
        decided = tokenise_pairs(task, tokenizer, 2 * pairs, "validation", config.seed).to(device)
        train = tokenise_pairs(task, tokenizer, config.pairs, "train", config.seed).to(device)
        say_dropped(task, train, decided)
        return TuningTask(train, decided.select(slice(0, pairs)), decided.select(slice(pairs, 2 * pairs)))

    prepared = {task.name: splits(task) for task in map(find_task, tasks)}
    study = open_study(run.name, run.storage, about_trials(model, prepared, text), config)
    if run.trials:
        values = ablation_values(model, text, config.ablation)
        tune(model, list(prepared.values()), values, config, study, run.trials, _say_trial)
    return study


def _say_trial(trial: FrozenTrial) -> None:
    done = trial.state == TrialState.COMPLETE
    say(f"trial {trial.number}: {f'{trial.value:.1f} edges' if done else 'given up'}")


def show_study(study: optuna.Study, config: PruneConfig, as_json: bool) -> None:
    """The best settings as TOML on stdout, or with its value and the study's trials as JSON.

    Raises:
        UserError: no trial was completed.
    """
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        raise UserError(f"study '{study.study_name}': no trial was completed; pass --trials of at least 1")
    best = best_settings(study, config)
    if as_json:
        found: dict[str, Any] = {
            "study": study.study_name,
            "edges": study.best_value,
            "first_edges": complete[0].value,
            "completed": len(complete),
            "given_up": sum(trial.state == TrialState.PRUNED for trial in trials),
            "settings": best.to_json(),
        }
        print_json(found)
        return
    say(f"best of {len(trials)} trials: {study.best_value:.1f} edges; its first: {complete[0].value:.1f}")
    sys.stdout.write(settings_toml(best))
