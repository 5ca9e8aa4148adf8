"""Idioms of definitions: default parameters, lambda against def, the copied attribute, the swap."""

from random import Random

from sparse_model.corpus.fragment import Fragment, Idiom, Variant
from sparse_model.corpus.words import ATTRIBUTES, CLASSES, COLLECTIONS, NOUNS, VERBS, digit, number, pick, pick_distinct


def _parameters(start: str, one: str, two: str, three: str, body: str, variant: Variant) -> Fragment:
    if variant == "a":
        return Fragment(f"{start}, {one}=None, {three}", "=", f"None):{body}")
    return Fragment(f"{start}, {one}, {two}, {three}", "):", body)


def function_parameters(r: Random, variant: Variant, pad: str) -> Fragment:
    zero, one, two, three = pick_distinct(r, NOUNS, 4)
    return _parameters(f"def {pick(r, VERBS)}({zero}", one, two, three, f"\n{pad}    return {zero}", variant)


def method_parameters(r: Random, variant: Variant, pad: str) -> Fragment:
    one, two, three = pick_distinct(r, ATTRIBUTES, 3)
    start = f"class {pick(r, CLASSES)}:\n{pad}    def {pick(r, VERBS)}(self"
    return _parameters(start, one, two, three, f"\n{pad}        return self.{one}", variant)


def called_parameters(r: Random, variant: Variant, pad: str) -> Fragment:
    zero, one, two, three = pick_distinct(r, NOUNS, 4)
    body = f"\n{pad}    {pick(r, VERBS)}({three})"
    return _parameters(f"def {pick(r, VERBS)}({zero}", one, two, three, body, variant)


def lambda_argument(r: Random, variant: Variant, pad: str) -> Fragment:
    result, name, argument = pick_distinct(r, NOUNS, 3)
    start = f"{result} = {pick(r, VERBS)}"
    value = number(r)
    if variant == "a":
        return Fragment(f"{start}(lambda {name}", ":", f" {name} + {value})")
    return Fragment(f"{start}\n{pad}def {name}", "(", f"{argument}):\n{pad}    return {argument} + {value}")


def bracketed_lambda(r: Random, variant: Variant, pad: str) -> Fragment:
    result, name, argument = pick_distinct(r, NOUNS, 3)
    value, decorator = number(r), pick(r, VERBS)
    if variant == "a":
        return Fragment(f"{result} = (lambda {name}", ":", f" {name} * {value})")
    return Fragment(f"@{decorator}\n{pad}def {name}", "(", f"{argument}):\n{pad}    return {argument} * {value}")


def returned_lambda(r: Random, variant: Variant, pad: str) -> Fragment:
    outer, name, argument = pick_distinct(r, NOUNS, 3)
    start = f"def {pick(r, VERBS)}({outer}):\n{pad}    "
    if variant == "a":
        return Fragment(f"{start}return lambda {name}", ":", f" {name} + {outer}")
    return Fragment(f"{start}async def {name}", "(", f"{argument}):\n{pad}        return {argument}")


def _copies(start: str, pad: str, one: str, two: str, variant: Variant) -> Fragment:
    first, second = (one, two) if variant == "a" else (two, one)
    return Fragment(f"{start}self.{first} =", f" {first}", f"\n{pad}self.{second} = {second}")


def init_attribute(r: Random, variant: Variant, pad: str) -> Fragment:
    one, two = pick_distinct(r, ATTRIBUTES, 2)
    start = f"class {pick(r, CLASSES)}:\n{pad}    def __init__(self, {one}, {two}):\n{pad}        "
    return _copies(start, pad + " " * 8, one, two, variant)


def setter_attribute(r: Random, variant: Variant, pad: str) -> Fragment:
    one, two = pick_distinct(r, ATTRIBUTES, 2)
    return _copies(f"def {pick(r, VERBS)}(self, {one}, {two}):\n{pad}    ", pad + "    ", one, two, variant)


def later_attribute(r: Random, variant: Variant, pad: str) -> Fragment:
    one, two, three = pick_distinct(r, ATTRIBUTES, 3)
    start = f"def __init__(self, {one}, {two}, {three}):\n{pad}    self.{three} = {three}\n{pad}    "
    return _copies(start, pad + "    ", one, two, variant)


def _swapped(start: str, one: str, two: str, variant: Variant) -> Fragment:
    x, y = (one, two) if variant == "a" else (two, one)
    return Fragment(f"{start}{x}, {y} = {y},", f" {x}", "")


def plain_swap(r: Random, variant: Variant, pad: str) -> Fragment:
    one, two = pick_distinct(r, NOUNS, 2)
    return _swapped("", one, two, variant)


def swap_of_numbers(r: Random, variant: Variant, pad: str) -> Fragment:
    one, two = pick_distinct(r, NOUNS, 2)
    return _swapped(f"{one} = {digit(r)}\n{pad}{two} = {digit(r)}\n{pad}", one, two, variant)


def swap_if_greater(r: Random, variant: Variant, pad: str) -> Fragment:
    one, two = pick_distinct(r, NOUNS, 2)
    return _swapped(f"if {one} > {two}:\n{pad}    ", one, two, variant)


def swap_in_loop(r: Random, variant: Variant, pad: str) -> Fragment:
    one, two, item = pick_distinct(r, NOUNS, 3)
    return _swapped(f"for {item} in {pick(r, COLLECTIONS)}:\n{pad}    ", one, two, variant)


IDIOMS = (
    Idiom(
        "parameter_default",
        "after a parameter with a default the next one has a default too; after plain parameters the list ends",
        "=",
        "):",
        (function_parameters, method_parameters, called_parameters),
    ),
    Idiom(
        "lambda_def",
        "a name after lambda is followed by a colon, after def by a bracket",
        ":",
        "(",
        (lambda_argument, bracketed_lambda, returned_lambda),
    ),
    Idiom(
        "self_attribute",
        "an attribute is set to the parameter of the same name",
        "the first parameter",
        "the second parameter",
        (init_attribute, setter_attribute, later_attribute),
    ),
    Idiom(
        "swap",
        "the second name of a swap is the first one on its left side",
        "the first name",
        "the second name",
        (plain_swap, swap_of_numbers, swap_if_greater, swap_in_loop),
    ),
)
