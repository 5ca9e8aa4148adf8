"""The bundled sparse model, its ablation means and a task's pairs, for the pruning benchmarks."""

from functools import cache
from typing import NamedTuple

from torch import Tensor

from cli.demo import BUNDLED
from cli.loading import load_sparse, load_tokenizer
from sparse_model.circuits.ablation import ablation_values
from sparse_model.corpus.reference_text import reference_blocks
from sparse_model.tasks import find_task
from sparse_model.tasks.splits import Splits, task_splits
from sparse_model.transformer.model import SparseTransformer


class Bundled(NamedTuple):
    """What a pruning run takes."""

    model: SparseTransformer
    values: dict[str, Tensor]


@cache
def bundled() -> Bundled:
    """The bundled sparse model without gradients and its means over tinypython."""
    folder = BUNDLED / "bridge"
    model = load_sparse(folder, "cpu").requires_grad_(False)
    blocks = reference_blocks(load_tokenizer(folder), "train", 64, model.config.block_size, None)
    return Bundled(model, ablation_values(model, blocks))


def splits(task: str, pairs: int = 256, evaluate: int = 64, seed: int = 0) -> Splits:
    """Training, validation and held-out pairs of a task."""
    return task_splits(find_task(task), load_tokenizer(BUNDLED / "bridge"), pairs, evaluate, seed)
