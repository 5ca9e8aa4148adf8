"""`sparsebridge sparse`: train, evaluate and inspect weight-sparse models; read and write the published layout."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.app import App
from cli.options import Device, Json, Out, Overwrite, Seed, check_device, with_settings
from cli.output import interval, print_json, print_table, say, suggest
from cli.sweep import sweep
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.shape import SparseShape

app = App(help=__doc__)
app.command()(sweep)

CorpusOption = Annotated[
    Path, typer.Option("--corpus", help="a corpus folder (see sparsebridge corpus build)", show_default=False)
]
ModelArgument = Annotated[
    Path,
    typer.Argument(help="a sparse model folder, or a bridge folder (its sparse model is taken)", show_default=False),
]


@app.callback()
def group() -> None:
    """Train, evaluate and inspect weight-sparse models; read and write the published layout."""


@app.command()
@with_settings(train=TrainConfig, sparse=SparseShape)
def train(
    corpus: CorpusOption,
    out: Out,
    train: TrainConfig,
    sparse: SparseShape,
    overwrite: Overwrite = False,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Train a weight-sparse language model on its own; the same command resumes an interrupted run.

    Example: sparsebridge sparse train --corpus runs/corpus --out runs/sparse --density 0.05 --steps 4000
    """
    from sparse_model.corpus.corpus import Corpus
    from sparse_model.training.sparse import train_sparse

    rows = train_sparse(sparse, train, Corpus.load(corpus), out, overwrite, check_device(device))
    say(f"sparse model written to {out}")
    suggest("task", "check", out)
    if as_json:
        print_json({"out": str(out), "final": rows[-1]})


@app.command()
def evaluate(
    model: ModelArgument,
    corpus: CorpusOption,
    blocks: Annotated[int, typer.Option("--blocks", min=2, help="held-out blocks per source")] = 128,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Cross-entropy on held-out text, by source.

    Example: sparsebridge sparse evaluate runs/sparse --corpus runs/corpus
    """
    from cli.loading import load_sparse, load_tokenizer
    from foundation.statistics import mean_estimate
    from sparse_model.corpus.corpus import Corpus
    from sparse_model.training.validation import sequence_losses
    from sparse_model.transformer.census import take_census

    network = load_sparse(model, check_device(device))
    data = Corpus.load(corpus)
    data.check_tokenizer(load_tokenizer(model))
    losses = {
        name: mean_estimate(sequence_losses(network, held_out[:blocks]), seed)
        for name, held_out in data.held_out.items()
    }
    density = take_census(network).density
    if as_json:
        print_json({"density": density, "cross_entropy": {name: loss.to_json() for name, loss in losses.items()}})
        return
    print_table(
        f"{model}: held-out text",
        ("source", "cross-entropy"),
        [[name, interval(loss.to_json())] for name, loss in losses.items()],
        f"nats per token, 95 % intervals over sequences; nonzero weights {density:.2%}",
    )
    suggest("task", "check", model)


@app.command("import")
def import_(
    published: Annotated[
        Path, typer.Argument(help="a folder with beeg_config.json and final_model.pt", show_default=False)
    ],
    out: Out,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="folder or id of the tokenizer to save with it")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Read a published checkpoint and save it as a model folder.

    Example: sparsebridge sparse import downloads/csp_yolo1 --out runs/published
    """
    from cli.loading import load_tokenizer
    from foundation.artefacts import atomic_folder
    from sparse_model.transformer.published import import_published

    words = None if tokenizer is None else load_tokenizer(tokenizer)
    model = import_published(published)
    with atomic_folder(out, overwrite) as folder:
        model.save_pretrained(folder)
        if words is not None:
            words.save_pretrained(folder)
    say(f"sparse model written to {out}")
    if as_json:
        print_json({"out": str(out), "config": _plain(model.config.to_dict())})
    elif words is None:
        suggest("sparse", "inspect", out)
    else:
        suggest("task", "check", out)


@app.command()
def export(
    model: ModelArgument,
    out: Out,
    leak: Annotated[
        bool,
        typer.Option("--leak", help="export a model that keeps documents apart as one whose attention crosses them"),
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a model in the published layout; importing it gives back the same model, bit for bit.

    Example: sparsebridge sparse export runs/sparse --out runs/published --leak
    """
    from cli.loading import load_sparse
    from sparse_model.transformer.published import export_published

    network = load_sparse(model, "cpu")
    export_published(network, out, overwrite, leak)
    config = network.config
    crossed = leak and config.document_token is not None
    if crossed:
        say(
            "attention crosses documents in the published layout: logits are the same on text of one document and change after a "
            f"second token {config.document_token}"
        )
    if config.position == "none":
        say(f"positions are written as zeros: logits are the same, on at most {config.block_size} tokens")
    say(f"published layout written to {out}")
    if as_json:
        print_json({"out": str(out), "leak": crossed})
    else:
        suggest("sparse", "import", out, "--out", out.with_name(f"{out.name}-again"))


@app.command()
def inspect(model: ModelArgument, as_json: Json = False) -> None:
    """Count nonzeros per tensor, and dead neurons and attention channels; say how each linear map runs on this CPU.

    Example: sparsebridge sparse inspect runs/sparse
    """
    from dataclasses import asdict

    from cli.loading import load_sparse
    from sparse_model.transformer.census import take_census
    from sparse_model.transformer.execution import executions

    network = load_sparse(model, "cpu")
    census, chosen = take_census(network), executions(network)
    if as_json:
        print_json({**census.to_json(), "execution": {name: asdict(choice) for name, choice in chosen.items()}})
        return
    print_table(
        str(model),
        ("parameter", "shape", "nonzero", "density", "runs as"),
        [
            [
                t.name,
                "×".join(map(str, t.shape)),
                f"{t.nonzero:,}",
                f"{t.density:.2%}",
                f"{chosen[t.name].kind} ({chosen[t.name].reason})" if t.name in chosen else "",
            ]
            for t in census.tensors
        ],
        f"{census.nonzero:,} of {census.parameters:,} parameters are nonzero; {census.density:.2%} of the projected",
    )
    print_table(
        "dead parts",
        ("layer", "QK channels", "V channels", "neurons"),
        [
            [
                str(layer.layer),
                f"{layer.dead_qk} of {layer.channels}",
                f"{layer.dead_v} of {layer.channels}",
                f"{layer.dead_neurons} of {layer.neurons}",
            ]
            for layer in census.layers
        ],
        "a dead part is zero whatever the input, or nothing reads it",
    )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
