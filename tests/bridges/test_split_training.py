"""A bridge trained by processes that split its parameters is the one that processes with whole ones train.

(One process trains a slightly different one: the NMSE is relative to the variance of the batch it is taken over.)
"""

import json
from pathlib import Path

import pytest
import torch

from bridges.artefact import load_bridge
from tests.sparse_model.training.runs import SPLIT, WHOLE, run_together

SETTINGS = (
    "--steps 6 --batch-size 4 --density 0.5 --evaluate-every 3 --validation-blocks 2 --diagnose-every 3 --log-to none "
    "--evaluate-blocks 2 --save best --sparse-d-model 24 --sparse-n-layer 2 --sparse-n-head 2"
)


@pytest.mark.slow
def test_split_and_whole_parameters_train_the_same_bridge(
    corpus_folder: Path, gpt2_folder: Path, tmp_path: Path
) -> None:
    command = f"-m cli.main bridge train {gpt2_folder} --corpus {corpus_folder} --json {SETTINGS} --out".split()
    kinds = {"whole": WHOLE, "split": SPLIT}
    run_together(*((kind, [*command, str(tmp_path / name)]) for name, kind in kinds.items()))
    made = {}
    for name in kinds:
        assert json.loads((tmp_path / name / "training.json").read_text())["processes"] == 2
        made[name] = load_bridge(tmp_path / name)
    for part in ("sparse", "bridge"):
        ours, theirs = (dict(getattr(made[name], part).named_parameters()) for name in made)
        assert set(ours) == set(theirs)
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-4, msg=name)
