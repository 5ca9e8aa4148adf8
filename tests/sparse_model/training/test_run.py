"""From settings to an artefact: it appears when done, and an unfinished run belongs to its settings."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from foundation.errors import UserError
from sparse_model import SparseTransformer
from sparse_model.training.batches import Batches
from sparse_model.training.objective import LanguageModelling
from sparse_model.training.run import train_artefact, working_folder
from sparse_model.training.train_config import TrainConfig

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


def test_a_second_training_of_one_name_gets_one_line_and_touches_nothing(
    objective: Callable[[], LanguageModelling], blocks: np.ndarray, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    hold = "import sys; from pathlib import Path; from foundation.locks import owned\n"
    hold += "with owned(Path(sys.argv[1])): print('held', flush=True); sys.stdin.readline()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        working_folder(out).mkdir()
        (working_folder(out) / "theirs").write_text("")
        for overwrite in (False, True):
            with pytest.raises(UserError, match=rf"out: is being written by another process \(process {first.pid} on"):
                make(objective(), blocks, out, overwrite=overwrite)
        assert [path.name for path in working_folder(out).iterdir()] == ["theirs"]
        first.kill()
    make(objective(), blocks, out, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_another_kind_of_artefact_is_refused_before_the_training(
    objective: Callable[[], LanguageModelling], blocks: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "circuit.json").write_text("{}")
    with pytest.raises(UserError, match="is a circuit"):
        train_artefact(
            tmp_path / "out", objective(), Batches(blocks, 8, 0), CONFIG, {}, lambda _: None, True, kind="bridge"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


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
