"""The training loop: what it computes, and that stopping it anywhere loses nothing."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from foundation.artefacts import read_tensors
from foundation.errors import StoppedEarly, UserError
from sparse_model.training.objective import LanguageModelling, Objective, ParameterGroup
from sparse_model.training.optimizer import gradient_spans, limit_gradient
from sparse_model.training.projection import density_report
from sparse_model.training.train_config import TrainConfig
from tests.sparse_model.training.runs import CONFIG, Make, Weights, alone, assert_same_bits, run, weights


class PowerCutError(Exception):
    """The end of a run that had no time to save."""


class Fragile(LanguageModelling):
    """Does something else instead of computing the loss at one step."""

    def __init__(self, model: nn.Module, step: int, action: Callable[[dict[str, torch.Tensor]], None]) -> None:
        super().__init__(model, projected=model)
        self.step, self.action = step, action

    def forward(self, tokens: torch.Tensor, draw: int) -> dict[str, torch.Tensor]:
        terms = super().forward(tokens, draw)
        if draw == self.step:
            self.action(terms)
        return terms


class Finished(NamedTuple):
    """A run that nothing disturbed."""

    folder: Path
    weights: Weights


@pytest.fixture(scope="module")
def finished(objective: Make, blocks: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Its folder, which tests copy, and its weights."""
    whole, folder = objective(), tmp_path_factory.mktemp("finished") / "whole"
    run(whole, blocks, folder)
    return Finished(folder, weights(whole))


@pytest.fixture
def uninterrupted(finished: Finished) -> Weights:
    """Weights after a run that nothing disturbed."""
    return finished.weights


