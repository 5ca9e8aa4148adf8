"""`sparsebridge circuit compare`: circuit edges of a sparse and a dense model of equal loss."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.dropped import say_dropped
from cli.options import Device, Json, Out, check_device, with_settings
from cli.output import interval, print_json, print_table, say, suggest
from foundation.artefacts import parse_json, read_json
from foundation.errors import UserError
from foundation.writing import replace_text, written
from sparse_model.circuits.prune_config import MODELS, CompareConfig
from sparse_model.corpus.fragment import Split

if TYPE_CHECKING:
    from sparse_model.circuits.compare import Point

BUNDLED = Path(__file__).parent / "bundled"
EQUAL_LOSS = 0.02
"""Nats per token between models that still count as of equal loss."""
SOURCES = ("tinypython", "stdlib")


@with_settings(compare=CompareConfig)
def compare(
    out: Out,
    compare: CompareConfig,
    sparse: Annotated[Path, typer.Option("--sparse", help="the sparse model or bridge")] = BUNDLED / "bridge",
    dense: Annotated[
        Path, typer.Option("--dense", help="a model trained with --density 1 to the same cross-entropy")
    ] = BUNDLED / "counterpart",
    task: Annotated[
        list[str] | None, typer.Option("--task", help="repeatable; unset: every task", show_default=False)
    ] = None,
    blocks: Annotated[
        int, typer.Option("--blocks", min=2, help="text blocks for ablation means and for the loss")
    ] = 64,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Prune every task in both models over a sweep of target losses and compare edges; the same command resumes.

    Writes comparison.json, comparison.svg, comparison.png. Example: sparsebridge circuit compare --out runs/compare
    """
    from bridges.reports.figures.sparse_against_dense import write_comparison
    from sparse_model.circuits.compare import summarise
    from sparse_model.tasks import TASKS

    chosen = list(task or TASKS)
    models, tokenizer = load_contenders({"sparse": sparse, "dense": dense}, check_device(device))
    described = describe(models, tokenizer, blocks, compare.seed)
    identity = {
        "fingerprints": {name: described[name]["fingerprint"] for name in MODELS},
        "settings": compare.to_json() | {"blocks": blocks},
    }
    _claim(out, identity)
    sweeps, refused = _sweep_all(out, models, tokenizer, chosen, compare, blocks, device)
    rows = summarise(sweeps, compare.targets, compare.seed)
    if not any(row["tasks"] for row in rows):
        raise UserError(
            f"no task reaches a loss of {max(compare.targets):g} in both models; choose tasks they can do "
            "(sparsebridge task check)"
        )
    report = {
        "models": described,
        "equal_loss": abs(described["difference"][SOURCES[0]]["value"]) <= EQUAL_LOSS,
        "at": compare.at,
        "rows": rows,
        "refused": refused,
        "settings": identity["settings"],
    }
    write_comparison(out, report)
    say(f"comparison written to {out}")
    suggest("circuit", "prune", sparse, "--task", chosen[0], "--out", "circuit")
    print_json(report) if as_json else show(report)


def load_contenders(folders: dict[str, Path], device: str) -> tuple[dict[str, Any], Any]:
    """Both models and their one tokenizer.

    Raises:
        UserError: one does not load, or they read different tokens.
    """
    from cli.loading import load_sparse, load_tokenizer
    from sparse_model.corpus.tokenizer import tokenizer_fingerprint

    models = {name: load_sparse(folder, device) for name, folder in folders.items()}
    tokenizers = {name: load_tokenizer(folder) for name, folder in folders.items()}
    if len({tokenizer_fingerprint(tokenizer) for tokenizer in tokenizers.values()}) > 1:
        raise UserError(
            f"{folders['dense']}: its tokenizer is not that of {folders['sparse']}; train both on the same corpus"
        )
    return models, tokenizers["sparse"]


def describe(models: dict[str, Any], tokenizer: Any, blocks: int, seed: int) -> dict[str, Any]:
    """Per model its size and cross-entropy on held-out text; `difference` is sparse − dense, paired over sequences."""
    from foundation.fingerprints import model_fingerprint
    from foundation.statistics import mean_estimate
    from sparse_model.circuits.compare import whole_edges
    from sparse_model.corpus.reference_text import reference_blocks
    from sparse_model.training.validation import sequence_losses
    from sparse_model.transformer.census import take_census

    length = min(model.config.block_size for model in models.values())
    texts = {source: reference_blocks(tokenizer, "held_out", blocks, length, None, source) for source in SOURCES}
    losses = {
        name: {source: sequence_losses(model, text) for source, text in texts.items()} for name, model in models.items()
    }
    described: dict[str, Any] = {}
    for name, model in models.items():
        census = take_census(model)
        described[name] = {
            "fingerprint": model_fingerprint(model),
            "width": model.config.d_model,
            "density": census.density,
            "nonzero": census.nonzero,
            "edges": whole_edges(model),
            "cross_entropy": {s: mean_estimate(values, seed).to_json() for s, values in losses[name].items()},
        }
    described["difference"] = {
        source: mean_estimate(losses["sparse"][source] - losses["dense"][source], seed).to_json() for source in SOURCES
    }
    return described


