"""Does a sparse model that starts as a copy of the dense one end nearer to it than one that starts from nothing?

    python examples/from_dense.py --out runs/from_dense [--into docs/training.md]

The dense model is a GPT-2 (the bundled one). The copy has its width, depth and weights, with every LayerNorm folded into an
RMSNorm (`copied`), and its bridges start as identities: at density 1 and without AbsTopK all its logits are the dense model's.
Density and AbsTopK then fall from 1 on the same schedule, while the ordinary bridged objective is trained. Beside it, on the
same tokens: models of that shape that start from random weights, and a wider one with as many nonzeros.

Each start has its own learning rate, the best of three at the lowest density. Runs that are done are read, so the command can
be stopped and given again. `OUT/result.json` holds every figure.
"""

import argparse
import time
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bridges.alignment import align
from bridges.artefact import dense_rms
from bridges.bridge import Bridge
from bridges.bridge_config import BridgeConfig
from bridges.objective import BridgedObjective
from bridges.training import REFERENCE_BLOCKS, BridgeSettings, BridgeText, train_bridge
from dense_adapters import DenseStack, load_stack
from foundation.artefacts import read_json, write_json
from foundation.errors import UserError
from sparse_model.corpus.build import build_corpus
from sparse_model.corpus.corpus import Corpus
from sparse_model.corpus.corpus_config import CorpusConfig
from sparse_model.studies.page import publish
from sparse_model.training.projection import sparse_tensors
from sparse_model.training.schedule import anneal_is_over, density_at
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.shape import SparseShape
from sparse_model.transformer.sparse_config import SparseConfig

Start = Literal["copy", "random"]
DENSE = Path(__file__).resolve().parents[1] / "cli" / "bundled" / "dense"
DENSITIES = (0.5, 0.25, 0.1, 0.05)
RATES = (0.003, 0.01)
WIDER, LONGER = 2, 3
"""Times the width, in a run with as many nonzeros as the lowest density leaves; times the steps, in two more at that density."""
TRAIN = TrainConfig(
    steps=100, batch_size=4, gradient_rms="normalise", anneal_shape="exponential", checkpoint_every=50, keep_checkpoints=1,
    evaluate_every=0, diagnose_every=0, log_to="none",
)  # fmt: skip
BRIDGE = BridgeConfig(crossings=1)
CORPUS = CorpusConfig(train_tokens=400_000, evaluation_tokens=10_000)
EVALUATED = 16
"""Held-out blocks per source."""
TOPK = 0.25
"""Fraction of channels AbsTopK keeps in the end."""


def config_of(dense: DenseStack, **changes: Any) -> SparseConfig:
    """The config of a sparse model of a GPT-2's own shape; its attention crosses documents as the dense model's does.

    Raises:
        UserError: it is no GPT-2, or one with switches that a sparse model does not have.
    """
    config = dense.model.config
    if (
        config.model_type != "gpt2"
        or config.activation_function != "gelu_new"
        or config.scale_attn_by_inverse_layer_idx
    ):
        raise UserError(
            f"{type(dense.model).__name__}: only a GPT-2 with its usual activation and attention can be copied"
        )
    values = {
        "vocab_size": config.vocab_size, "block_size": config.n_positions, "n_layer": config.n_layer,
        "d_model": config.n_embd, "n_head": config.n_head, "d_head": config.n_embd // config.n_head,
        "d_mlp": config.n_inner or 4 * config.n_embd, "norm_eps": config.layer_norm_epsilon, "activation": "gelu_tanh",
        "position": "added", "topk_fraction": TOPK,
    }  # fmt: skip
    return SparseConfig(**{**values, **changes})


def centring(width: int) -> Float[Tensor, "W W"]:
    """C = I − 11ᵀ/W, which takes the mean out of a stream."""
    return torch.eye(width) - 1 / width


