"""The top of a report's page: the verdict in a sentence, what it means, and one table over tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

from bridges.reports.blocks import Cell, Line, Page, Section, Table, settings_table
from bridges.reports.bridge_section import bridge_section
from bridges.reports.numbers import MISSING, UNBROKEN, estimate, figure, interval, listing, share, value_of
from bridges.reports.task_section import ARROWS, is_passed, task_section

EXPLANATION = (
    "The claim, task by task: a few nodes of a weight-sparse model, its circuit for the task, say how the dense "
    "model decides. The test: every pair of prompts differs in one detail and calls for two different next tokens, "
    "a and b. Changing in the dense model only what the circuit's nodes stand for, translated by the bridge, "
    "should turn its answer as far as putting in the other prompt's own activations does (the full patch), where "
    "random directions of equal size do nothing.",
    "All figures come from held-out pairs, and where a task has templates from held-out templates, that were not used to find "
    "the circuit or to choose the strength. Brackets are 95 % bootstrap intervals.",
)


def report_page(report: Mapping[str, Any]) -> Page:
    """The page of a demo report, or of the validation of a single task."""
    tasks = tasks_of(report)
    passed = {name: is_passed(task) for name, task in tasks.items()}
    whole = report.get("verdict")
    verdict = whole == "passed" if isinstance(whole, str) else bool(passed) and all(passed.values())
    sections = [task_section(name, task, number) for number, (name, task) in enumerate(tasks.items())]
    if report.get("evaluation"):
        sections.append(bridge_section(report["evaluation"]))
    provenance = _provenance(report)
    if provenance.blocks:
        sections.append(provenance)
    return Page(
        title="Does the circuit explain the dense model?"
        if len(tasks) != 1
        else f"Does the circuit for {next(iter(tasks))} explain the dense model?",
        sentence=_sentence(tasks, passed, verdict),
        passed=verdict,
        explanation=EXPLANATION,
        blocks=(_summary(tasks),) if tasks else (),
        sections=tuple(sections),
    )


def tasks_of(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The tasks of a demo report, or the one task of a validation report."""
    if "tasks" in report:
        return dict(report["tasks"])
    if "paired" in report or "standing" in report:
        graph = {"circuit": report["circuit_graph"]} if "circuit_graph" in report else {}
        return {str(report.get("task", "task")): {"details": report, **graph}}
    return {}


def _sentence(tasks: Mapping[str, Mapping[str, Any]], passed: Mapping[str, bool], verdict: bool) -> str:
    if not tasks:
        return "No task was examined."
    held = [name for name, good in passed.items() if good]
    count = f"all {len(tasks)} tasks" if len(held) == len(tasks) > 1 else f"{len(held)} of {len(tasks)} tasks"
    count = f"the task {next(iter(tasks))}" if len(tasks) == 1 else count
    on = f"on {_held_out(tasks)} held-out prompts" + (" per task" if len(tasks) > 1 else "")
    claim = "changing only the nodes the circuit names changes the dense model's answers as the circuit says"
    if verdict:
        return f"Passed: in {count}, {claim}, {on}."
    failed = [
        f"{name}: {listing(_failed_gates(tasks[name])) or 'none was measured'}"
        for name, good in passed.items()
        if not good
    ]
    if not failed:
        return f"Failed: {claim} in {count}, {on}, but a requirement on the models did not hold."
    if len(tasks) == 1:
        why = listing(_failed_gates(next(iter(tasks.values())))) or "none was measured"
        return f"Failed: it was claimed that {claim}; in {count} this did not hold {on} (gates failed: {why})."
    return f"Failed: it was claimed that {claim}; {on} this held in {count}. Gates failed: {'; '.join(failed)}."


