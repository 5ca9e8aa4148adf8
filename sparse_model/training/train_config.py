"""Settings of one training run, and the shape of a dense model; every field says its unit and its sentinel."""

from typing import Any, Literal, get_args

from pydantic import Field

from foundation.settings import Settings

BOOKKEEPING = {"checkpoint_every", "keep_checkpoints", "log_every", "log_to", "diagnose_every", "compile"}


TensorKind = Literal["matrix", "embedding", "head", "bias"]
"""What densities may differ between: the maps inside sublayers, token and position tables, the unembedding, biases."""
TENSOR_KINDS: tuple[TensorKind, ...] = get_args(TensorKind)


class TrainConfig(Settings):
    """Schedule, optimiser, sparsity and bookkeeping of `sparse_model.training.loop.train`."""

    steps: int = Field(4000, ge=1, description="optimiser steps")
    batch_size: int = Field(16, ge=1, description="sequences per step, over all processes")
    accumulate: int = Field(1, ge=1, description="micro-batches per step and process")
    lr: float = Field(0.02, gt=0, description="peak learning rate (before the 1/√density of the sharkfin schedule)")
    warmup: float = Field(0.01, ge=0, lt=1, description="fraction of steps with rising learning rate")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW moment decays")
    eps: float = Field(0.1, gt=0, description="AdamW ε; large, so that entries with small gradients stay still")
    weight_decay: float = Field(0.1, ge=0, description="decoupled decay of matrices, per unit of learning rate")
    gradient_rms: Literal["clip", "normalise", "off"] = Field(
        "clip", description="what is done to the root mean square of the gradient over all parameters"
    )
    gradient_rms_limit: float = Field(1.0, gt=0, description="the RMS clipped or normalised to")
    gradient_rms_over: Literal["all", "group"] = Field(
        "all", description="what one RMS spans: all that trains, or sparse model and bridges each their own"
    )
    density: float = Field(
        1.0,
        gt=0,
        le=1,
        description="final kept fraction of every weight matrix, bias and embedding; 1 trains a dense model",
    )
    embedding_density: float | None = Field(
        None, gt=0, le=1, description="final kept fraction of token and position embeddings; unset: as density"
    )
    head_density: float | None = Field(
        None, gt=0, le=1, description="final kept fraction of the unembedding; unset: as density"
    )
    bias_density: float | None = Field(
        None, gt=0, le=1, description="final kept fraction of every bias; unset: as density"
    )
    anneal: float = Field(
        0.5, gt=0, le=1, description="fraction of steps over which density falls from 1 to its final value"
    )
    anneal_shape: Literal["linear", "exponential", "cosine"] = Field("linear", description="shape of that fall")
    floor: int = Field(4, ge=0, description="nonzeros every neuron and attention channel keeps; 0 for no floor")
    revive_every: int = Field(
        0, ge=0, description="steps between revivals of silent neurons and attention channels; 0 for none"
    )
    revive_between: tuple[float, float] = Field(
        (0.1, 0.8), description="fractions of the anneal between which units are revived"
    )
    revive_share: float = Field(
        0.1, gt=0, le=1, description="most units of a kind and layer revived at once, a fraction"
    )
    revive_batches: int = Field(4, ge=1, description="latest batches on which a unit must stay zero to be revived")
    seed: int = Field(0, ge=0, description="of initialisation, data order and every random choice")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="autocast precision; masters are always fp32")
    compile: bool = Field(
        False, description="whether steps run through torch.compile; seldom pays on the CPU, see docs/training.md"
    )
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints kept")
    evaluate_every: int = Field(250, ge=0, description="steps between losses on the validation split; 0 for none")
    validation_blocks: int = Field(32, ge=1, description="validation blocks per source")
    save: Literal["last", "best"] = Field(
        "last", description="which weights the artefact gets; best: lowest validation loss once the density is final"
    )
    log_every: int = Field(20, ge=1, description="steps between lines of metrics.jsonl")
    diagnose_every: int = Field(100, ge=0, description="steps between lines of diagnostics.jsonl; 0 for none")
    log_to: Literal["tensorboard", "wandb", "trackio", "none"] = Field(
        "tensorboard", description="tracker that gets the metrics beside metrics.jsonl"
    )

    def final_densities(self) -> dict[TensorKind, float]:
        """The final kept fraction of each kind of tensor."""
        given = {"embedding": self.embedding_density, "head": self.head_density, "bias": self.bias_density}
        return {kind: self.density if (own := given.get(kind)) is None else own for kind in TENSOR_KINDS}

    def identity(self) -> dict[str, Any]:
        """What the result depends on: every setting but those of bookkeeping, which a resumed run may change.

        `compile` is among those: it changes rounding alone.
        """
        return {name: value for name, value in self.to_json().items() if name not in BOOKKEEPING}


class DenseConfig(Settings):
    """Shape of the dense model."""

    n_layer: int = Field(2, ge=1, description="layers")
    d_model: int = Field(128, ge=1, description="residual width D, in channels")
    n_head: int = Field(4, ge=1, description="attention heads; divides d_model")
