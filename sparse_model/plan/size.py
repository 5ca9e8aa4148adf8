"""How many parameters a sparse model has, and how many of them are nonzero once density has reached its target."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from sparse_model.training.projection import sparse_tensors
from sparse_model.training.train_config import TensorKind
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.sparse_config import SparseConfig


@dataclass(frozen=True)
class Size:
    """Counts of entries."""

    parameters: int
    nonzero: int
    """at the target density"""
    projected: int
    """entries of the tensors that are kept sparse"""
    largest_part: int
    """entries of the largest sublayer, the part that several processes gather at once when they split parameters"""
    outside_parts: int
    """entries of what is in no sublayer: embeddings, unembedding and the last norm"""


def model_size(config: SparseConfig, density: float | Mapping[TensorKind, float], floor: int) -> Size:
    """Exact counts: the model is built without storage, and the projection's own rule applied to each tensor's shape.

    Every projected tensor keeps round(density · entries) at the density of its kind, at least one and at least its floors;
    everything else (norm gains, sinks, bigram tables) stays dense. A kept entry that training leaves at exactly zero counts as
    kept.
    """
    with torch.device("meta"):
        model = SparseTransformer(config)
    parameters = _entries(model)
    parts = [_entries(part) for part in model.modules() if type(part).__name__ in model._no_split_modules]
    projected = kept = 0
    for tensor in sparse_tensors(model):
        entries, keep = tensor.parameter.numel(), 0
        own = tensor.density_of(density)
        if own < 1:
            keep = max(1, round(own * entries))
            if tensor.floor_axis is not None and floor:
                length = tensor.parameter.shape[tensor.floor_axis]
                keep = max(keep, min(floor, length) * (entries // length))
        projected += entries
        kept += keep if own < 1 else entries
    return Size(parameters, parameters - projected + kept, projected, max(parts), parameters - sum(parts))


def _entries(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