@pytest.fixture
def finished_copy(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the folder of such a run."""
    return Path(shutil.copytree(finished.folder, tmp_path / "whole"))


def test_the_loss_falls_while_the_weights_become_as_sparse_as_asked(
    objective: Make, blocks: np.ndarray, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"steps": 60, "checkpoint_every": 60})
    trained = objective()
    rows = run(trained, blocks, tmp_path, config)
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    report = density_report(trained.model)
    assert report["total"] == pytest.approx(0.2, abs=0.02)
    assert rows[-1]["density"] == pytest.approx(0.2)


def test_the_log_holds_every_logged_step_and_the_last(objective: Make, blocks: np.ndarray, tmp_path: Path) -> None:
    rows = run(objective(), blocks, tmp_path)
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12, 13]
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == rows
    assert {"loss", "gradient_rms", "density", "lr", "steps_per_second"} <= set(rows[0])


def test_only_the_newest_checkpoints_are_kept(objective: Make, blocks: np.ndarray, tmp_path: Path) -> None:
    run(objective(), blocks, tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000012", "step-00000013"]


@pytest.mark.parametrize("at", [0, 2, 3, 5, 9, 12])
def test_a_run_cut_off_at_any_step_resumes_to_the_same_bits(
    at: int, objective: Make, blocks: np.ndarray, tmp_path: Path, uninterrupted: dict[str, torch.Tensor]
) -> None:
    def cut(_: dict[str, torch.Tensor]) -> None:
        raise PowerCutError

    with pytest.raises(PowerCutError):
        run(Fragile(objective().model, at, cut), blocks, tmp_path / "cut")
    half_written = tmp_path / "cut" / "checkpoints" / ".step-00000012.0badc0de.partial"
    half_written.mkdir(parents=True)
    (half_written / "objective.safetensors").write_bytes(b"half")
    resumed = objective()
    rows = run(resumed, blocks, tmp_path / "cut")
    assert_same_bits(weights(resumed), uninterrupted)
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12, 13]


def test_resuming_a_finished_run_changes_nothing(
    objective: Make, blocks: np.ndarray, finished_copy: Path, uninterrupted: Weights
) -> None:
    again = objective()
    rows = run(again, blocks, finished_copy)
    assert_same_bits(weights(again), uninterrupted)
    assert rows[-1]["step"] == 13


def test_a_log_line_cut_in_half_does_not_stop_a_resume(objective: Make, blocks: np.ndarray, tmp_path: Path) -> None:
    def cut(_: dict[str, torch.Tensor]) -> None:
        raise PowerCutError

    with pytest.raises(PowerCutError):
        run(Fragile(objective().model, 8, cut), blocks, tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "loss": 3.')
    assert [row["step"] for row in run(objective(), blocks, tmp_path)] == [2, 4, 6, 8, 10, 12, 13]


def test_a_process_killed_by_sigkill_resumes_to_the_same_bits(
    objective: Make, blocks: np.ndarray, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"steps": 14, "checkpoint_every": 1, "log_every": 1})
    folder = tmp_path / "killed"
    arguments = alone(blocks, config, objective().model, tmp_path, "killed")
    command = [sys.executable, *arguments, str(torch.get_num_threads()), "12"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        while not list((folder / "checkpoints").glob("step-*")):
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.002)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    resumed, whole = objective(), objective()
    run(resumed, blocks, folder, config)
    run(whole, blocks, tmp_path / "whole", config)
    assert_same_bits(weights(resumed), weights(whole))


def test_sigterm_saves_a_checkpoint_first_and_the_run_goes_on_from_there(
    objective: Make, blocks: np.ndarray, tmp_path: Path, uninterrupted: dict[str, torch.Tensor]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    stopped = Fragile(objective().model, 4, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StoppedEarly, match="after step 5 of 13"):
        run(stopped, blocks, tmp_path / "cut")
    assert signal.getsignal(signal.SIGTERM) == before
    saved = read_tensors(tmp_path / "cut" / "checkpoints" / "step-00000005" / "objective.safetensors", "checkpoint")
    assert_same_bits(saved, weights(stopped))
    resumed = objective()
    run(resumed, blocks, tmp_path / "cut")
    assert_same_bits(weights(resumed), uninterrupted)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(
    value: float, objective: Make, blocks: np.ndarray, tmp_path: Path
) -> None:
    def spoil(terms: dict[str, torch.Tensor]) -> None:
        terms["loss"] = terms["loss"] * value

    with pytest.raises(UserError, match=r"the loss term 'loss' is not finite at step 8 .*lower --lr"):
        run(Fragile(objective().model, 7, spoil), blocks, tmp_path)
    newest = max((tmp_path / "checkpoints").iterdir())
    assert newest.name == "step-00000006"
    assert all(bool(v.isfinite().all()) for v in read_tensors(newest / "objective.safetensors", "checkpoint").values())


def test_several_micro_batches_give_the_same_weights_as_one_batch(
    objective: Make, blocks: np.ndarray, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"density": 1.0, "eps": 1e-3, "gradient_rms": "clip"})
    found = {}
    for accumulate in (1, 4):
        trained = objective()
        rows = run(trained, blocks, tmp_path / str(accumulate), config.model_copy(update={"accumulate": accumulate}))
        found[accumulate] = weights(trained), rows[-1]["loss"]
    untrained = weights(objective())
    for name, value in found[1][0].items():
        torch.testing.assert_close(found[4][0][name], value, atol=1e-5, rtol=1e-5)
    assert any((found[1][0][name] - untrained[name]).abs().max() > 1e-2 for name in untrained)
    assert found[4][1] == pytest.approx(found[1][1], abs=1e-5)


def test_a_batch_that_does_not_split_evenly_is_refused(objective: Make, blocks: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make it a multiple of 3"):
        run(objective(), blocks, tmp_path, CONFIG.model_copy(update={"accumulate": 3}))


@pytest.mark.parametrize(
    ("changed", "named"), [({"lr": 0.04}, r"config\.lr"), ({"seed": 1}, r"config\.seed"), ({}, r"model\.width")]
)
def test_resuming_with_other_settings_is_refused_by_name(
    changed: dict[str, Any], named: str, objective: Make, blocks: np.ndarray, tmp_path: Path
) -> None:
    run(objective(), blocks, tmp_path, run={"model": {"width": 24}})
    with pytest.raises(UserError, match=rf"other settings \({named}\)"):
        run(
            objective(),
            blocks,
            tmp_path,
            CONFIG.model_copy(update=changed),
            run={"model": {"width": 24 if changed else 25}},
        )


def test_a_truncated_checkpoint_is_passed_over_for_the_one_before_it(
    objective: Make, blocks: np.ndarray, finished_copy: Path, uninterrupted: Weights, capfd: pytest.CaptureFixture[str]
) -> None:
    path = finished_copy / "checkpoints" / "step-00000013" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    resumed = objective()
    run(resumed, blocks, finished_copy)
    assert_same_bits(weights(resumed), uninterrupted)
    told = capfd.readouterr().err
    assert "truncated or damaged" in told
    assert "going on after step 12 of 13" in told


@pytest.mark.parametrize("step", ["1" + 30 * "0", "-1", "12", "13.0", "1e30", '"13"', "true", "null"])
def test_a_checkpoint_of_a_step_it_cannot_be_of_is_passed_over_for_the_one_before_it(
    step: str,
    objective: Make,
    blocks: np.ndarray,
    finished_copy: Path,
    uninterrupted: Weights,
    capfd: pytest.CaptureFixture[str],
) -> None:
    state = finished_copy / "checkpoints" / "step-00000013" / "state.json"
    text = state.read_text()
    assert '"step": 13,' in text
    state.write_text(text.replace('"step": 13,', f'"step": {step},'))
    resumed = objective()
    run(resumed, blocks, finished_copy)
    assert_same_bits(weights(resumed), uninterrupted)
    assert "going on after step 12 of 13" in capfd.readouterr().err


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_rather_than_begun_anew(
    objective: Make, blocks: np.ndarray, tmp_path: Path
) -> None:
    run(objective(), blocks, tmp_path)
    for folder in (tmp_path / "checkpoints").iterdir():
        (folder / "objective.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="none of its 2 checkpoints can be read"):
        run(objective(), blocks, tmp_path)


def test_how_often_a_run_logs_and_saves_may_change_when_it_is_resumed(
    objective: Make, blocks: np.ndarray, tmp_path: Path, uninterrupted: Weights
) -> None:
    def cut(_: Weights) -> None:
        raise PowerCutError

    with pytest.raises(PowerCutError):
        run(Fragile(objective().model, 7, cut), blocks, tmp_path)
    resumed = objective()
    run(resumed, blocks, tmp_path, CONFIG.model_copy(update={"log_every": 1, "checkpoint_every": 13, "log_to": "none"}))
    assert_same_bits(weights(resumed), uninterrupted)


class Sharp(LanguageModelling):
    """Its loss is finite at one step, but not the gradient of one parameter."""

    def forward(self, tokens: torch.Tensor, draw: int) -> Weights:
        terms = super().forward(tokens, draw)
        if draw == 7:
            weight = self.model.transformer["h"][1].mlp.c_fc.weight
            terms["loss"] = terms["loss"] + 0 * (weight - weight.detach()).abs().sqrt().sum()
        return terms


def test_a_gradient_that_is_not_finite_stops_the_run_naming_step_and_parameter(
    objective: Make, blocks: np.ndarray, tmp_path: Path
) -> None:
    model = objective().model
    sharp = Sharp(model, projected=model)
    named = r"the gradient of model\.transformer\.h\.1\.mlp\.c_fc\.weight is not finite at step 8 .*lower --lr"
    with pytest.raises(UserError, match=named):
        run(sharp, blocks, tmp_path)
    assert max(path.name for path in (tmp_path / "checkpoints").iterdir()) == "step-00000006"


def limited(objective: Make, blocks: np.ndarray, folder: Path, limit: int) -> str:
    """The error of a run in which no file may grow beyond `limit` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(UserError) as caught:
            run(objective(), blocks, folder, CONFIG.model_copy(update={"log_to": "none"}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return str(caught.value)


def test_a_full_disk_stops_the_run_and_the_last_good_checkpoint_goes_on_to_the_same_bits(
    objective: Make, blocks: np.ndarray, tmp_path: Path, uninterrupted: Weights, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = Fragile(objective().model, 4, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StoppedEarly):
        run(stopped, blocks, tmp_path / "full")
    assert "checkpoint at step 6 could not be written" in limited(objective, blocks, tmp_path / "full", 4096)
    names = [path.name for path in (tmp_path / "full" / "checkpoints").iterdir()]
    assert sorted(names) == ["step-00000003", "step-00000005"]
    resumed = objective()
    run(resumed, blocks, tmp_path / "full")
    assert_same_bits(weights(resumed), uninterrupted)


def test_a_log_that_cannot_be_written_stops_the_run_in_one_line(
    objective: Make, blocks: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = limited(objective, blocks, tmp_path, 10)
    assert "metrics.jsonl: cannot be written" in told
    assert "free some space" in told


@pytest.mark.parametrize(("mode", "expected"), [("clip", 0.5), ("normalise", 0.5), ("off", 3.0)])
def test_the_gradient_rms_is_over_all_parameters_together(mode: str, expected: float) -> None:
    parameters = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(1))]
    for parameter in parameters[:2]:
        parameter.grad = torch.full_like(parameter, 3.0)
    config = TrainConfig(gradient_rms=mode, gradient_rms_limit=0.5)
    assert limit_gradient(parameters, config).item() == pytest.approx(3.0)
    assert parameters[0].grad.mean().item() == pytest.approx(expected)
    assert parameters[2].grad is None


def test_each_group_may_have_a_gradient_rms_of_its_own() -> None:
    big, small = (nn.Parameter(torch.zeros(2, 3)) for _ in range(2))
    vector, silent = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(4))
    parameters = [big, vector, small, silent]
    groups = [
        {"group": "sparse", "params": [big]},
        {"group": "sparse", "params": [vector]},
        {"group": "bridge", "params": [small, silent]},
    ]

    def scaled(over: str) -> list[float]:
        for parameter, value in ((big, 3.0), (vector, 3.0), (small, 0.01)):
            parameter.grad = torch.full_like(parameter, value)
        config = TrainConfig(gradient_rms="normalise", gradient_rms_over=over)
        before = limit_gradient(parameters, config, spans=gradient_spans(groups, config))
        assert before.item() == pytest.approx(((8 * 9 + 6e-4) / 14) ** 0.5)
        assert silent.grad is None
        return [parameter.grad.mean().item() for parameter in (big, vector, small)]

    assert scaled("group") == pytest.approx([1, 1, 1])
    together = ((8 * 9 + 6e-4) / 14) ** 0.5
    assert scaled("all") == pytest.approx([3 / together, 3 / together, 0.01 / together])


def test_clipping_leaves_small_gradients_alone_and_normalising_raises_them() -> None:
    for mode, expected in (("clip", 1e-3), ("normalise", 1.0)):
        parameter = nn.Parameter(torch.zeros(5))
        parameter.grad = torch.full((5,), 1e-3)
        limit_gradient([parameter], TrainConfig(gradient_rms=mode))
        assert parameter.grad[0].item() == pytest.approx(expected)


class Still(Objective):
    """An objective without gradient, with a matrix and a vector of its own rate."""

    projected = None

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
        self.fast, self.frozen = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2), requires_grad=False)

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("slow", (self.matrix, self.vector)), ParameterGroup("fast", (self.fast,), lr=0.5)]

    def forward(self, tokens: torch.Tensor, draw: int) -> dict[str, torch.Tensor]:
        return {"loss": 0 * (self.matrix.sum() + self.vector.sum() + self.fast.sum())}


