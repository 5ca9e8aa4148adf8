"""Compiled steps train what plain ones do, under the same names; without a compiler they are refused."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from foundation.artefacts import read_tensors
from foundation.errors import UserError
from sparse_model import SparseTransformer
from sparse_model.training.objective import LanguageModelling
from sparse_model.training.validation import Validation
from tests.sparse_model.training.runs import CONFIG, Make, alone, run, weights

COMPILED = CONFIG.model_copy(update={"steps": 6, "compile": True, "evaluate_every": 3, "accumulate": 2})


@pytest.mark.slow
def test_compiled_steps_train_the_weights_of_plain_ones_and_either_goes_on_from_the_other(
    tiny_sparse: Callable[..., SparseTransformer], blocks: np.ndarray, tmp_path: Path
) -> None:
    def objective() -> LanguageModelling:
        model = tiny_sparse(n_layer=1)
        return LanguageModelling(model, projected=model)

    plain, validation = objective(), Validation({"text": blocks[:10]})
    plain_config = COMPILED.model_copy(update={"compile": False})
    rows = run(plain, blocks, tmp_path / "plain", plain_config, validation=validation)
    arguments = alone(blocks, COMPILED, objective().model, tmp_path, "compiled")
    done = subprocess.run([sys.executable, *arguments, "1"], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for step in (3, 6):
        found = [
            read_tensors(tmp_path / name / "checkpoints" / f"step-0000000{step}" / "objective.safetensors", name)
            for name in ("compiled", "plain")
        ]
        assert list(found[0]) == list(found[1])
        for name in found[0]:
            torch.testing.assert_close(found[0][name], found[1][name], atol=1e-5, rtol=0, msg=name)
    assert rows[-1]["loss"] < rows[0]["loss"]
    (tmp_path / "compiled" / "checkpoints" / "step-00000006" / "state.json").unlink()
    resumed = objective()
    run(resumed, blocks, tmp_path / "compiled", plain_config, validation=validation)
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(resumed)[name], value, atol=1e-5, rtol=0, msg=name)


def test_compiling_without_a_compiler_is_refused_in_one_line(
    objective: Make, blocks: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        UserError, match=r"no C\+\+ compiler \('no-such-compiler' is not found\); install one"
    ) as caught:
        run(objective(), blocks, tmp_path, COMPILED)
    assert "\n" not in str(caught.value)
