"""`sparsebridge bridge`: attach bridges to a Hugging Face model, and say how good they are."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bridges.bridge_config import BridgeConfig
from cli.app import App
from cli.options import (
    CorpusText,
    DenseOption,
    Device,
    Json,
    Out,
    Overwrite,
    TrustRemoteCode,
    check_device,
    with_settings,
)
from cli.output import interval, print_json, print_table, say, suggest
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.shape import SparseShape

app = App(help=__doc__)

Model = Annotated[
    str, typer.Argument(help="Hugging Face id, folder, or folder holding one .gguf file", show_default=False)
]
CorpusOption = Annotated[
    Path, typer.Option("--corpus", help="a corpus folder in the model's own tokens", show_default=False)
]


@app.callback()
def group() -> None:
    """Attach bridges to a Hugging Face model, and say how good they are."""


@app.command()
@with_settings(train=TrainConfig, bridge=BridgeConfig, sparse=SparseShape)
def train(
    model: Model,
    corpus: CorpusOption,
    out: Out,
    train: TrainConfig,
    bridge: BridgeConfig,
    sparse: SparseShape,
    evaluate_blocks: Annotated[int, typer.Option("--evaluate-blocks", min=2, help="held-out blocks per source")] = 128,
    overwrite: Overwrite = False,
    device: Device = "cpu",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Train a weight-sparse model together with bridges to MODEL.

    Example: sparsebridge bridge train runs/dense --corpus runs/corpus --out runs/bridge --density 0.05 --steps 3000
    """
    from bridges.training import BridgeSettings, BridgeText, train_bridge
    from dense_adapters import load_stack
    from sparse_model.corpus.corpus import Corpus

    data = Corpus.load(corpus)
    stack, tokenizer = load_stack(model, check_device(device), trust_remote_code)
    data.check_tokenizer(tokenizer)
    text, settings = BridgeText.of(data, evaluate_blocks), BridgeSettings(train, bridge, sparse)
    description = train_bridge(stack, model, tokenizer, text, out, settings, overwrite, device)
    say(f"bridge written to {out}")
    suggest("circuit", "prune", out, "--task", "TASK", "--out", out.with_name("circuit"))
    show(description.get("evaluation", {}), as_json)  # evaluated by the first process alone


