"""`sparsebridge sparse sweep`: loss against circuit size over widths and densities."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import Device, Json, Out, check_device, with_settings
from cli.output import print_json, print_table, say, suggest
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.shape import SparseShape

FIGURE = "sweep"


@with_settings(train=TrainConfig, sparse=SparseShape, prune=PruneConfig)
def sweep(
    corpus: Annotated[Path, typer.Option("--corpus", help="a corpus folder", show_default=False)],
    out: Out,
    train: TrainConfig,
    sparse: SparseShape,
    prune: PruneConfig,
    width: Annotated[
        list[int],
        typer.Option("--width", min=1, help="repeatable: residual widths S at fixed nonzeros", show_default=False),
    ],
    task: Annotated[
        list[str], typer.Option("--task", help="repeatable: tasks whose circuits are pruned", show_default=False)
    ],
    nonzeros: Annotated[int, typer.Option("--nonzeros", min=1, help="nonzero weights of each of these")] = 60_000,
    density_at: Annotated[
        list[float] | None,
        typer.Option("--density-at", min=1e-6, max=1, help="repeatable: densities at width --sparse-d-model"),
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Train a model per width and density, prune tasks out of each, and plot loss against circuit size.

    Writes sweep.json, sweep.svg and sweep.png into --out; the same command goes on where it stopped.

    Example: sparsebridge sparse sweep --corpus runs/corpus --out runs/sweep --width 64 --width 256 --task for_while
    """
    from bridges.reports.figures.canvas import style, to_bytes
    from bridges.reports.figures.size_against_loss import size_against_loss
    from foundation.artefacts import write_json
    from foundation.writing import replace_files, written
    from sparse_model.corpus.corpus import Corpus
    from sparse_model.studies.sweep import run_sweep, sweep_points

    data = Corpus.load(corpus)
    points = sweep_points(sparse, train, data.vocab_size, data.block_length, nonzeros, width, density_at or ())
    result = run_sweep(points, task, data, out, prune, check_device(device))
    figure = size_against_loss(result)
    with style():
        drawn = {
            out / f"{FIGURE}.svg": to_bytes(figure, "svg", dpi=150),
            out / f"{FIGURE}.png": to_bytes(figure, "png", dpi=150),
        }
    with written(out):
        write_json(out / f"{FIGURE}.json", result)
        replace_files(drawn)
    say(f"sweep written to {out}")
    if as_json:
        print_json(result)
        return
    _show(result)
    suggest("sparse", "inspect", points[-1].arm.folder(out, points[-1].arm.train.seed))


def _show(result: dict[str, Any]) -> None:
    rows = [
        [
            point["name"],
            point["series"],
            f"{point['nonzero']:,}",
            f"{point['density']:.2%}",
            "–" if point["circuit_size"] is None else f"{point['circuit_size']:.0f}",
            f"{point['cross_entropy']['mixture']:.3f}",
        ]
        for point in result["points"]
    ]
    tasks = ", ".join(result["tasks"]) or "none: no task is done by every model; train longer or choose easier tasks"
    print_table(
        "density–width sweep",
        ("model", "series", "nonzero", "density", "edges", "cross-entropy"),
        rows,
        f"edges: geometric mean over the tasks every model does at loss {result['target_loss']:g} ({tasks})",
    )
