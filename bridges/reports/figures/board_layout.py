"""Where the nodes of a circuit stand on the board: sublayers from bottom to top, tokens of the example from left to right.

rows      one per sublayer and stage: reads, what is computed inside (q, k, v or neurons), writes
columns   one per token of the example prompt; a node stands at the token where it does most of its work
cells     the nodes of one row and column, in as many lines as keep the column narrow, ordered by barycentre sweeps so that
          lines cross little
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np

from bridges.reports.layout import GROUPS, STAGES

SWEEPS = 10
WIDEST = 7
"""Nodes side by side in one cell before it takes a second line, unless it would be taller than wide."""
BARE = 0.62
"""Width of a column without nodes, in distances between nodes."""
GAP = 0.9
LINE = 0.72
"""Height of a line of nodes within a cell."""
STAGE_RISE, SUBLAYER_RISE = 1.0, 1.35


@dataclass(frozen=True)
class Band:
    """One row: its lowest and highest line of nodes."""

    sublayer: int
    layer: int
    block: str
    stage: int
    low: float
    high: float


@dataclass(frozen=True)
class Board:
    """Positions in distances between nodes, y upwards from the lowest row."""

    places: dict[str, tuple[float, float]]
    columns: tuple[tuple[float, float], ...]
    """left and right edge of every token's column"""
    bands: tuple[Band, ...]
    width: float
    height: float

    def middle(self, token: int) -> float:
        """x of a token's column."""
        left, right = self.columns[token]
        return (left + right) / 2


def lay_out_board(nodes: Sequence[Mapping[str, Any]], links: Sequence[tuple[str, str]], tokens: int) -> Board:
    """Place nodes (with `address`, `token`, `sublayer`, `layer`, `block`, `part`, `channel`) that `links` join."""
    graph = nx.Graph()
    graph.add_nodes_from(node["address"] for node in nodes)
    graph.add_edges_from(links)
    cells: dict[tuple[int, int, int], list[Mapping[str, Any]]] = defaultdict(list)
    for node in sorted(nodes, key=lambda node: (GROUPS.get(node["part"], 0), node["channel"])):
        cells[node["sublayer"], STAGES[node["part"]], node["token"]].append(node)
    across = {key: _across(len(cell)) for key, cell in cells.items()}
    columns = _columns(across, tokens)
    bands, lines = _bands(cells, across)
    order = {key: [node["address"] for node in cell] for key, cell in cells.items()}
    x = {address: place[0] for key in order for address, place in _in_cell(order, key, across, columns, lines).items()}
    for sweep in range(SWEEPS):
        for key in sorted(order, reverse=bool(sweep % 2)):
            wanted = {a: np.mean([x[n] for n in graph[a]]) if graph[a] else x[a] for a in order[key]}
            order[key].sort(key=lambda address: wanted[address])
            x |= {address: place[0] for address, place in _in_cell(order, key, across, columns, lines).items()}
    places = {
        address: place for key in order for address, place in _in_cell(order, key, across, columns, lines).items()
    }
    return Board(places, tuple(columns), tuple(bands), columns[-1][1], bands[-1].high if bands else 0.0)


def _across(count: int) -> int:
    """Nodes side by side in a cell of `count`."""
    return min(count, max(WIDEST, math.ceil(math.sqrt(count * 1.6))))


def _columns(across: Mapping[tuple[int, int, int], int], tokens: int) -> list[tuple[float, float]]:
    left, found = 0.0, []
    for token in range(tokens):
        widest = max((n for (_, _, at), n in across.items() if at == token), default=0)
        right = left + (widest + GAP if widest else BARE)
        found.append((left, right))
        left = right
    return found


def _bands(
    cells: Mapping[tuple[int, int, int], Sequence[Mapping[str, Any]]], across: Mapping[tuple[int, int, int], int]
) -> tuple[list[Band], dict[tuple[int, int], float]]:
    """The rows, and by row the height of its lowest line."""
    bands: list[Band] = []
    lines: dict[tuple[int, int], float] = {}
    for row in sorted({key[:2] for key in cells}):
        mine = [key for key in cells if key[:2] == row]
        rise = STAGE_RISE if bands and bands[-1].sublayer == row[0] else SUBLAYER_RISE
        low = bands[-1].high + rise if bands else 0.0
        tall = max(math.ceil(len(cells[key]) / across[key]) for key in mine)
        first = cells[mine[0]][0]
        bands.append(Band(row[0], first["layer"], first["block"], row[1], low, low + (tall - 1) * LINE))
        lines[row] = low
    return bands, lines


def _in_cell(
    order: Mapping[tuple[int, int, int], Sequence[str]],
    key: tuple[int, int, int],
    across: Mapping[tuple[int, int, int], int],
    columns: Sequence[tuple[float, float]],
    lines: Mapping[tuple[int, int], float],
) -> dict[str, tuple[float, float]]:
    """Places of one cell's nodes: filled from left to right, every stack of lines from bottom to top, centred."""
    addresses, wide = order[key], across[key]
    tall = math.ceil(len(addresses) / wide)
    used = math.ceil(len(addresses) / tall)
    left, right = columns[key[2]]
    start = (left + right) / 2 - (used - 1) / 2
    places = {}
    for number, address in enumerate(addresses):
        column, line = divmod(number, tall)
        slant = 0.0 if tall == 1 else (line % 2 - 0.5) * 0.34  # neighbours' labels in different lines do not touch
        places[address] = (start + column + slant, lines[key[:2]] + line * LINE)
    return places
