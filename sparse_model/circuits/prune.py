"""Pruning (METHOD §3): from a task to the smallest circuit that still does it.

1. learn masks     τ per node; loss = task cross-entropy + k_coef · nodes kept, the rest frozen at its ablation value
2. discretise      rank nodes by τ (those saturated at ±1 by attribution), bisect for the fewest that reach the target
                   loss on training and validation pairs; where 3 follows, none with τ > 0 goes yet
3. eliminate       what the ranking could not tell apart: least harm per edge first, as far as the target allows
4. drop unread     nodes that nothing kept reads change nothing and go
5. edges           masks of the edges between the kept nodes, learned and discretised likewise
6. calibrate       scale and shift of the logit difference, by LBFGS

1–4 run for several seeds; the one with the fewest edges goes on. Masks trained against an adversary keep all with τ > 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from foundation.errors import UserError
from foundation.fingerprints import model_fingerprint
from sparse_model.circuits.ablation import Ablate, final_logits
from sparse_model.circuits.attribution import attribution_scores, break_ties
from sparse_model.circuits.circuit import Calibration, Circuit
from sparse_model.circuits.config import PruneConfig
from sparse_model.circuits.deciding import Deciding, discretise, discretise_edges
from sparse_model.circuits.edges import count_edges, drop_unread, source_of
from sparse_model.circuits.eliminate import eliminate
from sparse_model.circuits.learn import learn_masks
from sparse_model.circuits.learn_edges import learn_edges
from sparse_model.circuits.prompts import Prompts
from sparse_model.tasks.token_pairs import TokenPairs
from sparse_model.transformer.model import SparseTransformer


def prune(
    model: SparseTransformer,
    train: TokenPairs,
    validation: TokenPairs,
    values: Mapping[str, Tensor],
    config: PruneConfig,
) -> Circuit:
    """Find a circuit.

    Args:
        train: pairs the masks learn from.
        validation: pairs that, beside as many training pairs, decide how many nodes are needed, and calibrate.
        values: ablation values per node location (see `ablation.ablation_values`).

    Raises:
        UserError: the whole model does not reach the target loss on this task.
    """
    deciding = (train.select(slice(0, len(validation))), validation)
    full = worst_loss(model, deciding)
    if full > config.target_loss:
        raise UserError(
            f"task '{train.name}': the whole model has loss {full:.3f}, above the target {config.target_loss}; choose a task it "
            "can do (sparsebridge task check) or a higher --target-loss"
        )
    prompts = Prompts(model, train)
    decide = Deciding(model, deciding, values)
    seeds = range(config.seed, config.seed + config.seeds)
    masks = learn_masks(prompts, values, config, seeds, train.name)
    shrink = config.signal != "adversarial"  # trained to hold out as a whole: what such masks keep stays
    importance = attribution_scores(prompts, values, config.tied)
    ranked = [break_ties(masks.scores(number), importance) for number in range(config.seeds)]
    found = [
        discretised(model, scores, decide, config.target_loss, config.elimination_rounds, shrink, config.tied)
        for scores in ranked
    ]
    counts = [count_edges(model, keep) for keep in found]
    best = counts.index(min(counts))
    keep, edges = found[best], None
    if config.edge_steps:
        edge_scores = learn_edges(prompts, keep, values, config)
        edges = discretise_edges(edge_scores, keep, decide, config.target_loss, shrink)
        keep, edges = without_unread(model, keep, edges, decide, config.target_loss)
    circuit = Circuit(
        task=train.name,
        model_fingerprint=model_fingerprint(model),
        keep=keep,
        values=dict(values),
        ablation=config.ablation,
        settings=config.to_json(),
        edges=edges,
        scores=ranked[best],
    )
    within = circuit.within(model)
    return replace(
        circuit,
        calibration=calibrate(within, deciding, circuit.only()),
        metrics={
            "nodes": len(circuit.nodes),
            "edges": count_edges(model, keep, edges),
            "edges_between_nodes": count_edges(model, keep),
            "full_model_loss": full,
            "validation_loss": task_loss(within, validation, circuit.only()),
            "seeds": [
                {
                    "seed": seed,
                    "nodes": [str(node) for node in replace(circuit, keep=kept, edges=None).nodes],
                    "loss": decide.loss(kept),
                    "edges": count,
                }
                for seed, kept, count in zip(seeds, found, counts, strict=True)
            ],
        },
    )


def discretised(
    model: SparseTransformer,
    scores: Mapping[str, Tensor],
    decide: Deciding,
    target: float,
    rounds: int = 0,
    shrink: bool = True,
    tied: bool = True,
) -> dict[str, Tensor]:
    """Steps 2 to 4: the top-ranked nodes that reach the target, without what else can go.

    Args:
        rounds: of elimination.
        shrink: False leaves all nodes with a positive score.
    """
    # elimination starts from all that was learned: it chooses better than the ranking what to leave out
    keep = discretise(scores, decide, target, shrink and not rounds)
    return reduced(model, keep, decide, target, rounds if shrink else 0, tied)


def reduced(
    model: SparseTransformer,
    keep: Mapping[str, Tensor],
    decide: Deciding,
    target: float,
    rounds: int,
    tied: bool = True,
) -> dict[str, Tensor]:
    """Steps 3 and 4: the kept nodes without those that elimination, or having no reader, lets go."""
    left = eliminate(keep, decide, target, rounds, tied)
    read = drop_unread(model, left)
    return read if decide.loss(read) <= target else left


def without_unread(
    model: SparseTransformer,
    keep: Mapping[str, Tensor],
    edges: Mapping[str, Tensor],
    decide: Deciding,
    target: float,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The circuit without nodes that lost their last reader with its edges, where it still reaches the target."""
    read = drop_unread(model, keep, edges)
    # masks of edges are between kept nodes; all others are whole
    left = {target: mask | ~read[target][:, None] | ~read[source_of(target)][None] for target, mask in edges.items()}
    if decide.loss(read, left) <= target:
        return read, left
    return dict(keep), dict(edges)


