"""The evidence of a verdict, in the order of the argument: headline, causal map, transfer, specificity, doses, baselines."""

from collections.abc import Mapping, Sequence
from typing import Any

from bridges.reports.blocks import Block, Drawing, Fold, Heading, Line, Prose, SideBySide, Table, Tile, Tiles
from bridges.reports.figures.causal_heat import causal_heat
from bridges.reports.figures.concentration import concentration_curve
from bridges.reports.figures.dose_response import LINES, dose_response, highest
from bridges.reports.figures.effect_dots import effect_dots
from bridges.reports.figures.specificity_strip import specificity_strip
from bridges.reports.figures.transfer_scatter import LOOKS, transfer_scatter
from bridges.reports.numbers import MISSING, UNBROKEN, estimate, figure, interval, probability, value_of

ARROWS = {"a_to_b": "a → b", "b_to_a": "b → a"}
BASELINES = {
    "class_mean": "difference of the class means",
    "coordinates": "as many dense coordinates",
    "directions": "leading directions of the differences",
}
"""Baseline of a report → what it edits, without a bridge."""
COUNTED_ROLES = ("between", "last")
"""Position roles that a verdict may rest on; an edit of the changed token may put in the other token."""
MAPS = (
    ("dense", "dense model, whole stream"),
    ("sparse", "sparse model, whole stream"),
    ("decoded", "dense, through the bridge"),
    ("circuit", "dense, the circuit's channels"),
    ("complement", "dense, all other channels"),
)


def headline(details: Mapping[str, Any]) -> list[Block]:
    """The circuit's effect at its place beside its upper bounds, controls and the best baseline, one figure a cell."""
    effect = details.get("effect")
    if not effect:
        return []
    tiles = [_tile("the circuit", effect.get("circuit"), main=True)]
    tiles += [_tile("dense patch, whole stream", effect.get("patch")), _tile("decoded stream", effect.get("decoded"))]
    if details.get("specificity"):
        tiles.append(_tile("matched sets outside", details["specificity"]["outside"]))
    tiles.append(_tile("random directions", effect.get("isotropic")))
    best = details.get("beats_baselines", {}).get("best")
    if best in details.get("baselines", {}):
        tiles.append(_tile(f"best without a bridge: {BASELINES[best]}", details["baselines"][best]["effect"]))
    where = f" at {_site(details['place'])}" if "place" in details else ""
    caption = (
        f"Effect{where}: change of the dense model's logit difference between the two answers, as a share of the "
        "difference between the two prompts themselves. 0 does nothing, 1 turns the answer as far as the other prompt "
        "does. All edits have the circuit's norm at every token, but for the two upper bounds, dense patch and decoded "
        "stream."
    )
    blocks: list[Block] = [Tiles(tuple(tile for tile in tiles if tile.value != MISSING), caption)]
    sentence = details.get("beats_baselines", {}).get("sentence")
    return [*blocks, Prose(sentence.replace("-", "−"))] if sentence else blocks


def _tile(label: str, found: Any, main: bool = False) -> Tile:
    return Tile(label, estimate(found), interval(found), main)


def map_blocks(details: Mapping[str, Any], anchor: str) -> list[Block]:
    """The causal map: dense beside sparse; what goes through the bridge on demand; what gates nothing as a table."""
    found = details.get("causal_map")
    if not found:
        return []
    inner = inner_places(details)
    places = [_place(place, number, found["places"]) for number, place in enumerate(found["places"])]
    counted = inner, [number for number, role in enumerate(found["roles"]) if role in COUNTED_ROLES]
    roles = [_role(role, found["tokens"][role]) for role in found["roles"]]
    drawn = {
        key: Drawing(causal_heat(found["tables"][key], places, roles, counted, label, f"{anchor}-map-{key}"))
        for key, label in MAPS
        if key in found["tables"]
    }
    caption = (
        "Where the answer is carried. In every cell the residual stream is replaced by the other prompt's, at one site "
        "and at the tokens of one role; the number is the effect on the model's answer, blue towards the other prompt's "
        f"answer, orange away from it. The two maps correlate with {figure(found['agreement'])}. "
        f"{_numbering(found['places'])}Framed is what the "
        "verdict may rest on. Outside the frame an edit can put the changed token in again (substitution: the "
        "embedding, the changed tokens) or write the answer itself (direct: the final stream)."
    )
    blocks: list[Block] = [
        Heading("Where the answer is carried: the causal map"),
        SideBySide(tuple(drawn[key] for key in ("dense", "sparse") if key in drawn), caption),
    ]
    more: list[Block] = []
    through = tuple(drawn[key] for key in ("decoded", "circuit", "complement") if key in drawn)
    if through:
        told = (
            "The same in the dense model with the sparse model's change carried over by the bridge: all channels, "
            "the circuit's, all others. 0 also where the circuit has no channel."
        )
        more.append(SideBySide(through, told))
    if details.get("apart"):
        more.append(_apart(details["apart"], found["places"]))
    return (
        [*blocks, Fold("Through the bridge: all channels, the circuit, its complement", tuple(more))]
        if more
        else blocks
    )


