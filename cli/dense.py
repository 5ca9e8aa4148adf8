"""`sparsebridge dense`: train a small Hugging Face model; prove the adapter on any other."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cli.app import App
from cli.options import Device, Json, Out, Overwrite, TrustRemoteCode, check_device, with_settings
from cli.output import print_json, print_table, say, suggest, tell
from sparse_model.training.train_config import DenseConfig, TrainConfig

app = App(help=__doc__)


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
    from foundation.errors import UserError
    from sparse_model.corpus.corpus import Corpus
    from sparse_model.training.batches import Batches
    from sparse_model.training.dense import make_gpt2, save_dense
    from sparse_model.training.objective import LanguageModelling
    from sparse_model.training.run import train_artefact
    from sparse_model.training.validation import Validation

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
        Validation.of(data),
        kind="dense model",
    )
    say(f"dense model written to {out}")
    suggest("bridge", "train", out, "--corpus", corpus, "--out", out.with_name("bridge"))
    if as_json:
        print_json({"out": str(out), "final": rows[-1]})


@app.command()
def check(
    model: Annotated[
        str, typer.Argument(help="Hugging Face id, folder, or folder holding one .gguf file", show_default=False)
    ],
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option("--dtype", help="float32 is where the probe proves most"),
    ] = "float32",
    device_map: Annotated[
        str | None, typer.Option("--device-map", help="'auto' spreads a large model over devices (accelerate)")
    ] = None,
    device: Device = "cpu",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Resolve a model's roles and prove them numerically, layer by layer; exit code 1 if some sites are refused.

    Example: sparsebridge dense check runs/dense
    """
    import json

    from dense_adapters import DenseStack, load_dense

    network, _ = load_dense(
        model,
        device=check_device(device),
        dtype=dtype,
        device_map=device_map,
        trust_remote_code=trust_remote_code,
    )
    report = DenseStack(network).report
    if as_json:
        print_json(json.loads(report.to_json()))
    else:
        roles = [{key: _shown(value) for key, value in role.items()} for role in report.roles]
        columns = [key for key in roles[0] if any(role[key] for role in roles)]
        groups: dict[tuple[str, ...], list[str]] = {}
        for number, role in enumerate(roles):
            groups.setdefault(tuple(role[key] for key in columns if key != "layer"), []).append(str(number))
        for values, layers in groups.items():
            span = layers[0] if len(layers) == 1 else f"{layers[0]}–{layers[-1]}"
            names = [key for key in columns if key != "layer"]
            print_table(
                f"{report.architecture}, layers {span}",
                ("role", "resolved to"),
                [[k, v] for k, v in zip(names, values, strict=True)],
            )
        rows = [
            ["logits", f"{report.max_logit_error:.2e}"],
            ["residual = previous + contributions", f"{report.max_residual_error:.2e}"],
            ["read = gain · normalised + bias", f"{report.max_read_error:.2e}"],
        ]
        print_table(
            f"{report.n_layers} layers probed in {report.seconds:.1f} s",
            ("identity, against the model's own forward", "largest error"),
            rows,
            f"tolerance {report.tolerance:.0e}",
        )
        for refusal in report.refused:
            tell(f"REFUSED {refusal}")
        tell("all sites pass" if report.ok else f"{len(report.refused)} sites refused; the rest is usable")
        suggest("corpus", "build", "--source", "FOLDER", "--tokenizer", model, "--out", "corpus")
    if not report.ok:
        raise typer.Exit(1)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_shown(inner)}" for key, inner in value.items() if inner not in (None, [], ()))
    if isinstance(value, list | tuple):
        return " → ".join(map(str, value))
    return "" if value is None else str(value)