@app.command()
def evaluate(
    bridge: Annotated[Path, typer.Argument(help="a bridge folder", show_default=False)],
    corpus: CorpusOption,
    dense: DenseOption = None,
    blocks: Annotated[int, typer.Option("--blocks", min=2, help="held-out blocks per source")] = 128,
    paths: Annotated[int, typer.Option("--paths", min=0, help="random mixed paths per batch")] = 8,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of the random paths")] = 0,
    device: Device = "cpu",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Measure a bridge on held-out text: NMSE and KL per site, KL overall and on random mixed paths.

    Example: sparsebridge bridge evaluate runs/bridge --corpus runs/corpus
    """
    from bridges.evaluate import evaluate_bridge
    from bridges.pairing import load_pairing
    from bridges.training import check_block_length
    from sparse_model.corpus.corpus import Corpus

    pairing = load_pairing(bridge, dense, check_device(device), trust_remote_code)
    data = Corpus.load(corpus)
    data.check_tokenizer(pairing.tokenizer)
    check_block_length(pairing.stack, data.block_length)
    found = {
        name: evaluate_bridge(
            pairing.artefact.sparse,
            pairing.stack,
            pairing.artefact.bridge,
            held_out[:blocks],
            mixed_paths=paths,
            seed=seed,
            device=device,
        ).to_json()
        for name, held_out in data.held_out.items()
    }
    show(found, as_json)
    if not as_json:
        suggest("circuit", "prune", bridge, "--task", "TASK", "--out", bridge.with_name("circuit"))


@app.command()
def extend(
    bridge: Annotated[Path, typer.Argument(help="a bridge folder", show_default=False)],
    site: Annotated[
        list[str], typer.Option("--site", help="SPARSE:DENSE site to add, e.g. 7:54; repeatable", show_default=False)
    ],
    out: Out,
    dense: DenseOption = None,
    corpus: CorpusText = None,
    blocks: Annotated[int, typer.Option("--blocks", min=2, help="text blocks to fit on")] = 128,
    held_out_blocks: Annotated[int, typer.Option("--held-out-blocks", min=2, help="text blocks to measure on")] = 16,
    overwrite: Overwrite = False,
    device: Device = "cpu",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Add meeting points to a trained bridge, fitted by ridge regression on frozen models; minutes on a CPU.

    A bridge trained at layer boundaries has no place within a layer, where a circuit may move the answer.

    Example: sparsebridge bridge extend runs/bridge --site 7:54 --out runs/extended
    """
    from bridges.extend import AlignedSite, extend_folder
    from bridges.pairing import load_pairing
    from foundation.errors import UserError
    from sparse_model.corpus.reference_text import reference_blocks

    new = []
    for given in site:
        parts = given.split(":")
        if len(parts) != 2 or not all(part.isdecimal() and len(part) < 7 for part in parts):
            raise UserError(f"--site {given}: is not SPARSE:DENSE, two site numbers such as 7:54")
        new.append(AlignedSite(int(parts[0]), int(parts[1])))
    pairing = load_pairing(bridge, dense, check_device(device), trust_remote_code)
    length = pairing.artefact.sparse.config.block_size
    text = reference_blocks(pairing.tokenizer, "train", blocks + (held_out_blocks if corpus else 0), length, corpus)
    held_out = (
        text[blocks:] if corpus else reference_blocks(pairing.tokenizer, "held_out", held_out_blocks, length)
    )  # a corpus folder's reference text comes in one piece
    found = extend_folder(pairing, new, text[:blocks], held_out, out, overwrite, device)
    say(f"bridge written to {out}")
    suggest("edit", "validate", "CIRCUIT", "--bridge", out)
    if as_json:
        print_json({"sites": found})
    else:
        _show_sites(
            "added sites, held-out text", found, "_later", "after the first position; NMSE 1 is predicting the mean"
        )


def show(evaluation: dict[str, Any], as_json: bool) -> None:
    """Print evaluations by source."""
    if as_json:
        print_json({"evaluation": evaluation})
        return
    for source, found in evaluation.items():
        rows = [
            [name.replace("_", " "), interval(found[name])]
            for name in (
                "ce_dense",
                "ce_sparse",
                "kl_dense_sparse",
                "kl_dense_sparse_later",
                "kl_mixed_paths",
                "kl_unigram",
            )
            if name in found
        ]
        print_table(
            f"{source}: held-out text, nats per token, 95 % intervals over sequences",
            ("", "value"),
            rows,
            f"nonzero weights {found['density']:.2%}; {found['tokens']} tokens; the yardstick kl unigram predicts frequencies",
        )
        unmet = _unmet(found.get("unmet_sparse_sites", []))
        _show_sites(f"{source}: aligned sites", found["sites"], "", f"NMSE 1 is predicting the mean{unmet}")
        if any("rms_dense_later" in site for site in found["sites"]):
            note = "it is a sink in many models; ordinary channels carry less than 100 times the median channel's power"
            _show_sites(f"{source}: the same after the first position", found["sites"], "_later", note)


def _show_sites(title: str, sites: list[dict[str, Any]], which: str, note: str) -> None:
    """Figures of every aligned site: of all positions, or with `_later` of those after the first."""
    columns = {
        "NMSE encoder": f"nmse_encoder{which}",
        "NMSE decoder": f"nmse_decoder{which}",
        **({"… in ordinary channels": "nmse_decoder_ordinary"} if which else {}),
        "RMS of the dense stream": f"rms_dense{which}",
        "KL dense→sparse": f"kl_dense_to_sparse{which}",
        "KL sparse→dense": f"kl_sparse_to_dense{which}",
    }
    rows = [
        [
            f"{site['sparse_site']} = {site['dense_site']}",
            *(f"{site[key]:.3f}" if key in site else "–" for key in columns.values()),
        ]
        for site in sites
    ]
    print_table(title, ("sparse site = dense site", *columns), rows, note)


def _unmet(sites: list[int]) -> str:
    """Names the sparse sites without a place in the dense model."""
    return f"; sparse sites {', '.join(map(str, sites))} meet no dense one: nodes there do not map" if sites else ""
