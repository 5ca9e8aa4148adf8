"""What a run logs: rates, validation, diagnoses, and the tracker that was asked for."""

import json
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from foundation.artefacts import read_tensors
from foundation.errors import UserError
from sparse_model import SparseTransformer
from sparse_model.training.batches import Batches
from sparse_model.training.loop import train
from sparse_model.training.objective import LanguageModelling, next_token_loss
from sparse_model.training.run import train_artefact
from sparse_model.training.speed import count_flops, matmul_rate
from sparse_model.training.train_config import TrainConfig
from sparse_model.training.validation import Validation

Make = Callable[[], LanguageModelling]
CONFIG = TrainConfig(
    steps=12, batch_size=8, lr=0.05, density=0.05, floor=1, checkpoint_every=4, log_every=4, diagnose_every=6,
    evaluate_every=3, validation_blocks=10,
)  # fmt: skip


def run(
    objective: LanguageModelling, blocks: np.ndarray, folder: Path, config: TrainConfig = CONFIG, **more: Any
) -> list[dict[str, float]]:
    return train(objective, Batches(blocks, config.batch_size, config.seed), config, folder, **more)


def held_out(blocks: np.ndarray) -> Validation:
    return Validation({"near": blocks[:12], "far": (blocks[:16] * 3 + 1) % 40}, {"near": 3.0, "far": 1.0})


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@torch.no_grad()
def loss_of(model: SparseTransformer, blocks: np.ndarray) -> float:
    tokens = torch.from_numpy(blocks.astype(np.int64))
    return float(next_token_loss(model(tokens).logits, tokens))


def test_the_validation_curve_is_the_held_out_loss_by_share_of_the_sources(
    objective: Make, blocks: np.ndarray, tmp_path: Path
) -> None:
    trained = objective()
    rows = run(trained, blocks, tmp_path, validation=held_out(blocks))
    assert [row["step"] for row in rows if "validation_loss" in row] == [3, 6, 9, 12]
    texts = held_out(blocks).blocks
    near, far = (loss_of(trained.model, texts[name][:10]) for name in ("near", "far"))
    assert rows[-1]["validation_loss/near"] == pytest.approx(near, rel=1e-5)
    assert rows[-1]["validation_loss/far"] == pytest.approx(far, rel=1e-5)
    assert rows[-1]["validation_loss"] == pytest.approx((3 * near + far) / 4, rel=1e-5)


