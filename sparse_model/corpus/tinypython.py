"""`tinypython`: small, varied, valid Python programs, rich in the twenty idioms.

A program is a handful of chunks. Four in five chunks are an idiom in a random variant, core and surround; the others
are fillers. `program(seed, index)` depends on its two numbers only, on every machine and in every process.
"""

from collections.abc import Iterator
from random import Random

from sparse_model.corpus.fillers import FILLERS
from sparse_model.corpus.fragment import Split
from sparse_model.corpus.idioms import IDIOMS
from sparse_model.corpus.sources import split_of
from sparse_model.corpus.surrounds import SURROUNDS, TOP
from sparse_model.corpus.words import pick

PROGRAM_IDIOMS = (
    "closing_quote", "fstring_variable", "list_nesting", "dict_list", "set_add", "set_add_fixed_name",
    "parameter_default", "lambda_def", "self_attribute", "swap", "for_while", "for_indent", "enumerate_range",
    "while_true", "else_elif", "ternary_if", "equality", "compare_true", "with_as", "file_mode",
)  # fmt: skip
"""The idioms programs are made of, by name and in this order. A new task adds an idiom and leaves this list, and with it every
program ever made, as it is."""
_IDIOMS = tuple(IDIOMS[name] for name in PROGRAM_IDIOMS)
_IDIOM_SHARE = 0.8
_BARE_SHARE = 0.5
_SHORTEST, _LONGEST = 170, 420
"""Characters a program aims for; its last chunk may pass the mark."""


def _chunk(r: Random) -> str:
    if r.random() >= _IDIOM_SHARE:
        return pick(r, FILLERS)(r)
    idiom = pick(r, _IDIOMS)
    core = pick(r, idiom.cores + idiom.corpus_cores)
    surround = TOP if r.random() < _BARE_SHARE else pick(r, SURROUNDS)
    return surround.place(core, r, "a" if r.random() < 0.5 else "b").text


def _defines(chunk: str) -> bool:
    return chunk.startswith(("def ", "class ", "@", "async "))


def program(seed: int, index: int) -> str:
    """Program number `index` of the stream `seed`: valid Python, 4 to about 25 lines, ending in a newline."""
    if seed < 0 or index < 0:
        raise ValueError(f"program needs seed >= 0 and index >= 0, got {seed} and {index}: give both as whole numbers.")
    r = Random((seed << 48) + index)
    target = _SHORTEST + r.random() * (_LONGEST - _SHORTEST)
    text = previous = _chunk(r)
    while len(text) < target or text.count("\n") < 3:
        chunk = _chunk(r)
        text += ("\n\n" if _defines(chunk) or _defines(previous) else "\n") + chunk
        previous = chunk
    return text + "\n"


class TinyPython:
    """The endless source of programs of one seed. A program's split is decided by its text, so splits are disjoint."""

    name = "tinypython"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def documents(self, split: Split) -> Iterator[str]:
        """Programs of one split, without end."""
        index = 0
        while True:
            text = program(self.seed, index)
            if split_of(text) == split:
                yield text
            index += 1
