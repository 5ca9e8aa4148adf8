"""Tuning: what a trial is worth, that a study resumes by name and refuses another's tasks, and that its best is usable."""

import math
import tomllib
from pathlib import Path

import optuna
import pytest

from sparse_model.circuits.config import PruneConfig
from sparse_model.circuits.tune import TuningTask, best_settings, open_study, penalised, settings_toml, tune
from sparse_model.settings import UserError

QUICK = PruneConfig(steps=4, batch_pairs=4, edge_steps=0, elimination_rounds=0, target_loss=0.4)
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_edges_count_by_ratio_and_a_missed_target_costs() -> None:
    assert penalised(200, 0.1, 0.15) - penalised(100, 0.15, 0.15) == pytest.approx(math.log(2))
    assert penalised(100, 0.3, 0.15) - penalised(100, 0.15, 0.15) == pytest.approx(1.0)


def test_a_study_resumes_by_name_starts_from_the_given_settings_and_its_best_is_no_worse(known, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    tasks = [TuningTask(known.train, known.validation, known.train)]
    for trials in (1, 2):
        study = open_study("s", storage, ["own"], 0.4, 0)
        tune(known.model, tasks, known.values, QUICK, study, trials)
    study = open_study("s", storage, ["own"], 0.4, 0)
    found = study.get_trials()
    assert len(found) == 3
    assert found[0].params["k_coef"] == QUICK.k_coef
    assert len({trial.params["lr"] for trial in found}) == 3
    assert study.best_value <= found[0].value
    best = best_settings(study, QUICK)
    assert best.steps == QUICK.steps
    assert PruneConfig.from_mapping(tomllib.loads(settings_toml(best))["prune"]) == best
    with pytest.raises(UserError, match="choose another --study"):
        open_study("s", storage, ["other"], 0.4, 0)


def test_a_storage_that_cannot_be_opened_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be opened") as caught:
        open_study("s", f"sqlite:///{tmp_path / 'no' / 'such' / 'x.db'}", ["own"], 0.4, 0)
    assert "\n" not in str(caught.value)
