"""From settings to a finished artefact: `OUT.run/` holds the unfinished run, `OUT/` appears when it is done."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState
from safetensors import SafetensorError
from torch import nn

from foundation.artefacts import atomic_folder, write_json
from foundation.errors import UserError
from sparse_model.training import checkpoint
from sparse_model.training.batches import Batches
from sparse_model.training.config import TrainConfig
from sparse_model.training.loop import stays_on_cpu, train
from sparse_model.training.metrics import DIAGNOSTICS, METRICS
from sparse_model.training.validation import Validation

LOGS = (METRICS, DIAGNOSTICS, "tensorboard", "wandb")
"""What of the run's folder is kept with the artefact."""


def train_artefact(
    out: Path,
    objective: nn.Module,
    batches: Batches,
    config: TrainConfig,
    identity: dict[str, Any],
    write: Callable[[Path], None],
    overwrite: bool = False,
    validation: Validation | None = None,
) -> list[dict[str, float]]:
    """Train and write the artefact to `out`, resuming an unfinished run of the same settings.

    Args:
        identity: everything beside `config` that the result depends on; saved as `training.json`.
        write: puts the trained model into the folder it is given.
        overwrite: replace `out` and forget an unfinished run.
        validation: held-out text for the validation curve and the best checkpoint.

    Raises:
        UserError: `out` exists, `OUT.run` belongs to other settings, or the disk is full.
    """
    folder, processes = working_folder(out), PartialState(cpu=stays_on_cpu(objective))
    if not overwrite and Path(out).exists():
        raise UserError(f"{out}: already exists; choose another --out or pass --overwrite")
    if overwrite and processes.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
    processes.wait_for_everyone()
    rows = train(objective, batches, config, folder, identity, validation)
    if processes.is_main_process:
        saved: dict[str, Any] = {"step": config.steps}
        if config.save == "best":
            saved = checkpoint.load_best(folder / "checkpoints", objective)
        description = {
            "config": config.to_json(),
            **identity,
            "processes": processes.num_processes,
            "saved": saved,
            "final": rows[-1],
        }
        try:
            with atomic_folder(Path(out), overwrite) as temporary:
                write(temporary)
                write_json(temporary / "training.json", description)
                for log in LOGS:
                    if (folder / log).is_dir():
                        shutil.copytree(folder / log, temporary / log)
                    elif (folder / log).is_file() and (folder / log).stat().st_size:
                        shutil.copy(folder / log, temporary / log)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{out}: the trained model could not be written ({error}); free some space and run the same command, "
                "which has nothing left to train"
            ) from None
        shutil.rmtree(folder)
    processes.wait_for_everyone()
    return rows


def working_folder(out: Path) -> Path:
    """Where the unfinished run of `out` lives."""
    out = Path(out)
    return out.with_name(out.name + ".run")
