"""Tuning: what a trial is worth, that bad ones are given up, that workers share a study, and that its best is usable."""

import math
import sqlite3
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from foundation.errors import UserError
from sparse_model.circuits import tune as tuning
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.circuits.study import open_study
from sparse_model.circuits.tune import TuningTask, about_trials, best_settings, penalised, settings_toml, tune

QUICK = PruneConfig(steps=4, batch_pairs=4, edge_steps=0, elimination_rounds=0, target_loss=0.4)
ABOUT = {"model": "this"}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def worth(monkeypatch: pytest.MonkeyPatch, known: Any) -> Callable[..., Callable[..., None]]:
    """`worth(f)` makes log edges f(task number, settings) and gives a worker that adds trials of two tasks."""

    def make(found: Callable[[int, PruneConfig], float]) -> Callable[..., None]:
        tasks = [TuningTask(known.train, known.validation, known.train) for _ in range(2)]
        numbers = {id(task): number for number, task in enumerate(tasks)}
        monkeypatch.setattr(tuning, "log_edges", lambda model, task, values, config: found(numbers[id(task)], config))
        return lambda study, trials: tune(known.model, tasks, known.values, QUICK, study, trials)

    return make


def test_edges_count_by_ratio_and_a_missed_target_costs() -> None:
    assert penalised(200, 0.1, 0.15) - penalised(100, 0.15, 0.15) == pytest.approx(math.log(2))
    assert penalised(100, 0.3, 0.15) - penalised(100, 0.15, 0.15) == pytest.approx(1.0)


def test_a_study_resumes_by_name_starts_from_the_given_settings_and_its_best_is_no_worse(known, storage: str) -> None:
    tasks = [TuningTask(known.train, known.validation, known.train)]
    for trials in (1, 2):
        tune(known.model, tasks, known.values, QUICK, open_study("s", storage, ABOUT, QUICK), trials)
    study = open_study("s", storage, ABOUT, QUICK)
    found = study.get_trials()
    assert len(found) == 3
    assert found[0].params["k_coef"] == QUICK.k_coef
    assert len({trial.params["lr"] for trial in found}) == 3
    assert study.best_value <= found[0].value
    best = best_settings(study, QUICK)
    assert best.steps == QUICK.steps
    assert PruneConfig.from_mapping(tomllib.loads(settings_toml(best))["prune"]) == best


def test_a_study_of_another_model_or_with_another_fixed_setting_is_refused_and_says_what_differs(storage: str) -> None:
    open_study("s", storage, ABOUT, QUICK)
    with pytest.raises(UserError, match=r"model this, not that; choose another --study or --storage$") as caught:
        open_study("s", storage, {"model": "that"}, QUICK)
    assert "\n" not in str(caught.value)
    for change in ({"steps": 5}, {"pairs": 64}, {"ablation": "zero"}, {"signal": "random"}, {"target_loss": 0.5}):
        (key, value) = next(iter(change.items()))
        with pytest.raises(UserError, match=f"{key.replace('_', ' ')} {getattr(QUICK, key)}, not {value};"):
            open_study("s", storage, ABOUT, QUICK.model_copy(update=change))
    assert open_study("s", storage, ABOUT, QUICK.model_copy(update={"k_coef": 0.01})).get_trials()  # this is searched
    assert open_study("other", storage, {"model": "that"}, QUICK).get_trials()


def test_a_study_is_about_its_model_its_pairs_and_its_text(known, tiny_sparse: Callable[..., Any]) -> None:
    task, text = TuningTask(known.train, known.validation, known.train), np.zeros((2, 8), dtype=np.uint16)
    found = about_trials(known.model, {"own": task}, text)
    assert found == about_trials(known.model, {"own": task}, text.astype(np.int64))
    others = (
        ({"model"}, about_trials(tiny_sparse(), {"own": task}, text)),
        ({"tasks", "drawn_pairs"}, about_trials(known.model, {"other": task}, text)),
        ({"drawn_pairs"}, about_trials(known.model, {"own": TuningTask(*[known.validation] * 3)}, text)),
        ({"reference_text"}, about_trials(known.model, {"own": task}, text + 1)),
    )
    for keys, other in others:
        assert {key for key in found if found[key] != other[key]} == keys


def test_a_trial_worse_than_the_median_after_its_first_task_is_given_up_without_the_second(
    storage: str, worth: Callable[..., Callable[..., None]]
) -> None:
    pruned: list[tuple[int, int]] = []
    study = open_study("s", storage, ABOUT, QUICK)

    def edges(task: int, _: PruneConfig) -> float:
        number = len(study.get_trials(deepcopy=False)) - 1
        pruned.append((number, task))
        return math.log(400 if number == 4 else 100)

    worth(edges)(study, 6)
    states = [trial.state for trial in study.get_trials()]
    assert states == [TrialState.COMPLETE] * 4 + [TrialState.PRUNED, TrialState.COMPLETE]
    assert [task for number, task in pruned if number == 4] == [0]
    assert len(pruned) == 11
    assert study.best_value == pytest.approx(100)


def test_two_workers_that_start_together_try_the_given_settings_once_and_no_point_twice(
    storage: str, worth: Callable[..., Callable[..., None]]
) -> None:
    first, second = (open_study("s", storage, ABOUT, QUICK) for _ in range(2))
    seen: list[float] = []

    def edges(task: int, config: PruneConfig) -> float:
        seen.append(config.lr)
        if len(seen) == 1:
            work(second, 2)  # while the first worker's trial runs
        return 1.0

    work = worth(edges)
    work(first, 2)
    found = first.get_trials()
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 4
    assert [trial.params["lr"] == QUICK.lr for trial in found] == [True, False, False, False]
    assert len({trial.params["lr"] for trial in found}) == 4


def test_a_trial_whose_worker_was_killed_is_tried_again_with_its_settings(
    storage: str, worth: Callable[..., Callable[..., None]]
) -> None:
    class KilledError(BaseException):  # goes past all that ends a trial, as a killed process does
        pass

    def edges(*_: object) -> float:
        raise KilledError

    killed = open_study("s", storage, ABOUT, QUICK)
    with pytest.raises(KilledError):
        worth(edges)(killed, 1)
    work = worth(lambda task, config: 1.0)
    work(open_study("s", storage, ABOUT, QUICK), 1)
    assert killed.get_trials()[0].state == TrialState.RUNNING  # it may still be at work
    with sqlite3.connect(storage.removeprefix("sqlite:///")) as database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')")
    database.close()
    work(open_study("s", storage, ABOUT, QUICK), 1)
    found = open_study("s", storage, ABOUT, QUICK).get_trials()
    assert [trial.state for trial in found] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert found[2].params == found[0].params
    assert found[0].params["lr"] == QUICK.lr


def test_a_storage_that_cannot_be_opened_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be opened") as caught:
        open_study("s", f"sqlite:///{tmp_path / 'no' / 'such' / 'x.db'}", ABOUT, QUICK)
    assert "\n" not in str(caught.value)
