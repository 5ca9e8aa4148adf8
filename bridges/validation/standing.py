"""Choosing and judging standing edits (METHOD §5, §6): the same rule on the circuit's nodes and on what needs no bridge.

Per direction a `move` rule is fitted at every inner place, for three kinds of readout: the circuit's stream channels through
the bridge, as many dense coordinates, and the direction of the class means' difference. Place and strength (at most 1) are
chosen on validation prompts and a third of the reference text, reported on held-out prompts and another third; the corpus
means come from the last third. The embedding and the final stream are no places for it. Standing edits gate nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bridges.bridge import Bridge
from bridges.edits.fit import contrast_tokens, fit_move, stream_channels
from bridges.edits.readout import Readout, channels_of, coordinates_of, direction_of
from bridges.edits.standing import StandingEdit, StandingSite, walk_edited
from bridges.validation.contrast import Contrast, Streams
from bridges.validation.effects import Shares
from bridges.validation.isolation import ReferenceText
from dense_adapters import DenseStack, LeftOut
from foundation.errors import UserError
from sparse_model.circuits.circuit import Circuit
from sparse_model.tasks.splits import Splits
from sparse_model.transformer.model import SparseTransformer

STRENGTHS = (0.5, 0.75, 1.0)
ENOUGH_FLIPS = 0.95
"""Flip rate above which a smaller disturbance is preferred to more flips."""
KINDS = ("circuit", "coordinates", "class_mean")
DIRECTIONS = ("a_to_b", "b_to_a")


@dataclass(frozen=True)
class Prompts:
    """The dense model on one split of pairs, and its streams at the inner places' sites."""

    contrast: Contrast
    streams: Streams


class StandingChoice:
    """Fits, chooses and judges the standing edits of one circuit."""

    @torch.no_grad()
    def __init__(
        self,
        circuit: Circuit,
        bridge: Bridge,
        sparse: SparseTransformer,
        dense: DenseStack,
        splits: Splits,
        text: ReferenceText,
        seed: int = 0,
        left_out: LeftOut = LeftOut(),
    ) -> None:
        """left_out: positions that the edits never touch, left out of class and corpus means too."""
        self.circuit, self.bridge, self.dense, self.seed = circuit, bridge, dense, seed
        self.left_out = left_out
        self.fit_text, self.choose_text, self.report_text = (text.part(number, 3) for number in range(3))
        channels = stream_channels(circuit, sparse)
        sites = list(enumerate(bridge.alignment.sites))
        ends = (len(sparse.sublayers), len(dense.sublayers))
        self.places = {
            place: channels[site.sparse]
            for place, site in sites
            if site.sparse in channels and 0 < site.sparse < ends[0] and 0 < site.dense < ends[1]
        }
        """inner place → the circuit's stream channels there"""
        wanted = [bridge.alignment.sites[place].dense for place in self.places]

        def prompts(pairs: Any) -> Prompts:
            contrast = Contrast.of(pairs)
            return Prompts(contrast, Streams(dense, contrast, wanted))

        self.train, self.validation, self.held_out = (
            prompts(pairs) for pairs in (splits.train, splits.validation, splits.held_out)
        )

        train = self.train.contrast
        self._sparse = Streams(sparse, train, [bridge.alignment.sites[place].sparse for place in self.places])

    def choose(self, kind: str, direction: str) -> StandingEdit:
        """The best edit of one kind and direction by validation.

        Raises:
            UserError: the circuit has no stream channel at an inner place.
        """
        if not self.places:
            raise UserError(
                f"the circuit for '{self.circuit.task}' has no stream channel at an aligned site between the embedding and the "
                "final stream; prune it again or align more sites"
            )
        answers = _answers_of(self.validation.contrast)
        tried: list[tuple[float, StandingEdit]] = []
        for place in self.places:
            edit = self._fitted(kind, place, direction)
            if edit is None:
                continue
            for strength in STRENGTHS:
                candidate = replace(edit, strength=strength)
                flips = min(self._flips(candidate, split, direction) for split in (self.validation, self.train))
                tried.append((flips, candidate))
        if not tried:
            raise UserError(
                f"the circuit for '{self.circuit.task}' reads the same at every token after the changed one, so a standing edit "
                "finds no class to move; choose another task, or prune again"
            )
        most = max(flips for flips, _ in tried)
        enough = [candidate for flips, candidate in tried if flips >= min(most, ENOUGH_FLIPS)]
        if len(enough) == 1:
            return enough[0]
        return min(enough, key=lambda candidate: self.choose_text.isolation(candidate, answers)["kl"]["value"])

    @torch.no_grad()
    def judge(self, edit: StandingEdit, direction: str) -> dict[str, Any]:
        """Held-out figures: flips of class-a prompts, class-b prompts kept, and what it does to unrelated text."""
        contrast = self.held_out.contrast
        rows, back = (contrast.directions[name] for name in _both(direction))
        found = self._run(edit, self.held_out)
        shares, others = (Shares(self.held_out.streams, r, self.seed) for r in (rows, back))
        return {
            "dense_site": edit.sites[0].dense_site,
            "nodes": len(edit.sites[0].nodes),
            "strength": edit.strength,
            "flip_rate": shares.mean((found.difference > 0).double()).to_json(),
            "p_target": shares.mean(found.p_target).to_json(),
            "other_class_kept": others.mean((found.difference < 0).double()).to_json(),
            "isolation": self.report_text.isolation(edit, _answers_of(contrast), seed=self.seed),
        }

    def _fitted(self, kind: str, place: int, direction: str) -> StandingEdit | None:
        """A move edit of one kind at one place; None where what it reads tells the prompts apart at no counted token."""
        site = self.bridge.alignment.sites[place]
        rows, back = (self.train.contrast.directions[name] for name in _both(direction))
        base = self.train.streams.base[site.dense]
        h_a, h_b, counted = base[rows], base[back], self.train.contrast.counted[rows]
        counted = counted & self.left_out.kept(self.train.contrast.base[rows])
        if not bool(((h_a - h_b).abs().amax(-1) > 0)[counted].any()):
            return None
        readout, decoder, names = self._readout(kind, place, h_a, h_b, counted)
        if not bool(contrast_tokens(readout(h_a), readout(h_b), counted).any()):
            return None
        written = None
        if kind == "circuit":
            index = torch.tensor(self.places[place], device=h_a.device)
            written = self._sparse.difference(site.sparse)[rows][..., index]
        text = self.fit_text.h[site.dense], written, self.left_out.kept(self.fit_text.tokens)
        rule = fit_move(readout, h_a, h_b, counted, *text)
        return StandingEdit(
            task=self.circuit.task,
            claim=claim_of(self.circuit.task, direction == "a_to_b"),
            model_fingerprint=self.dense.fingerprint,
            sites=(StandingSite(site.dense, names, readout, decoder, rule),),
            left_out=self.left_out,
        )

    def _readout(
        self, kind: str, place: int, h_a: Float[Tensor, "N T D"], h_b: Float[Tensor, "N T D"], counted: Tensor
    ) -> tuple[Readout, Tensor, tuple[str, ...]]:
        channels, site = self.places[place], self.bridge.alignment.sites[place]
        if kind == "circuit":
            readout, decoder = channels_of(self.bridge, place, channels)
            return readout, decoder, tuple(f"site{site.sparse}:{channel}" for channel in channels)
        gap = (h_b - h_a)[contrast_tokens(h_a, h_b, counted)]
        if kind == "coordinates":
            most = gap.abs().mean(0).topk(min(len(channels), gap.shape[-1])).indices
            return *coordinates_of(most, gap.shape[-1]), tuple(f"dense{site.dense}:{i}" for i in most.tolist())
        return *direction_of(gap.mean(0)), (f"dense{site.dense}:class_mean",)

    def _flips(self, edit: StandingEdit, prompts: Prompts, direction: str) -> float:
        rows = prompts.contrast.directions[direction]
        return float((self._run(edit, prompts).difference[rows] > 0).double().mean())

    @torch.no_grad()
    def _run(self, edit: StandingEdit, prompts: Prompts) -> Any:
        """Answers under the edit, which sees no counterfactual."""
        (site,) = edit.sites
        h = prompts.streams.base[site.dense_site]
        change = edit.change(site, h, prompts.contrast.base)
        return prompts.streams.edited(site.dense_site, change[None])[0]


