"""Training a sparse model with bridges to a dense one: from a loaded model and a corpus to a bridge artefact."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from bridges.alignment import align
from bridges.artefact import dense_rms, measure_rms_ratio, save_bridge
from bridges.bridge import Bridge
from bridges.bridge_config import BridgeConfig
from bridges.evaluate import evaluate_bridge
from bridges.objective import BridgedObjective
from dense_adapters import DenseStack
from dense_adapters.half_precision import half_matrices
from foundation.errors import UserError
from sparse_model.corpus.corpus import Corpus
from sparse_model.training.batches import Batches
from sparse_model.training.run import train_artefact
from sparse_model.training.train_config import TrainConfig
from sparse_model.training.validation import Validation
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.shape import SparseShape

REFERENCE_BLOCKS = 16
"""Blocks over which the RMS ratios are averaged."""


@dataclass(frozen=True)
class BridgeSettings:
    """Everything that is chosen about a run."""

    train: TrainConfig
    bridge: BridgeConfig
    shape: SparseShape


@dataclass(frozen=True)
class BridgeText:
    """Token blocks [N, T] in the dense model's vocabulary."""

    train: NDArray[Any]
    held_out: Mapping[str, NDArray[Any]]
    """by name; what the result is evaluated on"""
    validation: Validation | None = None
    """other text, for the validation curve and the best checkpoint"""

    @classmethod
    def of(cls, corpus: Corpus, evaluate_blocks: int) -> "BridgeText":
        """The text of a corpus.

        Args:
            evaluate_blocks: held-out blocks per source.
        """
        held_out = {name: blocks[:evaluate_blocks] for name, blocks in corpus.held_out.items()}
        return cls(corpus.train, held_out, Validation.of(corpus))


def check_block_length(dense: DenseStack, length: int) -> None:
    """Refuse text in blocks for which the dense model has no positions.

    Raises:
        UserError: they are longer.
    """
    limit: int | None = getattr(dense.model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and length > limit:
        raise UserError(
            f"the corpus has blocks of {length} tokens and the dense model reads at most {limit}; build one with "
            f"--block-length {limit} or less"
        )


def train_bridge(
    dense: DenseStack,
    dense_name: str,
    tokenizer: PreTrainedTokenizerBase,
    text: BridgeText,
    out: Path,
    settings: BridgeSettings,
    overwrite: bool = False,
    device: str = "cpu",
    objective: BridgedObjective | None = None,
) -> dict[str, Any]:
    """Train, evaluate on every held-out text, write the artefact to `out`; returns its description.

    Of several processes the first evaluates and writes; to the others the description is empty.

    Args:
        objective: to start from, made for these settings; unset, `fresh_objective`.

    Raises:
        UserError: `out` holds something else, the precisions do not go together, or blocks are longer than the dense model reads.
    """
    check_block_length(dense, text.train.shape[1])
    train, bridge_config, shape, train_blocks = settings.train, settings.bridge, settings.shape, text.train
    reference, skip_first = train_blocks[:REFERENCE_BLOCKS], bridge_config.skip_first
    if objective is None:
        document_token = shape.document_token(tokenizer.bos_token_id, bridged=True)
        objective = fresh_objective(dense, train_blocks, document_token, settings, device)
    sparse, bridge = objective.sparse, objective.bridge
    identity = {
        "dense": {"name": dense_name, "fingerprint": dense.fingerprint},
        "shape": shape.to_json(),
        "bridge": bridge_config.to_json(),
    }
    description: dict[str, Any] = {}

    half = train.precision == "bf16" and bridge_config.dense_dtype != "fp32"
    if bridge_config.dense_dtype == "bf16" and not half:
        raise UserError("--bridge-dense-dtype bf16 needs --precision bf16, in which the products are made")

    def write(folder: Path) -> None:
        restore()  # what is evaluated and saved belongs to the model as it was loaded
        bridge.fold_dense_scale()
        measure_rms_ratio(sparse, dense, bridge, reference, device, skip_first)
        evaluation = {
            name: evaluate_bridge(sparse, dense, bridge, blocks, device=device).to_json()
            for name, blocks in text.held_out.items()
        }
        description.update({"dense": identity["dense"], "config": bridge_config.to_json(), "evaluation": evaluation})
        save_bridge(folder, bridge, sparse, tokenizer, description)

    batches = Batches(train_blocks, train.batch_size, train.seed)
    with half_matrices(dense.model) if half else nullcontext(lambda: None) as restore:
        train_artefact(out, objective, batches, train, identity, write, overwrite, text.validation, kind="bridge")
    return description


def fresh_objective(
    dense: DenseStack, train_blocks: NDArray[Any], document_token: int | None, settings: BridgeSettings, device: str
) -> BridgedObjective:
    """A sparse model with random weights and bridges to the dense one, in units in which its stream has RMS 1.

    Args:
        train_blocks: token blocks [N, T], the first of which give the units.
        document_token: that keeps documents apart, or None.
    """
    config, seed = settings.bridge, settings.train.seed
    torch.manual_seed(seed)
    sparse = SparseTransformer(settings.shape.config(dense.vocab_size, train_blocks.shape[1], document_token)).to(
        device
    )
    alignment = align(sparse, dense, config.align)
    bridge = Bridge(alignment, sparse.d_model, dense.d_model, config.topk_fraction, seed).to(device)
    unit = dense_rms(dense, bridge, train_blocks[:REFERENCE_BLOCKS], device, config.skip_first)
    bridge.set_dense_scale(unit.clamp(min=1e-6))
    return BridgedObjective(sparse, dense, bridge, config)
