"""Byte-level BPE made for code, saved as an ordinary Hugging Face tokenizer folder.

Text is first cut into pre-tokens, which merges never cross:
- a newline with the blank lines and the indent that follow it;
- one quotation mark, apart from everything else, so that opening and closing quotes are the same token;
- a word, with one space or one dot before it;
- one digit, with one space before it;
- a run of other signs, with one space before it, that stops before the dot of an attribute;
- other white space.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_model.corpus.sources import CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
"""The one special token: begins every document, and serves as bos, eos and pad."""

SMALLEST_VOCABULARY = 257
"""256 bytes and the special token."""

PRE_TOKEN = "|".join(
    (
        r"\n\s*",
        r"['\"]",
        r"[ .]?[\p{L}_]+",
        r" ?\p{N}",
        r" ?(?:(?!\.[\p{L}_])[^\s\p{L}\p{N}_'\"])+",
        r"[^\S\n]+(?!\S)",
        r"[^\S\n]",
    )
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> "PreTrainedTokenizerFast":
    """A tokenizer of at most `vocab_size` tokens (the special one included) learned from `texts`.

    Raises:
        CorpusError: `vocab_size` cannot hold the 256 bytes.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < SMALLEST_VOCABULARY:
        raise CorpusError(
            f"vocab_size {vocab_size} is too small: byte-level BPE holds 256 bytes and {END_OF_TEXT}; "
            f"use at least {SMALLEST_VOCABULARY}."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKEN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(name: str, trust_remote_code: bool = False) -> "PreTrainedTokenizerFast":
    """An existing tokenizer, by id, folder (which may hold a single .gguf file) or path of a .gguf file.

    It tokenises as its file says, whatever class its configuration names.

    Raises:
        CorpusError: it does not load, is a slow one, or marks no beginning or end of text.
    """
    from foundation.tokenizers import load_faithful_tokenizer

    path = Path(name)
    files = sorted(path.glob("*.gguf")) if path.is_dir() and not (path / "tokenizer.json").is_file() else []
    place, gguf_file = (name, files[0].name) if len(files) == 1 else (name, None)
    if path.is_file() and path.suffix == ".gguf":
        place, gguf_file = str(path.parent), path.name
    try:
        tokenizer = load_faithful_tokenizer(place, gguf_file, trust_remote_code)
    except Exception as failure:  # the libraries below raise every kind, for damaged files also a bare Exception
        reason = next((line.strip() for line in str(failure).splitlines() if line.strip()), type(failure).__name__)
        if "custom code" in reason:
            raise CorpusError(
                f"the tokenizer of {name!r} brings code of its own, which is not run; read it, then pass "
                "--trust-remote-code"
            ) from None
        raise CorpusError(
            f"the tokenizer of {name!r} does not load: {reason}; give a Hugging Face id or a folder"
        ) from None
    if not tokenizer.is_fast:
        raise CorpusError(f"the tokenizer of {name!r} is a slow one; convert it to a fast tokenizer (tokenizer.json)")
    if tokenizer.bos_token_id is None:
        if tokenizer.eos_token_id is None:
            raise CorpusError(f"the tokenizer of {name!r} has no token that separates documents; set its eos_token")
        tokenizer.bos_token = tokenizer.eos_token
    return tokenizer


def vocabulary_size(tokenizer: "PreTrainedTokenizerFast") -> int:
    """Rows a model's embedding needs: every token id is below it, also where the vocabulary has holes."""
    return max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1)


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """What tells two tokenizers apart: their behaviour, however they are written down (see `foundation.tokenizers`)."""
    from foundation.tokenizers import behaviour_fingerprint

    return behaviour_fingerprint(tokenizer)
