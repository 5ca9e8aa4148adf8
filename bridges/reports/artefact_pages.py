"""Pages of bridges, circuits, edits, models, corpora and training runs, each from its folder alone."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bridges.reports.blocks import Block, Drawing, Page, Prose, Section, Table, measures_table, settings_table
from bridges.reports.bridge_section import bridge_blocks
from bridges.reports.circuit_graph import bare_graph
from bridges.reports.circuit_section import circuit_blocks
from bridges.reports.figures.training_curves import training_curves
from bridges.reports.numbers import MISSING, estimate, figure, setting, share
from foundation.artefacts import parse_json, read_json
from foundation.errors import UserError

GRAPH = "circuit_graph.json"
"""Optional in a circuit folder: its `circuit_graph`, for a drawing with weights and activations."""
NOT_TERMS = {
    "step", "density", "lr", "steps_per_second", "tokens_per_second", "mfu", "gradient_rms",
    "revived_neurons", "revived_qk", "revived_v",
}  # fmt: skip


@contextmanager
def written_by_this_version(path: Path) -> Iterator[None]:
    """Within, a key that is missing or of another kind means that another version wrote the file.

    Raises:
        UserError: so it is.
    """
    try:
        yield
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not as this version writes it ({error!r}); make the artefact again") from error


def artefact_page(folder: Path) -> Page:
    """The page of an artefact folder.

    Raises:
        UserError: the folder is missing, damaged, or no artefact.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; pass the folder of an artefact (a report, bridge, circuit, edit, model, corpus or run)"
        )
    for name, make in PAGES.items():
        if (folder / name).is_file():
            with written_by_this_version(folder / name):
                return make(folder)
    raise UserError(
        f"{folder}: no artefact (none of report.json, {', '.join(PAGES)}); pass the folder a command wrote with --out"
    )


def _bridge(folder: Path) -> Page:
    found = read_json(folder, "bridge.json", "bridge")
    evaluation = found.get("evaluation", {})
    first: Mapping[str, Any] = next(iter(evaluation.values()), {})
    told = (
        f"KL(dense ‖ sparse) is {estimate(first.get('kl_dense_sparse'))} nats/token on {next(iter(evaluation))}, with "
        f"{share(first.get('density'))} of the sparse model's weights nonzero."
        if evaluation
        else "It has not been evaluated."
    )
    sections = [Section("Evaluation", "evaluation", tuple(bridge_blocks(evaluation)))] if evaluation else []
    shape = {key: found[key] for key in ("d_sparse", "d_dense", "topk_fraction")}
    blocks: tuple[Block, ...] = (
        settings_table("The dense model, and the shape of the bridge.", {"dense": found["dense"], **shape}),
        Table.of(
            "Aligned sites: where the two residual streams meet (site i is the stream before sublayer i).",
            ("sparse site", "dense site"),
            [[figure(site) for site in pair] for pair in found["alignment"]["sites"]],
            fold=f"{len(found['alignment']['sites'])} aligned sites",
        ),
        settings_table("Training settings.", found.get("config", {}), fold="Settings"),
    )
    sections.append(Section("What it is", "shape", blocks))
    sections += _training_sections(folder)
    sites = len(found["alignment"]["sites"])
    sentence = f"A bridge between {found['dense']['name']} and a weight-sparse model at {sites} sites. {told}"
    return Page("Bridge", sentence, sections=tuple(sections))


