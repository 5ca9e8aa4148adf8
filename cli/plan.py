"""`sparsebridge plan`: what a training run needs, before it starts."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bridges.bridge_config import BridgeConfig
from cli.app import App
from cli.options import Json, TrustRemoteCode, check_device, with_settings
from cli.output import print_json, print_table, say, suggest
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.shape import SparseShape

app = App(help=__doc__)
MEASURED_STEPS = 5


@app.command()
@with_settings(train=TrainConfig, bridge=BridgeConfig, sparse=SparseShape)
def plan(
    train: TrainConfig,
    bridge: BridgeConfig,
    sparse: SparseShape,
    dense: Annotated[
        str | None, typer.Option("--dense", help="Hugging Face id or folder; unset: a sparse model without bridges")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option("--corpus", help="a corpus folder; unset: --vocab-size and --block-length")
    ] = None,
    vocab_size: Annotated[
        int, typer.Option("--vocab-size", min=1, help="tokens V; the dense model's own where there is one")
    ] = 1024,
    block_length: Annotated[int, typer.Option("--block-length", min=2, help="tokens per sequence T")] = 128,
    on: Annotated[
        str, typer.Option("--on", help="cpu (this machine), l4, rtx4090, a100-40, a100-80, h100, h200")
    ] = "cpu",
    devices: Annotated[int, typer.Option("--devices", min=1, help="how many of them share a step's sequences")] = 1,
    split: Annotated[
        bool, typer.Option("--split", help="each device holds its share of the parameters, as with accelerate's FSDP")
    ] = False,
    utilisation: Annotated[
        float | None,
        typer.Option(
            "--utilisation",
            min=0.001,
            max=1,
            help="share of the peak rate reached; unset: that of the measured run nearest in device and size",
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="run a few real steps here and take the hours from them")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Parameters, memory, FLOPs, hours and bytes on disk of `sparse train`, or with --dense of `bridge train`.

    Takes the same settings and the same --config.

    Exits 1 where the run does not fit the device, and says what would.

    Example: sparsebridge plan --sparse-d-model 2048 --sparse-n-layer 8 --density 0.01 --steps 100000 --on h100 --devices 8
    """
    from bridges.workload import bridged_workload, dense_shape
    from sparse_model.corpus.corpus import Corpus
    from sparse_model.plan.estimate import make_plan, sparse_workload
    from sparse_model.plan.hardware import find_device
    from sparse_model.plan.measured import Utilisation, expected_utilisation, reached_by

    if corpus is not None:
        data = Corpus.load(corpus)
        vocab_size, block_length = data.vocab_size, data.block_length
    device = find_device(on)
    if dense is None:
        config = sparse.config(vocab_size, block_length, None if sparse.leak else 0)
        workload = sparse_workload(config, train)
    else:
        shape = dense_shape(dense, block_length, trust_remote_code)
        config = sparse.config(shape.vocab_size, block_length)
        workload = bridged_workload(config, shape, bridge, train, None if on == "cpu" else device.memory)
    work_of_one = workload.step_flops * train.batch_size * block_length / devices
    reached = (
        expected_utilisation(on, train.precision, work_of_one)
        if utilisation is None
        else Utilisation(utilisation, "as given")
    )
    arguments = (workload, train, block_length, device, devices, reached.share)
    found = make_plan(*arguments, split=split)
    if measure:
        say(f"running {MEASURED_STEPS} steps")
        place = check_device("cpu" if on == "cpu" else "cuda")
        share = train.model_copy(update={"batch_size": train.batch_size // devices})
        seconds = _measure(config, dense, bridge, share, block_length, place, trust_remote_code)
        found = make_plan(*arguments, seconds_per_step=seconds, split=split)
        reached = Utilisation(found.utilisation, "measured here")
    described = {**found.to_json(), "utilisation_source": reached.source, "sizes": _sizes(config, train)}
    start = {} if dense is None else _to_start_with(shape.d_model, shape.n_layer, train, block_length, on)
    if dense is not None:
        described |= {"to_start_with": start, "similar_run": reached_by(shape.parameters)}
    if as_json:
        print_json(described)
    else:
        _show(described)
    if not found.to_json()["fits"]:
        say(f"does NOT fit: {_what_would_fit(found)}")
        raise typer.Exit(1)
    data_of = ("--corpus", "CORPUS" if corpus is None else corpus)
    if dense is None:
        suggest("sparse", "train", *data_of, "--out", "sparse")
        return
    if described["similar_run"]:
        say(f"the nearest bridge measured: {described['similar_run']}")
    given = {**sparse.model_dump(), **train.model_dump()}
    if any(
        given[name.removeprefix("--sparse-").removeprefix("--").replace("-", "_")] != v for name, v in start.items()
    ):
        say(
            f"sizes to start with for a dense model of {shape.n_layer} layers × {shape.d_model} are others (docs/sizes.md)"
        )
        suggest(
            "plan", "--dense", dense, "--on", on, *(part for name, value in start.items() for part in (name, value))
        )
        return
    suggest("bridge", "train", dense, *data_of, "--out", "bridge")


def _sizes(config: Any, train: TrainConfig) -> str:
    """What is planned, in words."""
    nonzero = "all of its weights" if train.density == 1 else f"{train.density:.2g} of its weights"
    return f"{config.n_layer} layers × {config.d_model} channels, {nonzero} nonzero, {train.precision}"


def _to_start_with(d_model: int, n_layer: int, train: TrainConfig, block_length: int, on: str) -> dict[str, Any]:
    """Options and values that suit a dense model of that shape, by the rules that `explain` chooses by."""
    from bridges.jobs.sizes import LEARNING_RATE, PLANNED_TOKENS, density_for, shape_for

    shape = shape_for(d_model, n_layer)
    return {
        "--sparse-n-layer": shape.n_layer, "--sparse-d-model": shape.d_model, "--sparse-n-head": shape.n_head,
        "--density": density_for(shape.d_model), "--steps": round(PLANNED_TOKENS / (train.batch_size * block_length)),
        "--lr": LEARNING_RATE, "--gradient-rms": "normalise", "--precision": "fp32" if on == "cpu" else "bf16",
    }  # fmt: skip


def _what_would_fit(found: Any) -> str:
    """The largest micro-batch of one device that would, in one line."""
    memory, sequences = found.memory, found.largest_micro_batch()
    if not sequences:
        resting = memory.peak - max(memory.activations, memory.gradients) + memory.gradients
        return f"weights, gradients and moments alone take {_bytes(resting)} a device; spread them with --split and --devices"
    return f"at most {sequences} sequences at once do on a device; lower --batch-size or raise --accumulate"


def _measure(
    config: Any,
    dense: str | None,
    bridge: BridgeConfig,
    train: TrainConfig,
    block_length: int,
    device: str,
    trust_remote_code: bool,
) -> float:
    """Seconds of one optimiser step of one process."""
    import torch

    from sparse_model.plan.measure import seconds_per_step
    from sparse_model.training.objective import LanguageModelling
    from sparse_model.transformer.model import SparseTransformer

    torch.manual_seed(train.seed)
    model = SparseTransformer(config).to(device)
    objective: torch.nn.Module = LanguageModelling(model, projected=model)
    if dense is not None:
        from bridges.alignment import align
        from bridges.bridge import Bridge
        from bridges.objective import BridgedObjective
        from dense_adapters import load_stack

        stack, _ = load_stack(dense, device, trust_remote_code)
        alignment = align(model, stack, bridge.align)
        pair = Bridge(alignment, model.d_model, stack.d_model, bridge.topk_fraction, train.seed).to(device)
        objective = BridgedObjective(model, stack, pair, bridge)
    return seconds_per_step(objective, train, config.vocab_size, block_length, MEASURED_STEPS)


def _show(found: dict[str, Any]) -> None:
    memory, flops, disk = found["memory_bytes"], found["flops_per_token"], found["disk_bytes"]
    parts = ("weights", "gradients", "moments", "activations", "casts", "buckets", "gathered")
    where = f"{found['devices']} × {found['device']}"
    rows = [
        ["sparse model", found["sizes"]],
        ["… its parameters", f"{found['parameters']:,}"],
        ["… nonzero at the end", f"{found['nonzero']:,}"],
        *([["bridge parameters", f"{found['bridge_parameters']:,}"]] if found["bridge_parameters"] else []),
        *([["frozen dense parameters", f"{found['frozen_parameters']:,}"]] if found["frozen_parameters"] else []),
        *([[f"memory: {name}", _bytes(memory[name])] for name in parts if memory[name]]),
        ["memory per device, peak", f"{_bytes(memory['peak'])} of {_bytes(found['device_memory_bytes'])}"],
        ["FLOPs per token, forward", f"{flops['forward']:.3g}"],
        ["FLOPs per token, step", f"{flops['step']:.3g}"],
        ["tokens", f"{found['tokens']:,}"],
        [f"hours on {where}", f"{found['hours']:.3g}"],
        ["disk: model", _bytes(disk["model"])],
        ["disk: checkpoints", _bytes(disk["checkpoints"])],
    ]
    share = f"{found['utilisation']:.0%} of {found['peak_flops'] / 1e12:.3g} TFLOP/s"
    note = f"hours at {share}, {found['utilisation_source']}"
    if not found["fits"]:
        note += "; does NOT fit: lower --batch-size or raise --accumulate"
        note += "" if found["split"] else ", or spread the parameters with --split and --devices"
    print_table("plan", ("", "needs"), rows, note)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
