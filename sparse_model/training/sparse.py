"""A weight-sparse model trained on a corpus and saved with its tokenizer."""

from pathlib import Path

import torch

from sparse_model.corpus.corpus import Corpus
from sparse_model.training.batches import Batches
from sparse_model.training.objective import LanguageModelling
from sparse_model.training.run import train_artefact
from sparse_model.training.train_config import TrainConfig
from sparse_model.training.validation import Validation
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.shape import SparseShape


def train_sparse(
    shape: SparseShape, train: TrainConfig, data: Corpus, out: Path, overwrite: bool = False, device: str = "cpu"
) -> list[dict[str, float]]:
    """Train and write the artefact to `out`, resuming an unfinished run of the same settings; returns the logged rows.

    Raises:
        UserError: `out` exists, the unfinished run beside it belongs to other settings, or the disk is full.
    """
    document_token = shape.document_token(data.tokenizer.bos_token_id, bridged=False)
    torch.manual_seed(train.seed)
    model = SparseTransformer(shape.config(data.vocab_size, data.block_length, document_token)).to(device)

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        data.tokenizer.save_pretrained(folder)

    return train_artefact(
        out,
        LanguageModelling(model, projected=model),
        Batches(data.train, train.batch_size, train.seed),
        train,
        {"shape": shape.to_json(), "corpus": data.fingerprint},
        write,
        overwrite,
        Validation.of(data),
        kind="sparse model",
    )