def _circuit(folder: Path) -> Page:
    found = read_json(folder, "circuit.json", "circuit")
    graph = (
        read_json(folder, GRAPH, "circuit") if (folder / GRAPH).is_file() else bare_graph(found["task"], found["nodes"])
    )
    metrics = found["metrics"]
    loss = metrics.get("task_loss", metrics.get("validation_loss"))
    edges = len(graph["edges"]) or metrics.get("edges")
    sentence = (
        f"A circuit of {figure(len(found['nodes']))} nodes and {figure(edges)} weights for the task {found['task']}"
    )
    if loss is not None:
        sentence += f"; alone it has a task loss of {figure(loss)} nats (guessing: 0.693)"
        whole = metrics.get("full_model_loss")
        sentence += "" if whole is None else f", the whole model {figure(whole)}"
    sentence += "."
    blocks = circuit_blocks(graph, "circuit")
    if not graph["edges"]:
        told = (
            "This folder holds which nodes the circuit keeps; its weights and activations are in the sparse model. To see "
            f"them: sparsebridge circuit show {folder} --model MODEL --out board.html"
        )
        blocks.insert(0, Prose(told))
    facts = {key: found[key] for key in ("ablation", "calibration", "model_fingerprint")}
    sections = [
        Section("Circuit", "circuit-section", tuple(blocks)),
        Section(
            "Measures and settings",
            "measures",
            (
                measures_table("Measures; losses in nats.", {"metrics": metrics, **facts}),
                settings_table("Pruning settings.", found["settings"], fold="Settings"),
            ),
        ),
    ]
    return Page(f"Circuit: {found['task']}", sentence, sections=tuple(sections))


def _edit(folder: Path) -> Page:
    found = read_json(folder, "edit.json", "edit")
    paired = found["form"] == "paired"
    sites = found["sites"]
    nodes = sum(len(site["nodes"]) for site in sites)
    rows = [
        [
            figure(site["dense_site"]),
            site["kind"] if paired else "residual stream",
            f"{found['loop']} loop" if paired else site["rule"],
            ", ".join(f"{name} {figure(value)}" for name, value in site.get("rule_values", {}).items()) or MISSING,
            figure(len(site["nodes"])),
        ]
        for site in sites
    ]
    columns: tuple[str, ...] = ("dense site", "what it edits", "how", "its values", "nodes")
    if all(row[3] == MISSING for row in rows):
        columns, rows = columns[:3] + columns[4:], [row[:3] + row[4:] for row in rows]
    named = [[figure(site["dense_site"]), ", ".join(site["nodes"])] for site in sites]
    meaning = (
        "Paired: it needs the counterfactual prompt, from which the change of every node is taken."
        if paired
        else "Standing: it needs no second prompt; at every token it reads the nodes off the dense stream, "
        "applies the rule, and writes the difference back."
    )
    blocks: list[Block] = [
        Prose(f"{meaning} Strength 0 changes nothing, 1 is a full edit."),
        Table.of("Where it acts, and how.", columns, rows, text_columns=len(columns) - 1),
        Table.of("The nodes it acts on.", ("dense site", "nodes"), named, fold=f"All {nodes} nodes", text_columns=2),
        settings_table("Made for.", {"task": found["task"], "model_fingerprint": found["model_fingerprint"]}),
    ]
    if found.get("metrics"):
        blocks.append(measures_table("Measures.", found["metrics"]))
    where = "1 site" if len(sites) == 1 else f"{len(sites)} sites"
    size = f"{nodes} nodes at {where}, strength {setting(found['strength'])}"
    sentence = f"Claim: {found['claim']}. A {found['form']} edit of {size}."
    return Page(f"Edit: {found['task']}", sentence, sections=(Section("The edit", "edit", tuple(blocks)),))


def _run(folder: Path) -> Page:
    training = read_json(folder, "training.json", "training run") if (folder / "training.json").is_file() else {}
    rows = read_metrics(folder)
    last = training.get("final") or (rows[-1] if rows else {})
    done = "A finished training run" if training else "An unfinished training run"
    reached = f"loss {figure(last.get('loss'))}, {share(last.get('density'))} of the weights nonzero"
    sentence = f"{done}: {figure(int(last.get('step', 0)))} steps, {reached}."
    return Page(f"Training run: {folder.resolve().name}", sentence, sections=tuple(_training_sections(folder)))


