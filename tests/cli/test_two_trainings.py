"""Two real trainings under one name at once: the second gets one line, and the artefact is wholly the first's."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foundation.locks import lock_file

from .conftest import TINY

ROOT = Path(__file__).parents[2]
COMMAND = "import sys; from cli.main import run; sys.exit(run(sys.argv[1:]))"


def start(corpus: Path, out: Path, seed: int) -> "subprocess.Popen[str]":
    """`sparse train` in a process of its own, on one thread."""
    words = ["sparse", "train", "--corpus", str(corpus), "--out", str(out), *TINY, "--seed", str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system stops no process")
def test_the_second_of_two_trainings_gets_one_line_and_the_artefact_is_wholly_the_firsts(
    corpus_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with start(corpus_folder, out, 1) as first:
        while not lock_file(out).exists() and first.poll() is None:
            time.sleep(0.01)
        assert first.poll() is None, first.communicate()
        first.send_signal(signal.SIGSTOP)  # so that it holds the name for as long as the second lives
        with start(corpus_folder, out, 2) as second:
            printed, said = second.communicate()
        first.send_signal(signal.SIGCONT)
        first.communicate()
    assert second.returncode == 2
    assert (printed, said.count("\n")) == ("", 1)
    assert f"out: is being written by another process (process {first.pid} on " in said
    assert first.returncode == 0
    with start(corpus_folder, tmp_path / "alone", 1) as alone:
        alone.communicate()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["alone", "out"]
    assert json.loads((out / "training.json").read_text())["config"]["seed"] == 1
    weights = [(folder / "model.safetensors").read_bytes() for folder in (out, tmp_path / "alone")]
    assert weights[0] == weights[1]
