"""From settings to an artefact: it appears when done, and an unfinished run belongs to its settings."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from foundation.errors import UserError
from sparse_model import SparseTransformer
from sparse_model.training.batches import Batches
from sparse_model.training.config import TrainConfig
from sparse_model.training.objective import LanguageModelling
from sparse_model.training.run import train_artefact, working_folder

CONFIG = TrainConfig(steps=4, batch_size=8, density=0.5, checkpoint_every=2)


def make(
    objective: LanguageModelling, blocks: np.ndarray, out: Path, config: TrainConfig = CONFIG, overwrite: bool = False
) -> None:
    train_artefact(
        out, objective, Batches(blocks, 8, 0), config, {"model": "tiny"}, objective.model.save_pretrained, overwrite
    )


def test_the_artefact_holds_the_trained_model_its_settings_and_its_log(
    objective: Callable[[], LanguageModelling], blocks: np.ndarray, tmp_path: Path
) -> None:
    trained = objective()
    make(trained, blocks, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    again = SparseTransformer.from_pretrained(tmp_path / "out")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), trained.model.parameters(), strict=True))
    description = json.loads((tmp_path / "out" / "training.json").read_text())
    assert TrainConfig.from_mapping(description["config"]) == CONFIG
    assert (description["model"], description["final"]["step"]) == ("tiny", 4)
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 1


def test_an_existing_artefact_is_replaced_only_when_asked(
    objective: Callable[[], LanguageModelling], blocks: np.ndarray, tmp_path: Path
) -> None:
    make(objective(), blocks, tmp_path / "out")
    with pytest.raises(UserError, match="already exists"):
        make(objective(), blocks, tmp_path / "out")
    longer = CONFIG.model_copy(update={"steps": 6})
    make(objective(), blocks, tmp_path / "out", longer, overwrite=True)
    assert json.loads((tmp_path / "out" / "training.json").read_text())["final"]["step"] == 6


def test_a_failure_while_writing_keeps_the_run_and_the_same_command_finishes_it(
    objective: Callable[[], LanguageModelling], blocks: np.ndarray, tmp_path: Path
) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("")
        raise OSError("disk full")

    with pytest.raises(UserError, match=r"out: the trained model could not be written \(disk full\)"):
        train_artefact(tmp_path / "out", objective(), Batches(blocks, 8, 0), CONFIG, {"model": "tiny"}, fail)
    assert [path.name for path in tmp_path.iterdir()] == [working_folder(tmp_path / "out").name]
    make(objective(), blocks, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
