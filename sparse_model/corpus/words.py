"""The small vocabulary of `tinypython`: ordinary words, so that byte-pair encoding gives most of them one token."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

X = TypeVar("X")


def _words(line: str) -> tuple[str, ...]:
    return tuple(line.split())


NOUNS = _words(
    "size count total value name key text word data color point level score price speed weight height width "
    "depth length area angle time date year user owner title label node edge graph tree root leaf left right "
    "start end first last state mode rate limit step offset table row column page block group team player game "
    "board card number letter shape image sound river mountain city house garden"
)
ATTRIBUTES = NOUNS[:32]
PLURALS = (
    ("item", "items"), ("name", "names"), ("word", "words"), ("line", "lines"), ("value", "values"), ("key", "keys"),
    ("node", "nodes"), ("user", "users"), ("point", "points"), ("row", "rows"), ("page", "pages"), ("card", "cards"),
    ("number", "numbers"), ("color", "colors"), ("score", "scores"), ("letter", "letters"),
)  # fmt: skip
GROWING = ("results", "total", "chosen", "kept")
COLLECTIONS = tuple(plural for _, plural in PLURALS)
INDICES = ("i", "j", "k", "index")
FLAGS = _words("ready done found valid active empty visible enabled changed")
VERBS = _words("get make load save read write run find build parse check send sort merge clean update move draw")
CLASSES = _words("Point Node User Card Player Team Board Table Graph Tree Shape Robot")
ADJECTIVES = _words("red blue green small big old new happy quiet fast slow warm cold bright dark long")
CONTENTS = ADJECTIVES + NOUNS[-28:]
READABLE = _words("source config inputs manual")
WRITABLE = _words("target output report backup")
FILES = _words("path file book page record")
STORED = READABLE + WRITABLE + FILES
HANDLES = _words("handle stream reader writer")


def pick(r: Random, options: Sequence[X]) -> X:
    """One of `options`, uniformly; several times faster than `Random.choice`."""
    return options[int(r.random() * len(options))]


def pick_distinct(r: Random, options: Sequence[str], count: int) -> list[str]:
    """`count` different options in random order; `options` must hold clearly more than `count`."""
    chosen: list[str] = []
    while len(chosen) < count:
        word = pick(r, options)
        if word not in chosen:
            chosen.append(word)
    return chosen


def number(r: Random) -> str:
    """A whole number of one or two digits, one digit twice as often."""
    return str(int(r.random() * 10)) if r.random() < 0.67 else str(10 + int(r.random() * 90))


def digit(r: Random) -> str:
    """One decimal digit."""
    return str(int(r.random() * 10))


def phrase(r: Random, most: int = 4) -> str:
    """One to `most` words separated by spaces, without quotes; short phrases are likelier."""
    count = 1 + min(int(r.random() * most), int(r.random() * most))
    return " ".join([pick(r, CONTENTS) for _ in range(count)])


def quote(r: Random) -> str:
    """A single or a double quotation mark, equally often."""
    return "'" if r.random() < 0.5 else '"'