def worst_loss(model: SparseTransformer, deciding: Sequence[TokenPairs], tap: Ablate | None = None) -> float:
    """The largest task loss over several sets of pairs."""
    return max(task_loss(model, pairs, tap) for pairs in deciding)


def calibrate(model: SparseTransformer, deciding: Sequence[TokenPairs], tap: Ablate, steps: int = 16) -> Calibration:
    """Step 6: scale and shift of the a–b logit difference that minimise the binary loss."""
    found = [_differences(model, pairs, tap) for pairs in deciding]
    difference, sign = torch.cat([d for d, _ in found]), torch.cat([s for _, s in found])
    parameters = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = calibrated_loss(difference, sign, parameters[0], parameters[1])
        loss.backward()
        return loss.item()

    optimizer.step(closure)
    scale, shift = parameters.detach().tolist()
    return Calibration(scale, shift)


def calibrated_loss(
    difference: Tensor, sign: Tensor, scale: Tensor | float, shift: Tensor | float
) -> Float[Tensor, ""]:
    """Binary loss of scale · (logit a − logit b) + shift; `sign` is +1 where a is right, −1 where b is."""
    return F.softplus(-sign * (scale * difference + shift)).mean()


@torch.no_grad()
def task_loss(
    model: SparseTransformer, pairs: TokenPairs, tap: Ablate | None = None, calibration: Calibration | None = None
) -> float:
    """Binary task loss in nats (chance: log 2), calibrated if a calibration is given."""
    calibration = calibration or Calibration()
    difference, sign = _differences(model, pairs, tap)
    return float(calibrated_loss(difference, sign, calibration.scale, calibration.shift))


@torch.no_grad()
def _differences(model: SparseTransformer, pairs: TokenPairs, tap: Ablate | None) -> tuple[Tensor, Tensor]:
    """Logit a − logit b for both prompts of every pair [2N], and +1 for a prompts, −1 for b prompts."""
    batch = trim(pairs).prompts()
    logits = final_logits(model, batch.tokens, batch.last, tap).double()
    right_minus_wrong = (logits.gather(1, batch.answer[:, None]) - logits.gather(1, batch.other[:, None]))[:, 0]
    sign = torch.ones_like(right_minus_wrong)
    sign[len(pairs) :] = -1
    return right_minus_wrong * sign, sign


def trim(pairs: TokenPairs) -> TokenPairs:
    """The same pairs without the columns that are padding for all of them."""
    width = int(pairs.last.max()) + 1
    return replace(
        pairs, tokens_a=pairs.tokens_a[:, :width], tokens_b=pairs.tokens_b[:, :width], mask=pairs.mask[:, :width]
    )
