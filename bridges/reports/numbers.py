"""Figures as text: three significant digits, intervals, shares. A missing or non-finite figure is a dash."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

MISSING = "–"
UNBROKEN = "\N{NO-BREAK SPACE}"


def figure(value: Any) -> str:
    """A number to three significant digits, without exponents where they can be avoided; counts stay whole."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return MISSING if value is None else str(value)
    if not math.isfinite(value):
        return MISSING
    if isinstance(value, int) or abs(value) >= 1000:
        return _signed(f"{value:,.0f}")
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        return _scientific(value)
    return _signed(f"{value:#.3g}".rstrip("."))


def estimate(found: Any) -> str:
    """The value of an estimate (`{value, low, high}`) or a plain number."""
    return figure(value_of(found))


def interval(found: Any) -> str:
    """`[low, high]`, empty for a plain number; it does not break across lines."""
    if not isinstance(found, Mapping) or "low" not in found:
        return ""
    return f"[{figure(found['low'])}, {figure(found['high'])}]".replace(" ", UNBROKEN)


def value_of(found: Any) -> Any:
    """The number in an estimate or the number itself; None where there is none."""
    return found.get("value") if isinstance(found, Mapping) else found


def share(value: Any) -> str:
    """A fraction as a percentage."""
    number = value_of(value)
    if not isinstance(number, int | float) or not math.isfinite(number):
        return MISSING
    return f"{100 * number:.3g}{UNBROKEN}%"


def setting(value: Any) -> str:
    """A value somebody chose: all its digits and no more."""
    return _signed(f"{value:g}") if isinstance(value, float) else figure(value)


def probability(p: Any, draws: int | None = None) -> str:
    """A p-value; where no random draw did as well, it is as small as the number of draws allows."""
    if not isinstance(p, int | float):
        return MISSING
    text = f"{p:.2g}"
    return f"{text} (the smallest {draws} draws can show)" if draws and p <= 1.0001 / (draws + 1) else text


def listing(values: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(values[:-1]), values[-1]]) if len(values) > 1 else "".join(values)


def _signed(text: str) -> str:
    return text.replace("-", "−")


def _scientific(value: float) -> str:
    mantissa, exponent = f"{value:.2e}".split("e")
    digits = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{_signed(mantissa)}{UNBROKEN}×{UNBROKEN}10{digits}"