def standing_edits(
    circuit: Circuit,
    bridge: Bridge,
    sparse: SparseTransformer,
    dense: DenseStack,
    splits: Splits,
    text: ReferenceText,
    seed: int = 0,
) -> tuple[Mapping[str, StandingEdit], dict[str, Any]]:
    """The circuit's standing edits by direction, and the figures of all kinds: direction → kind → figures.

    Both are empty where the circuit has no stream channel at an inner place, or reads nothing that differs there.
    """
    choice = StandingChoice(circuit, bridge, sparse, dense, splits, text, seed)
    try:
        edits = {name: choice.choose("circuit", name) for name in DIRECTIONS}
    except UserError:
        return {}, {}
    judged = {
        name: {
            kind: choice.judge(edits[name] if kind == "circuit" else choice.choose(kind, name), name) for kind in KINDS
        }
        for name in DIRECTIONS
    }
    return edits, judged


@torch.no_grad()
def flips_of(dense: DenseStack, edit: StandingEdit, contrast: Contrast, direction: str) -> float:
    """Share of one direction's prompts whose answer the edit flips, by the definition: a walk under the whole edit."""
    rows = contrast.directions[direction]
    h = walk_edited(dense, edit, contrast.base[rows])
    each = torch.arange(len(h), device=h.device)
    logits = dense.walk(contrast.base[rows]).unembed(h[each, contrast.last[rows]][:, None])[:, 0]
    target, original = (logits.gather(1, ids[rows][:, None])[:, 0] for ids in (contrast.target, contrast.original))
    return float((target > original).double().mean())


def claim_of(task: str, forward: bool) -> str:
    """What a standing edit of a task is said to do."""
    origin, goal = ("a", "b") if forward else ("b", "a")
    return f"where {task} calls for answer {origin}, give answer {goal}"


def _both(direction: str) -> tuple[str, str]:
    return ("a_to_b", "b_to_a") if direction == "a_to_b" else ("b_to_a", "a_to_b")


def _answers_of(contrast: Contrast) -> set[int]:
    return set(contrast.original.tolist()) | set(contrast.target.tolist())
