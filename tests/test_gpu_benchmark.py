"""The measurements that need a GPU run to their end without one, at tiny sizes, and a missed target is told."""

import sys
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import gpu


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.mark.slow
def test_every_part_runs_to_its_end_on_a_cpu_and_has_the_figures_that_targets_ask_for() -> None:
    found = gpu.measure(gpu.TINY, "cpu", tests=False)
    assert not {name: part["error"] for name, part in found.items() if "error" in part}
    for name in gpu.TARGETS:
        part, figure = name.split(".")
        assert part == "tests" or found[part][figure] >= 0, name


def test_missed_and_missing_figures_are_named_and_met_ones_are_not() -> None:
    met = {"kernel": {"share_of_copy": 0.6, "times_topk_and_scatter": 9.0}}
    wrong = gpu.missed(met)
    assert "kernel.times_topk_and_scatter is 9, wanted >= 10" in wrong
    assert "projection.share_of_step is not measured, wanted <= 0.05" in wrong
    assert not any("share_of_copy" in line for line in wrong)