def inner_places(details: Mapping[str, Any]) -> list[int]:
    """Places a verdict may rest on: those of the transfer family, else all sites but the embedding and the last."""
    points = details.get("transfer", {}).get("points", ())
    places = details["causal_map"]["places"]
    if points:
        return sorted({point["place"] for point in points if point["place"] < len(places)})
    return [number for number, place in enumerate(places[:-1]) if place["sparse_site"] > 0 and place["dense_site"] > 0]


def _numbering(places: Sequence[Mapping[str, int]]) -> str:
    same = all(place["sparse_site"] == place["dense_site"] for place in places)
    return "" if same else "Sites are numbered sparse ↔ dense. "


def _place(place: Mapping[str, int], number: int, places: Sequence[Mapping[str, int]]) -> str:
    kind = "embedding, " if place["sparse_site"] == 0 else "final, " if number == len(places) - 1 else ""
    gates_nothing = {"embedding, ": "\nsubstitution", "final, ": "\ndirect"}
    sparse, dense = place["sparse_site"], place["dense_site"]
    return kind + (f"site {dense}" if sparse == dense else f"{sparse} ↔ {dense}") + gates_nothing.get(kind, "")


def _role(role: str, tokens: float) -> str:
    count = "1 token" if tokens == 1 else f"{tokens:.2g} tokens"
    return f"{role}\n{count}" + ("" if role in COUNTED_ROLES else "\nsubstitution")


def _site(place: Mapping[str, int]) -> str:
    sparse, dense = place["sparse_site"], place["dense_site"]
    return f"site {dense}" if sparse == dense else f"dense site {dense} (sparse {sparse})"


def _apart(apart: Mapping[str, Any], places: Sequence[Mapping[str, int]]) -> Table:
    rows = [
        [kind, _site(places[one["place"]]), f"{one['positions']} tokens", _figure(one["share"])]
        for kind in ("substitution", "direct")
        for one in apart.get(kind, ())
    ]
    caption = "The circuit's edits that gate nothing, and their effects with 95 % intervals."
    return Table.of(caption, ("kind", "site", "tokens", "effect"), rows, text_columns=3)


def transfer_blocks(details: Mapping[str, Any], anchor: str) -> list[Block]:
    """Whether what the sparse model does predicts what the dense model does (M6)."""
    found = details.get("transfer")
    if not found or not found.get("points"):
        return []
    nulls = "; ".join(
        f"{kind} R² " + ", ".join(figure(max(-1.0, fit["r2"]["value"])) for fit in fits)
        for kind, fits in found.get("nulls", {}).items()
    )
    caption = (
        f"Transfer over {len(found['points'])} interventions: slope {_inline(found['slope'])}, R² {_inline(found['r2'])}, "
        f"rank correlation {_inline(found['rank'])}. Each point is one set of channels, changed as the other prompt would, "
        "in the sparse model (across) and through the bridge in the dense model (up; bars are 95 % intervals)."
    )
    caption += f" Bridges that know nothing: {nulls}." if nulls else ""
    places = details.get("causal_map", {}).get("places", ())
    rows = [
        [
            LOOKS[point["kind"]][0],
            _site(places[point["place"]]) if point["place"] < len(places) else figure(point["place"]),
            figure(point["channels"]),
            figure(point["predicted"]),
            _figure(point["measured"]),
        ]
        for point in found["points"]
    ]
    table = Table.of(
        "Every intervention: effect in the sparse and in the dense model.",
        ("set", "site", "channels", "sparse", "dense"),
        rows,
        fold=f"All {len(rows)} interventions",
        text_columns=2,
    )
    scatter = transfer_scatter(found["points"], found["slope"]["value"], f"{anchor}-transfer")
    return [Heading("Does the sparse model predict the dense one: transfer"), Drawing(scatter, caption), table]


def specificity_blocks(details: Mapping[str, Any], anchor: str) -> list[Block]:
    """Whether the circuit does more than node sets outside it (M7)."""
    found = details.get("specificity")
    if not found or not found.get("outside_effects"):
        return []
    caption = (
        f"The circuit (line; shaded is its 95 % interval) against {found['draws']} node sets outside it, as many channels "
        f"that are as alive, at the circuit's norm. The circuit does {_inline(found['difference'])} more than their mean; "
        f"p {probability(found['p_value'], found['draws'])}."
    )
    strip = specificity_strip(found["circuit"], found["outside_effects"], f"{anchor}-specificity")
    return [Heading("Is it this circuit: specificity"), Drawing(strip, caption)]