def _held_out(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    counts = {
        sum(found.get("pairs", 0) for found in task.get("details", {}).get("paired", {}).values())
        for task in tasks.values()
    }
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _failed_gates(task: Mapping[str, Any]) -> list[str]:
    gates = task.get("details", {}).get("verdict", {}).get("gates", [])
    return [gate["name"] for gate in gates if not gate["passed"]]


def _summary(tasks: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = (
        "task", "verdict", "accuracy", "circuit size", "loss of the circuit alone", "loss without the circuit",
        "recovered", "P(target)", "standing edit flips", "its cost elsewhere",
    )  # fmt: skip
    caption = (
        "Losses are task losses in nats (guessing: 0.693). Recovered: change of the logit difference over that of "
        "the full patch. P(target): probability of the other prompt's answer. A standing edit needs no second "
        "prompt; its cost is KL(original ‖ edited) on unrelated text, in nats/token."
    )
    return Table.of(caption, columns, [_row(name, task) for name, task in tasks.items()])


def _row(name: str, task: Mapping[str, Any]) -> list[Any]:
    details = task.get("details", {})
    paired, standing = details.get("paired", {}), details.get("standing", {})
    circuit = {**details.get("circuit", {}), **task}
    good = is_passed(task)
    return [
        name,
        Line("passed" if good else "failed", passed=good),
        [Line(f"{share(task.get('accuracy_dense'))} dense"), Line(f"{share(circuit.get('accuracy'))} sparse")],
        [Line(f"{figure(circuit[what])} {what}") for what in ("nodes", "edges")] if "nodes" in circuit else MISSING,
        _alone(circuit) if "task_loss" in circuit else MISSING,
        _without(circuit) if "necessity_loss" in circuit else MISSING,
        _directions(paired, _recovered),
        _directions(paired, _p_target),
        _directions(standing, lambda found: (share(found["flip_rate"]), _shares(found["flip_rate"]))),
        _directions(standing, lambda found: (estimate(found["isolation"]["kl"]), interval(found["isolation"]["kl"]))),
    ]


def _alone(circuit: Mapping[str, Any]) -> list[Line]:
    whole = circuit.get("task_loss_full_model", circuit.get("full_loss"))
    random = circuit.get("random_circuit_loss")
    lines = [Line(figure(circuit["task_loss"]), f"whole model {figure(whole)}")]
    return lines if random is None else [*lines, Line("", f"random circuit {figure(random)}")]


def _without(circuit: Mapping[str, Any]) -> Line:
    return Line(
        figure(circuit["necessity_loss"]), f"without random nodes {figure(circuit.get('necessity_random_loss'))}"
    )


def _recovered(found: Mapping[str, Any]) -> tuple[str, str]:
    random = figure(found["random"]["recovered"])
    return estimate(found["recovered"]), f"{interval(found['recovered'])}, random {random}"


def _shares(found: Mapping[str, Any]) -> str:
    return f"[{share(found['low'])}, {share(found['high'])}]".replace(" ", UNBROKEN)


def _p_target(found: Mapping[str, Any]) -> tuple[str, str]:
    before, full = found["none"]["p_target"], found["full_patch"]["p_target"]
    return estimate(found["edited"]["p_target"]), f"none {estimate(before)}, full patch {estimate(full)}"


def _directions(found: Mapping[str, Mapping[str, Any]], describe: Any) -> Cell:
    if not found:
        return Cell.of(MISSING)
    lines = []
    for name, figures in found.items():
        text, note = describe(figures)
        lines.append(Line(f"{ARROWS.get(name, name)} {text}", note))
    return Cell.of(lines)


def _provenance(report: Mapping[str, Any]) -> Section:
    """What made the report: models, versions, settings, time."""
    blocks = []
    models = report.get("models")
    if models:
        blocks.append(settings_table("Models. A fingerprint is the SHA-256 of a model's weights.", models))
    rows: list[Sequence[str]] = [
        (label, f"{estimate(report[key])} {interval(report[key])} {unit}".replace("  ", " ").strip())
        for key, label, unit in (
            ("density", "nonzero weights of the sparse model", "of 1"),
            ("ce_dense", "cross-entropy, dense model", "nats/token"),
            ("ce_sparse", "cross-entropy, sparse model", "nats/token"),
            ("kl_dense_sparse", "KL(dense ‖ sparse)", "nats/token"),
            ("seconds", "time taken", "s"),
        )
        if value_of(report.get(key)) is not None
    ]
    if rows:
        blocks.append(Table.of("The models on held-out text, and the run.", ("figure", "value"), rows, text_columns=2))
    known = {
        "verdict",
        "seconds",
        "models",
        "density",
        "ce_dense",
        "ce_sparse",
        "kl_dense_sparse",
        "evaluation",
        "tasks",
    }
    single = {"task", "mapped_nodes", "choice", "paired", "concentration", "standing", "circuit", "circuit_graph"}
    rest = {key: value for key, value in report.items() if key not in known | single}
    if rest:
        blocks.append(settings_table("Versions and settings.", rest))
    return Section("Provenance", "provenance", tuple(blocks))