@torch.no_grad()
def copied(dense: DenseStack) -> SparseTransformer:
    """The GPT-2 as a sparse model without AbsTopK, which gives the same logits.

    LayerNorm(h) = g·RMSNorm(C h) + b. So all that writes to the stream is centred, and b moves behind the norm: into the bias of
    the map that reads it, W (x + b) + c = W x + (W b + c), or at the end into the bias of the logits.
    """
    sparse, gpt2 = SparseTransformer(config_of(dense, topk_fraction=None)), dense.model.transformer
    C = centring(sparse.d_model)
    for name in ("wte", "wpe"):
        sparse.embeddings(name).weight.copy_(getattr(gpt2, name).weight @ C)
    for ours, theirs in zip(sparse.blocks, gpt2.h, strict=True):
        for norm, reader, read_norm, read_by in (
            (ours.ln_1, ours.attn.c_attn, theirs.ln_1, theirs.attn.c_attn),
            (ours.ln_2, ours.mlp.c_fc, theirs.ln_2, theirs.mlp.c_fc),
        ):
            norm.weight.copy_(read_norm.weight)
            reader.weight.copy_(read_by.weight.T)  # GPT-2 keeps its matrices transposed
            reader.bias.copy_(read_by.bias + read_norm.bias @ read_by.weight)
        for writer, written_by in ((ours.attn.c_proj, theirs.attn.c_proj), (ours.mlp.c_proj, theirs.mlp.c_proj)):
            writer.weight.copy_(C @ written_by.weight.T)
            writer.bias.copy_(C @ written_by.bias)
    head = dense.model.lm_head.weight
    sparse.norm(len(sparse.sublayers)).weight.copy_(gpt2.ln_f.weight)
    sparse.lm_head.weight.copy_(head)
    sparse.final_logits_bias.copy_(head @ gpt2.ln_f.bias)
    return sparse


@torch.no_grad()
def be_identities(bridge: Bridge) -> None:
    """Let the bridges of a copy do nothing: encoders centre, as the copy's stream is centred; decoders pass on.

    The mean that is missing in what they decode, nothing in the dense model reads.
    """
    for j, (encoder, decoder) in enumerate(zip(bridge.encoders, bridge.decoders, strict=True)):
        encoder.weight.copy_(centring(bridge.d_dense) * bridge.dense_scale[j])
        decoder.weight.copy_(torch.eye(bridge.d_dense) / bridge.dense_scale[j])


class Annealed(BridgedObjective):
    """The bridged objective, in which AbsTopK of model and encoders falls from all channels to its fraction as density does."""

    def __init__(self, *parts: Any, train: TrainConfig) -> None:
        super().__init__(*parts)
        self.train_config = train.model_copy(update={"density": TOPK})

    def forward(self, tokens: Int[Tensor, "B T"], draw: int) -> dict[str, Tensor]:
        """As ever; `draw` says which step it is."""
        if torch.is_grad_enabled():
            train = self.train_config
            step = draw // train.accumulate - train.seed * train.steps
            fraction = TOPK if anneal_is_over(train, step) else density_at(train, step)
            self.sparse.config.topk_fraction = fraction
            self.bridge.k = max(1, round(fraction * self.bridge.d_sparse))
        return super().forward(tokens, draw)


def objective_of(
    start: Start, config: SparseConfig, dense: DenseStack, text: BridgeText, train: TrainConfig
) -> BridgedObjective:
    """What is trained, as it starts."""
    torch.manual_seed(train.seed)
    sparse = copied(dense) if start == "copy" else SparseTransformer(config)
    bridge = Bridge(align(sparse, dense), sparse.d_model, dense.d_model, TOPK, train.seed)
    bridge.set_dense_scale(dense_rms(dense, bridge, text.train[:REFERENCE_BLOCKS]))
    if start == "random":
        return BridgedObjective(sparse, dense, bridge, BRIDGE)
    be_identities(bridge)
    return Annealed(sparse, dense, bridge, BRIDGE, train=train)


def run_one(
    name: str,
    start: Start,
    config: SparseConfig,
    train: TrainConfig,
    dense: DenseStack,
    tokenizer: PreTrainedTokenizerBase,
    data: Corpus,
    out: Path,
) -> dict[str, Any]:
    """Train and measure one model, or read what an earlier call found.

    Raises:
        UserError: the folder holds a run with other settings.
    """
    folder, text = out / name, BridgeText.of(data, EVALUATED)
    settings = {"start": start, "width": config.d_model, "train": train.identity(), "bridge": BRIDGE.to_json()}
    if (folder / "outcome.json").is_file():
        found = read_json(folder, "outcome.json", "experiment", ("settings",))
        if found["settings"] != settings:
            raise UserError(f"{folder}: holds a run with other settings; choose another --out or remove it")
        return found
    began = time.process_time()
    objective = objective_of(start, config, dense, text, train)
    shape = SparseShape(d_model=config.d_model, n_layer=config.n_layer, position="added")
    description = train_bridge(
        dense, str(DENSE), tokenizer, text, folder, BridgeSettings(train, BRIDGE, shape), objective=objective
    )
    evaluation = description["evaluation"]
    shares = {name: float(data.description["sources"][name]["weight"]) for name in evaluation}
    sites = [site for found in evaluation.values() for site in found["sites"]]
    crossing = sum(site["kl_dense_to_sparse"] + site["kl_sparse_to_dense"] for site in sites) / (2 * len(sites))
    counted = [*(tensor.parameter for tensor in sparse_tensors(objective.sparse)), objective.sparse.final_logits_bias]
    outcome = {
        "name": name, "settings": settings, "start": start, "width": config.d_model, "lr": train.lr, "density": train.density,
        "nonzero": sum(int(p.count_nonzero()) for p in counted),
        "kl": sum(shares[s] * found["kl_dense_sparse"]["value"] for s, found in evaluation.items()) / sum(shares.values()),
        "kl_by_source": {s: found["kl_dense_sparse"] for s, found in evaluation.items()},
        "kl_crossing": crossing,
        "tokens": train.steps * train.batch_size * data.block_length,
        "seconds": time.process_time() - began,
    }  # fmt: skip
    write_json(folder / "outcome.json", outcome)
    return read_json(folder, "outcome.json", "experiment")


