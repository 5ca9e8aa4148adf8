"""Runs one command line in this process and keeps what it printed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from accelerate.state import AcceleratorState, GradientState

from cli.demo import BUNDLED
from cli.main import run


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """`cli("sparse", "inspect", folder)` runs that command line."""

    def call(*arguments: str | Path) -> Ran:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def sparse_folder(tmp_path_factory: pytest.TempPathFactory, corpus_folder: Path) -> Path:
    """A sparse model of a few steps, trained by the command itself."""
    out = tmp_path_factory.mktemp("sparse") / "model"
    AcceleratorState._reset_state(reset_partial_state=True)
    assert run(["sparse", "train", "--corpus", str(corpus_folder), "--out", str(out), *TINY]) == 0
    return out


TINY = [
    *("--steps", "4", "--batch-size", "4", "--density", "0.3", "--sparse-position", "added"),
    *("--sparse-d-model", "24", "--sparse-n-head", "3", "--sparse-d-head", "4", "--sparse-d-mlp", "32"),
]


@pytest.fixture(scope="session")
def bundled_circuit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`closing_quote` pruned out of the bundled bridge in a few steps, by the command itself."""
    bridge, out = BUNDLED / "bridge", tmp_path_factory.mktemp("circuit") / "closing_quote"
    sizes = ("--steps", "12", "--pairs", "16", "--batch-pairs", "4", "--blocks", "4", "--evaluate-pairs", "8")
    sizes += ("--edge-steps", "10", "--elimination-rounds", "0")  # slow where so few steps leave most nodes
    sizes += ("--seed", "3")  # not what other commands take by default
    assert run(["circuit", "prune", str(bridge), "--task", "closing_quote", "--out", str(out), *sizes]) == 0
    return out