def test_evaluating_and_diagnosing_change_no_weight(objective: Make, blocks: np.ndarray, tmp_path: Path) -> None:
    watched, alone = objective(), objective()
    run(watched, blocks, tmp_path / "watched", validation=held_out(blocks))
    quiet = {"diagnose_every": 0, "evaluate_every": 0, "log_to": "none", "log_every": 12}
    run(alone, blocks, tmp_path / "alone", CONFIG.model_copy(update=quiet))
    for ours, theirs in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def falling_then_rising(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation losses 9 (while still denser than asked), 2, 1, 3, ... in the order they are asked for."""
    losses = iter([0.5, 2.0, 1.0, 3.0])
    monkeypatch.setattr("sparse_model.training.loop.held_out_terms", lambda *_: {"validation_loss": next(losses)})


def test_the_best_checkpoint_is_the_lowest_validation_loss_among_those_as_sparse_as_asked(
    objective: Make, blocks: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    falling_then_rising(monkeypatch)
    run(objective(), blocks, tmp_path, validation=held_out(blocks))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best-00000009", "step-00000008", "step-00000012"]


def test_the_artefact_gets_the_best_weights_where_asked_and_says_so(
    objective: Make, blocks: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, Any] = {}
    for save in ("last", "best"):
        falling_then_rising(monkeypatch)
        trained, config = objective(), CONFIG.model_copy(update={"save": save, "checkpoint_every": 9})

        def write(folder: Path, trained: LanguageModelling = trained, save: str = save) -> None:
            trained.model.save_pretrained(folder)
            at = folder.parent / f"{save}.run" / "checkpoints" / "step-00000009" / "objective.safetensors"
            kept[save] = read_tensors(at, "checkpoint")

        batches = Batches(blocks, 8, 0)
        train_artefact(tmp_path / save, trained, batches, config, {}, write, validation=held_out(blocks))
        state = {f"model.{k}": v for k, v in SparseTransformer.from_pretrained(tmp_path / save).named_parameters()}
        same = all(torch.equal(state[name], value) for name, value in kept[save].items())
        assert same == (save == "best")
        said = json.loads((tmp_path / save / "training.json").read_text())["saved"]
        assert said == ({"step": 9, "validation_loss": 1.0} if save == "best" else {"step": 12})


def test_the_best_without_a_validation_loss_is_refused(objective: Make, blocks: np.ndarray, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"save": "best"})
    with pytest.raises(UserError, match="--evaluate-every above 0"):
        run(objective(), blocks, tmp_path, config)
    with pytest.raises(UserError, match="--evaluate-every above 0"):
        run(objective(), blocks, tmp_path, config.model_copy(update={"evaluate_every": 0}), validation=held_out(blocks))


def test_rates_are_tokens_and_matrix_products_per_second(objective: Make, blocks: np.ndarray, tmp_path: Path) -> None:
    trained = objective()
    tokens = torch.from_numpy(blocks[:8].astype(np.int64))
    with count_flops() as counted:
        trained(tokens, draw=0)["loss"].backward()
    row = run(trained, blocks, tmp_path)[-1]
    assert row["tokens_per_second"] == pytest.approx(8 * 12 * row["steps_per_second"])
    rate = matmul_rate(torch.device("cpu"), torch.float32)
    assert row["mfu"] == pytest.approx(counted.get_total_flops() * row["steps_per_second"] / rate)
    assert 0 < row["mfu"] < 1


def test_counted_flops_are_those_of_the_matrices_and_of_attention_three_times_over(
    objective: Make, blocks: np.ndarray
) -> None:
    """Forward 2·tokens·entries and 4·T²·HK a sequence and layer; backward twice that, with the scores made once more."""
    trained = objective()
    tokens = torch.from_numpy(blocks[:8].astype(np.int64))
    with count_flops() as counted:
        trained(tokens, draw=0)["loss"].backward()
    model = trained.model
    entries = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 2 and "wte" not in n)
    attention = 2 * 8 * 12 * 12 * 12  # layers · sequences · T² · HK
    assert counted.get_total_flops() == 6 * 8 * 12 * entries + (4 + 10) * attention


def scalars(folder: Path) -> Mapping[str, list[int]]:
    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [event.step for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_gets_every_row_by_default_and_the_artefact_keeps_it(
    objective: Make, blocks: np.ndarray, tmp_path: Path
) -> None:
    trained = objective()
    train_artefact(
        tmp_path / "out", trained, Batches(blocks, 8, 0), CONFIG, {}, trained.model.save_pretrained,
        validation=held_out(blocks),
    )  # fmt: skip
    found = scalars(tmp_path / "out" / "tensorboard")
    assert found["loss"] == [3, 4, 6, 8, 9, 12]
    assert found["validation_loss/far"] == [3, 6, 9, 12]
    assert found["turnover/total"] == found["silent/qk"] == found["kurtosis/final_resid"] == [6, 12]
    assert [row["step"] for row in lines(tmp_path / "out" / "diagnostics.jsonl")] == [6, 12]


def test_no_tracker_writes_nothing_but_the_json_lines(objective: Make, blocks: np.ndarray, tmp_path: Path) -> None:
    run(objective(), blocks, tmp_path, CONFIG.model_copy(update={"log_to": "none"}))
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "metrics.jsonl", "diagnostics.jsonl"}


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_refused_in_one_line(
    name: str, objective: Make, blocks: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [tracker for tracker in accelerate.tracking.get_available_trackers() if str(tracker) != name]
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", others)
    tmp_path = tmp_path / "run"
    with pytest.raises(UserError, match=f"--log-to {name}: the package is not installed"):
        run(objective(), blocks, tmp_path, CONFIG.model_copy(update={"log_to": name}))
    assert not tmp_path.exists()


class FakeTracker(ModuleType):
    """What the packages of W&B and trackio are to accelerate: keeps all they are given, and prints as trackio does."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.given: dict[str, Any] = {}
        self.settings: dict[str, Any] = {}
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.finished = 0
        self.config = SimpleNamespace(update=self.store)

    def init(self, project: str, name: str | None = None, dir: str | None = None) -> "FakeTracker":
        sys.stdout.write(f"* Created new run: {name}\n")
        self.given = {"project": project, "name": name, "dir": dir}
        return self

    def store(self, values: dict[str, Any], allow_val_change: bool) -> None:
        self.settings = values

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, values))

    def finish(self) -> None:
        sys.stdout.write("* Run finished\n")
        self.finished += 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_get_the_run_its_settings_and_every_row_and_leave_stdout_alone(
    name: str, objective: Make, blocks: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    fake = FakeTracker(name)
    monkeypatch.setitem(sys.modules, name, fake)
    known = [*accelerate.tracking.get_available_trackers(), accelerate.utils.LoggerType(name)]
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", known)
    config = CONFIG.model_copy(update={"log_to": name})
    rows = run(objective(), blocks, tmp_path / "mine.run", config, validation=held_out(blocks))
    folder = str(tmp_path / "mine.run") if name == "wandb" else None
    assert fake.given == {"project": "sparsebridge", "name": "mine", "dir": folder}
    assert fake.settings == config.to_json()
    logged = [(step, values["loss"]) for step, values in fake.rows if "loss" in values]
    assert logged == [(row["step"], row["loss"]) for row in rows if "loss" in row]
    assert [step for step, values in fake.rows if "turnover/total" in values] == [6, 12]
    assert fake.finished == 1
    assert capsys.readouterr().out == ""


def test_the_progress_line_has_loss_density_rate_and_time_left(
    objective: Make, blocks: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # elsewhere redrawn lines would fill a log
    run(objective(), blocks, tmp_path)
    shown = capsys.readouterr().err.split("\r")[-1]
    assert "12/12 [" in shown
    for part in ("loss=", "density=0.050", "tok/s=", "<", "step"):
        assert part in shown
