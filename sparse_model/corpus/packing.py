"""Packing: documents → tokens → blocks on disk.

A document is the special token and its own tokens; documents are joined end to end and cut into blocks of T tokens. Tokens
go to the file as they are made, and blocks are mixed from file to file, so a corpus may be larger than the memory. The
tokenizer works on batches of documents, on all cores.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from sparse_model.corpus.fragment import SPLITS, Split
from sparse_model.corpus.sources import CorpusError, Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_BATCH_CHARACTERS = 1_000_000
_LONGEST_PIECE = 1_000_000
_ROWS_AT_ONCE = 8192
_PROGRESS_DELAY = 2.0
"""Seconds before a progress bar appears."""


class Packed(NamedTuple):
    """Blocks [N, T] of one split of one source, memory-mapped, and what went into them."""

    blocks: np.ndarray
    documents: int
    epochs: float


def pack(
    source: Source,
    split: Split,
    tokenizer: "PreTrainedTokenizerFast",
    blocks: int,
    block_length: int,
    dtype: Any,
    path: Path,
) -> Packed:
    """Write at most `blocks` blocks of `block_length` tokens from one split of a source to the .npy file `path`.

    The training split is repeated until it suffices; the others stop at their end. `epochs` counts the passes over the
    split, as a fraction once the length of a pass is known (a single pass, whole or not, counts as 1). Raises
    CorpusError if the split does not fill one block.
    """
    wanted = blocks * block_length
    start = np.array([tokenizer.bos_token_id], dtype=dtype)
    tokens = documents = passes = pass_tokens = 0
    with (
        path.open("wb") as file,
        tqdm(total=wanted, unit="tok", unit_scale=True, desc=f"{source.name} {split}", delay=_PROGRESS_DELAY) as bar,
    ):
        _write_header(file, (blocks, block_length), dtype)
        while tokens < wanted and (passes == 0 or (split == "train" and tokens > 0)):
            passes += 1
            for batch in _batches(source.documents(split), min(_BATCH_CHARACTERS, 4 * wanted + 1)):
                texts = [text for text, _ in batch]
                encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
                for encoding, (_, begins) in zip(encodings, batch, strict=True):
                    if begins:
                        file.write(start.tobytes())
                    file.write(np.array(encoding.ids, dtype=dtype).tobytes())
                    added = len(encoding.ids) + begins
                    bar.update(min(added, wanted - tokens))
                    tokens += added
                    documents += begins
                    if tokens >= wanted:
                        break
                if tokens >= wanted:
                    break
            if passes == 1:
                pass_tokens = tokens
        if tokens < block_length:
            raise CorpusError(_too_little(source.name, split, documents, tokens, block_length))
        kept = min(blocks, tokens // block_length)
        file.seek(0)
        header = _write_header(file, (kept, block_length), dtype)
        file.truncate(header + kept * block_length * np.dtype(dtype).itemsize)
    epochs = round(kept * block_length / pass_tokens, 4) if passes > 1 else 1.0
    return Packed(np.load(path, mmap_mode="r"), documents, epochs)


def _too_little(name: str, split: Split, documents: int, tokens: int, block_length: int) -> str:
    """What is wrong with a split of less than one block, and what would do."""
    found = (
        f"source {name}: {documents} documents with {tokens} tokens fall to the {split} split, less than one block of "
        f"{block_length}"
    )
    if not documents:
        return f"{found}; give at least {len(SPLITS)} documents that are not empty (cut long ones), or leave the source out"
    more = -(-block_length // tokens)
    return (
        f"{found}; give about {more} times as many documents, --block-length {max(2, tokens)}, or leave the source out"
    )


def mix(parts: Sequence[np.ndarray], path: Path, seed: int) -> np.ndarray:
    """Write the blocks of all parts, in one random order, to the .npy file `path`."""
    ends = np.cumsum([len(part) for part in parts])
    order = np.random.default_rng(seed).permutation(int(ends[-1]))
    dtype, length = parts[0].dtype, parts[0].shape[1]
    with path.open("wb") as file:  # not a memory map: where the disk is full, writing to one kills the process
        _write_header(file, (len(order), length), dtype)
        for begin in range(0, len(order), _ROWS_AT_ONCE):
            chosen = order[begin : begin + _ROWS_AT_ONCE]
            rows = np.empty((len(chosen), length), dtype)
            owner = np.searchsorted(ends, chosen, side="right")
            for number, part in enumerate(parts):
                mine = owner == number
                rows[mine] = part[chosen[mine] - (ends[number] - len(part))]
            file.write(rows.tobytes())
    return np.load(path, mmap_mode="r")


def _write_header(file: IO[bytes], shape: tuple[int, int], dtype: Any) -> int:
    """The .npy header, whose length does not depend on the number of blocks; returns the place where tokens begin."""
    description = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)
    return file.tell()


def _batches(documents: Iterator[str], characters: int) -> Iterator[list[tuple[str, bool]]]:
    """Lists of about `characters` characters together, of documents and pieces of long ones: text, and whether it begins one."""
    batch: list[tuple[str, bool]] = []
    size = 0
    for text in documents:
        for number, piece in enumerate(pieces(text)):
            batch.append((piece, number == 0))
            size += len(piece)
            if size >= characters:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def pieces(text: str, longest: int = _LONGEST_PIECE) -> Iterator[str]:
    """A document whole, or cut in front of white space where it is longer than `longest` characters.

    A tokenizer needs over a hundred bytes per character of one text, so that a line of 44 MB took 6.9 GB.
    """
    begin = 0
    while len(text) - begin > longest:
        end = begin + longest
        cut = max(text.rfind(sign, begin + 1, end) for sign in "\n ")
        end = cut if cut > begin else end
        yield text[begin:end]
        begin = end
    yield text[begin:]
