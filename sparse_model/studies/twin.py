"""The dense twin of a sparse model: the same architecture at density 1 with as many nonzero weights.

Width is what shrinks; the MLP's width then takes up the rest, so that the two counts agree within a fraction.
"""

from collections.abc import Mapping

from foundation.errors import UserError
from sparse_model.plan.size import model_size
from sparse_model.training.train_config import TensorKind
from sparse_model.transformer.shape import SparseShape

TOLERANCE = 0.02
HEAD_WIDTH = 8
"""Channels per head of a twin: twins are narrow, and two heads of 8 attend to more than one of 16."""


def dense_twin(
    shape: SparseShape, vocab_size: int, block_size: int, density: float | Mapping[TensorKind, float], floor: int
) -> SparseShape:
    """The dense shape with as many parameters as `shape` has nonzeros at `density`, one for all or by kind; switches are kept.

    Heads have 8 channels and fill the width; N is as near to 4·S as the count allows.

    Raises:
        UserError: no width comes within 2 % of the count.
    """
    wanted = model_size(shape.config(vocab_size, block_size), density, floor).nonzero

    def size(width: int, neurons: int) -> int:
        return model_size(make(width, neurons).config(vocab_size, block_size), 1.0, 0).nonzero

    def make(width: int, neurons: int) -> SparseShape:
        heads = max(1, round(width / HEAD_WIDTH))
        changes = {"d_model": width, "n_head": heads, "d_head": HEAD_WIDTH, "d_mlp": neurons}
        return shape.model_copy(update=changes)

    width = HEAD_WIDTH
    while size(width + 1, 4 * (width + 1)) <= wanted:
        width += 1
    per_neuron = size(width, 4 * width + 1) - size(width, 4 * width)
    neurons = 4 * width + round((wanted - size(width, 4 * width)) / per_neuron)
    if neurons < width or abs(size(width, neurons) / wanted - 1) > TOLERANCE:
        raise UserError(f"no dense width has {wanted} parameters within {TOLERANCE:.0%}; choose a larger sparse model")
    return make(width, neurons)
