"""Checkpoints: folders `step-00000500` of safetensors and JSON, atomic, the newest few kept.

Data order and random choices are functions of the step, so parameters, moments and the step are the whole state;
a run resumed from one continues bit for bit.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparse_model.artefacts import atomic_folder, read_json, read_tensors, save_tensors, write_json
from sparse_model.settings import UserError


def save(folder: Path, step: int, objective: nn.Module, optimizer: Optimizer, run: dict[str, Any], keep: int) -> None:
    """Write the state after `step` steps and drop all but the `keep` newest.

    Raises:
        UserError: the disk is full or not writable; earlier checkpoints are untouched.
    """
    try:
        with atomic_folder(folder / f"step-{step:08d}", overwrite=True) as temporary:
            save_tensors(temporary / "objective.safetensors", trained_state(objective))
            save_tensors(temporary / "optimizer.safetensors", _moments(optimizer))
            write_json(temporary / "state.json", {"step": step, "run": run})
    except OSError as error:
        raise UserError(
            f"{folder}: checkpoint at step {step} could not be written ({error}); free some space and run the same "
            "command to go on from the last good one"
        ) from None
    for old in _complete(folder)[:-keep]:
        shutil.rmtree(old)


def restore(folder: Path, objective: nn.Module, optimizer: Optimizer, run: dict[str, Any]) -> int:
    """Load the newest checkpoint in place and return its step; 0 when there is none.

    Raises:
        UserError: the checkpoint belongs to a run with other settings.
    """
    complete = _complete(folder)
    if not complete:
        return 0
    newest = complete[-1]
    state = read_json(newest, "state.json", "checkpoint")
    changed = _differences(state["run"], json.loads(json.dumps(run)))
    if changed:
        raise UserError(
            f"{folder.parent}: holds an unfinished run with other settings ({', '.join(changed)}); finish it with its own "
            "settings, or pass --overwrite to start anew"
        )
    saved = read_tensors(newest / "objective.safetensors", "checkpoint")
    targets = trained_state(objective)
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(saved[name])
    _restore_moments(optimizer, read_tensors(newest / "optimizer.safetensors", "checkpoint"))
    return int(state["step"])


def _differences(old: Any, new: Any, place: str = "") -> list[str]:
    """Dotted places at which two plain values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            found
            for key in sorted({*old, *new})
            for found in _differences(old.get(key), new.get(key), f"{place}.{key}".lstrip("."))
        ]
    return [] if old == new else [place]


def trained_state(objective: nn.Module) -> dict[str, Tensor]:
    """The objective's parameters by name (frozen ones do not change and are left out)."""
    return {name: parameter for name, parameter in objective.named_parameters() if parameter.requires_grad}


def _complete(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())


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
        on_device = value if value.dim() == 0 else value.to(parameter.device)
        optimizer.state.setdefault(parameter, {})[key] = on_device
