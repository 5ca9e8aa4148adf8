"""Validation of a circuit as an explanation of the dense model (METHOD §6), from pairs to verdict.

1. translate   both models on both prompts of every pair; node sets as changes of the stream
2. map         where the answer is carried, by site and position role
3. place       where the circuit's edit does most on validation pairs, without the embedding, changed tokens, final stream
4. judge       held-out pairs: upper bounds, sufficiency and necessity, transfer (M6), specificity (M7), baselines, doses
5. verdict     explains | steers | fails
6. standing    edits that need no second prompt, beside the same rule without a bridge; they gate nothing
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bridges.bridge import Bridge
from bridges.edits.mapping import unplaced
from bridges.edits.standing import StandingEdit
from bridges.protocol import ResidualStack
from bridges.validation.baselines import Baseline, baselines
from bridges.validation.causal_map import causal_map
from bridges.validation.contrast import Contrast, Streams, masked
from bridges.validation.dose import best_channel, dose_response
from bridges.validation.effects import Shares
from bridges.validation.in_sparse import InSparse, in_sparse
from bridges.validation.isolation import ReferenceText
from bridges.validation.manifold import NaturalStreams
from bridges.validation.node_sets import SiteChannels, Translation, by_place, matched_sets, scaled_like
from bridges.validation.specificity import (
    check_draws,
    circuit_change,
    specificity,
    strongest_place,
)
from bridges.validation.standing import standing_edits
from bridges.validation.transfer import NULLS, transfer
from bridges.validation.verdict import Findings, Thresholds, gates, reason_of, word_of
from dense_adapters import DenseStack
from foundation.statistics import Estimate, from_resamples
from foundation.verdicts import Gate, Word
from sparse_model.circuits.circuit import Circuit
from sparse_model.tasks.splits import Splits
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.nodes import Node

TRANSFER_PAIRS = 24
"""Held-out pairs over which M6 is measured unless told otherwise: it runs both models under a hundred interventions."""
Carry = Callable[[Translation], Translation]
ISOTROPIC = 20
"""Random directions of the circuit's norm that `moves` is compared to."""


@dataclass(frozen=True)
class Evidence:
    """A circuit's case: gates, and the report they are drawn from."""

    report: dict[str, Any]
    gates: tuple[Gate, ...]

    @property
    def word(self) -> Word:
        """The verdict."""
        return word_of(self.gates)

    @property
    def passed(self) -> bool:
        """Whether it is `explains`."""
        return self.word == "explains"


@dataclass(frozen=True)
class Validation(Evidence):
    """An `Evidence` with the standing edits that were judged."""

    standing: Mapping[str, StandingEdit]


@dataclass(frozen=True)
class Effort:
    """How much is measured: a deep dense model may need less of it to be judged in minutes."""

    transfer_pairs: int = TRANSFER_PAIRS
    null_bridges: int = NULLS
    """of either kind"""
    standing: bool = True
    """whether standing edits are fitted and judged too"""


