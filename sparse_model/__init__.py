"""Weight-sparse transformers: the model, its text and tasks, trainer, circuits and studies.

transformer/   the model (METHOD §1), its nodes and taps, how it is stored and run
corpus/        generated and real text as blocks of tokens
tasks/         pairs of prompts with one differing next token each
training/      one loop for every objective (METHOD §2)
circuits/      masks, pruning, and the evidence a circuit carries (METHOD §3)
studies/       the same training under settings that differ in one thing
plan/          what a run will need before it starts

Names load when first used. Using any of them registers the model with Hugging Face's Auto classes.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparse_model.transformer.model import SparseTransformer, SparseWalk, Sublayer
    from sparse_model.transformer.sparse_config import SparseConfig

__all__ = ["SparseConfig", "SparseTransformer", "SparseWalk", "Sublayer"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'sparse_model' has no attribute '{name}'")
    from sparse_model.transformer import model, sparse_config

    return getattr(sparse_config if name == "SparseConfig" else model, name)
