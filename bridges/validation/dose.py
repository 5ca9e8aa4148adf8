"""Dose–response from strength 0 to 1 (the published figure): P(target) and logit difference, direction by direction.

One line each for the best single channel of the circuit (place and channel chosen on validation pairs), the circuit at its
place, and random matched sets of the circuit's norm; beside them no steering and the dense model's own patch.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bridges.validation.contrast import Answers, masked
from bridges.validation.effects import Shares
from bridges.validation.node_sets import SiteChannels, Translation, scaled_like
from bridges.validation.specificity import circuit_change

DOSES = (0.0, 0.25, 0.5, 0.75, 1.0)
RANDOM_SETS = 8


@torch.no_grad()
def best_channel(found: Translation, circuit: Mapping[int, SiteChannels], seed: int = 0) -> SiteChannels | None:
    """The single channel whose edit does most in the dense model (validation prompts); None without one."""
    shares = Shares(found.dense, seed=seed)
    best: tuple[float, SiteChannels] | None = None
    for place in found.inner_places:
        if place not in circuit:
            continue
        ones = [circuit[place].some([channel]) for channel in circuit[place].channels]
        changes = torch.stack([circuit_change(found, one) for one in ones])
        effects = shares.resampled(found.dense.edited(found.bridge.alignment.sites[place].dense, changes))[:, 0]
        top = int(effects.argmax())
        if best is None or effects[top] > best[0]:
            best = (float(effects[top]), ones[top])
    return None if best is None else best[1]


@torch.no_grad()
def dose_response(
    found: Translation,
    circuit: SiteChannels,
    single: SiteChannels,
    outside: list[SiteChannels],
    seed: int = 0,
) -> dict[str, Any]:
    """Keys `doses`, `channel`, `place` and, by direction, one list of {p_target, share} per line of the figure."""
    site = found.bridge.alignment.sites[circuit.place].dense
    whole = circuit_change(found, circuit)
    random = [scaled_like(circuit_change(found, one), whole) for one in outside[:RANDOM_SETS]]
    lines = {
        "channel": _dosed(found, single.place, circuit_change(found, single)),
        "circuit": _dosed(found, circuit.place, whole),
        "random": _mean([_dosed(found, circuit.place, change) for change in random]) if random else [],
        "none": [found.dense.none] * len(DOSES),
    }
    patch = masked(found.dense.difference(site), found.contrast.counted)
    lines["patch"] = found.dense.edited(site, patch[None]) * len(DOSES)
    result: dict[str, Any] = {
        "doses": list(DOSES),
        "channel": {"place": single.place, "channel": single.channels[0]},
        "place": circuit.place,
        "directions": {},
    }
    for name, rows in found.contrast.directions.items():
        shares = Shares(found.dense, rows, seed)
        result["directions"][name] = {
            line: [
                {"p_target": shares.mean(one.p_target).to_json(), "share": shares.estimate(one).to_json()}
                for one in answers
            ]
            for line, answers in lines.items()
            if answers
        }
    toward = torch.sign((found.dense.full.difference - found.dense.none.difference).mean())
    moved = toward * (lines["circuit"][-1].difference - found.dense.none.difference)
    result["wrong_way"] = Shares(found.dense, seed=seed).mean((moved < 0).double()).to_json()
    return result


def _dosed(found: Translation, place: int, change: Tensor) -> list[Answers]:
    doses = torch.tensor(DOSES, device=change.device, dtype=change.dtype).view(-1, 1, 1, 1)
    return found.dense.edited(found.bridge.alignment.sites[place].dense, doses * change)


def _mean(runs: list[list[Answers]]) -> list[Answers]:
    return [
        Answers(
            torch.stack([run[i].difference for run in runs]).mean(0),
            torch.stack([run[i].p_target for run in runs]).mean(0),
        )
        for i in range(len(DOSES))
    ]
