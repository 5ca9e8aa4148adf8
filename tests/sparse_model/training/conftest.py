"""What the training tests share: an objective, and a fresh `accelerate` for every run of the loop."""

from collections.abc import Callable

import pytest
from accelerate.state import AcceleratorState, GradientState

from sparse_model import SparseTransformer
from sparse_model.training.objective import LanguageModelling


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="session")
def objective(tiny_sparse: Callable[..., SparseTransformer]) -> Callable[[], LanguageModelling]:
    """Language modelling of a small sparse model, the same one every time."""

    def make() -> LanguageModelling:
        model = tiny_sparse()
        return LanguageModelling(model, projected=model)

    return make
