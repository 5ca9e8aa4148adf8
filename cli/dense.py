"""`sparsebridge dense`: train a small Hugging Face model; prove the adapter on any other."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Device, Json, Out, Overwrite, check_device, with_settings
from cli.output import print_json, print_table, say
from sparse_model.training.config import TrainConfig
from sparse_model.training.dense import DenseConfig

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=__doc__)


@app.callback()
def group() -> None:
    """Train a small Hugging Face model; prove the adapter on any other."""


@app.command()
@with_settings(train=TrainConfig, model=DenseConfig)
def train(
    corpus: Annotated[Path, typer.Option("--corpus", help="a corpus folder (see sparsebridge corpus build)")],
    out: Out,
    train: TrainConfig,
    model: DenseConfig,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train a GPT-2 and save it as an ordinary Hugging Face folder.

    Example: sparsebridge dense train --corpus runs/corpus --out runs/dense --lr 0.003 --eps 1e-8 --steps 3000
    """
    from sparse_model.corpus.corpus import Corpus
    from sparse_model.training.batches import Batches
    from sparse_model.training.dense import make_gpt2, save_dense
    from sparse_model.training.objective import LanguageModelling
    from sparse_model.training.run import train_artefact
    from sparse_model.settings import UserError

    if train.density < 1:
        raise UserError("--density belongs to sparse models; a dense model is trained with density 1")
    data = Corpus.load(corpus)
    network = make_gpt2(model, data.tokenizer, data.block_length, train.seed)
    rows = train_artefact(
        out,
        LanguageModelling(network),
        Batches(data.train, train.batch_size, train.seed),
        train,
        {"model": model.to_json(), "corpus": data.fingerprint},
        lambda folder: save_dense(network, data.tokenizer, folder),
        overwrite,
    )
    say(f"dense model written to {out}")
    if as_json:
        print_json({"out": str(out), "final": rows[-1]})


__all__ = ["Device", "app", "check_device", "print_table"]
