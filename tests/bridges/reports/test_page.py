"""Pages: self-contained, complete, escaped, and drawn from whatever parts a report has."""

import copy
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from bridges.edits.standing_artefact import save_standing
from bridges.reports.blocks import Table, flatten
from bridges.reports.overview import report_page
from bridges.reports.page import render_artefact, render_page, write_report
from bridges.reports.verdict_words import checks_of
from foundation.artefacts import write_json
from foundation.errors import UserError
from foundation.verdicts import WORDS

from .conftest import Explained

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Balanced(HTMLParser):
    """Fails on a tag that is closed twice or never, collects what the page refers to and its ids."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")
        ]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    return parser


@pytest.fixture
def report(explained: Explained) -> dict[str, Any]:
    return copy.deepcopy(explained.report)


@pytest.fixture
def quick(report: dict[str, Any]) -> dict[str, Any]:
    """The report without what takes long to draw, for claims about words."""
    task = report["tasks"]["closing_quote"]
    for part in ("causal_map", "transfer", "specificity", "dose", "concentration", "effect"):
        del task["details"][part]
    del task["circuit"]
    return report


def test_a_page_needs_nothing_from_elsewhere(report: dict[str, Any]) -> None:
    page = render_page(report)
    found = parsed(page)
    assert all(reference.startswith("#") for reference in found.references)
    assert {reference[1:] for reference in found.references} <= set(found.ids)
    assert not re.search(r"@import|url\((?!#)|<script|<link|<iframe", page)


def test_every_task_and_every_gate_is_on_the_page(report: dict[str, Any]) -> None:
    report["tasks"]["another_task"] = copy.deepcopy(report["tasks"]["closing_quote"])
    page = render_page(report)
    text = " ".join(parsed(page).text).replace("\N{NO-BREAK SPACE}", " ")
    for name, task in report["tasks"].items():
        assert f">{name}" in page
        assert task["details"]["verdict"]["gates"]
        for gate in task["details"]["verdict"]["gates"]:
            assert gate["name"] in text
            assert gate["measured"] in text
            assert gate["required"] in text


def test_the_first_line_gives_the_word_and_the_reason(quick: dict[str, Any]) -> None:
    page = report_page(quick)
    assert page.sentence.startswith("Fails (4 held-out pairs). Not ")
    assert page.word == "fails"
    reason = quick["tasks"]["closing_quote"]["reason"]
    assert reason[1:] in page.sentence
    for word in WORDS:
        quick["verdict"] = quick["tasks"]["closing_quote"]["verdict"] = word
        assert report_page(quick).sentence.startswith(word.capitalize())


def test_of_several_tasks_the_first_line_counts_the_words_and_names_what_is_not_explained(
    quick: dict[str, Any],
) -> None:
    first = quick["tasks"]["closing_quote"]
    first["verdict"], first["reason"] = "steers", "not specific: others do as much"
    quick["tasks"]["another"] = {**copy.deepcopy(first), "verdict": "explains", "reason": "every gate holds"}
    del quick["verdict"]
    page = report_page(quick)
    assert page.word == "steers", "the worst of the tasks' words"
    assert page.sentence == (
        "Steers. Of 2 tasks (4 held-out pairs each) the circuit explains 1 and steers 1. closing_quote: not specific: "
        "others do as much."
    )


def test_a_word_of_another_version_is_no_verdict(quick: dict[str, Any]) -> None:
    quick["verdict"] = quick["tasks"]["closing_quote"]["verdict"] = "passed"
    del quick["tasks"]["closing_quote"]["details"]["verdict"]
    page = report_page(quick)
    assert page.word == ""
    assert "make it again" in page.sentence


def test_a_failed_gate_says_what_it_means_and_what_to_do_and_a_passed_one_does_not(quick: dict[str, Any]) -> None:
    gates = quick["tasks"]["closing_quote"]["details"]["verdict"]["gates"]
    assert {gate["passed"] for gate in gates} == {True, False} or not any(gate["passed"] for gate in gates)
    gates[0] |= {"passed": True, "meaning": "passed, so not told", "remedy": "nothing to mend here"}
    text = " ".join(" ".join(parsed(render_page(quick)).text).split())
    assert "passed, so not told" not in text
    for gate in gates[1:]:
        assert (f"It means: {gate['meaning']}" in text) == (not gate["passed"])
        assert (f"What to do: {gate['remedy']}" in text) == (not gate["passed"])


@pytest.mark.parametrize(
    ("gate", "path"),
    [
        ("carried", ("effect",)),
        ("specific", ("specificity",)),
        ("moves", ("effect",)),
        ("necessary", ("in_sparse", "necessity")),
    ],
)
def test_a_gate_without_its_measurement_is_undecided_and_one_with_it_failed(
    report: dict[str, Any], gate: str, path: tuple[str, ...]
) -> None:
    details = report["tasks"]["closing_quote"]["details"]
    for one in details["verdict"]["gates"]:
        one["passed"] = False
    details["effect"], details["specificity"], details["in_sparse"]["necessity"] = (
        {"circuit": 1},
        {"draws": 99},
        {"value": 0},
    )
    states = {check.name: check.state for check in checks_of(details)}
    assert set(states.values()) == {"failed"}
    found = details
    for key in path[:-1]:
        found = found[key]
    found[path[-1]] = None
    states = {check.name: check.state for check in checks_of(details)}
    assert states[gate] == "undecided"
    assert states["predicted"] == "failed"


def test_the_page_follows_the_argument(report: dict[str, Any]) -> None:
    page = render_page(report)
    order = [
        "The gates", "the circuit</dt>", "the causal map</h3>", "transfer</h3>", "specificity</h3>", "dose–response</h3>",
        "baselines</h3>", "As a standing edit", "In the sparse model", "The circuit</h3>",
    ]  # fmt: skip
    places = [page.index(part) for part in order]
    assert places == sorted(places)


def test_a_summary_has_one_figure_a_cell_and_no_empty_column(report: dict[str, Any]) -> None:
    first = report["tasks"]["closing_quote"]
    for slow in ("causal_map", "dose", "specificity", "concentration"):
        del first["details"][slow]
    del first["circuit"], first["details"]["transfer"]["points"]
    report["tasks"]["another"] = copy.deepcopy(first)
    tables = [block for block in report_page(report).blocks if isinstance(block, Table)]
    assert [bool(table.fold) for table in tables] == [False, True]
    assert all(
        len(cell.lines) == 1 and not cell.lines[0].note for table in tables for row in table.rows for cell in row
    )
    assert "transfer slope" in tables[0].columns
    for task in report["tasks"].values():
        del task["details"]["transfer"]
        del task["accuracy"], task["details"]["accuracy"]
    (slim, rest) = [block for block in report_page(report).blocks if isinstance(block, Table)]
    assert "transfer slope" not in slim.columns
    assert "accuracy, sparse" not in rest.columns
    assert "accuracy, dense" in rest.columns, "which the task itself has"
    for table in (slim, rest):
        for number in range(len(table.columns)):
            assert any(row[number].lines[0].text != "–" for row in table.rows), table.columns[number]


def test_prompts_and_names_are_escaped(report: dict[str, Any]) -> None:
    example = report["tasks"]["closing_quote"]["circuit"]["example"]
    attack = "</pre><script>alert('x')</script>&"
    example["a"]["tokens"][0] = example["b"]["answer"] = attack
    report["tasks"][attack] = report["tasks"].pop("closing_quote")
    page = render_page(report)
    assert "<script" not in page
    assert "&lt;/pre&gt;&lt;script&gt;" in page
    parsed(page)


PARTS = (
    "verdict", "accuracy", "in_sparse", "transfer", "channels", "unplaced", "pairs", "place", "effect", "specificity",
    "causal_map", "apart", "baselines", "beats_baselines", "dose", "concentration", "on_manifold", "standing", "circuit",
)  # fmt: skip


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, but written as an empty one: laying them out is what takes long."""
    empty = '<svg width="1pt" height="1pt"></svg>'
    monkeypatch.setattr(Figure, "savefig", lambda _self, buffer, **_: buffer.write(empty))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_the_details_may_be_missing(report: dict[str, Any], part: str) -> None:
    del report["tasks"]["closing_quote"]["circuit"]  # whose drawing takes long
    del report["tasks"]["closing_quote"]["details"][part]
    parsed(render_page(report))


