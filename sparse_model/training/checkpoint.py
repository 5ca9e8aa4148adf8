"""Checkpoints: folders `step-00000500` of safetensors and JSON, atomic, the newest few kept, and `best-00000500`.

Data order and random choices are functions of the step, so parameters, moments and the step are the whole state;
a run resumed from one continues bit for bit. The best one, by validation loss, holds the parameters alone.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from foundation.artefacts import (
    Description,
    UnwrittenError,
    atomic_folder,
    check_fingerprint,
    read_description,
    read_tensors,
    save_tensors,
    write_json,
)
from foundation.errors import UserError
from foundation.exchange import remove
from foundation.fingerprints import tensors_fingerprint
from foundation.tensors import Expected, check_tensors
from foundation.text import one_line
from sparse_model.training.sharding import gather, local, split_like

PARAMETERS, MOMENTS, STATE = "objective.safetensors", "optimizer.safetensors", "state.json"


class State(Description):
    """`state.json`: steps done, the run's settings, and fingerprints of the tensors by file."""

    step: int = Field(ge=0)
    run: dict[str, Any]
    tensors_fingerprint: dict[str, str] = Field(default_factory=dict)


class BestState(State):
    """The same of the best parameters, with the loss they were chosen by, in nats/token."""

    validation_loss: float


def save(
    folder: Path,
    step: int,
    objective: nn.Module,
    optimizer: Optimizer,
    run: dict[str, Any],
    keep: int,
    writes: bool = True,
) -> None:
    """Write the state after `step` steps and drop all but the `keep` newest.

    Args:
        writes: whether this process writes, and does not merely help to gather tensors that are split over processes.

    Raises:
        UserError: the disk is full or not writable; earlier checkpoints are untouched.
    """
    state, moments = gather(trained_state(objective), writes), gather(_moments(optimizer), writes)
    if not writes:
        return
    try:
        with atomic_folder(folder / f"step-{step:08d}", overwrite=True) as temporary:
            _write(temporary, {PARAMETERS: state, MOMENTS: moments}, {"step": step, "run": run})
    except (OSError, UnwrittenError) as error:
        raise _unwritten(folder, step, error) from None
    for old in _complete(folder, "step")[:-keep]:
        shutil.rmtree(old)


def save_best(
    folder: Path, step: int, objective: nn.Module, run: dict[str, Any], loss: float, writes: bool = True
) -> bool:
    """Write the parameters after `step` steps if their validation `loss` is lower than that of the best so far.

    Args:
        writes: as for `save`.

    Raises:
        UserError: the disk is full or not writable; the best so far is untouched.
    """
    parameters = gather(trained_state(objective), writes)
    if not writes:
        return False
    earlier = _complete(folder, "best")
    if any(read_description(BestState, path, STATE, "checkpoint").validation_loss <= loss for path in earlier):
        return False
    try:
        with atomic_folder(folder / f"best-{step:08d}", overwrite=True) as temporary:
            _write(temporary, {PARAMETERS: parameters}, {"step": step, "run": run, "validation_loss": loss})
    except (OSError, UnwrittenError) as error:
        raise _unwritten(folder, step, error) from None
    for old in earlier:
        if old != folder / f"best-{step:08d}":
            shutil.rmtree(old)
    return True


