"""Idioms of loops: for against while, the indent that follows, enumerate against range, while True."""

from random import Random

from sparse_model.corpus.fragment import Fragment, Idiom, Variant
from sparse_model.corpus.words import COLLECTIONS, FLAGS, INDICES, NOUNS, PLURALS, VERBS, number, pick, pick_distinct


def _looped(start: str, name: str, items: str, body: str, variant: Variant) -> Fragment:
    if variant == "a":
        return Fragment(f"{start}for {name}", " in", f" {items}:{body}")
    return Fragment(f"{start}while {name}", ":", body)


def plain_loop(r: Random, variant: Variant, pad: str) -> Fragment:
    name = pick(r, NOUNS)
    return _looped("", name, pick(r, COLLECTIONS), f"\n{pad}    {pick(r, VERBS)}({name})", variant)


def loop_after_assignment(r: Random, variant: Variant, pad: str) -> Fragment:
    name, other = pick_distinct(r, NOUNS, 2)
    start = f"{other} = {number(r)}\n{pad}"
    return _looped(start, name, pick(r, COLLECTIONS), f"\n{pad}    {other} += {name}", variant)


def loop_in_loop(r: Random, variant: Variant, pad: str) -> Fragment:
    item, items = pick(r, PLURALS)
    name = pick(r, NOUNS)
    start = f"for {item} in {items}:\n{pad}    "
    return _looped(start, name, pick(r, COLLECTIONS), f"\n{pad}        {pick(r, VERBS)}({name}, {item})", variant)


def _indented(start: str, line_a: str, line_b: str, pad: str, statement: str, variant: Variant) -> Fragment:
    """The answer leaves the last space of the indent to `after`: many tokenizers join it to the word that follows."""
    indent = pad + "    " if variant == "a" else pad
    line = line_a if variant == "a" else line_b
    if not indent:
        return Fragment(f"{start}{line}", "\n", statement)
    return Fragment(f"{start}{line}", "\n" + indent[:-1], f" {statement}")


def indent_of_call(r: Random, variant: Variant, pad: str) -> Fragment:
    item, items = pick(r, PLURALS)
    total = pick(r, NOUNS)
    line_a, line_b = f"for {item} in {items}:", f"{total} = {item} + {items}"
    return _indented("", line_a, line_b, pad, f"{pick(r, VERBS)}({item})", variant)


def indent_of_sum(r: Random, variant: Variant, pad: str) -> Fragment:
    item, items = pick(r, PLURALS)
    total, other = pick_distinct(r, NOUNS, 2)
    line_a, line_b = f"for {item} in {items}:", f"{other} = {item} - {items}"
    return _indented(f"{total} = {number(r)}\n{pad}", line_a, line_b, pad, f"{total} += {item}", variant)


def indent_in_function(r: Random, variant: Variant, pad: str) -> Fragment:
    item, items = pick(r, PLURALS)
    total = pick(r, NOUNS)
    line_a, line_b = f"for {item} in {items}:", f"{total} = {item} + {items}"
    start = f"def {pick(r, VERBS)}({items}):\n{pad}    "
    return _indented(start, line_a, line_b, pad + "    ", f"{pick(r, VERBS)}({item})", variant)


def counted_after_sum(r: Random, variant: Variant, pad: str) -> Fragment:
    item, items = pick(r, PLURALS)
    index, (total, other) = pick(r, INDICES), pick_distinct(r, NOUNS, 2)
    body = f"\n{pad}    {pick(r, VERBS)}({index})"
    if variant == "a":
        return Fragment(f"{total} = {other}\n{pad}for {index}, {item} in", " enumerate", f"({items}):{body}")
    return Fragment(f"{total} = {other} + {item}\n{pad}for {index} in", " range", f"({other}):{body}")


def counted_in_function(r: Random, variant: Variant, pad: str) -> Fragment:
    item, items = pick(r, PLURALS)
    index, other = pick(r, INDICES), pick(r, NOUNS)
    body = f"\n{pad}        print({index})"
    start = f"def {pick(r, VERBS)}({items}"
    if variant == "a":
        return Fragment(f"{start}):\n{pad}    for {index}, {item} in", " enumerate", f"({items}):{body}")
    return Fragment(f"{start}, {other}):\n{pad}    for {index} in", " range", f"({other}):{body}")


def counted_after_call(r: Random, variant: Variant, pad: str) -> Fragment:
    item, items = pick(r, PLURALS)
    index, (one, two) = pick(r, INDICES), pick_distinct(r, NOUNS, 2)
    body = f"\n{pad}    {one} += {index}"
    start = f"{pick(r, VERBS)}({one}"
    if variant == "a":
        return Fragment(f"{start})\n{pad}for {index}, {item} in", " enumerate", f"({items}):{body}")
    return Fragment(f"{start}, {two})\n{pad}for {index} in", " range", f"({two}):{body}")


def counted_plainly(r: Random, variant: Variant, pad: str) -> Fragment:
    item, items = pick(r, PLURALS)
    index, other = pick(r, INDICES), pick(r, NOUNS)
    body = f"\n{pad}    print({index})"
    if variant == "a":
        return Fragment(f"for {index}, {item} in", " enumerate", f"({items}):{body}")
    return Fragment(f"for {index} in", " range", f"({other}):{body}")


def _true(start: str, pad: str, body: str, after: str, variant: Variant) -> Fragment:
    if variant == "a":
        return Fragment(f"{start}while True", ":", f"\n{pad}    {body}\n{pad}{after}")
    return Fragment(f"{start}return True", "\n", f"{pad}{after}")


def true_at_once(r: Random, variant: Variant, pad: str) -> Fragment:
    name = pick(r, NOUNS)
    inner = pad + "    "
    return _true(f"def {pick(r, VERBS)}({name}):\n{inner}", inner, f"{pick(r, VERBS)}({name})", "pass", variant)


def true_after_assignment(r: Random, variant: Variant, pad: str) -> Fragment:
    name, other = pick_distinct(r, NOUNS, 2)
    inner = pad + "    "
    start = f"def {pick(r, VERBS)}({name}):\n{inner}{other} = {number(r)}\n{inner}"
    return _true(start, inner, f"{other} += {name}", f"print({other})", variant)


def true_in_branch(r: Random, variant: Variant, pad: str) -> Fragment:
    name = pick(r, NOUNS)
    inner = pad + "        "
    start = f"def {pick(r, VERBS)}({name}):\n{pad}    if {pick(r, FLAGS)}:\n{inner}"
    body = f"{pick(r, VERBS)}({name})"
    if variant == "a":
        return Fragment(f"{start}while True", ":", f"\n{inner}    {body}\n{pad}    return {name}")
    return Fragment(f"{start}return True", "\n", f"{pad}    return {name}")


IDIOMS = (
    Idiom(
        "for_while",
        "a loop variable is followed by in after for, by a colon after while",
        " in",
        ":",
        (plain_loop, loop_after_assignment, loop_in_loop),
    ),
    Idiom(
        "for_indent",
        "the line after a for line is indented one step deeper, the line after an assignment is not",
        "newline and a deeper indent",
        "newline and the same indent",
        (indent_of_call, indent_of_sum, indent_in_function),
    ),
    Idiom(
        "enumerate_range",
        "two loop variables call for enumerate, one index for range",
        " enumerate",
        " range",
        (counted_after_sum, counted_in_function, counted_after_call),
        (counted_plainly,),
    ),
    Idiom(
        "while_true",
        "True is followed by a colon after while, by a newline after return",
        ":",
        "newline",
        (true_at_once, true_after_assignment, true_in_branch),
    ),
)
