"""One task's part of a report: example, dose–response, controls, concentration, standing edit, gates, circuit."""

from collections.abc import Mapping
from typing import Any

from bridges.reports.blocks import (
    Block,
    Checklist,
    Drawing,
    Heading,
    Line,
    Prompt,
    PromptPair,
    Prose,
    Section,
    SideBySide,
    Table,
    Token,
)
from bridges.reports.circuit_section import circuit_blocks
from bridges.reports.figures.concentration import concentration_curve
from bridges.reports.figures.dose_response import dose_response, shared_limits
from bridges.reports.figures.recovered_dots import recovered_dots
from bridges.reports.numbers import MISSING, UNBROKEN, estimate, figure, interval, probability, setting, share, value_of
from bridges.validation.verdict import Gate, Thresholds

ARROWS = {"a_to_b": "a → b", "b_to_a": "b → a"}
COMPARED = (
    ("baselines", "class_mean_difference", "baseline: difference of class means"),
    ("baselines", "best_coordinates", "baseline: best dense coordinates"),
    ("controls", "random_nodes", "control: random read nodes"),
    ("controls", "untrained_bridge", "control: untrained bridge"),
)


def is_passed(task: Mapping[str, Any]) -> bool:
    """The task's verdict; a task without one has not passed."""
    if "verdict" in task:
        return bool(task["verdict"] == "passed")
    return bool(task.get("details", {}).get("verdict", {}).get("passed", False))


def task_section(name: str, task: Mapping[str, Any], number: int) -> Section:
    """Everything about one task; parts the report does not have are left out."""
    details, anchor = task.get("details", {}), f"task-{number}"
    blocks: list[Block] = []
    if task.get("description"):
        blocks.append(Prose(str(task["description"])))
    graph = task.get("circuit")
    if graph and graph.get("example"):
        blocks.append(_example(graph["example"]))
    if details.get("verdict", {}).get("gates"):
        gates = [Gate(**{key: gate[key] for key in Gate.__dataclass_fields__}) for gate in details["verdict"]["gates"]]
        blocks += [Heading("Verdict"), Checklist(tuple(gates))]
    if details.get("paired"):
        blocks += _paired(details, anchor)
    if details.get("standing"):
        blocks += [Heading("Standing edit"), _standing(details["standing"])]
    if graph:
        blocks += [Heading("The circuit"), *circuit_blocks(graph, anchor)]
    return Section(name, anchor, tuple(blocks), passed=is_passed(task))


def _example(example: Mapping[str, Any]) -> PromptPair:
    a, b = example["a"], example["b"]
    differs = [x != y for x, y in zip(a["tokens"], b["tokens"], strict=True)]

    def prompt(name: str, side: Mapping[str, Any]) -> Prompt:
        return Prompt(name, tuple(Token(t, d) for t, d in zip(side["tokens"], differs, strict=True)), side["answer"])

    return PromptPair(
        (prompt("a", a), prompt("b", b)), "A pair of prompts with their right next tokens; marked is where they differ."
    )


def _paired(details: Mapping[str, Any], anchor: str) -> list[Block]:
    paired = details["paired"]
    names = [ARROWS.get(name, name) for name in paired]
    limits = shared_limits(paired)
    first = next(iter(paired.values()))
    doses = tuple(
        Drawing(dose_response(found, names[number], f"{anchor}-dose-{number}", limits, forward=number == 0))
        for number, found in enumerate(paired.values())
    )
    blocks: list[Block] = [
        Heading("Paired edit"),
        Prose(
            "What the circuit's read nodes would do on the other prompt of the pair is added, through the bridge, "
            f"to what the dense model reads ({first['loop']} loop, strength {setting(first['strength'])}, both "
            f"chosen on validation pairs; {figure(first['pairs'])} held-out prompts in each direction)."
        ),
        SideBySide(
            doses,
            "Dose–response with 95 % intervals; the ringed point is the chosen strength. a → b: a prompts are "
            "shown and b's answer is the target. The logit difference is logit(target) − logit(own answer); above "
            "0 the answer has turned.",
        ),
    ]
    required = (Thresholds().recovered_low, Thresholds().recovered_high)
    shares = [Drawing(recovered_dots(_compared(paired), names, required, f"{anchor}-recovered"))]
    told = (
        "Recovered: the share of the full patch's change of the logit difference. Shaded is what passes; bars are 95 % "
        "intervals (random directions: 95 % of draws); values outside the plot are written at its edge."
    )
    if details.get("concentration"):
        curves = {ARROWS.get(name, name): points for name, points in details["concentration"].items()}
        shares.append(Drawing(concentration_curve(curves, f"{anchor}-concentration")))
        told += " Second plot: recovered when the edit may use only the most-moved nodes of every site."
    blocks.append(SideBySide(tuple(shares), told))
    return [*blocks, _figures(paired), *_manifold(paired)]


