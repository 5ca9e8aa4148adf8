"""Loading what commands are given, with errors that name what does not fit together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_model.settings import UserError


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


def load_pairing(bridge: Path, dense: str | None, device: str = "cpu") -> Pairing:
    """A bridge with its dense model; `dense` defaults to where the bridge says its model was.

    Raises:
        UserError: the model is not the bridge's own, or either does not load.
    """
    from bridges.artefact import load_bridge

    artefact = load_bridge(bridge, device)
    name = dense or str(artefact.description["dense"]["name"])
    stack, tokenizer = load_stack(name, device)
    artefact.check_dense(stack.fingerprint, name)
    return Pairing(stack, tokenizer, artefact)


def text_blocks(tokenizer: Any, split: str, blocks: int, length: int, corpus: Path | None, source: str = "tinypython") -> Any:
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
