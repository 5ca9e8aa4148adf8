"""Elimination: removing what learned masks left over, least harm per edge first.

τ saturates at ±1, so that the bisection by rank cannot tell most kept nodes apart. Inside the circuit the gradient of
the deciding loss towards each mask can:

1. harm of a node = first-order rise of the deciding loss when it goes (a tied query and key go together), per edge it has
2. remove the quarter of nodes with the least harm if the loss stays at the target, else half as many, and so on
3. where not even the first can go, try the others one by one; stop where none can

Repeats 1–3, each time with new gradients; what is left reaches the target by construction. Which nodes go first decides
which are needed at the end, and no step is taken back. So there are several starts: one by harm, the others with every
harm times a random factor, all up to where none of the next few nodes can go. The one that leaves the fewest edges is
taken to its end.
"""

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from sparse_model.circuits.calibration import Calibration, fitted
from sparse_model.circuits.deciding_loss import Deciding, Keep
from sparse_model.circuits.edges import count_edges, drop_unread, edge_weights, source_of
from sparse_model.circuits.masked_pass import answer_differences
from sparse_model.circuits.prune_config import Elimination
from sparse_model.transformer.threads import side_by_side

Group = tuple[tuple[str, int], ...]
SPREAD = 0.5
"""Standard deviation of the logarithm of the random factors."""
MOST = 2000
"""Nodes that all starts together begin with: large sets get fewer starts, since each takes time in proportion to their square."""
TRIES = 12
"""Nodes tried one by one before a start ends; the chosen one goes on with all."""


def eliminate(keep: Keep, deciding: Deciding, target: float, how: Elimination) -> dict[str, Tensor]:
    """A subset of the kept nodes that still reaches the target; `keep` itself where it does not reach it."""
    found = {name: mask.clone() for name, mask in keep.items()}
    if how.rounds == 0 or not deciding.reaches(target, found):
        return found
    starts = max(1, min(how.starts, MOST // max(1, sum(int(mask.sum()) for mask in found.values()))))
    with tqdm(total=starts, desc="eliminating nodes", unit="start", delay=2, leave=False) as bar:

        def end(start: int) -> dict[str, Tensor]:
            generator = torch.Generator().manual_seed(how.seed + start) if start else None
            left = descend(found, deciding, target, how, generator, TRIES)
            bar.update()
            return left

        ends = side_by_side([partial(end, start) for start in range(starts)])
    return descend(min(ends, key=partial(_cost, deciding)), deciding, target, how)


def descend(
    keep: Keep,
    deciding: Deciding,
    target: float,
    how: Elimination,
    generator: torch.Generator | None = None,
    tries: int | None = None,
) -> dict[str, Tensor]:
    """Steps 1 to 3 until nothing more can go, or none of `tries` single nodes.

    Args:
        generator: of random factors on the harms; None: none.
    """
    found = dict(keep)
    for _ in range(how.rounds):
        ranked = by_harm(found, deciding, how.tied, generator)
        if not ranked:  # nothing is left
            break
        fewer = _without_most(found, ranked, deciding, target)
        if fewer is None:
            fewer = _without_one(found, ranked[1:][:tries], deciding, target)
        if fewer is None:
            break
        found = fewer
    return found


def _cost(deciding: Deciding, keep: Keep) -> tuple[int, int]:
    """Edges, then nodes, of what is read."""
    read = drop_unread(deciding.model, keep)
    return count_edges(deciding.model, read), sum(int(mask.sum()) for mask in read.values())


def by_harm(keep: Keep, deciding: Deciding, tied: bool, generator: torch.Generator | None = None) -> list[Group]:
    """Kept nodes (tied ones in pairs), least harm per edge first.

    Args:
        generator: multiplies each harm by exp(`SPREAD` · N(0, 1)).
    """
    harm, edges = node_harm(keep, deciding), _edges_of(keep, deciding)
    ranked: list[tuple[float, Group]] = []
    for name, mask in keep.items():
        if tied and name.endswith(".k"):
            continue
        names = (name, name[:-1] + "k") if tied and name.endswith(".q") else (name,)
        channels = mask.nonzero().flatten()
        noise = torch.zeros(len(channels)) if generator is None else torch.randn(len(channels), generator=generator)
        total, number = (
            torch.stack([per_node[part][channels] * keep[part][channels] for part in names]).sum(0)
            for per_node in (harm, edges)
        )
        scores = (total / (number + 0.5)).cpu() * (SPREAD * noise).exp()
        for channel, score in zip(channels.tolist(), scores.tolist(), strict=True):
            ranked.append((score, tuple((part, channel) for part in names if keep[part][channel])))
    return [group for _, group in sorted(ranked)]


def node_harm(keep: Keep, deciding: Deciding) -> dict[str, Float[Tensor, " W"]]:
    """First-order rise of the deciding loss (the mean over its sets) when a node is removed, in nats.

    Estimated on `deciding_loss.SOME` pairs of each set, calibrated on those of the first.
    """
    masks = {name: mask[None].float().requires_grad_() for name, mask in keep.items()}
    differences = [
        answer_differences(prompts, rows, masks, deciding.values)[0]
        for prompts, rows in zip(deciding.prompts, deciding.some_rows, strict=True)
    ]
    # at its optimum or at its bound, so that it has no part in the derivative
    calibration = fitted(differences[0].detach(), deciding.max_scale) if deciding.calibrate else Calibration()
    losses = [calibration.loss(difference) for difference in differences]
    # queries and keys of a head of which nothing is kept have no part in the loss
    gradients = torch.autograd.grad(torch.stack(losses).mean(), list(masks.values()), materialize_grads=True)
    return {name: -gradient[0] for name, gradient in zip(masks, gradients, strict=True)}


def _without_most(
    keep: Keep, ranked: list[Group], deciding: Deciding, target: float
) -> dict[str, Bool[Tensor, " W"]] | None:
    count = max(1, len(ranked) // 4)
    while count:
        fewer = _without(keep, ranked[:count])
        if deciding.reaches(target, fewer):
            return fewer
        count //= 2
    return None


def _without_one(
    keep: Keep, ranked: list[Group], deciding: Deciding, target: float
) -> dict[str, Bool[Tensor, " W"]] | None:
    for group in ranked:
        fewer = _without(keep, [group])
        if deciding.reaches(target, fewer):
            return fewer
    return None


def _without(keep: Keep, groups: list[Group]) -> dict[str, Bool[Tensor, " W"]]:
    fewer = {name: mask.clone() for name, mask in keep.items()}
    for group in groups:
        for name, channel in group:
            fewer[name][channel] = False
    return fewer


def _edges_of(keep: Keep, deciding: Deciding) -> dict[str, Tensor]:
    """How many edges between kept nodes every node has, in and out."""
    found = {name: torch.zeros(len(mask), device=mask.device) for name, mask in keep.items()}
    for target, weight in edge_weights(deciding.model).items():
        source = source_of(target)
        to, read = keep[target].nonzero().flatten(), keep[source].nonzero().flatten()
        between = weight[to][:, read] != 0
        found[target][to] += between.sum(1)
        found[source][read] += between.sum(0)
    return found
