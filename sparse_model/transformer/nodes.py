"""Names of places in the sparse model (METHOD §1): one table, parsed both ways.

`{l}.attn.act_in`, `{l}.attn.q|k|v|y`, `{l}.attn.resid_delta`, `{l}.mlp.act_in`, `{l}.mlp.post_act`,
`{l}.mlp.resid_delta`, `{l}.resid_in`, `{l}.resid_mid`, `final_resid`. A *location* is such a name; a
*node* is one channel of a location that can be masked, written `location:channel`.
"""

import difflib
import re
from dataclasses import dataclass
from typing import Self

from foundation.errors import UserError
from sparse_model.transformer.sparse_config import SparseConfig

ATTENTION_PARTS = ("act_in", "q", "k", "v", "y", "resid_delta")
MLP_PARTS = ("act_in", "post_act", "resid_delta")
NODE_PARTS = {"attn": ("act_in", "q", "k", "v", "resid_delta"), "mlp": MLP_PARTS}
NODE_TEXT = re.compile(r"(0|[1-9][0-9]*)\.(\w+)\.(\w+):(0|[1-9][0-9]*)")  # one spelling per node


def locations(config: SparseConfig) -> dict[str, int]:
    """Every location a forward pass offers to a tap, in order, with its width in channels."""
    widths: dict[str, int] = {}
    for layer in range(config.n_layer):
        widths[f"{layer}.resid_in"] = config.d_model
        for part in ATTENTION_PARTS:
            widths[f"{layer}.attn.{part}"] = _width(config, "attn", part)
        widths[f"{layer}.resid_mid"] = config.d_model
        for part in MLP_PARTS:
            widths[f"{layer}.mlp.{part}"] = _width(config, "mlp", part)
    widths["final_resid"] = config.d_model
    return widths


def node_locations(config: SparseConfig) -> dict[str, int]:
    """The locations whose channels are circuit nodes, in forward order, with their widths."""
    return {
        f"{layer}.{block}.{part}": _width(config, block, part)
        for layer in range(config.n_layer)
        for block, parts in NODE_PARTS.items()
        for part in parts
    }


def _width(config: SparseConfig, block: str, part: str) -> int:
    if part == "act_in":
        return config.d_read
    if part == "resid_delta":
        return config.d_model
    return config.d_attn if block == "attn" else config.d_mlp


@dataclass(frozen=True, order=True)
class Node:
    """One channel of one location; `str(node)` is `location:channel` and `Node.parse` its inverse."""

    layer: int
    block: str
    part: str
    channel: int

    def __post_init__(self) -> None:
        if self.block not in NODE_PARTS or self.part not in NODE_PARTS[self.block]:
            valid = ", ".join(f"{block}.{part}" for block, parts in NODE_PARTS.items() for part in parts)
            raise UserError(f"'{self.block}.{self.part}' holds no nodes; nodes live in {valid}")
        if self.layer < 0 or self.channel < 0:
            raise UserError(f"node '{self}' has a negative layer or channel; both count from 0")

    @property
    def location(self) -> str:
        """Name of the location the channel belongs to."""
        return f"{self.layer}.{self.block}.{self.part}"

    @property
    def sublayer(self) -> int:
        """Index of the sublayer the node belongs to (attention of layer l is 2l, its MLP 2l + 1)."""
        return 2 * self.layer + (self.block == "mlp")

    def __str__(self) -> str:
        return f"{self.location}:{self.channel}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Inverse of `str`.

        Raises:
            UserError: the text is not `{layer}.{attn|mlp}.{part}:{channel}`.
        """
        found = NODE_TEXT.fullmatch(text)
        if found is None:
            raise UserError(f"'{text}' is not a node; write layer.block.part:channel, such as 0.attn.act_in:17")
        layer, block, part, channel = found.groups()
        return cls(int(layer), block, part, int(channel))

    def check(self, config: SparseConfig) -> Self:
        """Return self if the model has this node.

        Raises:
            UserError: the layer or channel is beyond the model.
        """
        widths = node_locations(config)
        if self.location not in widths:
            raise UserError(f"node '{self}': the model has layers 0 to {config.n_layer - 1}; choose one of them")
        if self.channel >= widths[self.location]:
            raise UserError(f"node '{self}': {self.location} has channels 0 to {widths[self.location] - 1}")
        return self


def check_location(config: SparseConfig, name: str) -> None:
    """Refuse a location the model does not have, naming the nearest valid one.

    Raises:
        UserError: unknown name.
    """
    valid = locations(config)
    if name not in valid:
        near = difflib.get_close_matches(name, valid, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"valid names: {', '.join(valid)}"
        raise UserError(f"unknown node location '{name}'; {hint}")
