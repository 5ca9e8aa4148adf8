"""Does a sparse model that starts as a copy of the dense one end nearer to it than one that starts from nothing?

    python examples/from_dense.py --out runs/from_dense [--wider] [--into docs/training.md]

The dense model is a GPT-2 (the bundled one). The copy has its width, depth and weights, with every LayerNorm folded into an
RMSNorm (`copied`), and its bridges start as identities: at density 1 and without AbsTopK all its logits are the dense model's.
Density and AbsTopK then fall from 1 on the same schedule, while the ordinary bridged objective is trained. Beside it, on the
same tokens: models of that shape that start from random weights, and with `--wider` one of twice the width with as many nonzeros.

Runs that are done are read, so the command can be stopped and given again. `OUT/result.json` holds every figure.
"""

import argparse
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bridges.alignment import align
from bridges.artefact import dense_rms
from bridges.bridge import Bridge
from bridges.bridge_config import BridgeConfig
from bridges.losses import kl_per_token
from bridges.objective import BridgedObjective
from bridges.training import REFERENCE_BLOCKS, BridgeSettings, BridgeText, train_bridge
from dense_adapters import DenseStack, load_stack
from foundation.artefacts import read_json, write_json
from foundation.errors import UserError
from sparse_model.corpus.build import build_corpus
from sparse_model.corpus.corpus import Corpus
from sparse_model.corpus.corpus_config import CorpusConfig
from sparse_model.studies.page import publish
from sparse_model.training.projection import project, sparse_tensors
from sparse_model.training.schedule import anneal_is_over, density_at
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.shape import SparseShape
from sparse_model.transformer.sparse_config import SparseConfig

