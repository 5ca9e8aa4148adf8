"""Idioms of string literals: the closing quote, and what follows a brace in an f-string or a plain string."""

from random import Random

from sparse_model.corpus.fragment import Fragment, Idiom, Variant
from sparse_model.corpus.words import CONTENTS, NOUNS, VERBS, digit, phrase, pick, quote


def _mark(variant: Variant) -> str:
    return "'" if variant == "a" else '"'


def assigned_string(r: Random, variant: Variant, pad: str) -> Fragment:
    q = _mark(variant)
    return Fragment(f"{pick(r, NOUNS)} = {q}{phrase(r)}", q, "")


def printed_string(r: Random, variant: Variant, pad: str) -> Fragment:
    q = _mark(variant)
    return Fragment(f"print({q}{phrase(r)}", q, ")")


def second_argument(r: Random, variant: Variant, pad: str) -> Fragment:
    q = _mark(variant)
    return Fragment(f"{pick(r, VERBS)}({pick(r, NOUNS)}, {q}{phrase(r)}", q, ")")


def last_of_list(r: Random, variant: Variant, pad: str) -> Fragment:
    q = _mark(variant)
    return Fragment(f"{pick(r, NOUNS)} = [{q}{pick(r, CONTENTS)}{q}, {q}{phrase(r)}", q, "]")


def _brace(r: Random, variant: Variant, start: str, end: str, name: str) -> Fragment:
    q = quote(r)
    words = phrase(r, 3)
    if variant == "a":
        return Fragment(f"{start}f{q}{words} {{", name, f"}}{q}{end}")
    return Fragment(f"{start}r{q}{words} {{", "0", f"}}{q}.format({name}){end}")


def assigned_format(r: Random, variant: Variant, pad: str) -> Fragment:
    name = pick(r, NOUNS)
    return _brace(r, variant, f"{name} = {digit(r)}\n{pad}{pick(r, NOUNS)} = ", "", name)


def printed_format(r: Random, variant: Variant, pad: str) -> Fragment:
    name = pick(r, NOUNS)
    return _brace(r, variant, f"{name} = {pick(r, VERBS)}({pick(r, NOUNS)})\n{pad}print(", ")", name)


IDIOMS = (
    Idiom(
        "closing_quote",
        "a string closes with the quote that opened it",
        "'",
        '"',
        (assigned_string, printed_string, second_argument, last_of_list),
    ),
    Idiom(
        "fstring_variable",
        "a brace opens a variable's name in an f-string and a position in a raw format string",
        "the variable's name",
        "0",
        (assigned_format, printed_format),
    ),
)
