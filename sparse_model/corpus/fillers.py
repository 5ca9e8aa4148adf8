"""Everyday statements between the idioms: calls, arithmetic, imports, small functions and classes."""

from collections.abc import Callable
from random import Random

from sparse_model.corpus.surrounds import assignment
from sparse_model.corpus.words import (
    ATTRIBUTES,
    CLASSES,
    COLLECTIONS,
    FLAGS,
    GROWING,
    NOUNS,
    PLURALS,
    STORED,
    VERBS,
    number,
    phrase,
    pick,
    pick_distinct,
    quote,
)


def _assignments(r: Random) -> str:
    return f"{assignment(r)}\n{assignment(r)}"


def _call(r: Random) -> str:
    one, two = pick(r, NOUNS), pick(r, STORED)
    return f"{one} = {pick(r, VERBS)}({one}, {two})"


def _print(r: Random) -> str:
    q = quote(r)
    return f"print({q}{phrase(r)}{q}, {pick(r, NOUNS)})"


def _comment(r: Random) -> str:
    return f"# {pick(r, VERBS)} {phrase(r)}\n{assignment(r)}"


def _import(r: Random) -> str:
    return f"import {pick(r, ('math', 'random', 'json', 'time'))}\nfrom {pick(r, NOUNS)} import {pick(r, CLASSES)}"


def _function(r: Random) -> str:
    one, two, three = pick_distinct(r, NOUNS, 3)
    return f"def {pick(r, VERBS)}({one}):\n    {two} = {one} + {number(r)}\n    return {two} * {three}"


def _documented_function(r: Random) -> str:
    one, two = pick_distinct(r, NOUNS, 2)
    doc = f'"""{pick(r, VERBS).title()} {phrase(r)}."""'
    return f"def {pick(r, VERBS)}({one}):\n    {doc}\n    {two} = {pick(r, VERBS)}({one})\n    return {two}"


def _class(r: Random) -> str:
    one = pick(r, ATTRIBUTES)
    return f"class {pick(r, CLASSES)}:\n    def __init__(self, {one}):\n        self.{one} = {one}"


def _loop(r: Random) -> str:
    item, items = pick(r, PLURALS)
    return f"for {item} in {items}:\n    if {item} > {number(r)}:\n        {pick(r, VERBS)}({item})"


def _append(r: Random) -> str:
    item, items = pick(r, PLURALS)
    name = pick(r, GROWING)
    return f"{name} = []\nfor {item} in {items}:\n    {name}.append({item})"


def _comprehension(r: Random) -> str:
    item, items = pick(r, PLURALS)
    return f"{pick(r, NOUNS)} = [{pick(r, VERBS)}({item}) for {item} in {items}]"


def _try(r: Random) -> str:
    name = pick(r, NOUNS)
    return f"try:\n    {pick(r, VERBS)}({name})\nexcept ValueError:\n    {pick(r, FLAGS)} = False"


def _assert(r: Random) -> str:
    return f"assert {pick(r, NOUNS)} != {number(r)}"


def _update(r: Random) -> str:
    name = pick(r, NOUNS)
    return f"{name} = {number(r)}\n{name} -= {number(r)}\nprint({name})"


def _subscript(r: Random) -> str:
    return f"{pick(r, NOUNS)} = {pick(r, COLLECTIONS)}[{pick(r, NOUNS)}]"


FILLERS: tuple[Callable[[Random], str], ...] = (
    _assignments,
    _call,
    _print,
    _comment,
    _import,
    _function,
    _documented_function,
    _class,
    _loop,
    _append,
    _comprehension,
    _try,
    _assert,
    _update,
    _subscript,
)
