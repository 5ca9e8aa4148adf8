"""The steps of a compiled circuit: what a sublayer reads, computes and writes, on the kept nodes alone.

A `Stream` holds the channels the circuit writes; every other channel is the frozen stream's. `Read` norms and selects,
`Attention` and `Mlp` run their folded maps, `Write` adds to the stream. `Compiled` strings them together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparse_model.circuits.folded import FoldedLinear
from sparse_model.circuits.frozen import FrozenStream
from sparse_model.circuits.selection import prefers_fewer
from sparse_model.transformer.model import SparseTransformer


@runtime_checkable
class NodeTap(Protocol):
    """Called with the kept channels of a location at some prefixes (rows of `Prefixes`); returns what to go on with."""

    def __call__(
        self, location: str, channels: Int[Tensor, " C"], rows: Int[Tensor, " R"], x: Float[Tensor, "R C"], /
    ) -> Float[Tensor, "R C"]: ...


@dataclass(frozen=True, eq=False)
class Stream:
    """The channels the circuit writes at some prefixes."""

    rows: Int[Tensor, " R"]
    """the prefixes"""
    written: Float[Tensor, "R w"]
    place: Int[Tensor, " P"] | None
    """which row stands for each prefix; None where not all are there"""


@dataclass(frozen=True, eq=False)
class Run:
    """What one execution looks things up in."""

    frozen: FrozenStream
    written: Int[Tensor, " w"]
    tap: NodeTap | None
    scales: Float[Tensor, "sites P"] | None

    def seen(self, location: str, channels: Tensor, rows: Tensor, x: Tensor) -> Tensor:
        """x, after the tap."""
        return x if self.tap is None or not len(channels) else self.tap(location, channels, rows, x)

    def frozen_written(self, i: int, rows: Tensor) -> Tensor:
        """What the written channels would be before sublayer i, were every node frozen."""
        cell = self.frozen.prefixes.cell[rows]
        return self.frozen.embedding[:, self.written][cell] + self.frozen.constants[i][self.written]

    def scale(self, i: int, stream: Stream) -> Tensor:
        """1/RMS of the stream before sublayer i."""
        if self.scales is not None:
            return self.scales[i, stream.rows]
        square = self.frozen.square_sums(i)[self.frozen.prefixes.cell[stream.rows]]
        if i and len(self.written):
            square = square + stream.written.double().square().sum(1)
            square = square - self.frozen_written(i, stream.rows).double().square().sum(1)
        eps = self.frozen.model.norm(i).eps
        eps = torch.finfo(stream.written.dtype).eps if eps is None else eps
        return (square / self.frozen.embedding.shape[1] + eps).rsqrt().to(stream.written.dtype)


class Read:
    """The kept channels of what sublayer i reads: normed, selected by AbsTopK.

    `written` are the circuit's written channels, `changed` the places among them that sublayers before i wrote.
    """

    def __init__(self, model: SparseTransformer, i: int, kept: Tensor, written: Tensor, changed: Tensor) -> None:
        self.i, self.location = i, f"{i // 2}.{'mlp' if i % 2 else 'attn'}.act_in"
        self.channels = kept.nonzero().flatten()
        self.gain = model.norm_gain(i).detach()
        self.k = model.config.topk("mlp_in" if i % 2 else "attn_in", len(kept))
        self.written, self.changed = written, changed
        self.from_circuit = torch.isin(self.channels, written)
        self.place = torch.searchsorted(written, self.channels[self.from_circuit])

    def __call__(self, run: Run, stream: Stream) -> Float[Tensor, "R C"]:
        frozen, i, channels = run.frozen, self.i, self.channels
        cell = frozen.prefixes.cell[stream.rows]
        if not len(channels):
            return stream.written.new_zeros(len(cell), 0)
        h = frozen.embedding[:, channels][cell] + frozen.constants[i][channels]
        h[:, self.from_circuit] = stream.written[:, self.place]
        gained = h * self.gain[channels]
        x = gained * run.scale(i, stream)[:, None]
        if self.k is not None:
            x = torch.where(self._kept(run, stream, gained.abs()), x, 0.0)
        return run.seen(self.location, channels, stream.rows, x)

    def _kept(self, run: Run, stream: Stream, magnitude: Tensor) -> Bool[Tensor, "R C"]:
        """Whether AbsTopK keeps each channel of the stream.

        The circuit has changed w channels. What is larger than the (k − w)-th of the frozen stream is kept whatever they
        are, what is smaller than the (k + w)-th is not; the few between are compared with all channels.
        """
        frozen, k, width = run.frozen, self.k or 0, run.frozen.embedding.shape[1]
        falling, cell = frozen.falling(self.i), frozen.prefixes.cell[stream.rows]
        changed = len(self.changed)
        surely = magnitude > falling[cell, k - changed - 1][:, None] if changed < k else torch.zeros_like(magnitude) > 0
        possibly = magnitude >= falling[cell, k + changed - 1][:, None] if k + changed <= width else ~surely
        row, place = (possibly & ~surely).nonzero(as_tuple=True)
        if len(row):
            h = frozen.embedding[cell[row]] + frozen.constants[self.i]
            h[:, self.written[self.changed]] = stream.written[row][:, self.changed]
            surely[row, place] = prefers_fewer((h * self.gain).abs(), self.channels[place], k)
        return surely


class Write:
    """Adds a sublayer's output to the written channels: kept ones computed, the others at their frozen value."""

    def __init__(self, location: str, kept: Tensor, values: Tensor, written: Tensor) -> None:
        self.location, self.channels = location, kept.nonzero().flatten()
        self.place = torch.searchsorted(written, self.channels)
        self.constant = torch.where(kept[written], 0.0, values[written])

    def __call__(self, run: Run, stream: Stream, delta: Tensor) -> Stream:
        delta = run.seen(self.location, self.channels, stream.rows, delta)
        return Stream(stream.rows, (stream.written + self.constant).index_add(1, self.place, delta), stream.place)


