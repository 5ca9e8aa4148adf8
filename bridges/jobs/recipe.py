"""Making models from a recipe: corpus → dense model → sparse model with bridges, each step resumable.

The bundled artefacts come from `cli/bundled/recipe.toml` by this module, and so does `sparsebridge demo --from-scratch`.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from bridges.bridge_config import BridgeConfig
from bridges.training import BridgeSettings, BridgeText, train_bridge
from dense_adapters import DenseStack, load_dense
from foundation.errors import UserError
from foundation.settings import Settings
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.corpus.build import build_corpus
from sparse_model.corpus.corpus import Corpus
from sparse_model.corpus.corpus_config import CorpusConfig
from sparse_model.training.batches import Batches
from sparse_model.training.dense import make_gpt2, save_dense
from sparse_model.training.objective import LanguageModelling
from sparse_model.training.run import train_artefact
from sparse_model.training.train_config import DenseConfig, TrainConfig
from sparse_model.training.validation import Validation
from sparse_model.transformer.shape import SparseShape

EVALUATION_BLOCKS = 128


class DemoConfig(Settings):
    """What the demo explains."""

    tasks: tuple[str, ...] = Field(
        ("closing_quote", "compare_true", "dict_list"), min_length=1, description="names of the tasks"
    )
    text_blocks: int = Field(64, ge=2, description="blocks of reference text for ablation means, and as many held out")
    evaluate_pairs: int = Field(64, ge=4, description="pairs to choose on, and as many to report on")
    draws: int = Field(
        100, ge=99, description="matched node sets outside the circuit; 99 is the least that can give p 0.01"
    )


class Recipe(Settings):
    """Everything the bundled models and the demo depend on."""

    corpus: CorpusConfig = Field(CorpusConfig(), description="what both models are trained on")
    dense: DenseConfig = Field(DenseConfig(), description="shape of the dense model")
    dense_train: TrainConfig = Field(TrainConfig(), description="how the dense model is trained")
    sparse: SparseShape = Field(SparseShape(), description="shape of the sparse model")
    bridge: BridgeConfig = Field(BridgeConfig(), description="loss terms of the bridges")
    bridge_train: TrainConfig = Field(TrainConfig(), description="how sparse model and bridges are trained")
    prune: PruneConfig = Field(PruneConfig(), description="how circuits are pruned")
    demo: DemoConfig = Field(DemoConfig(), description="what the demo explains")


@dataclass(frozen=True)
class Models:
    """Folders of a dense model and its bridge."""

    dense: Path
    bridge: Path


def read_recipe(path: Path) -> Recipe:
    """A recipe from TOML.

    Raises:
        UserError: missing file, unknown key or value out of range.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such recipe; pass a .toml file like the bundled one")
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: does not parse ({error}); mend the file") from None
    return Recipe.from_mapping(values, str(path))


def make_models(recipe: Recipe, folder: Path, device: str = "cpu") -> Models:
    """Build or go on building `corpus`, `dense` and `bridge` in `folder`; steps that are done are kept."""
    folder = Path(folder)
    data = (
        Corpus.load(folder / "corpus")
        if (folder / "corpus").exists()
        else build_corpus(recipe.corpus, folder / "corpus")
    )
    if not (folder / "dense").exists():
        network = make_gpt2(recipe.dense, data.tokenizer, data.block_length, recipe.dense_train.seed)
        train_artefact(
            folder / "dense",
            LanguageModelling(network),
            Batches(data.train, recipe.dense_train.batch_size, recipe.dense_train.seed),
            recipe.dense_train,
            {"model": recipe.dense.to_json(), "corpus": data.fingerprint},
            lambda temporary: save_dense(network, data.tokenizer, temporary),
            validation=Validation.of(data),
        )
    if not (folder / "bridge").exists():
        model, tokenizer = load_dense(folder / "dense", device=device)
        text = BridgeText.of(data, EVALUATION_BLOCKS)
        settings = BridgeSettings(recipe.bridge_train, recipe.bridge, recipe.sparse)
        train_bridge(DenseStack(model), "dense", tokenizer, text, folder / "bridge", settings, device=device)
    return Models(folder / "dense", folder / "bridge")
