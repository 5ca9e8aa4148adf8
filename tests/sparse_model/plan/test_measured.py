"""The utilisation of a plan is that of the nearest measured run, and says which one that is."""

from dataclasses import replace
from pathlib import Path

import pytest

from sparse_model.plan.hardware import ASSUMED_UTILISATION, find_device
from sparse_model.plan.measured import MeasuredRun, expected_utilisation, measured_runs, reached_by, write_runs

RUNS = (
    MeasuredRun("small", "h200", "bf16", 1e12, 0.1, "2026-01-01", "alone"),
    MeasuredRun("large", "h200", "bf16", 1e14, 1.0, "2026-01-02", "alone"),
    MeasuredRun("other", "l4", "bf16", 1e13, 1.0, "2026-01-03", "alone"),
)


@pytest.mark.parametrize(("flops", "name"), [(1e9, "small"), (9e12, "small"), (2e13, "large"), (1e18, "large")])
def test_the_run_nearest_in_size_on_the_same_device_is_taken_and_named(flops: float, name: str) -> None:
    found = expected_utilisation("h200", "bf16", flops, RUNS)
    run = next(run for run in RUNS if run.name == name)
    assert found.share == run.utilisation == run.flops_per_step / run.seconds_per_step / 989e12
    assert found.source.startswith(f"as {name} on h200 (2026")


def test_another_gpu_serves_where_the_device_has_no_run() -> None:
    assert expected_utilisation("h100", "bf16", 1e13, RUNS).source.startswith("as other on l4")


def test_neither_another_precision_nor_a_gpu_for_a_cpu_serves() -> None:
    for device, precision in (("h200", "fp32"), ("cpu", "bf16"), ("cpu", "fp32")):
        found = expected_utilisation(device, precision, 1e13, RUNS)
        assert found.share == ASSUMED_UTILISATION
        assert "an assumption" in found.source


def test_the_bridged_run_nearest_in_the_dense_models_size_says_what_it_reached() -> None:
    small = replace(RUNS[0], sizes="2 layers × 8", tokens=1000, dense_parameters=10_000, kl=0.5)
    large = replace(RUNS[1], sizes="4 layers × 64", tokens=2000, dense_parameters=10_000_000, kl=0.25)
    assert reached_by(90_000, (small, large, RUNS[2])) == (
        "small (dense model of 10,000 parameters; sparse model of 2 layers × 8; 1,000 tokens) reached KL(dense ‖ sparse) 0.5 "
        "nats/token on training batches"
    )
    assert str(reached_by(10**9, (small, large))).startswith("large ")
    assert reached_by(10**9, RUNS) is None


def test_the_runs_kept_with_the_package_are_possible_and_come_back_as_written(tmp_path: Path) -> None:
    runs = measured_runs()
    assert runs
    for run in runs:
        assert 0 < run.utilisation < 1
        assert find_device(run.device).name == run.device != "cpu"
        assert run.note
    write_runs(runs, tmp_path / "runs.json")
    assert measured_runs(tmp_path / "runs.json") == runs