Start = Literal["copy", "random"]
DENSE = Path(__file__).resolve().parents[1] / "cli" / "bundled" / "dense"
DENSITIES = (0.5, 0.25, 0.1, 0.05)
SETTINGS: dict[Start, tuple[dict[str, Any], ...]] = {
    "copy": ({"lr": 0.003, "gradient_rms": "clip"}, {"lr": 0.001, "gradient_rms": "normalise"}),
    "random": ({"lr": 0.01, "gradient_rms": "normalise"},),
}
"""Tried at the lowest density. A copy starts with next to no gradient, which may better be clipped than normalised; random
weights take the settings of the other experiments."""
WIDER = 2
"""Times the width, in one more run from random weights with as many nonzeros as the lowest density leaves."""
TRAIN = TrainConfig(
    steps=100, batch_size=4, anneal_shape="exponential", checkpoint_every=50, keep_checkpoints=1,
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


def mixture(data: Corpus, evaluation: dict[str, Any], figure: str) -> float:
    """A figure of a bridge's evaluation, its sources weighted as in training."""
    shares = {name: float(data.description["sources"][name]["weight"]) for name in evaluation}
    return sum(shares[name] * float(evaluation[name][figure]["value"]) for name in shares) / sum(shares.values())


@torch.no_grad()
def untrained(dense: DenseStack, data: Corpus, density: float, fraction: float | None) -> float:
    """KL(dense ‖ copy) of a copy that keeps its largest weights, and of its channels a fraction, and is not trained at all."""
    sparse = copied(dense)
    project(sparse_tensors(sparse), density, TRAIN.floor)
    sparse.config.topk_fraction = fraction
    found = {}
    for name, blocks in data.held_out.items():
        tokens = torch.from_numpy(np.asarray(blocks[:EVALUATED], dtype=np.int64))
        target = F.log_softmax(dense.model(tokens).logits.float(), dim=-1)
        found[name] = {"kl": {"value": float(kl_per_token(target, sparse(tokens).logits).mean())}}
    return mixture(data, found, "kl")


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
    objective = objective_of(start, config, dense, text, train)
    shape = SparseShape(d_model=config.d_model, n_layer=config.n_layer, position="added")
    description = train_bridge(
        dense, str(DENSE), tokenizer, text, folder, BridgeSettings(train, BRIDGE, shape), objective=objective
    )
    evaluation = description["evaluation"]
    sites = [site for found in evaluation.values() for site in found["sites"]]
    crossing = sum(site["kl_dense_to_sparse"] + site["kl_sparse_to_dense"] for site in sites) / (2 * len(sites))
    counted = [*(tensor.parameter for tensor in sparse_tensors(objective.sparse)), objective.sparse.final_logits_bias]
    outcome = {
        "name": name, "settings": settings, "start": start, "width": config.d_model,
        "lr": train.lr, "gradient_rms": train.gradient_rms, "density": train.density,
        "nonzero": sum(int(p.count_nonzero()) for p in counted),
        "kl": mixture(data, evaluation, "kl_dense_sparse"),
        "kl_by_source": {s: found["kl_dense_sparse"] for s, found in evaluation.items()},
        "kl_crossing": crossing,
        "tokens": train.steps * train.batch_size * data.block_length,
    }  # fmt: skip
    write_json(folder / "outcome.json", outcome)
    return read_json(folder, "outcome.json", "experiment")


def run(out: Path, is_wider_too: bool = False) -> dict[str, Any]:
    """All runs."""
    dense, tokenizer = load_stack(str(DENSE))
    place = out / "corpus"
    corpus_config = CORPUS.model_copy(update={"tokenizer": str(DENSE)})
    data = Corpus.load(place) if place.exists() else build_corpus(corpus_config, place)
    config, runs = config_of(dense), []

    def one(name: str, start: Start, shape: SparseConfig, density: float, settings: dict[str, Any]) -> dict[str, Any]:
        train = TRAIN.model_copy(update={"density": density, **settings})
        runs.append(run_one(name, start, shape, train, dense, tokenizer, data, out))
        return runs[-1]

    lowest = min(DENSITIES)
    for start, sweep in SETTINGS.items():
        tried = [one(f"{start}-{lowest:g}-{n}", start, config, lowest, settings) for n, settings in enumerate(sweep)]
        _, best = min(zip(tried, sweep, strict=True), key=lambda pair: float(pair[0]["kl"]))
        for density in DENSITIES:
            if density != lowest:
                one(f"{start}-{density:g}", start, config, density, best)
    if is_wider_too:
        wider = config_of(
            dense, d_model=WIDER * config.d_model, n_head=WIDER * config.n_head, d_mlp=WIDER * config.d_mlp
        )
        sizes = [sum(t.parameter.numel() for t in sparse_tensors(SparseTransformer(c))) for c in (config, wider)]
        one("wider", "random", wider, lowest * sizes[0] / sizes[1], best)
    evaluation = read_json(out / runs[0]["name"], "bridge.json", "bridge")["evaluation"]
    alone = [
        {
            "density": density,
            "kl": untrained(dense, data, density, None),
            "kl_topk": untrained(dense, data, density, TOPK),
        }
        for density in (1.0, *DENSITIES)
    ]
    result = {"runs": runs, "untrained": alone, "kl_unigram": mixture(data, evaluation, "kl_unigram")}
    write_json(out / "result.json", result)
    return result


def table(result: dict[str, Any]) -> str:
    """One line per start, width and density at the rate that was best there, then what the rates gave."""
    runs = result["runs"]
    groups: dict[tuple[int, float, str], list[dict[str, Any]]] = {}
    for found in runs:
        groups.setdefault((found["width"], -found["density"], found["start"]), []).append(found)
    sources = list(runs[0]["kl_by_source"])
    lines = [
        f"| start | width | density | nonzeros | KL(dense ‖ sparse) | {' | '.join(sources)} | KL of a crossing |",
        "|---" * (6 + len(sources)) + "|",
    ]
    for _, group in sorted(groups.items()):
        found = min(group, key=lambda one: float(one["kl"]))
        cells = [
            found["start"], str(found["width"]), f"{found['density']:.2%}", f"{found['nonzero']:,}", f"{found['kl']:.3f}",
            *(f"{found['kl_by_source'][source]['value']:.3f}" for source in sources), f"{found['kl_crossing']:.3f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    tried = [
        f"{start} {', '.join(_setting(found) for found in group)}"
        for (_, _, start), group in groups.items()
        if len(group) > 1
    ]
    lines += [
        "",
        f"{runs[0]['tokens']:,} tokens each, one seed; nats per token on held-out text, "
        f"sources weighted as in training, where predicting token frequencies has {result['kl_unigram']:.3f}; a crossing is the "
        "mean over sites and both directions. KL at the lowest density by "
        f"learning rate and what is done to the gradient's RMS: {'; '.join(tried)}.",
    ]
    lines += ["", f"| the copy without training, density | KL | with AbsTopK at {TOPK:.0%} too |", "|---|---|---|"]
    lines += [
        f"| {one['density']:.0%} | {max(0.0, one['kl']):.3f} | {one['kl_topk']:.3f} |" for one in result["untrained"]
    ]
    return "\n".join(lines)


def _setting(found: dict[str, Any]) -> str:
    return f"{found['kl']:.3f} at {found['lr']:g}, {found['gradient_rms']}"


def main() -> None:
    """Parse the command line, run, print, write into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--into", type=Path, help="also write the table between the `from-dense` comments of this page")
    parser.add_argument("--wider", action="store_true", help="also train one of twice the width from random weights")
    arguments = parser.parse_args()
    publish(table(run(arguments.out, arguments.wider)), "from-dense", arguments.into)


if __name__ == "__main__":
    main()