class Validator:
    """Two models, a bridge and one task's pairs, on which any number of node sets can be judged.

    What does not depend on the node set (streams, live channels, training differences) is computed once.
    """

    @torch.no_grad()
    def __init__(
        self,
        bridge: Bridge,
        sparse: SparseTransformer,
        dense: ResidualStack,
        splits: Splits,
        seed: int = 0,
        effort: Effort | None = None,
    ) -> None:
        self.bridge, self.sparse, self.dense, self.splits, self.seed = bridge, sparse, dense, splits, seed
        self.held_out = Translation(Contrast.of(splits.held_out), sparse, dense, bridge)
        self.validation = Translation(Contrast.of(splits.validation), sparse, dense, bridge)
        self.effort = effort or Effort()
        few = splits.held_out.select(spread(len(splits.held_out), self.effort.transfer_pairs))
        self.few = Translation(Contrast.of(few), sparse, dense, bridge)
        train = splits.train.select(slice(0, max(len(splits.validation), 2)))
        self.known: dict[SiteChannels, NDArray[np.floating]] = {}
        """effects in the sparse model on the few pairs, by set: they do not depend on the bridge or the dense model"""
        self.train = Streams(dense, Contrast.of(train), [site.dense for site in bridge.alignment.sites])

    def judge(
        self,
        nodes: tuple[Node, ...],
        inside: InSparse,
        draws: int = 100,
        carry: Carry | None = None,
        full: bool = True,
        limits: Thresholds | None = None,
    ) -> Evidence:
        """Judge one node set.

        Args:
            inside: what it does in the sparse model (see `in_sparse`).
            carry: how changes are carried over, instead of through the trained bridge.
            full: also the map, baselines and doses, which gate nothing.

        Raises:
            UserError: fewer `draws` than p needs.
        """
        check_draws(draws)
        originals = (self.held_out, self.validation, self.few)
        held_out, validation, few = originals if carry is None else (carry(found) for found in originals)
        channels = by_place(nodes, self.bridge, self.sparse.d_model)
        place = strongest_place(validation, channels, self.seed)
        of_dense, of_sparse = Shares(held_out.dense, seed=self.seed), Shares(held_out.sparse, seed=self.seed)
        accuracy = {
            name: shares.mean((streams.none.difference < 0).double())
            for name, shares, streams in (
                ("dense", of_dense, held_out.dense),
                ("sparse", of_sparse, held_out.sparse),
            )
        }
        moved = transfer(few, channels, self.seed, self.effort.null_bridges, self.known)
        at = None if place is None else self._at(held_out, validation, channels[place], draws)
        found = Findings(
            accuracy_dense=accuracy["dense"],
            accuracy_sparse=accuracy["sparse"],
            carried=None if at is None else at["decoded"],
            in_sparse=inside,
            transfer=moved,
            specificity=None if at is None else at["specificity"],
            circuit=None if at is None else at["circuit"],
            beyond_isotropic=None if at is None else at["beyond_isotropic"],
        )
        judged = gates(found, limits)
        report: dict[str, Any] = {
            "verdict": {
                "word": word_of(judged),
                "reason": reason_of(judged),
                "gates": [gate.to_json() for gate in judged],
            },
            "accuracy": {name: value.to_json() for name, value in accuracy.items()},
            "in_sparse": inside.to_json(),
            "transfer": moved.to_json(),
            "channels": {str(j): {"read": list(c.read), "written": list(c.written)} for j, c in channels.items()},
            "unplaced": [str(node) for node in unplaced(nodes, self.bridge, self.sparse.d_model)],
            "pairs": {**self.splits.sizes(), "transfer": len(few.contrast) // 2},
            "draws": draws,
            "seed": self.seed,
        }
        if at is not None and place is not None:
            site = self.bridge.alignment.sites[place]
            report["place"] = {"place": place, "sparse_site": site.sparse, "dense_site": site.dense}
            report["effect"] = {name: value.to_json() for name, value in at.items() if isinstance(value, Estimate)}
            report["specificity"] = None if at["specificity"] is None else at["specificity"].to_json()
        if full:
            report["causal_map"] = causal_map(held_out, channels, self.seed)
            report["apart"] = _apart(held_out, channels, self.seed)
            if place is not None:
                report |= self._beside(held_out, validation, channels, place)
        return Evidence(report, judged)

    def _at(self, held_out: Translation, validation: Translation, channels: SiteChannels, draws: int) -> dict[str, Any]:
        """What the circuit, the upper bounds and matched sets do at its place."""
        place, shares = channels.place, Shares(held_out.dense, seed=self.seed)
        site = held_out.bridge.alignment.sites[place].dense
        counted = held_out.contrast.counted
        mine = circuit_change(held_out, channels)
        patch = masked(held_out.dense.difference(site), counted)
        decoded = circuit_change(held_out, held_out.everything(place))
        answers = held_out.dense.edited(site, torch.stack([mine, patch, decoded]))
        isotropic = self._isotropic(mine)
        random = shares.resampled(held_out.dense.edited(site, isotropic)).mean(0)
        circuit = shares.resampled(answers[0])
        live = tuple(kind(place, validation.contrast.counted) for kind in (validation.live, validation.written_live))
        return {
            "circuit": from_resamples(circuit),
            "patch": shares.estimate(answers[1]),
            "decoded": shares.estimate(answers[2]),
            "isotropic": from_resamples(random),
            "beyond_isotropic": from_resamples(circuit - random),
            "specificity": specificity(held_out, channels, (live[0], live[1]), draws, self.seed),
        }

    @torch.no_grad()
    def on_manifold(self, nodes: tuple[Node, ...], place: int, text: ReferenceText) -> dict[str, float]:
        """Median Mahalanobis distance of edited streams over natural ones, at the counted positions; the unedited beside it."""
        found = self.held_out
        site = self.bridge.alignment.sites[place].dense
        counted = found.contrast.counted
        change = circuit_change(found, by_place(nodes, self.bridge, self.sparse.d_model)[place])
        natural = NaturalStreams(text.h[site])
        base = found.dense.base[site]
        return {"edited": natural.excess((base + change)[counted]), "unedited": natural.excess(base[counted])}

    def _isotropic(self, like: Tensor) -> Tensor:
        """One random direction a draw, at every token of the circuit's norm there."""
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(ISOTROPIC, 1, 1, like.shape[-1], generator=generator).to(like)
        return scaled_like(drawn.expand(-1, *like.shape), like)

    def _beside(
        self, held_out: Translation, validation: Translation, channels: Mapping[int, SiteChannels], place: int
    ) -> dict[str, Any]:
        """Baselines, doses, concentration and distance from the manifold's own, at the circuit's place."""
        mine = channels[place]
        site = held_out.bridge.alignment.sites[place].dense
        found = baselines(
            site,
            len(mine),
            self.train,
            (validation.dense, circuit_change(validation, mine)),
            (held_out.dense, circuit_change(held_out, mine)),
            self.seed,
        )
        generator = torch.Generator().manual_seed(self.seed + 1)
        counted = validation.contrast.counted
        outside = matched_sets(
            mine, validation.live(place, counted), validation.written_live(place, counted), 8, generator
        )
        single = best_channel(validation, channels, self.seed)
        return {
            "baselines": {one.name: one.to_json() for one in found},
            "beats_baselines": _beats(found),
            "dose": None if single is None else dose_response(held_out, mine, single, outside, self.seed),
            "concentration": _concentration(held_out, validation, mine, self.seed),
        }


def validate_circuit(
    circuit: Circuit,
    bridge: Bridge,
    sparse: SparseTransformer,
    dense: DenseStack,
    splits: Splits,
    text: ReferenceText,
    draws: int = 100,
    seed: int = 0,
    effort: Effort | None = None,
) -> Validation:
    """Validate one circuit on one task.

    Args:
        text: reference text, split into parts to fit, choose and report standing edits on.
        draws: matched sets outside the circuit; at least 99.

    Raises:
        UserError: fewer draws than p needs.
    """
    check_draws(draws)
    effort = effort or Effort()
    validator = Validator(bridge, sparse, dense, splits, seed, effort)
    inside = in_sparse(sparse, circuit, splits.held_out, seed=seed)
    found = validator.judge(circuit.nodes, inside, draws)
    report = {"task": circuit.task, **found.report}
    if "place" in report:
        report["on_manifold"] = validator.on_manifold(circuit.nodes, report["place"]["place"], text)
    edits: Mapping[str, StandingEdit] = {}
    judged: dict[str, Any] = {}
    if effort.standing:
        edits, judged = standing_edits(circuit, bridge, sparse, dense, splits, text, seed)
    return Validation({**report, "standing": judged}, found.gates, edits)


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of `count` pairs, evenly spread so that all templates stay in."""
    return sorted({round(i * (count - 1) / max(1, wanted - 1)) for i in range(min(count, wanted))})


def _beats(found: list[Baseline]) -> dict[str, Any]:
    """Whether the circuit does more than the best edit without a bridge, at equal norm."""
    best = max(found, key=lambda one: one.effect.value)
    ahead = best.circuit_ahead
    outcome = "beats" if ahead.low > 0 else ("loses to" if ahead.high < 0 else "is not told apart from")
    named = {
        "class_mean": "the class means' difference",
        "coordinates": "as many dense coordinates",
        "directions": "the leading directions of the differences",
    }[best.name]
    return {
        "best": best.name,
        "outcome": outcome,
        "sentence": f"At equal norm the circuit {outcome} what needs no bridge: {named} brings {best.effect}, the circuit "
        f"{ahead} more.",
    }


def _apart(found: Translation, channels: Mapping[int, SiteChannels], seed: int) -> dict[str, Any]:
    """What gates nothing: *substitution* (the embedding's site, changed tokens) and *direct* (the final stream), by place."""
    shares = Shares(found.dense, seed=seed)
    contrast = found.contrast
    rows: dict[str, list[dict[str, Any]]] = {"substitution": [], "direct": []}
    for place, mine in channels.items():
        site = found.bridge.alignment.sites[place]
        change = found.dense_change(place, found.sparse_change(mine))
        is_final = site.dense == found.dense.end or site.sparse == found.sparse.end
        is_inner = place in found.inner_places
        positions = contrast.role("changed") if is_inner else contrast.role("changed") | contrast.counted
        answers = found.dense.edited(site.dense, masked(change, positions)[None])[0]
        rows["direct" if is_final else "substitution"].append(
            {"place": place, "positions": "changed" if is_inner else "all", "share": shares.estimate(answers).to_json()}
        )
    return rows


def _concentration(
    held_out: Translation, validation: Translation, mine: SiteChannels, seed: int
) -> list[dict[str, Any]]:
    """Effect against the number of channels at the place, those the pairs move most first (validation prompts)."""
    moved = masked(validation.sparse_change(mine), validation.contrast.counted).abs().mean((0, 1))
    order = sorted(mine.channels, key=lambda c: -float(moved[c]))
    counts = sorted({min(n, len(order)) for n in (1, 2, 4, 8, 16, 32, len(order))})
    shares = Shares(held_out.dense, seed=seed)
    site = held_out.bridge.alignment.sites[mine.place].dense
    changes = torch.stack([circuit_change(held_out, mine.some(order[:n])) for n in counts])
    answers = held_out.dense.edited(site, changes)
    return [{"channels": n, **shares.estimate(one).to_json()} for n, one in zip(counts, answers, strict=True)]
