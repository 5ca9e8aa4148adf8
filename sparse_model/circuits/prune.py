"""Pruning (METHOD §3): from a task to the smallest circuit that still does it.

1. learn masks     τ per node; loss = task cross-entropy + k_coef · nodes kept, the rest frozen at its ablation value
2. discretise      rank nodes by τ (those saturated at ±1 by attribution), bisect for the fewest that reach the target
                   loss on training and validation pairs; where 3 follows, none with τ > 0 goes yet
3. eliminate       what the ranking could not tell apart: least harm per edge first, until none can go
4. drop unread     nodes that nothing kept reads change nothing and go
5. edges           masks of the edges between the kept nodes, learned and discretised likewise

In 2–5 the loss of a candidate is that of its logit difference under the scale and shift that suit training pairs best
(see `calibration`); those of the last candidate are the circuit's own. 1–4 run for several seeds; the one with the fewest
edges goes on. Masks trained against an adversary keep all with τ > 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from foundation.errors import UserError
from foundation.fingerprints import model_fingerprint
from sparse_model.circuits.ablation import Ablate, final_logits
from sparse_model.circuits.attribution import attribution_scores, break_ties
from sparse_model.circuits.calibration import Calibration
from sparse_model.circuits.circuit import Circuit
from sparse_model.circuits.deciding_loss import Deciding, discretise, discretise_edges
from sparse_model.circuits.edges import count_edges, drop_unread, source_of
from sparse_model.circuits.eliminate import eliminate
from sparse_model.circuits.learn import learn_masks
from sparse_model.circuits.learn_edges import learn_edges
from sparse_model.circuits.prompts import Prompts
from sparse_model.circuits.prune_config import Elimination, PruneConfig
from sparse_model.tasks.loss import logit_difference
from sparse_model.tasks.token_pairs import TokenPairs
from sparse_model.transformer.model import SparseTransformer

NO_ELIMINATION = Elimination(rounds=0)


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
        validation: pairs that, beside as many training pairs, decide how many nodes are needed.
        values: ablation values per node location (see `ablation.ablation_values`).

    Raises:
        UserError: the prompts are longer than the model reads, or the whole model does not reach the target loss on this task.
    """
    longest, most = int(torch.cat([train.last, validation.last]).max()) + 1, model.config.block_size
    if model.config.position != "none" and longest > most:
        raise UserError(
            f"task '{train.name}': a prompt has {longest} tokens and the sparse model reads {most}; shorten the prompts, or "
            f"train on a corpus of longer blocks (corpus build --block-length {longest})"
        )
    deciding = (train.select(slice(0, len(validation))), validation)
    decide = Deciding(model, deciding, values, config.calibrate_in_decision, config.max_scale)
    full = decide.loss({name: torch.ones_like(value, dtype=torch.bool) for name, value in values.items()})
    if full > config.target_loss:
        raise UserError(
            f"task '{train.name}': the whole model has loss {full:.3f} on training and validation pairs, above the target "
            f"{config.target_loss}; choose a task it can do (sparsebridge task check) or a higher --target-loss"
        )
    prompts = Prompts(model, train)
    seeds = range(config.seed, config.seed + config.seeds)
    shrink = config.signal != "adversarial"  # trained to hold out as a whole: what such masks keep stays
    importance = attribution_scores(prompts, values, config.tied)
    nothing = {name: torch.zeros_like(value, dtype=torch.bool) for name, value in values.items()}
    if decide.reaches(config.target_loss, nothing):  # the last token's embedding tells: no node is needed
        ranked, found = [importance] * config.seeds, [nothing] * config.seeds
    else:
        masks = learn_masks(prompts, values, config, seeds, train.name)
        ranked = [break_ties(masks.scores(number), importance) for number in range(config.seeds)]
        found = [
            discretised(model, scores, decide, config.target_loss, config.elimination, shrink) for scores in ranked
        ]
    counts = [count_edges(model, keep) for keep in found]
    best = counts.index(min(counts))
    keep, edges = found[best], None
    if config.edge_steps and any(bool(mask.any()) for mask in keep.values()):
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
    within, calibration = circuit.within(model), decide.calibration(keep, edges)
    return replace(
        circuit,
        calibration=calibration,
        metrics={
            "nodes": len(circuit.nodes),
            "edges": count_edges(model, keep, edges),
            "edges_between_nodes": count_edges(model, keep),
            "full_model_loss": worst_loss(model, deciding),
            "validation_loss": task_loss(within, validation, circuit.only()),
            "validation_calibrated_loss": task_loss(within, validation, circuit.only(), calibration),
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
    how: Elimination = NO_ELIMINATION,
    shrink: bool = True,
) -> dict[str, Tensor]:
    """Steps 2 to 4: the top-ranked nodes that reach the target, without what else can go.

    Args:
        shrink: False leaves all nodes with a positive score.
    """
    # elimination starts from all that was learned: it chooses better than the ranking what to leave out
    keep = discretise(scores, decide, target, shrink and not how.rounds)
    return reduced(model, keep, decide, target, how if shrink else NO_ELIMINATION)


def reduced(
    model: SparseTransformer,
    keep: Mapping[str, Tensor],
    decide: Deciding,
    target: float,
    how: Elimination,
) -> dict[str, Tensor]:
    """Steps 3 and 4: the kept nodes without those that elimination, or having no reader, lets go."""
    left = eliminate(keep, decide, target, how)
    read = drop_unread(model, left)
    return read if decide.reaches(target, read) else left


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
    if decide.reaches(target, read, left):
        return read, left
    return dict(keep), dict(edges)


def worst_loss(model: SparseTransformer, deciding: Sequence[TokenPairs], tap: Ablate | None = None) -> float:
    """The largest task loss over several sets of pairs."""
    return max(task_loss(model, pairs, tap) for pairs in deciding)


@torch.no_grad()
def task_loss(
    model: SparseTransformer, pairs: TokenPairs, tap: Ablate | None = None, calibration: Calibration | None = None
) -> float:
    """Binary task loss in nats (chance: log 2), calibrated if a calibration is given."""
    calibration = calibration or Calibration()
    batch = trim(pairs).prompts()
    logits = final_logits(model, batch.tokens, batch.last, tap).double()
    return float(calibration.loss(logit_difference(logits, batch.answer, batch.other)))


def trim(pairs: TokenPairs) -> TokenPairs:
    """The same pairs without the columns that are padding for all of them."""
    width = int(pairs.last.max()) + 1
    return replace(
        pairs, tokens_a=pairs.tokens_a[:, :width], tokens_b=pairs.tokens_b[:, :width], mask=pairs.mask[:, :width]
    )