def test_a_circuit_without_a_place_has_a_page(report: dict[str, Any]) -> None:
    details = report["tasks"]["closing_quote"]["details"]
    for part in ("place", "effect", "baselines", "beats_baselines", "concentration", "on_manifold"):
        del details[part]
    details["specificity"] = details["dose"] = None
    details["standing"] = {}
    parsed(render_page(report))


@pytest.mark.parametrize("part", ["details", "verdict", "accuracy", "nodes", "task_loss"])
def test_a_part_of_a_task_may_be_missing(report: dict[str, Any], part: str) -> None:
    task = report["tasks"]["closing_quote"]
    for slow in (task, task["details"]):
        del slow["circuit"]
    for slow in ("causal_map", "transfer", "dose", "specificity"):
        task["details"].pop(slow)
    del task[part]
    parsed(render_page(report))


@pytest.mark.parametrize(
    "part", ["seconds", "versions", "models", "density", "ce_dense", "evaluation", "tasks", "verdict"]
)
def test_a_part_of_the_report_may_be_missing(report: dict[str, Any], part: str) -> None:
    for slow in ("causal_map", "transfer", "dose", "specificity"):  # whose figures take long to draw
        report["tasks"]["closing_quote"]["details"].pop(slow)
    report["tasks"]["closing_quote"].pop("circuit")
    del report[part]
    parsed(render_page(report))


