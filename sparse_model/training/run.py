"""From settings to a finished artefact: `OUT.run/` holds the unfinished run, `OUT/` appears when it is done."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import nn

from foundation.artefacts import UnwrittenError, atomic_folder, write_json
from foundation.errors import UserError
from foundation.exchange import recover
from foundation.kinds import check_replaceable
from foundation.locks import owned
from sparse_model.training import checkpoint
from sparse_model.training.batches import Batches
from sparse_model.training.loop import stays_on_cpu, train
from sparse_model.training.metrics import DIAGNOSTICS, METRICS
from sparse_model.training.train_config import TrainConfig
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
    kind: str | None = None,
) -> list[dict[str, float]]:
    """Train and write the artefact to `out`, resuming an unfinished run of the same settings.

    Args:
        identity: everything beside `config` that the result depends on; saved as `training.json`.
        write: puts the trained model into the folder it is given.
        overwrite: replace `out` and forget an unfinished run.
        validation: held-out text for the validation curve and the best checkpoint.
        kind: of artefact, so that with `overwrite` another one is refused before the training.

    Raises:
        UserError: `out` exists, `OUT.run` belongs to other settings or to a training that is going on, or the disk is full.
    """
    out = Path(out)
    processes = PartialState(cpu=stays_on_cpu(objective))
    if not overwrite and out.exists():
        raise UserError(f"{out}: already exists; choose another --out or pass --overwrite")
    with _claimed(out) if processes.is_main_process else contextlib.nullcontext():
        if overwrite:
            check_replaceable(out, kind)
        return _train(out, processes, objective, batches, config, identity, write, overwrite, validation)


def _train(
    out: Path,
    processes: PartialState,
    objective: nn.Module,
    batches: Batches,
    config: TrainConfig,
    identity: dict[str, Any],
    write: Callable[[Path], None],
    overwrite: bool,
    validation: Validation | None,
) -> list[dict[str, float]]:
    """`train_artefact`, with the name claimed."""
    folder = working_folder(out)
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
            with atomic_folder(out, overwrite) as temporary:
                write(temporary)
                write_json(temporary / "training.json", description)
                for log in LOGS:
                    if (folder / log).is_dir():
                        shutil.copytree(folder / log, temporary / log)
                    elif (folder / log).is_file() and (folder / log).stat().st_size:
                        shutil.copy(folder / log, temporary / log)
        except (OSError, UnwrittenError) as error:
            reason = error.reason if isinstance(error, UnwrittenError) else error
            raise UserError(
                f"{out}: the trained model could not be written ({reason}); free some space and run the same command, "
                "which has nothing left to train"
            ) from None
        shutil.rmtree(folder)
    processes.wait_for_everyone()
    return rows


def working_folder(out: Path) -> Path:
    """Where the unfinished run of `out` lives."""
    out = Path(out)
    return out.with_name(out.name + ".run")


@contextlib.contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """Hold the lock of `out`, and with it that of its unfinished run, from the first step to the finished artefact."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stack = contextlib.ExitStack()
        if stack.enter_context(owned(out)):
            recover(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another --out") from None
    with stack:
        yield
