"""Standing edits on a page: the circuit's beside the same rule without a bridge, direction by direction."""

from collections.abc import Mapping
from typing import Any

from bridges.reports.blocks import Block, Heading, Line, Prose, Table
from bridges.reports.evidence_section import ARROWS
from bridges.reports.numbers import MISSING, estimate, figure, interval, setting, share, value_of

KINDS = {
    "circuit": "the circuit's channels",
    "coordinates": "as many dense coordinates",
    "class_mean": "direction of the class means",
}
"""Kind of standing edit → what it reads and writes."""


def standing_blocks(standing: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """A table of what they do, and one of how they are made."""
    if not standing:
        return []
    found = [(name, kind, one) for name, kinds in standing.items() for kind, one in kinds.items()]
    rows = [
        [
            ARROWS.get(name, name),
            KINDS.get(kind, kind),
            Line(share(one["flip_rate"]), _shares(one["flip_rate"])),
            Line(estimate(one["p_target"]), interval(one["p_target"])),
            share(one.get("other_class_kept")),
            Line(estimate(one["isolation"]["kl"]), interval(one["isolation"]["kl"])),
            figure(one.get("dense_site")),
            setting(one["strength"]),
        ]
        for name, kind, one in found
    ]
    told = (
        "A standing edit needs no second prompt and can be shared: where the stream looks like one class, it is moved to the "
        "other, at one site. It gates nothing; beside it is the same rule without a bridge."
    )
    columns = ("direction", "what it edits", "answers flipped", "P(target)", "other class kept", "KL on unrelated text",
               "dense site", "strength")  # fmt: skip
    return [
        Heading("As a standing edit"),
        Prose(told),
        Table.of(_caption(found), columns, rows, text_columns=2),
        _more(found),
    ]


def _caption(found: list[tuple[str, str, Mapping[str, Any]]]) -> str:
    positions = [value_of(one["isolation"].get("positions")) for _, _, one in found]
    unrelated = share(min(p for p in positions if p is not None)) if any(p is not None for p in positions) else MISSING
    return (
        "On held-out prompts, with 95 % intervals. Unrelated text: held-out positions where the task's answers together "
        f"have less than 1 % ({unrelated} of all); KL(original ‖ edited) in nats/token."
    )


def _more(found: list[tuple[str, str, Mapping[str, Any]]]) -> Table:
    rows = [
        [
            ARROWS.get(name, name),
            KINDS.get(kind, kind),
            figure(one.get("nodes")),
            share(one["isolation"].get("acts_on")),
            Line(estimate(one["isolation"].get("ce_change")), interval(one["isolation"].get("ce_change"))),
        ]
        for name, kind, one in found
    ]
    columns = ("direction", "what it edits", "channels, coordinates or directions", "unrelated tokens it acts on",
               "change of cross-entropy there, nats/token")  # fmt: skip
    return Table.of(
        "Size and side effects.", columns, rows, fold="Size and side effects of standing edits", text_columns=2
    )


def _shares(found: Any) -> str:
    return f"[{share(found['low'])}, {share(found['high'])}]" if isinstance(found, Mapping) else ""
