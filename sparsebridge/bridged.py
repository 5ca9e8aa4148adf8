"""A dense model with the sparse model and the bridges that were trained for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bridges.artefact import BridgeArtefact
from bridges.artefact import load_bridge as load_artefact
from bridges.bridge_config import BridgeConfig
from bridges.evaluate import BridgeEvaluation, evaluate_bridge
from bridges.pairing import Pairing, load_pairing
from bridges.training import BridgeSettings, BridgeText
from bridges.training import train_bridge as train
from bridges.validation.isolation import ReferenceText
from sparse_model.circuits.ablation import AblationKind, ablation_values
from sparse_model.corpus.build import build_corpus as build
from sparse_model.corpus.corpus import Corpus
from sparse_model.corpus.corpus_config import CorpusConfig, FolderConfig, TinyPythonConfig
from sparse_model.corpus.reference_text import reference_blocks
from sparse_model.tasks.check import TaskCheck, check_task
from sparse_model.tasks.task import Task
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.shape import SparseShape
from sparsebridge.dense import DenseModel
from sparsebridge.pairs import task as find_task
from sparsebridge.shown import html_table, short_name

BUNDLED = Path(__file__).resolve().parent.parent / "cli" / "bundled"
"""The models that come with the package."""
TEXT_BLOCKS = 64
"""Blocks of ordinary text that ablation means are taken over, and that edits are tested for side effects on."""


@dataclass(frozen=True, eq=False)
class BridgedModel:
    """A dense model, the sparse model trained beside it, and the bridges between them."""

    folder: Path
    dense: DenseModel
    artefact: BridgeArtefact
    """the sparse model, the bridges and what they were made for"""
    corpus: Path | None = None
    """corpus folder that ordinary text is taken from; None: generated Python"""
    _ablation: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def sparse(self) -> SparseTransformer:
        """The sparse model."""
        return self.artefact.sparse

    @property
    def pairing(self) -> Pairing:
        """The dense model as a stack, with its bridge."""
        return Pairing(self.dense.stack, self.dense.tokenizer, self.artefact)

    @property
    def device(self) -> str:
        """Where the models are."""
        return str(self.dense.model.device)

    def blocks(
        self, split: Literal["train", "validation", "held_out"], count: int = TEXT_BLOCKS
    ) -> NDArray[np.integer]:
        """Blocks of ordinary text [N, T], as token ids."""
        length = self.sparse.config.block_size
        return reference_blocks(self.artefact.tokenizer, split, count, length, self.corpus)

    @cached_property
    def text(self) -> ReferenceText:
        """Held-out text and what the unedited dense model says on it, computed once."""
        return ReferenceText(self.dense.stack, self.blocks("held_out"), self.device)

    def ablation_values(self, kind: AblationKind = "mean") -> dict[str, Tensor]:
        """What removed nodes are frozen at, per node location; computed once."""
        if kind not in self._ablation:
            self._ablation[kind] = ablation_values(self.sparse, self.blocks("train"), kind)
        return self._ablation[kind]

    def check(self, task: str | Path | Task | Sequence[Sequence[str]], pairs: int = 64) -> TaskCheck:
        """How well the sparse model does a task on held-out pairs; `dense.check` says it of the dense model.

        Raises:
            UserError: the task is unknown, or too few of its pairs fit the tokenizer.
        """
        return check_task(self.sparse, self.artefact.tokenizer, find_task(task), pairs)

    def evaluate(self, blocks: int = TEXT_BLOCKS) -> BridgeEvaluation:
        """How near the two models are on held-out text: cross-entropies, KL and, per site, the bridges' errors.

        Args:
            blocks: of held-out text, at least 2.
        """
        text = self.blocks("held_out", blocks)
        return evaluate_bridge(self.sparse, self.dense.stack, self.artefact.bridge, text, device=self.device)

    def __repr__(self) -> str:
        config = self.sparse.config
        return (
            f"BridgedModel({short_name(self.folder)!r}: sparse model of {config.n_layer} layers, width {config.d_model}, "
            f"beside {short_name(self.dense.name)!r}; {len(self.artefact.bridge.alignment.sites)} bridges)"
        )

    def _repr_html_(self) -> str:
        keys = ("ce_dense", "ce_sparse", "kl_dense_sparse", "kl_unigram")
        rows = [
            [source, *(f"{found[key]['value']:.3f}" if key in found else "—" for key in keys)]
            for source, found in self.artefact.description.get("evaluation", {}).items()
        ]
        return html_table(repr(self), ("nats/token on", *(key.replace("_", " ") for key in keys)), rows)


def load_bridge(
    folder: str | Path,
    dense: str | Path | None = None,
    corpus: str | Path | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> BridgedModel:
    """Load a bridge with its sparse and its dense model.

    Args:
        folder: made by `train_bridge` or `sparsebridge bridge train`.
        dense: the dense model's id or folder; unset, where the bridge says it was.
        corpus: a corpus folder that ordinary text is taken from; unset, generated Python.
        trust_remote_code: run Python code that the dense model brings along; read it first.

    Raises:
        UserError: a part is missing or damaged, or the dense model is not the bridge's own.
    """
    folder = Path(folder)
    pairing = load_pairing(folder, None if dense is None else str(dense), device, trust_remote_code)
    name = str(dense or pairing.artefact.description["dense"]["name"])
    model = DenseModel(name, pairing.stack, pairing.tokenizer)
    return BridgedModel(folder, model, pairing.artefact, None if corpus is None else Path(corpus))


def bundled(device: str = "cpu") -> BridgedModel:
    """The small models that come with the package: a GPT-2 trained on Python, its sparse model and the bridges."""
    return load_bridge(BUNDLED / "bridge", device=device)


def build_corpus(
    out: str | Path,
    files: str | Path | None = None,
    tokenizer: str | Path | None = None,
    config: CorpusConfig | None = None,
    trust_remote_code: bool = False,
) -> Corpus:
    """Text as blocks of tokens, ready for training.

    Args:
        out: folder to write; it must not exist.
        files: folder of text files; unset, generated Python.
        tokenizer: of the dense model that bridges are trained for (id or folder); unset, a new one is trained.
        config: sizes and sources; `files` and `tokenizer` replace its own.
        trust_remote_code: run Python code that the tokenizer brings along; read it first.

    Raises:
        UserError: the folder exists, a source is missing, or there is too little text; the message says how much is needed.
    """
    settings = config or CorpusConfig(sources=(TinyPythonConfig(kind="tinypython"),))
    if files is not None:
        settings = settings.model_copy(update={"sources": (FolderConfig(kind="folder", path=str(files)),)})
    if tokenizer is not None:
        settings = settings.model_copy(update={"tokenizer": str(tokenizer)})
    return build(settings, Path(out), trust_remote_code=trust_remote_code)


def train_bridge(
    dense: DenseModel,
    corpus: str | Path | Corpus,
    out: str | Path,
    training: TrainConfig | None = None,
    shape: SparseShape | None = None,
    config: BridgeConfig | None = None,
    evaluate_blocks: int = TEXT_BLOCKS,
) -> BridgedModel:
    """Train a weight-sparse model together with bridges to a dense one. The same call goes on after an interruption.

    Args:
        dense: from `attach`; its name is where `load_bridge` will look for it.
        corpus: in the dense model's own tokens (`build_corpus(tokenizer=…)`).
        training: steps, learning rate, density, …
        shape: of the sparse model.
        config: the loss terms of the bridges.
        evaluate_blocks: held-out blocks per source the result is evaluated on.

    Raises:
        UserError: the corpus is in other tokens, or `out` holds something else.
    """
    data = corpus if isinstance(corpus, Corpus) else Corpus.load(corpus)
    data.check_tokenizer(dense.tokenizer)
    settings = BridgeSettings(training or TrainConfig(), config or BridgeConfig(), shape or SparseShape())
    text, device = BridgeText.of(data, evaluate_blocks), str(dense.model.device)
    train(dense.stack, dense.name, dense.tokenizer, text, Path(out), settings, device=device)
    return BridgedModel(Path(out), dense, load_artefact(Path(out), device), data.folder)
