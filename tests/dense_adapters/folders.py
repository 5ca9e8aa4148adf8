"""Model folders on disk for tests of loading."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.dense_adapters.tiny_models import Case, build


def save_tokenizer(folder: Path, extra: dict[str, int] | None = None) -> None:
    """A tokenizer of the words a and b, and of `extra` ones with their ids."""
    inner = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2, **(extra or {})}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]").save_pretrained(folder)


def save_model(folder: Path, case: Case, **saving: Any) -> Path:
    """The tiny model of `case` and the tokenizer above, as a folder."""
    build(case).save_pretrained(folder, **saving)
    save_tokenizer(folder)
    return folder