class Attention:
    """One attention sublayer: only heads with kept values, scores over their kept keys.

    In a score, channels whose key is frozen add the same at every key, which the softmax ignores.
    """

    def __init__(
        self, model: SparseTransformer, layer: int, keep: Mapping[str, Tensor], values: Mapping[str, Tensor],
        written: Tensor, changed: Tensor,
    ) -> None:  # fmt: skip
        config, block, self.prefix = model.config, model.blocks[layer].attn, f"{layer}.attn"
        delta = keep[f"{self.prefix}.resid_delta"]
        v = keep[f"{self.prefix}.v"] & delta.any()
        heads = v.view(config.n_head, -1).any(1).repeat_interleave(config.d_head)
        k = keep[f"{self.prefix}.k"] & heads
        q = keep[f"{self.prefix}.q"] & k
        self.read = Read(model, 2 * layer, keep[f"{self.prefix}.act_in"], written, changed)
        self.maps = {
            part: FoldedLinear(
                block.c_attn.weight[rows], None if block.c_attn.bias is None else block.c_attn.bias[rows],
                keep[f"{self.prefix}.act_in"], values[f"{self.prefix}.act_in"], needed,
                config.topk(f"attn_{part}", config.d_attn),
            )
            for part, needed, rows in zip("qkv", (q, k, v), torch.arange(3 * config.d_attn).split(config.d_attn), strict=True)
        }  # fmt: skip
        self.out = FoldedLinear(
            block.c_proj.weight, block.c_proj.bias, v, values[f"{self.prefix}.v"], delta,
            config.topk("attn_out", config.d_model),
        )  # fmt: skip
        self.write = Write(f"{self.prefix}.resid_delta", delta, values[f"{self.prefix}.resid_delta"], written)
        self.frozen_queries = values[f"{self.prefix}.q"][k]
        self.query_places = torch.searchsorted(k.nonzero().flatten(), q.nonzero().flatten())
        head_of = torch.arange(config.d_attn, device=v.device) // config.d_head
        self.heads = [
            ((head_of[k] == head).nonzero().flatten().tolist(), (head_of[v] == head).nonzero().flatten().tolist())
            for head in head_of[v].unique().tolist()
        ]
        self.scale = config.d_head**-0.5

    def __call__(self, run: Run, stream: Stream, queries: Int[Tensor, " Q"]) -> Stream:
        """The stream at the prefixes `queries` after this sublayer."""
        assert stream.place is not None
        at = stream.place[queries]
        x = self.read(run, stream)
        k, v = self._part(run, "k", stream.rows, x), self._part(run, "v", stream.rows, x)
        fewer = len(queries) < len(x)
        q = self._part(run, "q", queries, x[at]) if fewer else self._part(run, "q", stream.rows, x)[at]
        full_q = self.frozen_queries.repeat(len(queries), 1)
        full_q[:, self.query_places] = q
        prefixes = run.frozen.prefixes
        place = torch.arange(len(queries), device=queries.device) if len(queries) == len(prefixes) else None
        after = Stream(queries, stream.written[at], place)
        return self.write(run, after, self.out(self._mix(run, full_q * self.scale, k, v, queries, stream.place)))

    def _part(self, run: Run, part: str, rows: Tensor, x: Tensor) -> Tensor:
        made = self.maps[part]
        return run.seen(f"{self.prefix}.{part}", made.channels, rows, made(x))

    def _mix(self, run: Run, q: Tensor, k: Tensor, v: Tensor, queries: Tensor, place: Tensor) -> Float[Tensor, "Q v"]:
        """Values mixed by attention; one head, one channel at a time (there are few), over ancestors [Q, T]."""
        prefixes = run.frozen.prefixes
        y = v.new_zeros(len(queries), v.shape[1])
        if not self.heads:
            return y
        ancestors = place[prefixes.ancestors[queries]]
        beyond = torch.arange(ancestors.shape[1], device=q.device) > prefixes.position[queries][:, None]
        for keys, channels in self.heads:
            scores = torch.zeros(ancestors.shape, dtype=q.dtype, device=q.device)
            for c in keys:
                scores.addcmul_(q[:, c : c + 1], k[:, c].contiguous()[ancestors])
            weights = scores.masked_fill_(beyond, float("-inf")).softmax(1)
            for c in channels:
                y[:, c] = (weights * v[:, c].contiguous()[ancestors]).sum(1)
        return y


