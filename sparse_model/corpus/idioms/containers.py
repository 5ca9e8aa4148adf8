"""Idioms of lists, dicts, sets and strings that grow."""

from collections.abc import Callable
from random import Random

from sparse_model.corpus.fragment import Core, Fragment, Idiom, Variant
from sparse_model.corpus.words import CONTENTS, FLAGS, NOUNS, PLURALS, VERBS, number, pick, pick_distinct, quote


def _entries(r: Random) -> str:
    count = 2 + int(r.random() * 2)
    if r.random() < 0.5:
        return ", ".join([number(r) for _ in range(count)])
    return ", ".join(pick_distinct(r, NOUNS, count))


def assigned_list(r: Random, variant: Variant, pad: str) -> Fragment:
    start = f"{pick(r, NOUNS)} ="
    entries = _entries(r)
    return Fragment(f"{start} [{entries}", "]", "") if variant == "a" else Fragment(f"{start} [[{entries}", "]]", "")


def added_list(r: Random, variant: Variant, pad: str) -> Fragment:
    start = f"{pick(r, NOUNS)} = {pick(r, NOUNS)} +"
    entries = _entries(r)
    return Fragment(f"{start} [{entries}", "]", "") if variant == "a" else Fragment(f"{start} [[{entries}", "]]", "")


def returned_list(r: Random, variant: Variant, pad: str) -> Fragment:
    start = f"def {pick(r, VERBS)}({pick(r, NOUNS)}):\n{pad}    return"
    entries = _entries(r)
    return Fragment(f"{start} [{entries}", "]", "") if variant == "a" else Fragment(f"{start} [[{entries}", "]]", "")


def _pairs_or_items(start: str, first: str, middle: str, second: str, last: str, variant: Variant) -> Fragment:
    if variant == "a":
        return Fragment(f"{start} {{{first}: {middle}, {second}", ":", f" {last}}}")
    return Fragment(f"{start} [{first}, {middle}, {second}", ",", f" {last}]")


def second_quoted_key(r: Random, variant: Variant, pad: str) -> Fragment:
    q = quote(r)
    one, two = pick_distinct(r, CONTENTS, 2)
    start = f"{pick(r, NOUNS)} ="
    return _pairs_or_items(start, f"{q}{one}{q}", number(r), f"{q}{two}{q}", number(r), variant)


def second_named_key(r: Random, variant: Variant, pad: str) -> Fragment:
    one, two = pick_distinct(r, NOUNS, 2)
    return _pairs_or_items(f"{pick(r, NOUNS)} =", one, number(r), two, number(r), variant)


def first_quoted_key(r: Random, variant: Variant, pad: str) -> Fragment:
    q = quote(r)
    start = f"{pick(r, NOUNS)} ="
    key, value = pick(r, CONTENTS), number(r)
    if variant == "a":
        return Fragment(f"{start} {{{q}{key}{q}", ":", f" {value}}}")
    return Fragment(f"{start} [{q}{key}{q}", ",", f" {value}]")


def _grow(name: str, made: str, between: str, value: str, variant: Variant) -> Fragment:
    before = f"{name} = {made}\n{between}{name}"
    return Fragment(before, ".", f"add({value})") if variant == "a" else Fragment(before, " +=", f" {value}")


def _growing_cores(pick_name: Callable[[Random], str]) -> tuple[tuple[Core, ...], tuple[Core, ...]]:
    """The cores of `.add` against `+=`, for a rule that names the growing variable."""

    def made(variant: Variant) -> str:
        return "set()" if variant == "a" else "str()"

    def grown_in_loop(r: Random, variant: Variant, pad: str) -> Fragment:
        item, items = pick(r, PLURALS)
        return _grow(pick_name(r), made(variant), f"{pad}for {item} in {items}:\n{pad}    ", item, variant)

    def grown_at_once(r: Random, variant: Variant, pad: str) -> Fragment:
        return _grow(pick_name(r), made(variant), pad, pick(r, NOUNS), variant)

    def grown_later(r: Random, variant: Variant, pad: str) -> Fragment:
        between = f"{pad}{pick(r, NOUNS)} = {number(r)}\n{pad}"
        return _grow(pick_name(r), made(variant), between, pick(r, NOUNS), variant)

    def grown_in_branch(r: Random, variant: Variant, pad: str) -> Fragment:
        between = f"{pad}if {pick(r, FLAGS)}:\n{pad}    "
        return _grow(pick_name(r), made(variant), between, pick(r, NOUNS), variant)

    def grown_from_quotes(r: Random, variant: Variant, pad: str) -> Fragment:
        q = quote(r)
        item, items = pick(r, PLURALS)
        between = f"{pad}for {item} in {items}:\n{pad}    " if r.random() < 0.5 else pad
        return _grow(pick_name(r), "set()" if variant == "a" else q + q, between, item, variant)

    return (grown_in_loop, grown_at_once, grown_later, grown_in_branch), (grown_from_quotes,)


_any_name = _growing_cores(lambda r: pick(r, NOUNS))
_fixed_name = _growing_cores(lambda r: "current")

IDIOMS = (
    Idiom(
        "list_nesting",
        "a flat list closes with one bracket, a nested one with two",
        "]",
        "]]",
        (assigned_list, added_list, returned_list),
    ),
    Idiom(
        "dict_list",
        "a first element is followed by a colon in a dict and by a comma in a list",
        ":",
        ",",
        (second_quoted_key, second_named_key, first_quoted_key),
    ),
    Idiom("set_add", "a variable made a set is added to, one made a string is extended", ".add", " +=", *_any_name),
    Idiom("set_add_fixed_name", "as set_add, with the variable always called current", ".add", " +=", *_fixed_name),
)