def test_decay_shrinks_matrices_at_their_groups_rate_and_spares_vectors(blocks: np.ndarray, tmp_path: Path) -> None:
    still = Still()
    run(still, blocks, tmp_path, TrainConfig(steps=1, batch_size=8, lr=0.1, weight_decay=0.2, gradient_rms="off"))
    assert still.matrix[0, 0].item() == pytest.approx(1 - 0.1 * 0.2)
    assert still.fast[0, 0].item() == pytest.approx(1 - 0.5 * 0.2)
    assert still.vector.tolist() == still.frozen.tolist() == [1, 1]


def test_bfloat16_runs_keep_their_weights_in_fp32(objective: Make, blocks: np.ndarray, tmp_path: Path) -> None:
    trained = objective()
    rows = run(trained, blocks, tmp_path, CONFIG.model_copy(update={"precision": "bf16"}))
    assert {value.dtype for value in weights(trained).values()} == {torch.float32}
    AcceleratorState._reset_state()
    exact = run(objective(), blocks, tmp_path / "fp32")
    assert rows[0]["loss"] == pytest.approx(exact[0]["loss"], rel=0.1)
    assert rows[0]["loss"] != exact[0]["loss"]


def test_what_is_no_objective_is_refused(blocks: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Linear is not an Objective"):
        run(nn.Linear(2, 2), blocks, tmp_path)
