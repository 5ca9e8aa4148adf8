"""Quiet, single-threaded torch, and one resolved stack per tiny model."""

from collections.abc import Iterator

import pytest
import torch
import transformers

from dense_adapters import DenseStack
from tests.dense_adapters.family_table import stack_of
from tests.dense_adapters.tiny_models import Case


@pytest.fixture(autouse=True, scope="session")
def _one_quiet_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def stack(case: Case) -> DenseStack:
    """The resolved stack of the test's `case`, shared by all tests; they must leave its model as it is."""
    return stack_of(case)
