"""From settings to a finished artefact: `OUT.run/` holds the unfinished run, `OUT/` appears when it is done."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import nn

from sparse_model.artefacts import atomic_folder, write_json
from sparse_model.settings import UserError
from sparse_model.training.batches import Batches
from sparse_model.training.config import TrainConfig
from sparse_model.training.loop import stays_on_cpu, train

METRICS = "metrics.jsonl"


def train_artefact(
    out: Path,
    objective: nn.Module,
    batches: Batches,
    config: TrainConfig,
    identity: dict[str, Any],
    write: Callable[[Path], None],
    overwrite: bool = False,
) -> list[dict[str, float]]:
    """Train and write the artefact to `out`, resuming an unfinished run of the same settings.

    Args:
        identity: everything beside `config` that the result depends on; saved as `training.json`.
        write: puts the trained model into the folder it is given.
        overwrite: replace `out` and forget an unfinished run.

    Raises:
        UserError: `out` exists, or `OUT.run` belongs to other settings.
    """
    folder, processes = working_folder(out), PartialState(cpu=stays_on_cpu(objective))
    if not overwrite and Path(out).exists():
        raise UserError(f"{out}: already exists; choose another --out or pass --overwrite")
    if overwrite and processes.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
    processes.wait_for_everyone()
    rows = train(objective, batches, config, folder, identity)
    if processes.is_main_process:
        with atomic_folder(Path(out), overwrite) as temporary:
            write(temporary)
            write_json(temporary / "training.json", {"config": config.to_json(), **identity, "final": rows[-1]})
            shutil.copy(folder / METRICS, temporary / METRICS)
        shutil.rmtree(folder)
    processes.wait_for_everyone()
    return rows


def working_folder(out: Path) -> Path:
    """Where the unfinished run of `out` lives."""
    out = Path(out)
    return out.with_name(out.name + ".run")
