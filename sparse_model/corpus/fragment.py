"""A fragment of code with one marked position: what stands before it, the answer there, and what follows.

An *idiom* renders the same fragment in two variants from equal random states: variants "a" and "b" call for different
answers. A *core* renders the lines that matter at a given indent; a *surround* places a core in a larger shape. Core x
surround is a *template*.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

Variant = Literal["a", "b"]
Split = Literal["train", "validation", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "validation", "held_out")


class Fragment(NamedTuple):
    """`before + answer + after` is valid Python; the answer is determined by `before`."""

    before: str
    answer: str
    after: str

    @property
    def text(self) -> str:
        """The whole fragment."""
        return self.before + self.answer + self.after


Core = Callable[[Random, Variant, str], Fragment]
"""`core(r, variant, pad)`: draws what both variants share first; lines after the first start with `pad`."""


@dataclass(frozen=True)
class Idiom:
    """One regularity of Python code. `corpus_cores` appear in programs only: their variants differ in token length."""

    name: str
    description: str
    answer_a: str
    answer_b: str
    cores: tuple[Core, ...]
    corpus_cores: tuple[Core, ...] = ()
