"""One arm of an experiment: a shape and a training run, made once per seed and measured on held-out text.

`FOLDER/NAME-seed0/` holds the trained model and `outcome.json`. A finished run is read, not repeated; an unfinished
one goes on where it stopped; one made with other settings is refused.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from foundation.artefacts import read_json, write_json
from foundation.errors import UserError
from foundation.settings import Settings
from sparse_model.corpus.corpus import Corpus
from sparse_model.training.activity import silent_units
from sparse_model.training.sparse import train_sparse
from sparse_model.training.train_config import TrainConfig
from sparse_model.training.validation import sequence_losses
from sparse_model.transformer.census import take_census
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.shape import SparseShape

OUTCOME = "outcome.json"
SILENT_BLOCKS = 64
"""Held-out blocks per source on which a silent unit stays zero."""


class Arm(Settings):
    """A name, a shape and how it is trained; the seed is given per run."""

    name: str
    shape: SparseShape
    train: TrainConfig

    def folder(self, experiment: Path, seed: int) -> Path:
        """Where the run with this seed lives."""
        return Path(experiment) / f"{self.name}-seed{seed}"


def run_arm(
    arm: Arm, seed: int, data: Corpus, experiment: Path, held_out_blocks: int = 256, device: str = "cpu"
) -> dict[str, Any]:
    """Train and measure one arm with one seed, or read what an earlier call found.

    Args:
        held_out_blocks: blocks per source the cross-entropy is taken over.

    Returns:
        `cross_entropy` (nats per token by source, and `mixture`: sources weighted as in training), `parameters`,
        `nonzero`, `density`, `silent` (fractions of neurons, QK and V channels that stay zero on held-out text),
        `tokens` seen, and the settings.

    Raises:
        UserError: the folder holds a run with other settings.
    """
    folder, train = arm.folder(experiment, seed), arm.train.model_copy(update={"seed": seed})
    settings = {"shape": arm.shape.to_json(), "train": train.to_json(), "corpus": data.fingerprint}
    if (folder / OUTCOME).is_file():
        found = read_json(folder, OUTCOME, "experiment", ("settings", "cross_entropy"))
        # settings added since have their defaults
        earlier = TrainConfig.from_mapping(found["settings"]["train"]).to_json()
        shape = SparseShape.from_mapping(found["settings"]["shape"]).to_json()
        if {**found["settings"], "train": earlier, "shape": shape} != settings:
            raise UserError(f"{folder}: holds a run with other settings; choose another --out or remove it")
        return found
    if not folder.exists():
        train_sparse(arm.shape, train, data, folder, device=device)
    model = SparseTransformer.from_pretrained(folder).to(device)
    outcome = {
        "name": arm.name,
        "seed": seed,
        **measure(model, data, held_out_blocks),
        "tokens": train.steps * train.batch_size * data.block_length,
        "settings": settings,
    }
    write_json(folder / OUTCOME, outcome)
    return read_json(folder, OUTCOME, "experiment")


def measure(model: SparseTransformer, data: Corpus, held_out_blocks: int) -> dict[str, Any]:
    """Held-out cross-entropy by source and as a mixture, and the census of the weights."""
    losses = {name: float(sequence_losses(model, b[:held_out_blocks]).mean()) for name, b in data.held_out.items()}
    weights = {name: float(data.description["sources"][name]["weight"]) for name in losses}
    losses["mixture"] = sum(weights[name] * losses[name] for name in weights) / sum(weights.values())
    census = take_census(model)
    silent = silent_units(
        model, (torch.from_numpy(np.asarray(b[:SILENT_BLOCKS], np.int64)) for b in data.held_out.values())
    )
    return {
        "cross_entropy": losses,
        "parameters": census.parameters,
        "nonzero": census.nonzero,
        "density": census.density,
        "silent": {
            kind: float(torch.cat([getattr(layer, kind) for layer in silent]).double().mean())
            for kind in ("neurons", "qk", "v")
        },
    }
