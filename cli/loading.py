"""Loading what commands are given, with errors that name what does not fit together."""

from pathlib import Path
from typing import Any

from foundation.errors import UserError
from foundation.settings import read_mapping

SPARSE_ADVICE = "pass a folder made by sparse train or bridge train"


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


def load_tokenizer(name: str | Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model folder, bridge folder or Hugging Face id.

    Raises:
        UserError: there is none.
    """
    from foundation.tokenizers import load_faithful_tokenizer

    try:
        return load_faithful_tokenizer(
            str(sparse_folder(Path(name)) if Path(name).is_dir() else name), trust_remote_code=trust_remote_code
        )
    except Exception as error:  # for damaged files the libraries below raise every kind, also a bare Exception
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{name}: holds no tokenizer that loads ({reason}); save one beside the model") from None


def load_language_model(model: str, device: str = "cpu", trust_remote_code: bool = False) -> tuple[Any, Any]:
    """A model that maps tokens to `.logits`, and its tokenizer: sparse folder, bridge folder, or any dense model.

    Raises:
        UserError, AttachError: it does not load.
    """
    from dense_adapters import load_dense

    inside = sparse_folder(Path(model))
    config = inside / "config.json"
    if config.is_file() and read_mapping(config).get("model_type") == "sparsebridge":
        return load_sparse(Path(model), device), load_tokenizer(model)
    return load_dense(model, device=device, trust_remote_code=trust_remote_code)


def sparse_folder(folder: Path) -> Path:
    """Where the sparse model is: inside a bridge folder, or the folder itself."""
    return folder / "sparse" if (folder / "bridge.json").is_file() else folder
