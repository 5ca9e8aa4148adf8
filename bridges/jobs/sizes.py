"""Sizes for explaining one task of one dense model, chosen from the model, the task and the text there is.

block length    twice the longest prompt, a power of two between 64 and 256, never more than the model reads
corpus          ten passes over the text, between 0.1 and 8 million tokens; where the task comes from a file, its own training
                prompts are a source too, for a sparse model learns only what its text holds
steps           once over these tokens, between 600 and 3,000
sparse model    four times the dense width, between 64 and 1,024 channels; as many layers as the dense model, at most four
density         less the wider it is, so that the nonzero weights of a neuron stay about as many
"""

from itertools import islice
from pathlib import Path

from pydantic import Field

from bridges.bridge_config import BridgeConfig
from dense_adapters import DenseStack
from foundation.errors import UserError
from foundation.settings import Settings
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.corpus.corpus_config import AnySource, CorpusConfig, JsonLinesConfig, TinyPythonConfig
from sparse_model.tasks.splits import Splits
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.shape import SparseShape

CHARACTERS_PER_TOKEN = 3
MOST_CHARACTERS = 8_000_000
"""Read to see how much text there is; more makes no difference to the sizes."""
BATCH = 32
LEARNING_RATE = 0.007
"""With `gradient_rms = "normalise"`, up to 1,024 channels."""
OWN_SHARE = 0.3
"""Of the training tokens, from the task's own prompts where it comes from a file."""


class WholeJob(Settings):
    """Everything a report depends on: what is explained, and with which sizes."""

    dense: str = Field(description="id or folder of the dense model")
    task: str = Field(description="name of the task, or its .jsonl file")
    pairs: dict[str, int] = Field(description="pairs of the task by split")
    corpus: CorpusConfig = Field(description="what the sparse model is trained on")
    sparse: SparseShape = Field(description="shape of the sparse model")
    bridge: BridgeConfig = Field(BridgeConfig(), description="loss terms of the bridges")
    train: TrainConfig = Field(description="how sparse model and bridges are trained")
    prune: PruneConfig = Field(description="how the circuit is pruned")
    text_blocks: int = Field(64, ge=2, description="blocks of reference text for ablation means, and as many held out")
    draws: int = Field(100, ge=1, description="matched node sets the circuit is compared to; 99 can give p 0.01")


PLANNED_TOKENS = 30_000_000
"""To train a bridge on, where the text is not the limit; between what the measured runs had."""


def shape_for(d_model: int, n_layer: int) -> SparseShape:
    """A sparse model to start with for a dense one of that width and so many layers."""
    width = 16 * min(64, max(4, d_model // 4))
    return SparseShape(n_layer=min(4, n_layer), d_model=width, n_head=width // 16, d_head=16, position="added")


def density_for(width: int) -> float:
    """A share of nonzero weights to start with."""
    return 0.1 if width < 256 else 0.05 if width < 512 else 0.02


def choose_sizes(
    dense: str,
    stack: DenseStack,
    task: str,
    splits: Splits,
    sources: tuple[AnySource, ...],
    own_text: Path | None,
    steps: int | None = None,
    draws: int = 100,
    seed: int = 0,
) -> WholeJob:
    """The settings of the whole job.

    Args:
        splits: the task's pairs in the model's tokens.
        sources: where text comes from, in equal shares.
        own_text: JSON lines with the task's training prompts; None where the sources hold its idiom.
        steps: of training; None to choose.

    Raises:
        UserError: the prompts are longer than the model reads.
    """
    prompt = max(part.tokens_a.shape[1] for part in (splits.train, splits.validation, splits.held_out))
    limit = getattr(stack.model.config, "max_position_embeddings", None) or 256
    if prompt >= limit:
        raise UserError(f"{task}: a prompt has {prompt} tokens and {dense} reads {limit}; shorten the prompts")
    block = min(limit, max(64, min(256, 1 << (2 * prompt - 1).bit_length())), 1 << 20)
    block = max(block, prompt + 1)
    tokens = min(8_000_000, max(100_000, 10 * _characters(sources) // CHARACTERS_PER_TOKEN))
    sparse = shape_for(stack.d_model, stack.report.n_layers)
    share = (1 - OWN_SHARE if own_text else 1.0) / len(sources)
    weighted: list[AnySource] = [source.model_copy(update={"weight": share}) for source in sources]
    if own_text is not None:
        weighted.append(JsonLinesConfig(kind="jsonl", path=str(own_text), weight=OWN_SHARE))
    return WholeJob(
        dense=dense,
        task=task,
        pairs=splits.sizes(),
        corpus=CorpusConfig(
            sources=tuple(weighted),
            tokenizer=dense,
            train_tokens=tokens,
            evaluation_tokens=max(8 * block, tokens // 40),
            block_length=block,
            seed=seed,
        ),
        sparse=sparse,
        train=TrainConfig(
            steps=steps or min(3000, max(600, tokens // (BATCH * block))),
            batch_size=BATCH,
            lr=LEARNING_RATE,
            gradient_rms="normalise",
            density=density_for(sparse.d_model),
            log_to="none",
            seed=seed,
        ),
        prune=PruneConfig(pairs=max(2, len(splits.train)), batch_pairs=min(16, len(splits.train)), seed=seed),
        draws=draws,
    )


def _characters(sources: tuple[AnySource, ...]) -> int:
    """Characters of training text, counted up to a limit."""
    if any(isinstance(source, TinyPythonConfig) for source in sources):  # which never ends
        return MOST_CHARACTERS
    found = 0
    for source in sources:
        for text in islice(source.open().documents("train"), 100_000):
            found += len(text)
            if found >= MOST_CHARACTERS:
                return found
    return found
