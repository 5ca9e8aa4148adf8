"""Idioms of files: as after a with line, and the mode that the file's name calls for."""

from random import Random

from sparse_model.corpus.fragment import Fragment, Idiom, Variant
from sparse_model.corpus.words import CONTENTS, FILES, HANDLES, NOUNS, READABLE, VERBS, WRITABLE, pick, quote


def _opened(start_a: str, start_b: str, call: str, handle: str, body: str, pad: str, variant: Variant) -> Fragment:
    if variant == "a":
        return Fragment(f"{start_a} {call}", " as", f" {handle}:\n{pad}    {body}")
    return Fragment(f"{start_b} {call}", "\n", f"{pad}{body}")


def async_with(r: Random, variant: Variant, pad: str) -> Fragment:
    path, handle = pick(r, FILES), pick(r, HANDLES)
    inner = pad + "    "
    head = f"async def {pick(r, VERBS)}({path}):\n{inner}"
    body = f"{pick(r, NOUNS)} = {handle}.read()"
    return _opened(f"{head}async with", f"{head}{handle} =", f"open({path})", handle, body, inner, variant)


def with_await(r: Random, variant: Variant, pad: str) -> Fragment:
    path, handle, verb = pick(r, FILES), pick(r, HANDLES), pick(r, VERBS)
    inner = pad + "    "
    head = f"async def {pick(r, VERBS)}({path}):\n{inner}"
    body = f"{pick(r, VERBS)}({handle})"
    return _opened(f"{head}with await", f"{head}{handle} =", f"{verb}({path})", handle, body, inner, variant)


def with_after_comment(r: Random, variant: Variant, pad: str) -> Fragment:
    path, handle, verb = pick(r, FILES), pick(r, HANDLES), pick(r, VERBS)
    word = pick(r, CONTENTS)
    call = f"open({path})" if r.random() < 0.7 else f"{verb}({path})"
    body = f"{pick(r, VERBS)}({handle})"
    start_a, start_b = f"# {verb} the {word} {path}\n{pad}with", f"# {verb} {word} {path}\n{pad}{handle} ="
    return _opened(start_a, start_b, call, handle, body, pad, variant)


def with_plainly(r: Random, variant: Variant, pad: str) -> Fragment:
    path, handle = pick(r, FILES), pick(r, HANDLES)
    call = f"open({path})" if r.random() < 0.5 else f"{pick(r, VERBS)}({path})"
    return _opened("with", f"{handle} =", call, handle, f"{pick(r, VERBS)}({handle})", pad, variant)


def _mode(r: Random, variant: Variant, start: str, end: str) -> Fragment:
    q = quote(r)
    readable, writable = pick(r, READABLE), pick(r, WRITABLE)
    if variant == "a":
        return Fragment(f"{start}open({readable}, {q}", "r", f"{q}){end}")
    return Fragment(f"{start}open({writable}, {q}", "w", f"{q}){end}")


def mode_in_with(r: Random, variant: Variant, pad: str) -> Fragment:
    handle = pick(r, HANDLES)
    return _mode(r, variant, "with ", f" as {handle}:\n{pad}    {pick(r, VERBS)}({handle})")


def mode_in_assignment(r: Random, variant: Variant, pad: str) -> Fragment:
    return _mode(r, variant, f"{pick(r, HANDLES)} = ", "")


def mode_in_argument(r: Random, variant: Variant, pad: str) -> Fragment:
    return _mode(r, variant, f"{pick(r, NOUNS)} = {pick(r, VERBS)}(", ")")


IDIOMS = (
    Idiom(
        "with_as",
        "a call is followed by as in a with line and by a newline in an assignment",
        " as",
        "newline",
        (async_with, with_await, with_after_comment),
        (with_plainly,),
    ),
    Idiom(
        "file_mode",
        "a file is opened for reading or writing according to its name",
        "r",
        "w",
        (mode_in_with, mode_in_assignment, mode_in_argument),
    ),
)
