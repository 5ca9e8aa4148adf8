"""Hugging Face tokenizers, loaded so that they do what their file says, and told apart by what they do.

A class named by a configuration may build its own pre-tokeniser and normaliser and leave those of `tokenizer.json`
out, so that `12345` becomes other tokens than the model was trained with. Here the file decides.

The fingerprint is over behaviour: the vocabulary, the ids of a fixed probe text, the ids that begin and end a
document. How a library version writes the tokenizer down does not count.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.errors import UserError
from foundation.text import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE_TEXTS = (
    "12345 67 8.90 0x1F 1_000",
    "  two spaces,   three\tand a tab ",
    "def f(x):\n    return x + 1\n\n\n    # indented\r\n",
    "don't DON'T CamelCase snake_case __init__ \"quoted\" 'single'",
    "café café Ångström ﬁne Ⅷ ① ½ straße İ",
    "日本語 한국어 العربية हिन्दी Ελληνικά Привет",
    "🙂👩‍👩‍👧 \u200b\u00a0\ufeff—…«»",
    "a12b3 3,14 x=42;y==-7 <s> </s> [INST] <|endoftext|>",
)
"""Digits, spaces, newlines, quotes, marks, composed and compatibility characters, scripts, and mixtures."""

_SCHEME = "behaviour-1:"
_log = logging.getLogger("sparsebridge.tokenizer")


def load_faithful_tokenizer(name: str, gguf_file: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a hub id or folder, as its `tokenizer.json` says; no code of its own runs unless trusted.

    Where the class that the configuration asks for gives other ids than the file, the file's tokenizer is returned and
    one line says so. Raises whatever the library raises where there is none.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    options = {} if gguf_file is None else {"gguf_file": gguf_file}
    named = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code, **options)
    path = None if gguf_file is not None or not getattr(named, "is_fast", False) else _tokenizer_file(name)
    if path is None or _ids(named) == _ids_of_file(path):
        return named
    plain = PreTrainedTokenizerFast.from_pretrained(name)
    if _ids(plain) == _ids(named):  # what differs from the file is what tokenizer_config.json asks for
        return named
    _log.warning(
        "%s: %s gives other tokens than tokenizer.json; the file's are used",
        name,
        type(named).__name__,
    )
    return plain


@contextmanager
def tokenizer_of(kind: str, folder: Path) -> Iterator[None]:
    """Whatever loading the tokenizer in an artefact's folder raises becomes one line.

    Raises:
        UserError: it does not load.
    """
    try:
        yield
    except Exception as error:  # for damaged files the libraries below raise every kind, also a bare Exception
        reason = one_line(str(error))[:160] or type(error).__name__
        raise UserError(
            f"{folder}: its tokenizer does not load ({reason}); the {kind} is damaged, copy or make it again"
        ) from None


def behaviour_fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Sha256, in hex behind the name of this scheme, of what a tokenizer does.

    The token that begins a document counts as the one that ends it where there is no other, as corpora are built.
    """
    end = tokenizer.eos_token_id
    begin = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    behaviour = [sorted(tokenizer.get_vocab().items()), _ids(tokenizer), begin, end]
    return _SCHEME + hashlib.sha256(json.dumps(behaviour).encode()).hexdigest()


def is_behaviour_fingerprint(fingerprint: str) -> bool:
    """False for one of an earlier scheme, which no tokenizer of today can be compared with."""
    return fingerprint.startswith(_SCHEME)


def _ids(tokenizer: Any) -> list[list[int]]:
    return [list(tokenizer.encode(text, add_special_tokens=False)) for text in PROBE_TEXTS]


def _ids_of_file(path: Path) -> list[list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in PROBE_TEXTS]


def _tokenizer_file(name: str) -> Path | None:
    """The `tokenizer.json` of a folder or, from the cache it was just loaded into, of a hub id; None without one."""
    if Path(name).is_dir():
        path = Path(name) / "tokenizer.json"
        return path if path.is_file() else None
    from transformers.utils.hub import cached_file

    found = cached_file(
        name,
        "tokenizer.json",
        local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return None if found is None else Path(found)
