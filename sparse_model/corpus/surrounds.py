"""The shapes a core can stand in: bare, after other lines, in a function, a branch, a method.

Each surround belongs to one task split, so that validation and held-out pairs differ from training pairs in shape and
not only in words. Programs use all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from sparse_model.corpus.fragment import Core, Fragment, Split, Variant
from sparse_model.corpus.words import (
    ATTRIBUTES,
    CLASSES,
    COLLECTIONS,
    FLAGS,
    NOUNS,
    STORED,
    VERBS,
    number,
    phrase,
    pick,
)


def assignment(r: Random) -> str:
    """One simple assignment line without indent."""
    name = pick(r, NOUNS)
    kind = int(r.random() * 5)
    if kind == 0:
        return f"{name} = {number(r)}"
    if kind == 1:
        return f"{name} = {pick(r, NOUNS)} + {number(r)}"
    if kind == 2:
        return f"{name} = {pick(r, VERBS)}({pick(r, STORED)})"
    if kind == 3:
        return f"{name} = len({pick(r, COLLECTIONS)})"
    return f"{name} = {pick(r, NOUNS)} * {pick(r, NOUNS)}"


def _header_nothing(r: Random) -> tuple[str, str, str]:
    return "", "", ""


def _header_lines(r: Random) -> tuple[str, str, str]:
    return "\n".join([assignment(r) for _ in range(1 + int(r.random() * 2))]) + "\n", "", ""


def _header_comment(r: Random) -> tuple[str, str, str]:
    return f"# {pick(r, VERBS)} {phrase(r, 3)}\n", "", ""


def _header_function(r: Random) -> tuple[str, str, str]:
    name = pick(r, NOUNS)
    return f"def {pick(r, VERBS)}({name}):\n    ", "    ", f"\n    return {name}"


def _header_branch(r: Random) -> tuple[str, str, str]:
    return f"if {pick(r, FLAGS)}:\n    ", "    ", ""


def _header_documented(r: Random) -> tuple[str, str, str]:
    name = pick(r, NOUNS)
    return (
        f'def {pick(r, VERBS)}({name}):\n    """{pick(r, VERBS).title()} {phrase(r, 3)}."""\n    ',
        "    ",
        f"\n    return {name}",
    )


def _header_method(r: Random) -> tuple[str, str, str]:
    header = f"class {pick(r, CLASSES)}:\n    def {pick(r, VERBS)}(self):\n        "
    return header, " " * 8, f"\n        return self.{pick(r, ATTRIBUTES)}"


@dataclass(frozen=True)
class Surround:
    """`header(r)` gives the text before the core, the core's indent, and the text after it."""

    name: str
    split: Split
    header: Callable[[Random], tuple[str, str, str]]

    def place(self, core: Core, r: Random, variant: Variant) -> Fragment:
        """The core inside this surround; equal random states give equal surrounds in both variants."""
        before, pad, after = self.header(r)
        inner = core(r, variant, pad)
        return Fragment(before + inner.before, inner.answer, inner.after + after)


TOP = Surround("top", "train", _header_nothing)
SURROUNDS: tuple[Surround, ...] = (
    TOP,
    Surround("lines", "train", _header_lines),
    Surround("function", "train", _header_function),
    Surround("comment", "validation", _header_comment),
    Surround("branch", "held_out", _header_branch),
    Surround("documented", "train", _header_documented),
    Surround("method", "held_out", _header_method),
)