def dose_blocks(details: Mapping[str, Any], anchor: str) -> list[Block]:
    """The dose–response, both directions, and its figures on demand."""
    found = details.get("dose")
    if not found:
        return []
    top = highest(found["directions"])
    drawings = tuple(
        Drawing(dose_response(found["doses"], lines, ARROWS.get(name, name), f"{anchor}-dose-{number}", top))
        for number, (name, lines) in enumerate(found["directions"].items())
    )
    places = details.get("causal_map", {}).get("places", ())

    def site(place: int) -> str:
        return _site(places[place]) if place < len(places) else f"place {place}"

    caption = (
        "Probability of the other prompt's answer as the edit grows from nothing (0) to what the other prompt would "
        f"have (1), with 95 % intervals. Circuit: at {site(found['place'])}. Best channel: channel "
        f"{found['channel']['channel']} at {site(found['channel']['place'])}, chosen on validation pairs. Random sets: "
        "matched sets outside the circuit at its norm. a → b: a prompts are shown, and b's answer is the target."
    )
    if value_of(found.get("wrong_way")) is not None:
        caption += f" {_inline(found['wrong_way'], percent=True)} of prompts move the wrong way at strength 1."
    return [Heading("How much of it: dose–response"), SideBySide(drawings, caption), _dose_table(found)]


def _dose_table(found: Mapping[str, Any]) -> Table:
    rows = [
        [ARROWS.get(name, name), LINES[line][0], *(estimate(point["p_target"]) for point in lines[line]),
         _figure(lines[line][-1]["share"])]
        for name, lines in found["directions"].items()
        for line in LINES
        if lines.get(line)
    ]  # fmt: skip
    doses = [f"P(target) at {dose:g}" for dose in found["doses"]]
    columns = ("direction", "edit", *doses, f"effect at {found['doses'][-1]:g}")
    return Table.of(
        "P(target) by strength, and the effect at the last.", columns, rows, fold="All figures of the dose–response",
        text_columns=2,
    )  # fmt: skip


def baseline_blocks(details: Mapping[str, Any], anchor: str) -> list[Block]:
    """The circuit beside what needs no bridge, the concentration curve, and how natural edited streams are."""
    rows = _dots(details)
    if not rows:
        return []
    blocks: list[Block] = [Heading("Against what needs no bridge: baselines")]
    drawings = [Drawing(effect_dots(rows, f"{anchor}-effects"))]
    told = "Effects with 95 % intervals; shaded is the circuit's interval."
    if details.get("concentration"):
        bound = value_of(details.get("effect", {}).get("patch"))
        drawings.append(Drawing(concentration_curve(details["concentration"], bound, f"{anchor}-concentration")))
        told += " Second plot: the circuit's effect when the edit may use only its most moved channels."
    blocks.append(SideBySide(tuple(drawings), told))
    if details.get("baselines"):
        blocks.append(_baseline_table(details["baselines"]))
    natural = details.get("on_manifold")
    if natural:
        told = (
            f"Distance from natural activations at the circuit's site: {figure(natural['edited'])} edited, "
            f"{figure(natural['unedited'])} unedited (median Mahalanobis distance over that of natural text; about 1 is "
            "natural)."
        )
        blocks.append(Prose(told))
    return blocks


def _dots(details: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, float]]]:
    effect, m7 = details.get("effect") or {}, details.get("specificity") or {}
    rows = [
        ("bound", "dense patch", effect.get("patch")),
        ("bound", "decoded stream", effect.get("decoded")),
        ("circuit", "the circuit", effect.get("circuit")),
        ("control", "matched sets outside", m7.get("outside")),
        ("control", "random directions", effect.get("isotropic")),
    ]
    for name, one in details.get("baselines", {}).items():
        rows += [("baseline", BASELINES.get(name, name), one["effect"])]
    return [(kind, label, found) for kind, label, found in rows if found is not None]


def _baseline_table(baselines: Mapping[str, Any]) -> Table:
    rows = [
        [
            BASELINES.get(name, name),
            _figure(one["effect"]),
            _figure(one["circuit_ahead"]),
            _figure(one["natural"]),
            figure(one.get("chosen")),
        ]
        for name, one in baselines.items()
    ]
    caption = (
        "Edits of the dense stream at the circuit's site and tokens, fitted on training pairs and tuned on the validation "
        "pairs on which the circuit's site was chosen. The difference is circuit − baseline at equal norm."
    )
    columns = ("baseline", "effect at the circuit's norm", "the circuit does more by", "effect at its own norm",
               "coordinates or directions")  # fmt: skip
    return Table.of(caption, columns, rows)


def _figure(found: Any) -> Line:
    return Line(estimate(found), interval(found))


def _inline(found: Any, percent: bool = False) -> str:
    if percent:
        low, high = (figure(100 * found[side]) for side in ("low", "high"))
        return f"{figure(100 * found['value'])}{UNBROKEN}% [{low}, {high}]".replace(" ", UNBROKEN)
    return f"{estimate(found)} {interval(found)}".strip().replace(" ", UNBROKEN)
