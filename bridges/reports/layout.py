"""Where the nodes of a circuit are drawn: layers from bottom to top, crossings few.

rows        one per sublayer and stage: reads, what is computed inside (q, k, v or neurons), writes
order       barycentre sweeps: every node towards the mean position of its neighbours in other rows
positions   as near to that mean as the smallest allowed distance permits (isotonic regression)
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

STAGES = {"act_in": 0, "q": 1, "k": 1, "v": 1, "post_act": 1, "resid_delta": 2}
"""Place of a node's part within its sublayer."""
GROUPS = {"q": 0, "k": 1, "v": 2}
"""Queries, keys and values stay together within their row."""
SWEEPS = 12


@dataclass(frozen=True)
class Row:
    """Nodes of one stage of one sublayer, at height y, in order of x."""

    y: float
    layer: int
    block: str
    stage: int
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Positions: x from 0 to width (units of the smallest distance between neighbours), y upwards from 0."""

    rows: tuple[Row, ...]
    places: dict[str, tuple[float, float]]
    width: float
    height: float


def lay_out(nodes: Sequence[Mapping[str, Any]], links: Sequence[tuple[str, str]], least_width: float = 16.0) -> Layout:
    """Place nodes (with `address`, `layer`, `block`, `sublayer`, `part`, `channel`) that `links` join."""
    by_row: dict[tuple[int, int], list[Mapping[str, Any]]] = defaultdict(list)
    for node in nodes:
        by_row[node["sublayer"], STAGES[node["part"]]].append(node)
    width = max([least_width, *(len(row) - 1.0 for row in by_row.values())])
    group = {node["address"]: GROUPS.get(node["part"], 0) for node in nodes}
    neighbours: dict[str, list[str]] = defaultdict(list)
    for source, target in links:
        neighbours[source].append(target)
        neighbours[target].append(source)
    order = {key: [node["address"] for node in sorted(row, key=_at_first)] for key, row in sorted(by_row.items())}
    x: dict[str, float] = {}
    for row in order.values():
        x |= dict(zip(row, _spread([width / 2] * len(row), width), strict=True))
    for sweep in range(SWEEPS):
        for key in sorted(order, reverse=bool(sweep % 2)):
            wanted = {a: float(np.mean([x[n] for n in neighbours[a]])) if neighbours[a] else x[a] for a in order[key]}
            order[key].sort(key=lambda a: (group[a], wanted[a]))
            x |= dict(zip(order[key], _spread([wanted[a] for a in order[key]], width), strict=True))
    return _with_heights(order, by_row, x, width)


def _at_first(node: Mapping[str, Any]) -> tuple[int, int]:
    return GROUPS.get(node["part"], 0), node["channel"]


def _spread(wanted: Sequence[float], width: float) -> list[float]:
    """Nearest positions (least squares) to the wanted ones that keep their order, a distance of 1, and [0, width]."""
    steps = np.arange(len(wanted), dtype=float)
    shifted = np.asarray(isotonic_regression(np.asarray(wanted, dtype=float) - steps).x)
    return [float(value) for value in np.clip(shifted, 0, width - steps[-1]) + steps]


def _with_heights(
    order: Mapping[tuple[int, int], Sequence[str]],
    by_row: Mapping[tuple[int, int], Sequence[Mapping[str, Any]]],
    x: Mapping[str, float],
    width: float,
) -> Layout:
    left, right = min(x.values(), default=0.0), max(x.values(), default=width)
    rows, places = [], {}
    y, previous = 0.0, None
    for key, addresses in order.items():
        if previous is not None:
            y += 1.0 if previous[0] == key[0] else 1.45
        previous = key
        first = by_row[key][0]
        rows.append(Row(y, first["layer"], first["block"], key[1], tuple(addresses)))
        places.update({address: (x[address] - left, y) for address in addresses})
    return Layout(tuple(rows), places, right - left, y)