def load_best(folder: Path, objective: nn.Module) -> dict[str, Any]:
    """Put the best parameters into the objective; returns their `step` and `validation_loss`.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    found = [(read_description(BestState, path, STATE, "checkpoint"), path) for path in _complete(folder, "best")]
    if not found:
        raise UserError(f"{folder}: holds no best checkpoint; train with --evaluate-every above 0, or --save last")
    state, path = min(found, key=lambda pair: (pair[0].validation_loss, pair[0].step))
    _copy(_parameters(path, state, objective), objective)
    return {"step": state.step, "validation_loss": state.validation_loss}


def restore(folder: Path, objective: nn.Module, optimizer: Optimizer, run: dict[str, Any]) -> int:
    """Load the newest readable checkpoint in place and return its step; 0 when there is none.

    One that cannot be read is passed over, in favour of the one before it, with a line on stderr.

    Raises:
        UserError: the checkpoint belongs to a run with other settings, or none of them can be read.
    """
    complete = _complete(folder, "step")
    for path in reversed(complete):
        try:
            state = read_description(State, path, STATE, "checkpoint")
            if path.name != f"step-{state.step:08d}":
                raise UserError(
                    f"{path}: is of step {state.step}, not of the one in its name; the checkpoint is damaged"
                )
            changed = _differences(state.run, json.loads(json.dumps(run)))
            if not changed:
                saved = _parameters(path, state, objective)
                moments = _saved_moments(path, state, optimizer)
        except UserError as error:
            tqdm.write(f"{error}; going back to the checkpoint before it", file=sys.stderr)
            continue
        if changed:
            raise UserError(
                f"{folder.parent}: holds an unfinished run with other settings ({', '.join(changed)}); finish it with its "
                "own settings, or pass --overwrite to start anew"
            )
        _copy(saved, objective)
        _restore_moments(optimizer, moments)
        return state.step
    if complete:
        raise UserError(
            f"{folder}: none of its {len(complete)} checkpoints can be read, all are damaged; pass --overwrite to start anew"
        )
    return 0


def remove_unfinished(folder: Path) -> None:
    """Delete what a kill in the middle of a save left behind, and folders without the file that is written last."""
    for pattern in (".*.partial", ".*.old", ".*.lock"):
        for path in folder.glob(pattern):
            remove(path)
    for pattern in ("step-*", "best-*"):
        for path in folder.glob(pattern):
            if not (path / STATE).is_file():
                remove(path)


def trained_state(objective: nn.Module) -> dict[str, Tensor]:
    """The objective's parameters by name (frozen ones do not change and are left out)."""
    return {name: parameter for name, parameter in objective.named_parameters() if parameter.requires_grad}


def _differences(old: Any, new: Any, place: str = "") -> list[str]:
    """Dotted places at which two plain values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            found
            for key in sorted({*old, *new})
            for found in _differences(old.get(key), new.get(key), f"{place}.{key}".lstrip("."))
        ]
    return [] if old == new else [place]


def _write(folder: Path, files: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    for name, tensors in files.items():
        save_tensors(folder / name, tensors)
    prints = {name: tensors_fingerprint(tensors) for name, tensors in files.items()}
    write_json(folder / STATE, {**state, "tensors_fingerprint": prints})


def _parameters(path: Path, state: State, objective: nn.Module) -> dict[str, Tensor]:
    """The parameters of a checkpoint, which fit the objective's.

    Raises:
        UserError: they do not, or cannot be read.
    """
    saved = read_tensors(path / PARAMETERS, "checkpoint")
    check_fingerprint(saved, state.tensors_fingerprint.get(PARAMETERS), path / PARAMETERS, "checkpoint")
    expected = {name: Expected(tuple(target.shape)) for name, target in trained_state(objective).items()}
    check_tensors(saved, expected, path / PARAMETERS, "checkpoint")
    return saved


def _saved_moments(path: Path, state: State, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state of a checkpoint: per parameter scalars and tensors of its shape.

    Raises:
        UserError: it does not fit the optimizer, or cannot be read.
    """
    moments = read_tensors(path / MOMENTS, "checkpoint")
    check_fingerprint(moments, state.tensors_fingerprint.get(MOMENTS), path / MOMENTS, "checkpoint")
    parameters = _ordered(optimizer)
    for name, value in moments.items():
        index, _, key = name.partition(".")
        known = index.isdecimal() and len(index) < 10 and int(index) < len(parameters) and bool(key)
        if not known or (value.dim() and value.shape != parameters[int(index)].shape):
            raise UserError(f"{path / MOMENTS}: '{one_line(name)}' fits no parameter; the checkpoint is damaged")
    return moments


def _unwritten(folder: Path, step: int, error: OSError | UnwrittenError) -> UserError:
    reason = error.reason if isinstance(error, UnwrittenError) else error
    return UserError(
        f"{folder}: checkpoint at step {step} could not be written ({reason}); free some space and run the same "
        "command to go on from the last good one"
    )


def _complete(folder: Path, kind: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"{kind}-*") if (path / STATE).is_file())


@torch.no_grad()
def _copy(saved: dict[str, Tensor], objective: nn.Module) -> None:
    for name, target in trained_state(objective).items():
        local(target).copy_(local(split_like(saved[name], target)))


def _ordered(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _moments(optimizer: Optimizer) -> dict[str, Tensor]:
    return {
        f"{index}.{key}": torch.as_tensor(value)
        for index, parameter in enumerate(_ordered(optimizer))
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _restore_moments(optimizer: Optimizer, saved: dict[str, Tensor]) -> None:
    parameters = _ordered(optimizer)
    for name, value in saved.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        optimizer.state.setdefault(parameter, {})[key] = value if value.dim() == 0 else split_like(value, parameter)