def _model(folder: Path) -> Page:
    found = read_json(folder, "config.json", "model")
    kind = (
        "A weight-sparse transformer"
        if found.get("model_type") == "sparsebridge"
        else f"A {found.get('model_type', 'model')} model"
    )
    table = settings_table("Shape and switches.", found)
    return Page("Model", f"{kind}.", sections=(Section("Configuration", "configuration", (table,)),))


def _corpus(folder: Path) -> Page:
    found = read_json(folder, "corpus.json", "corpus")
    config, sources = found["config"], found["sources"]
    rows = [
        [
            name,
            share(source["weight"]),
            figure(source["train"]["tokens"]),
            figure(source["train"].get("epochs")),
            *(figure(source[split]["tokens"]) for split in ("validation", "held_out")),
        ]
        for name, source in sources.items()
    ]
    blocks = (
        Table.of(
            "Tokens by source. Training blocks are mixed by share; validation and held-out blocks stay apart by source.",
            ("source", "share of training", "training tokens", "times read", "validation tokens", "held-out tokens"),
            rows,
        ),
        measures_table(
            "The tokenizer. Corpora and models with the same fingerprint share token ids.",
            {key: found[key] for key in ("tokenizer_fingerprint", "vocab_size", "block_length")},
        ),
        settings_table("Settings it was built with.", config, fold="Settings"),
    )
    train, where = found["train"], "1 source" if len(sources) == 1 else f"{len(sources)} sources"
    sentence = (
        f"A corpus of {figure(train['tokens'])} training tokens from {where}, in {figure(train['blocks'])} blocks of "
        f"{figure(found['block_length'])}."
    )
    return Page(f"Corpus: {folder.resolve().name}", sentence, sections=(Section("The corpus", "corpus", blocks),))


def _training_sections(folder: Path) -> list[Section]:
    """Curves and settings of the run that made an artefact; nothing where it kept none."""
    blocks: list[Block] = []
    rows = read_metrics(folder)
    if rows:
        terms = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in NOT_TERMS]
        caption = (
            "Loss terms (nats/token, sums over crossings; nmse in units of variance, summed over sites; loss their "
            "weighted sum) and the fraction of nonzero weights, by step. Squares: on validation text, in the colour of the "
            "same term in training."
        )
        hidden = sorted(term for term in terms if all(row.get(term, 0) <= 0 for row in rows))
        caption += f" Not drawn, as they are never above 0: {', '.join(hidden)}." if hidden else ""
        blocks.append(Drawing(training_curves(rows, terms, "training"), caption, wide=True))
    if (folder / "training.json").is_file():
        training = read_json(folder, "training.json", "training run")
        blocks.append(measures_table("Figures of the last step.", training.get("final", {})))
        rest = {key: value for key, value in training.items() if key != "final"}
        blocks.append(settings_table("Settings of the run, and what it depended on.", rest, fold="Settings"))
    return [Section("Training", "training-section", tuple(blocks))] if blocks else []


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Rows of `metrics.jsonl`; a last line that a kill cut short is left out.

    Raises:
        UserError: another line does not parse.
    """
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        return []
    rows: list[dict[str, float]] = []
    lines = path.read_text("utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = parse_json(line)
            if not isinstance(row, dict):
                raise ValueError("no table")
        except ValueError:
            if number == len(lines):
                break
            raise UserError(f"{path}: line {number} does not parse; the file is damaged, train again") from None
        rows.append(
            {key: value for key, value in row.items() if isinstance(value, int | float) and math.isfinite(value)}
        )
    return rows


PAGES: Mapping[str, Callable[[Path], Page]] = {
    "bridge.json": _bridge,
    "circuit.json": _circuit,
    "edit.json": _edit,
    "training.json": _run,
    "metrics.jsonl": _run,
    "corpus.json": _corpus,
    "config.json": _model,
}
"""Description → page, in the order they are looked for: a bridge folder also holds its training run."""
