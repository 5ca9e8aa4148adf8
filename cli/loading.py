"""Loading what commands are given, with errors that name what does not fit together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.errors import UserError
from foundation.settings import read_mapping

SPARSE_ADVICE = "pass a folder made by sparse train or bridge train"


@dataclass(frozen=True)
class Pairing:
    """A dense model as a residual stack, its tokenizer, and the bridge that belongs to it."""

    stack: Any
    tokenizer: Any
    artefact: Any


def load_stack(model: str, device: str = "cpu") -> tuple[Any, Any]:
    """A dense model as a residual stack, and its tokenizer.

    Raises:
        AttachError: it does not load, or it is not a decoder-only language model.
        UserError: the numeric probe refused some of its sites.
    """
    from dense_adapters import DenseStack, load_dense

    network, tokenizer = load_dense(model, device=device)
    stack = DenseStack(network)
    if stack.report.refused:
        raise UserError(
            f"{model}: {len(stack.report.refused)} sites fail the adapter's probe ({stack.report.refused[0]}); "
            f"see sparsebridge dense check {model}"
        )
    return stack, tokenizer


def load_sparse(folder: Path, device: str = "cpu") -> Any:
    """The sparse model of a model or bridge folder.

    Raises:
        UserError: the folder holds neither, or its model is damaged.
    """
    from sparse_model import SparseTransformer

    inside = sparse_folder(folder)
    if not (inside / "config.json").is_file():
        raise UserError(f"{folder}: holds no sparse model (no config.json); {SPARSE_ADVICE}")
    kind = read_mapping(inside / "config.json").get("model_type")
    if kind != SparseTransformer.config_class.model_type:
        raise UserError(f"{folder}: holds a {kind} model, not a sparse one; {SPARSE_ADVICE}")
    return SparseTransformer.from_pretrained(inside).to(device)


def load_tokenizer(name: str | Path) -> Any:
    """The tokenizer of a model folder, bridge folder or Hugging Face id.

    Raises:
        UserError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(sparse_folder(Path(name)) if Path(name).is_dir() else str(name))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{name}: holds no tokenizer that loads ({reason}); save one beside the model") from None


def load_language_model(model: str, device: str = "cpu") -> tuple[Any, Any]:
    """A model that maps tokens to `.logits`, and its tokenizer: sparse folder, bridge folder, or any dense model.

    Raises:
        UserError, AttachError: it does not load.
    """
    from dense_adapters import load_dense

    inside = sparse_folder(Path(model))
    config = inside / "config.json"
    if config.is_file() and read_mapping(config).get("model_type") == "sparsebridge":
        return load_sparse(Path(model), device), load_tokenizer(model)
    return load_dense(model, device=device)


def sparse_folder(folder: Path) -> Path:
    """Where the sparse model is: inside a bridge folder, or the folder itself."""
    return folder / "sparse" if (folder / "bridge.json").is_file() else folder


def load_pairing(bridge: Path, dense: str | None, device: str = "cpu") -> Pairing:
    """A bridge with its dense model; `dense` defaults to where the bridge says its model was
    (a relative path counts from beside the bridge).

    Raises:
        UserError: the model is not the bridge's own, or either does not load.
    """
    from bridges.artefact import load_bridge

    artefact = load_bridge(bridge, device)
    name = dense or str(artefact.description["dense"]["name"])
    if dense is None and (bridge.parent / name).is_dir():
        name = str(bridge.parent / name)
    stack, tokenizer = load_stack(name, device)
    artefact.check_dense(stack.fingerprint, name)
    return Pairing(stack, tokenizer, artefact)


def text_blocks(
    tokenizer: Any, split: str, blocks: int, length: int, corpus: Path | None, source: str = "tinypython"
) -> Any:
    """Token blocks [N, T] of a corpus folder, or of tinypython made on the spot.

    Raises:
        UserError: the corpus is in another model's tokens.
    """
    from bridges.reference_text import builtin_blocks

    if corpus is None:
        return builtin_blocks(tokenizer, split, blocks, length, source)  # type: ignore[arg-type]
    from sparse_model.corpus.corpus import Corpus

    data = Corpus.load(corpus)
    check_vocabulary(data, tokenizer)
    return data.train[:blocks] if split == "train" else next(iter(data.held_out.values()))[:blocks]


def check_vocabulary(data: Any, tokenizer: Any) -> None:
    """Refuse a corpus in another model's tokens.

    Raises:
        UserError: the tokenizers differ.
    """
    from sparse_model.corpus.tokenizer import tokenizer_fingerprint

    if tokenizer_fingerprint(tokenizer) != data.fingerprint:
        raise UserError(
            f"{data.folder}: was tokenised with another tokenizer than the model's; build a corpus with "
            "sparsebridge corpus build --tokenizer MODEL"
        )