def _claim(out: Path, identity: dict[str, Any]) -> None:
    """Make the folder this comparison's own; refuse one of another.

    Raises:
        UserError: it holds other settings or models.
    """
    place = out / "identity.json"
    if place.is_file():
        if read_json(out, place.name, "comparison") != identity:
            raise UserError(f"{out}: holds a comparison of other models or settings; choose another --out")
        return
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty and holds no comparison; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    with written(out):
        replace_text(place, json.dumps(identity))


def _sweep_all(
    out: Path, models: dict[str, Any], tokenizer: Any, tasks: list[str], config: CompareConfig, blocks: int, device: str
) -> tuple[dict[str, dict[str, list["Point"]]], dict[str, str]]:
    """The points of every model and task, and why a task was refused; what the folder already holds is not done again."""
    from sparse_model.circuits.ablation import ablation_values
    from sparse_model.circuits.compare import Point, sweep
    from sparse_model.corpus.reference_text import reference_blocks
    from sparse_model.tasks import TaskError, find_task
    from sparse_model.tasks.token_pairs import tokenise_pairs

    sweeps: dict[str, dict[str, list[Point]]] = {name: {} for name in models}
    refused: dict[str, str] = {}
    shares: dict[Split, int] = {
        "train": config.pairs,
        "validation": config.evaluate_pairs,
        "held_out": config.evaluate_pairs,
    }
    values = {
        name: ablation_values(
            model, reference_blocks(tokenizer, "train", blocks, model.config.block_size, None), config.ablation
        )
        for name, model in models.items()
    }
    for task in map(find_task, tasks):
        try:
            train, validation, held_out = (
                tokenise_pairs(task, tokenizer, n, split, config.seed).to(device) for split, n in shares.items()
            )
        except TaskError as error:
            refused[task.name] = str(error)
            continue
        say_dropped(task, train, validation, held_out)
        for name, model in models.items():
            sweeps[name][task.name] = []
            for k_coef in config.k_coefs:
                place = out / f"{name}.{task.name}.{k_coef:g}.json"
                if not place.is_file():
                    points = sweep(model, train, validation, held_out, values[name], config, k_coef)
                    _write(place, [point.to_json() for point in points])
                    say(f"{name} {task.name} k_coef {k_coef:g}: {_brief(points)}")
                sweeps[name][task.name] += _points(place)
    return sweeps, refused


def _brief(points: list["Point"]) -> str:
    return (
        ", ".join(f"{p.edges} edges at {p.target:g}" for p in points) or "no target is within the whole model's reach"
    )


def _points(place: Path) -> list["Point"]:
    from sparse_model.circuits.compare import Point

    try:
        return [Point(**point) for point in parse_json(place.read_bytes())]
    except (ValueError, TypeError):
        raise UserError(f"{place}: is damaged; remove it, and the same command makes it again") from None


def _write(place: Path, values: Any) -> None:
    with written(place):
        replace_text(place, json.dumps(values))


def _needed(report: dict[str, Any]) -> str:
    row = next(row for row in report["rows"] if row["target"] == report["at"])
    if row["ratio_needed"] is None:
        return ""
    means = " and ".join(f"{name} {interval(row['edges_needed'][name], 0)}" for name in MODELS)
    return f"; with edge masks at {report['at']:g}: {means}, dense / sparse {interval(row['ratio_needed'], 2)}"


def show(report: dict[str, Any]) -> None:
    """Print the two models, edges by target, and tasks at the main target."""
    models = report["models"]
    print_table(
        "the two models" if report["equal_loss"] else f"the two models differ by more than {EQUAL_LOSS} nats/token",
        ("", "sparse", "dense"),
        [
            ["width S", *(str(models[name]["width"]) for name in MODELS)],
            ["nonzero weights", *(f"{models[name]['nonzero']:,}" for name in MODELS)],
            ["edges of the whole model", *(f"{models[name]['edges']:,}" for name in MODELS)],
            *(
                [f"cross-entropy, {source}", *(interval(models[name]["cross_entropy"][source]) for name in MODELS)]
                for source in SOURCES
            ),
        ],
        "nats per token on held-out text, 95 % intervals over sequences; sparse − dense: "
        + ", ".join(f"{source} {interval(models['difference'][source])}" for source in SOURCES),
    )
    print_table(
        "edges of a task's circuit, geometric mean over tasks",
        ("task loss", "tasks", "sparse", "dense", "dense / sparse"),
        [
            [
                f"{row['target']:g}",
                str(len(row["tasks"])),
                *(interval(row["edges"][name], 0) for name in MODELS),
                interval(row["ratio"], 2),
            ]
            for row in report["rows"]
            if row["ratio"] is not None
        ],
        "95 % intervals over tasks; whole models: dense / sparse "
        f"{models['dense']['edges'] / models['sparse']['edges']:.2f}{_needed(report)}",
    )
    main = next(row for row in report["rows"] if row["target"] == report["at"])
    print_table(
        f"tasks at loss {report['at']:g}",
        ("task", "sparse nodes", "sparse edges", "dense nodes", "dense edges", "dense / sparse"),
        [
            [
                task,
                *(str(found[name][key]) for name in MODELS for key in ("nodes", "edges")),
                f"{max(1, found['dense']['edges']) / max(1, found['sparse']['edges']):.1f}",
            ]
            for task, found in main["tasks"].items()
        ],
        f"not compared: {', '.join(main['missing'])}" if main["missing"] else "",
    )
    for reason in report["refused"].values():
        say(reason)