def _compared(paired: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, float] | None]]]:
    found = list(paired.values())
    rows: list[tuple[str, list[Mapping[str, float] | None]]] = [
        ("the edit, chosen strength", [f["recovered"] for f in found])
    ]
    rows.append(("the edit, strength 1", [f.get("recovered_at_strength_1") for f in found]))
    for group, key, label in COMPARED:
        rows.append((label, [f.get(group, {}).get(key, {}).get("recovered") for f in found]))
    rows.append(("control: random directions", [_random(f["random"]) for f in found]))
    return [row for row in rows if any(estimate is not None for estimate in row[1])]


def _random(random: Mapping[str, Any]) -> dict[str, float]:
    low, high = random["recovered_95"]
    return {"value": random["recovered"], "low": low, "high": high}


def _figures(paired: Mapping[str, Mapping[str, Any]]) -> Table:
    """The numbers behind the plots, one column per direction."""
    found = list(paired.values())
    rows: list[list[Any]] = [["held-out prompts", *(figure(f["pairs"]) for f in found)]]
    for key, unit in (("p_target", "P(target)"), ("logit_difference", "logit difference, nats")):
        for state, label in (
            ("none", "no edit"),
            ("edited", "edited"),
            ("random", "random directions"),
            ("full_patch", "full patch"),
        ):
            rows.append([f"{unit}: {label}", *(Line(estimate(f[state][key]), interval(f[state][key])) for f in found)])
    rows += [
        [f"recovered: {label}", *(Line(estimate(e), interval(e)) for e in estimates)]
        for label, estimates in _compared(paired)
    ]
    rows += [
        ["p-value against random directions", *(probability(f["p_value"], f["random"].get("draws")) for f in found)],
        ["prompts that move the wrong way", *(share(f["wrong_way"]) for f in found)],
        [
            "logit difference per unit of strength, nats",
            *(Line(estimate(f["slope"]), interval(f["slope"])) for f in found),
        ],
    ]
    columns = ("figure", *(ARROWS.get(name, name) for name in paired))
    return Table.of(
        "Paired edit on held-out prompts, with 95 % intervals.", columns, rows, fold="All figures of the paired edit"
    )


def _manifold(paired: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    rows = [
        [
            f"{ARROWS.get(name, name)}, dense site {figure(site['dense_site'])}",
            figure(site["edited"]),
            figure(site["unedited"]),
        ]
        for name, found in paired.items()
        for site in found.get("on_manifold", [])
    ]
    caption = (
        "How far activations are from natural ones: median Mahalanobis distance of what the sublayer reads, over "
        "the natural median (about 1 is natural)."
    )
    fold = "Distance of edited activations from natural ones"
    return [Table.of(caption, ("direction and site", "edited", "unedited"), rows, fold)] if rows else []


def _standing(standing: Mapping[str, Mapping[str, Any]]) -> Table:
    limits = Thresholds()
    columns = (
        "direction", "answers flipped", "P(target)", "other class kept", "KL on unrelated text",
        "change of cross-entropy there", "tokens it acts on", "dense site", "nodes", "strength",
    )  # fmt: skip
    rows = [
        [
            ARROWS.get(name, name),
            Line(share(found["flip_rate"]), f"required{UNBROKEN}≥{UNBROKEN}{share(limits.flip_rate)}"),
            Line(estimate(found["p_target"]), interval(found["p_target"])),
            share(found.get("other_class_kept")),
            Line(
                estimate(found["isolation"]["kl"]),
                f"{interval(found['isolation']['kl'])} required{UNBROKEN}≤{UNBROKEN}{setting(limits.isolation_kl)}",
            ),
            Line(estimate(found["isolation"].get("ce_change")), interval(found["isolation"].get("ce_change"))),
            share(found["isolation"].get("acts_on")),
            figure(found.get("dense_site")),
            figure(found.get("nodes")),
            setting(found["strength"]),
        ]
        for name, found in standing.items()
    ]
    positions = [value_of(found["isolation"].get("positions")) for found in standing.values()]
    unrelated = share(min(p for p in positions if p is not None)) if any(p is not None for p in positions) else MISSING
    caption = (
        "The form that can be shared: it needs no second prompt, but moves tokens that look like one class to the "
        "other, at one site. Unrelated text: held-out positions where the task's answers together have less than 1 "
        f"% ({unrelated} of all). KL and cross-entropy in nats/token."
    )
    return Table.of(caption, columns, rows)
