"""Idioms of conditions: else and elif, the ternary, comparison against assignment."""

from random import Random

from sparse_model.corpus.fragment import Fragment, Idiom, Variant
from sparse_model.corpus.words import FLAGS, NOUNS, VERBS, digit, number, pick, pick_distinct


def _else_or_elif(before: str, name: str, test: str, body: str, pad: str, variant: Variant) -> Fragment:
    if variant == "a":
        return Fragment(f"{before}\n{pad}else", ":", f"\n{pad}    {body}")
    return Fragment(f"{before}\n{pad}elif", f" {name}", f" {test}:\n{pad}    {body}")


def else_after_equal(r: Random, variant: Variant, pad: str) -> Fragment:
    name, other = pick_distinct(r, NOUNS, 2)
    before = f"if {name} == {digit(r)}:\n{pad}    {other} = {number(r)}"
    return _else_or_elif(before, name, f"== {digit(r)}", f"{other} = {number(r)}", pad, variant)


def else_after_greater(r: Random, variant: Variant, pad: str) -> Fragment:
    name, other = pick_distinct(r, NOUNS, 2)
    before = f"if {name} > {number(r)}:\n{pad}    {pick(r, VERBS)}({other})"
    return _else_or_elif(before, name, f"< {number(r)}", f"{pick(r, VERBS)}({other})", pad, variant)


def else_after_print(r: Random, variant: Variant, pad: str) -> Fragment:
    name, limit = pick_distinct(r, NOUNS, 2)
    before = f"if {name} < {limit}:\n{pad}    print({name})"
    return _else_or_elif(before, name, f"== {limit}", f"print({limit})", pad, variant)


def _ternary(value: str, name: str, flag: str, other: str, pad: str, variant: Variant) -> Fragment:
    """`not` fills the place of the newline, so that both prompts have the same number of tokens."""
    if variant == "a":
        return Fragment(f"{name} = {value}\n{pad}if {flag}", ":", f"\n{pad}    {name} = {other}")
    return Fragment(f"{name} = not {value} if {flag}", " else", f" {other}")


def ternary_of_name(r: Random, variant: Variant, pad: str) -> Fragment:
    name, value, other = pick_distinct(r, NOUNS, 3)
    return _ternary(value, name, pick(r, FLAGS), other, pad, variant)


def ternary_of_call(r: Random, variant: Variant, pad: str) -> Fragment:
    name, value, other = pick_distinct(r, NOUNS, 3)
    return _ternary(f"{pick(r, VERBS)}({value})", name, pick(r, FLAGS), other, pad, variant)


def ternary_on_name(r: Random, variant: Variant, pad: str) -> Fragment:
    name, value, other, flag = pick_distinct(r, NOUNS, 4)
    return _ternary(value, name, flag, other, pad, variant)


def ternary_of_number(r: Random, variant: Variant, pad: str) -> Fragment:
    name, other = pick_distinct(r, NOUNS, 2)
    flag, value = pick(r, FLAGS), number(r)
    if variant == "a":
        return Fragment(f"if {flag}", ":", f"\n{pad}    {name} = {other}")
    return Fragment(f"{name} = {value} if {flag}", " else", f" {other}")


def _equal(value: str, other: str, name: str, number_: str, body: str, pad: str, variant: Variant) -> Fragment:
    if variant == "a":
        return Fragment(f"{other} = {value}\n{pad}if {name}", " ==", f" {number_}:\n{pad}    {body}")
    return Fragment(f"{other} = not {value}\n{pad}{name}", " =", f" {number_}\n{pad}{body}")


def equal_after_name(r: Random, variant: Variant, pad: str) -> Fragment:
    name, value, other = pick_distinct(r, NOUNS, 3)
    return _equal(value, other, name, number(r), f"print({name})", pad, variant)


def equal_after_call(r: Random, variant: Variant, pad: str) -> Fragment:
    name, value, other = pick_distinct(r, NOUNS, 3)
    return _equal(f"{pick(r, VERBS)}({value})", other, name, number(r), f"{pick(r, VERBS)}({name})", pad, variant)


def equal_to_name(r: Random, variant: Variant, pad: str) -> Fragment:
    name, value, other, limit = pick_distinct(r, NOUNS, 4)
    return _equal(value, other, name, limit, f"print({other})", pad, variant)


def equal_plainly(r: Random, variant: Variant, pad: str) -> Fragment:
    name, value = pick(r, NOUNS), number(r)
    if variant == "a":
        return Fragment(f"if {name}", " ==", f" {value}:\n{pad}    print({name})")
    return Fragment(name, " =", f" {value}\n{pad}print({name})")


def chained_true(r: Random, variant: Variant, pad: str) -> Fragment:
    flag, name, verb = pick(r, FLAGS), pick(r, NOUNS), pick(r, VERBS)
    if variant == "a":
        return Fragment(f"if not {flag} == True", ":", f"\n{pad}    {verb}({name})")
    return Fragment(f"{name} = {flag} = True", "\n", f"{pad}{verb}({name})")


def true_after_name(r: Random, variant: Variant, pad: str) -> Fragment:
    flag, (name, value) = pick(r, FLAGS), pick_distinct(r, NOUNS, 2)
    if variant == "a":
        return Fragment(f"{name} = {value}\n{pad}if {flag} == True", ":", f"\n{pad}    print({name})")
    return Fragment(f"{name} = not {value}\n{pad}{flag} = True", "\n", f"{pad}print({name})")


def true_of_noun(r: Random, variant: Variant, pad: str) -> Fragment:
    flag, (name, value) = pick(r, FLAGS), pick_distinct(r, NOUNS, 2)
    if variant == "a":
        return Fragment(f"while not {name} == True", ":", f"\n{pad}    {flag} = {value}")
    return Fragment(f"{flag} = {name} = True", "\n", f"{pad}{pick(r, VERBS)}({flag})")


IDIOMS = (
    Idiom(
        "else_elif",
        "else is followed by a colon, elif by the name the if tested",
        ":",
        "the tested name",
        (else_after_equal, else_after_greater, else_after_print),
    ),
    Idiom(
        "ternary_if",
        "the condition of an if line ends with a colon, that of a ternary is followed by else",
        ":",
        " else",
        (ternary_of_name, ternary_of_call, ternary_on_name),
        (ternary_of_number,),
    ),
    Idiom(
        "equality",
        "a name is compared after if and assigned at the start of a line",
        " ==",
        " =",
        (equal_after_name, equal_after_call, equal_to_name),
        (equal_plainly,),
    ),
    Idiom(
        "compare_true",
        "True is followed by a colon where it is compared and by a newline where it is assigned",
        ":",
        "newline",
        (chained_true, true_after_name, true_of_noun),
    ),
)