def run(out: Path) -> dict[str, Any]:
    """All runs."""
    dense, tokenizer = load_stack(str(DENSE))
    place = out / "corpus"
    corpus_config = CORPUS.model_copy(update={"tokenizer": str(DENSE)})
    data = Corpus.load(place) if place.exists() else build_corpus(corpus_config, place)
    config, runs = config_of(dense), []

    def one(
        name: str, start: Start, shape: SparseConfig, lr: float, density: float, steps: int = TRAIN.steps
    ) -> dict[str, Any]:
        train = TRAIN.model_copy(update={"lr": lr, "density": density, "steps": steps})
        runs.append(run_one(name, start, shape, train, dense, tokenizer, data, out))
        return runs[-1]

    lowest = min(DENSITIES)
    starts: tuple[Start, ...] = ("copy", "random")
    rate = {}
    for start in starts:
        tried = [one(f"{start}-{lowest:g}-lr{lr:g}", start, config, lr, lowest) for lr in RATES]
        rate[start] = min(tried, key=lambda found: float(found["kl"]))["lr"]
        for density in DENSITIES:
            if density != lowest:
                one(f"{start}-{density:g}", start, config, rate[start], density)
    wider = config_of(dense, d_model=WIDER * config.d_model, n_head=WIDER * config.n_head, d_mlp=WIDER * config.d_mlp)
    sizes = [sum(t.parameter.numel() for t in sparse_tensors(SparseTransformer(c))) for c in (config, wider)]
    one("wider", "random", wider, rate["random"], lowest * sizes[0] / sizes[1])
    for start in starts:
        one(f"{start}-{lowest:g}-longer", start, config, rate[start], lowest, LONGER * TRAIN.steps)
    result = {"runs": runs}
    write_json(out / "result.json", result)
    return result


def table(result: dict[str, Any]) -> str:
    """One line per start, width, density and length at the rate that was best there, then what the rates gave."""
    runs = result["runs"]
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for found in runs:
        key = (found["tokens"], found["width"], -found["density"], found["start"])
        if key not in best or found["kl"] < best[key]["kl"]:
            best[key] = found
    sources = list(runs[0]["kl_by_source"])
    lines = [
        f"| start | tokens | width | density | nonzeros | KL(dense ‖ sparse) | {' | '.join(sources)} | KL of a crossing |",
        "|---" * (7 + len(sources)) + "|",
    ]
    for _, found in sorted(best.items()):
        cells = [
            found["start"], f"{found['tokens']:,}", str(found["width"]), f"{found['density']:.2%}", f"{found['nonzero']:,}",
            f"{found['kl']:.3f}", *(f"{found['kl_by_source'][source]['value']:.3f}" for source in sources),
            f"{found['kl_crossing']:.3f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    tried: dict[tuple[str, float], list[str]] = {}
    for found in runs[: 2 * (len(RATES) + len(DENSITIES) - 1)]:
        tried.setdefault((found["start"], found["density"]), []).append(f"{found['kl']:.3f} at {found['lr']:g}")
    rates = "; ".join(f"{start} {', '.join(given)}" for (start, _), given in tried.items() if len(given) > 1)
    minutes = sum(found["seconds"] for found in runs) / 60
    lines += [
        "",
        "Nats per token on held-out text, sources weighted as in training; a crossing is the mean over sites and both "
        f"directions. One seed, {minutes:.0f} processor minutes in all. By learning rate at the lowest density: {rates}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, run, print, write into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--into", type=Path, help="also write the table between the `from-dense` comments of this page")
    arguments = parser.parse_args()
    publish(table(run(arguments.out)), "from-dense", arguments.into)


if __name__ == "__main__":
    main()
