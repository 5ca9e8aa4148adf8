"""The density–width sweep: loss against circuit size, one point per model (METHOD §3).

Two series, each model trained on the same tokens with the same settings:

    fixed nonzeros   several widths, the density of each such that the number of nonzero weights is the same
    fixed width      several densities at one width

Circuit size is the number of edges, its geometric mean over tasks that every model of the sweep can do. A finished model
and a finished circuit are read from their folders, not made again.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foundation.artefacts import read_json, write_json
from foundation.errors import UserError
from foundation.settings import Settings
from sparse_model.circuits.ablation import ablation_values
from sparse_model.circuits.circuit import Circuit
from sparse_model.circuits.prune import prune, task_loss, worst_loss
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.corpus.corpus import Corpus
from sparse_model.plan.size import model_size
from sparse_model.studies.arms import Arm, run_arm
from sparse_model.tasks import find_task
from sparse_model.tasks.splits import Splits, task_splits
from sparse_model.tasks.token_pairs import TokenPairs
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.shape import SparseShape

REFERENCE_BLOCKS, PAIRS = 64, 64
"""Text blocks the ablation means are taken over; pairs to decide on, and held-out pairs to report on."""
WIDTHS, DENSITIES = "fixed nonzeros", "fixed width"


class Point(Settings):
    """One model of the sweep."""

    series: str
    arm: Arm


def sweep_points(
    shape: SparseShape,
    train: TrainConfig,
    vocab_size: int,
    block_size: int,
    nonzeros: int,
    widths: Sequence[int],
    densities: Sequence[float] = (),
) -> list[Point]:
    """The models of both series; `shape` gives the width of the second one.

    Raises:
        UserError: a width cannot have that many nonzeros.
    """
    points = []
    for width in widths:
        wide = shape.model_copy(update={"d_model": width})
        density = density_for(wide, vocab_size, block_size, nonzeros, train.floor, train)
        arm = Arm(name=f"S{width}", shape=wide, train=train.model_copy(update={"density": density}))
        points.append(Point(series=WIDTHS, arm=arm))
    for density in densities:
        name = f"S{shape.d_model}-density{density:g}"
        arm = Arm(name=name, shape=shape, train=train.model_copy(update={"density": density}))
        points.append(Point(series=DENSITIES, arm=arm))
    return points


def density_for(
    shape: SparseShape,
    vocab_size: int,
    block_size: int,
    nonzeros: int,
    floor: int,
    train: TrainConfig | None = None,
) -> float:
    """The density at which a shape has this many nonzeros, floors included, by bisection.

    Args:
        train: where some kinds of tensors have a density of their own, the run that says so.

    Raises:
        UserError: it has fewer parameters, or its floors alone are more.
    """
    config, run = shape.config(vocab_size, block_size), train or TrainConfig()

    def count(density: float) -> int:
        return model_size(config, run.model_copy(update={"density": density}).final_densities(), floor).nonzero

    low, high = 1e-6, 1.0
    if not count(low) <= nonzeros <= count(high):
        raise UserError(
            f"width {shape.d_model}: {nonzeros} nonzeros are not between its floors ({count(low)}) and its parameters "
            f"({count(high)}); change --nonzeros or --width"
        )
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if count(middle) <= nonzeros else (low, middle)
    return round(low, 6)


def run_sweep(
    points: Sequence[Point],
    tasks: Sequence[str],
    data: Corpus,
    folder: Path,
    settings: PruneConfig,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train every model, prune every task out of it, and put the figures side by side.

    Returns:
        `points`, each with `cross_entropy`, `density`, `nonzero`, `circuits` by task, and `circuit_size`; and `tasks`, those
        that every model can do.

    Raises:
        UserError: there is no such task, or the folder holds a sweep with other settings.
    """
    pairs = {
        task: task_splits(find_task(task), data.tokenizer, settings.pairs, PAIRS, settings.seed, device)
        for task in tasks
    }  # refused before anything is trained
    found = []
    for point in points:
        outcome = run_arm(point.arm, point.arm.train.seed, data, folder, device=device)
        place = point.arm.folder(folder, point.arm.train.seed)
        model = SparseTransformer.from_pretrained(place).to(device)
        circuits = {task: _circuit(model, task, pairs[task], data, place, settings) for task in tasks}
        row = {key: outcome[key] for key in ("cross_entropy", "parameters", "nonzero", "density", "silent", "tokens")}
        found.append({"series": point.series, "name": point.arm.name, "width": point.arm.shape.d_model, **row})
        found[-1]["circuits"] = circuits
        write_json(folder / "sweep.json", summary(found, tasks, settings))
    return summary(found, tasks, settings)


def summary(points: list[dict[str, Any]], tasks: Sequence[str], settings: PruneConfig) -> dict[str, Any]:
    """Circuit sizes over the tasks that all points share; None where there are none."""
    shared = [task for task in tasks if all("edges" in point["circuits"][task] for point in points)]
    sized = [{**point, "circuit_size": geometric_mean(point["circuits"], shared)} for point in points]
    return {"tasks": shared, "target_loss": settings.target_loss, "prune": settings.to_json(), "points": sized}


def geometric_mean(circuits: Mapping[str, Mapping[str, Any]], tasks: Sequence[str]) -> float | None:
    """Of the numbers of edges (a circuit without an edge counts as one); None without tasks."""
    if not tasks:
        return None
    return math.exp(sum(math.log(max(1, circuits[task]["edges"])) for task in tasks) / len(tasks))


def held_out_losses(model: SparseTransformer, circuit: Circuit, pairs: TokenPairs) -> dict[str, float]:
    """Binary losses in nats: of the circuit alone, of the same calibrated, and of the whole model."""
    within = circuit.within(model)
    return {
        "held_out_loss": task_loss(within, pairs, circuit.only()),
        "held_out_calibrated_loss": task_loss(within, pairs, circuit.only(), circuit.calibration),
        "held_out_full_loss": task_loss(model, pairs),
    }


def _circuit(
    model: SparseTransformer, task: str, splits: Splits, data: Corpus, place: Path, settings: PruneConfig
) -> dict[str, Any]:
    """Size and held-out losses of one circuit, or the whole model's loss where it does not do the task."""
    folder = place / "circuits"
    description = folder / f"{task}.json"
    if description.is_file():
        found = read_json(folder, description.name, "sweep", ("settings",))
        if found.pop("settings") != settings.to_json():
            raise UserError(f"{description}: was pruned with other settings; choose another --out or remove {folder}")
        found.pop("schema_version")
        return found
    full = worst_loss(model, (splits.train.select(slice(0, PAIRS)), splits.validation))
    found = {"full_loss": full}
    if full <= settings.target_loss:
        values = ablation_values(model, data.train[:REFERENCE_BLOCKS], settings.ablation)
        circuit = prune(model, splits.train, splits.validation, values, settings)
        circuit.save(folder / task, overwrite=True)
        found |= {key: circuit.metrics[key] for key in ("nodes", "edges", "validation_loss")}
        found |= held_out_losses(model, circuit, splits.held_out)
    folder.mkdir(exist_ok=True)
    write_json(description, {**found, "settings": settings.to_json()})
    return found
