"""Compiling an objective's forward and backward pass with `torch.compile`, in place, so that no parameter changes its name.

Training steps alone run compiled. Validation and diagnostics come seldom and in other shapes, and run as they are
written; so does the first step, whose matrix products are counted as they run.
"""

import os
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from foundation.errors import UserError
from sparse_model.training.train_config import TrainConfig


def check_compiler(config: TrainConfig) -> None:
    """Refuse to compile where that cannot work.

    Raises:
        UserError: there is no C++ compiler.
    """
    if not config.compile:
        return
    wanted = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(wanted) is None:
        raise UserError(
            f"--compile: no C++ compiler ('{wanted}' is not found); install one or set CXX, or pass --no-compile"
        )


def compile_steps(objective: nn.Module, config: TrainConfig) -> None:
    """Have the objective's next calls compiled, if so configured."""
    if config.compile:
        objective.compile()


def as_written(config: TrainConfig) -> AbstractContextManager[object]:
    """A context in which nothing runs compiled."""
    return torch.compiler.set_stance("force_eager") if config.compile else nullcontext()