class Mlp:
    """One MLP sublayer."""

    def __init__(
        self, model: SparseTransformer, layer: int, keep: Mapping[str, Tensor], values: Mapping[str, Tensor],
        written: Tensor, changed: Tensor,
    ) -> None:  # fmt: skip
        config, block, self.prefix = model.config, model.blocks[layer].mlp, f"{layer}.mlp"
        delta = keep[f"{self.prefix}.resid_delta"]
        hidden = keep[f"{self.prefix}.post_act"] & delta.any()
        self.read = Read(model, 2 * layer + 1, keep[f"{self.prefix}.act_in"], written, changed)
        activation: Callable[[Tensor], Tensor] = F.gelu if config.activation == "gelu" else F.relu
        self.hidden = FoldedLinear(
            block.c_fc.weight, block.c_fc.bias, keep[f"{self.prefix}.act_in"], values[f"{self.prefix}.act_in"], hidden,
            config.topk("mlp_neuron", config.d_mlp), activation,
        )  # fmt: skip
        self.out = FoldedLinear(
            block.c_proj.weight, block.c_proj.bias, hidden, values[f"{self.prefix}.post_act"], delta,
            config.topk("mlp_out", config.d_model),
        )  # fmt: skip
        self.write = Write(f"{self.prefix}.resid_delta", delta, values[f"{self.prefix}.resid_delta"], written)

    def __call__(self, run: Run, stream: Stream) -> Stream:
        """The stream after this sublayer."""
        hidden = run.seen(
            f"{self.prefix}.post_act", self.hidden.channels, stream.rows, self.hidden(self.read(run, stream))
        )
        return self.write(run, stream, self.out(hidden))
