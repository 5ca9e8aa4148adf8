"""Running and showing a study of `sparsebridge circuit tune`."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cli.output import print_json, say
from sparse_model.circuits.config import PruneConfig
from sparse_model.circuits.tune import TuningTask, best_settings, open_study, settings_toml, tune
from sparse_model.model import SparseTransformer
from sparse_model.settings import UserError
from sparse_model.tasks import find_task
from sparse_model.tasks.token_pairs import tokenise_pairs


def run_study(
    model: SparseTransformer,
    tokenizer: PreTrainedTokenizerBase,
    values: Mapping[str, Tensor],
    config: PruneConfig,
    tasks: Sequence[str],
    name: str,
    storage: str,
    trials: int,
    pairs: int,
    device: str,
) -> optuna.Study:
    """Open the study and add this worker's trials, saying each on stderr."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = open_study(name, storage, tasks, config.target_loss, config.seed)

    def splits(task: str) -> TuningTask:
        found = find_task(task)
        decided = tokenise_pairs(found, tokenizer, 2 * pairs, "validation", config.seed).to(device)
        train = tokenise_pairs(found, tokenizer, config.pairs, "train", config.seed).to(device)
        return TuningTask(train, decided.select(slice(0, pairs)), decided.select(slice(pairs, 2 * pairs)))

    prepared = [splits(task) for task in tasks] if trials else []
    for _ in range(trials):
        tune(model, prepared, values, config, study, 1)
        last = max(study.get_trials(deepcopy=False), key=lambda trial: trial.number)
        done = last.state == optuna.trial.TrialState.COMPLETE
        say(f"trial {last.number}: {f'{last.value:.1f} edges' if done else 'given up'}")
    return study


def show_study(study: optuna.Study, config: PruneConfig, as_json: bool) -> None:
    """The best settings as TOML on stdout, or with its value and the study's trials as JSON.

    Raises:
        UserError: no trial was completed.
    """
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    if not complete:
        raise UserError(f"study '{study.study_name}': no trial was completed; pass --trials of at least 1")
    best = best_settings(study, config)
    if as_json:
        found: dict[str, Any] = {
            "study": study.study_name,
            "edges": study.best_value,
            "first_edges": complete[0].value,
            "completed": len(complete),
            "given_up": sum(trial.state == optuna.trial.TrialState.PRUNED for trial in trials),
            "settings": best.to_json(),
        }
        print_json(found)
        return
    say(f"best of {len(trials)} trials: {study.best_value:.1f} edges; its first: {complete[0].value:.1f}")
    sys.stdout.write(settings_toml(best))