def test_a_validation_of_one_task_is_a_report_too(explained: Explained) -> None:
    page = render_page(explained.validation.report)
    found = parsed(page)
    assert "closing_quote" in " ".join(found.text)
    assert "the causal map" in page


def test_figures_are_xml_with_a_name_for_those_who_do_not_see_them(report: dict[str, Any]) -> None:
    figures = re.findall(r"<svg.*?</svg>", render_page(report), flags=re.DOTALL)
    assert len(figures) >= 5
    for figure in figures:
        root = ElementTree.fromstring(figure)
        assert root.attrib["role"] == "img"
        assert len(root.attrib["aria-label"]) > 20


def test_the_same_report_gives_the_same_page(report: dict[str, Any]) -> None:
    assert render_page(report) == render_page(json.loads(json.dumps(report)))


def test_written_reports_hold_the_json_they_are_drawn_from(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(tmp_path / "out", report)
    stored = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert stored.pop("schema_version") == 1
    assert stored.pop("made_by").startswith("sparsebridge ")
    assert stored == json.loads(json.dumps(report))
    page = render_artefact(tmp_path / "out")
    assert "Versions and settings" in page
    with pytest.raises(UserError, match="already exists"):
        write_report(tmp_path / "out", report)
    write_report(tmp_path / "out", report, overwrite=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_is_not_finite_is_refused_by_name_and_leaves_nothing(
    report: dict[str, Any], tmp_path: Path, value: float
) -> None:
    report["tasks"]["closing_quote"]["details"]["dose"]["directions"]["a_to_b"]["circuit"][1]["p_target"]["low"] = value
    with pytest.raises(UserError, match=r"dose\.directions\.a_to_b\.circuit\.1\.p_target\.low"):
        write_report(tmp_path / "out", report)
    assert list(tmp_path.iterdir()) == []


def test_a_circuit_folder_is_drawn_without_its_model_and_better_with_its_graph(
    explained: Explained, tmp_path: Path
) -> None:
    folder = tmp_path / "circuit"
    explained.circuit.save(folder)
    bare = render_artefact(folder)
    assert "its weights and activations are in the sparse model" in bare
    assert "0 weights are drawn" not in bare
    assert all(str(node) in bare for node in explained.circuit.nodes)
    write_json(folder / "circuit_graph.json", explained.report["tasks"]["closing_quote"]["circuit"])
    whole = render_artefact(folder)
    assert "token by token" in whole
    parsed(bare)
    parsed(whole)


def test_an_edit_folder_shows_its_claim_sites_rule_and_nodes(explained: Explained, tmp_path: Path) -> None:
    edit = explained.validation.standing["a_to_b"]
    save_standing(edit, tmp_path / "edit")
    page = render_artefact(tmp_path / "edit")
    text = " ".join(parsed(page).text)
    assert edit.claim in text
    assert "move" in text
    assert all(node in text for node in edit.sites[0].nodes)


def test_a_bridge_folder_shows_its_evaluation_and_its_training(explained: Explained, tmp_path: Path) -> None:
    evaluation = explained.report["evaluation"]
    description = {
        "alignment": {"sites": [[0, 0], [1, 1]], "is_identity": True},
        "d_sparse": 24, "d_dense": 20, "topk_fraction": 0.25,
        "dense": {"name": "tiny", "fingerprint": "ab"}, "evaluation": evaluation, "config": {"lr": 1e-3},
    }  # fmt: skip
    write_json(tmp_path / "bridge.json", description)
    row = {"step": 10, "loss": 2.0, "kl": 1.0, "density": 0.5, "lr": 0.1, "steps_per_second": 3.0, "gradient_rms": 1.0}
    write_json(tmp_path / "training.json", {"config": {"steps": 10}, "final": row})
    (tmp_path / "metrics.jsonl").write_text(
        json.dumps({**row, "step": 5}) + "\n" + json.dumps(row) + '\n{"step": 1', "utf-8"
    )
    page = render_artefact(tmp_path)
    parsed(page)
    assert "tinypython" in page
    assert page.count("<svg") == 1


def test_a_corpus_folder_shows_its_sources_and_its_tokenizer(tmp_path: Path) -> None:
    part = {"documents": 3, "blocks": 2, "tokens": 32, "epochs": 1.5}
    source = {"weight": 1.0, "train": {**part, "tokens": 4000}, "validation": part, "held_out": part}
    write_json(
        tmp_path / "corpus.json",
        {
            "config": {"seed": 7, "sources": [{"kind": "tinypython", "weight": 0.85}]},
            "tokenizer_fingerprint": "abcdef", "vocab_size": 300, "block_length": 16,
            "train": {"blocks": 250, "tokens": 4000}, "sources": {"tinypython": source},
        },
    )  # fmt: skip
    page = render_artefact(tmp_path)
    text = " ".join(parsed(page).text)
    assert "A corpus of 4,000 training tokens from 1 source, in 250 blocks of 16." in text
    assert "abcdef" in text
    assert "config.sources" not in text
    assert "sources.0.kind" in text
    assert "{" not in "".join(re.split(r"<style>.*?</style>", page, flags=re.DOTALL)), "a raw dictionary"


def test_lists_of_records_become_rows_and_long_lists_their_beginning() -> None:
    values = {"seeds": [{"seed": 0, "nodes": [str(n) for n in range(53)]}, {"seed": 1, "nodes": []}], "sizes": [1, 0.5]}
    assert flatten(values) == [
        ("seeds.0.seed", 0),
        ("seeds.0.nodes", "0, 1, 2, 3, 4, 5, 6, 7, … (53 in all)"),
        ("seeds.1.seed", 1),
        ("seeds.1.nodes", "–"),
        ("sizes", "1, 0.500"),
    ]


def test_an_unfinished_run_and_a_model_have_pages(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 5, "loss": 2.0, "density": 1.0}\n', "utf-8")
    assert "unfinished" in render_artefact(tmp_path / "run")
    (tmp_path / "model").mkdir()
    write_json(tmp_path / "model" / "config.json", {"model_type": "sparsebridge", "d_model": 24})
    assert "weight-sparse" in render_artefact(tmp_path / "model")


def test_what_is_no_artefact_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no artefact"):
        render_artefact(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        render_artefact(tmp_path / "missing")
    (tmp_path / "bridge.json").write_text('{"schema_version": 1}', "utf-8")
    with pytest.raises(UserError, match="make the artefact again") as caught:
        render_artefact(tmp_path)
    assert "\n" not in str(caught.value)
