"""Jobs side by side: the results of one after another, one thread each, and nothing swallowed."""

import threading
from collections.abc import Iterator
from functools import partial

import pytest
import torch

from sparse_model.transformer.threads import side_by_side


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """As many threads as torch may use."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_jobs_and_torch_keeps_its_threads(threads: int) -> None:
    weights = [torch.full((8, 8), float(number), requires_grad=True) for number in range(7)]

    def gradient(weight: torch.Tensor) -> tuple[float, int]:
        return float(torch.autograd.grad(weight.square().sum(), weight)[0][0, 0]), torch.get_num_threads()

    found = side_by_side([partial(gradient, weight) for weight in weights])
    assert [value for value, _ in found] == [2.0 * number for number in range(7)]
    assert {number for _, number in found} == {1}
    assert torch.get_num_threads() == threads


def test_two_jobs_run_at_the_same_time() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    meet = threading.Barrier(2, timeout=20)
    try:
        assert len(side_by_side([meet.wait, meet.wait])) == 2  # one after another neither would come back
    finally:
        torch.set_num_threads(before)


def test_the_first_error_is_raised_and_no_further_job_starts(threads: int) -> None:
    started = []

    def job(number: int) -> None:
        started.append(number)
        if number == 0:
            raise ValueError("job 0")
        threading.Event().wait(0.5)

    with pytest.raises(ValueError, match="job 0"):
        side_by_side([partial(job, number) for number in range(6)])
    threading.Event().wait(1.2)
    assert len(started) <= threads


def test_an_error_ends_the_jobs_that_run_beside_it() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    ended = threading.Event()

    def long() -> None:
        try:
            for _ in range(2000):
                torch.ones(4).sum()
                threading.Event().wait(0.01)
        finally:
            ended.set()

    def failing() -> None:
        threading.Event().wait(0.2)
        raise ValueError("at once")

    try:
        with pytest.raises(ValueError, match="at once"):
            side_by_side([long, failing])
        assert ended.is_set()
    finally:
        torch.set_num_threads(before)


def test_no_jobs_give_nothing() -> None:
    assert side_by_side([]) == []
