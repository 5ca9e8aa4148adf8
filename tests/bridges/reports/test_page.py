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

from bridges.edits.standing_artefact import save_standing
from bridges.reports.overview import report_page
from bridges.reports.page import render_artefact, render_page, write_report
from foundation.artefacts import write_json
from foundation.errors import UserError

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


def test_a_page_needs_nothing_from_elsewhere(report: dict[str, Any]) -> None:
    page = render_page(report)
    found = parsed(page)
    assert all(reference.startswith("#") for reference in found.references)
    assert {reference[1:] for reference in found.references} <= set(found.ids)
    assert not re.search(r"@import|url\((?!#)|<script|<link|<iframe", page)


def test_every_task_and_every_gate_is_on_the_page(report: dict[str, Any]) -> None:
    report["tasks"]["another_task"] = copy.deepcopy(report["tasks"]["closing_quote"])
    page = render_page(report)
    text = " ".join(parsed(page).text)
    for name, task in report["tasks"].items():
        assert f">{name}" in page
        assert task["details"]["verdict"]["gates"]
        for gate in task["details"]["verdict"]["gates"]:
            assert gate["name"] in text
            assert gate["measured"] in text
            assert gate["required"] in text


def test_a_failing_verdict_says_what_failed_and_a_passing_one_says_so(report: dict[str, Any]) -> None:
    failed = [g["name"] for g in report["tasks"]["closing_quote"]["details"]["verdict"]["gates"] if not g["passed"]]
    sentence = report_page(report).sentence
    assert sentence.startswith("Failed")
    assert all(name in sentence for name in failed)
    assert "8 held-out prompts" in sentence
    report["verdict"] = report["tasks"]["closing_quote"]["verdict"] = "passed"
    assert report_page(report).sentence.startswith("Passed")


def test_a_report_that_failed_although_every_task_held_does_not_claim_to_have_passed(report: dict[str, Any]) -> None:
    report["tasks"]["closing_quote"]["verdict"] = "passed"
    page = report_page(report)
    assert page.passed is False
    assert page.sentence.startswith("Failed")


def test_prompts_and_names_are_escaped(report: dict[str, Any]) -> None:
    example = report["tasks"]["closing_quote"]["circuit"]["example"]
    attack = "</pre><script>alert('x')</script>&"
    example["a"]["tokens"][0] = example["b"]["answer"] = attack
    report["tasks"][attack] = report["tasks"].pop("closing_quote")
    page = render_page(report)
    assert "<script" not in page
    assert "&lt;/pre&gt;&lt;script&gt;" in page
    parsed(page)


@pytest.mark.parametrize("part", ["paired", "standing", "concentration", "verdict", "circuit"])
def test_a_part_of_the_details_may_be_missing(report: dict[str, Any], part: str) -> None:
    del report["tasks"]["closing_quote"]["details"][part]
    parsed(render_page(report))


@pytest.mark.parametrize("part", ["details", "verdict", "accuracy", "nodes", "task_loss"])
def test_a_part_of_a_task_may_be_missing(report: dict[str, Any], part: str) -> None:
    task = report["tasks"]["closing_quote"]
    for slow in (task, task["details"]):
        del slow["circuit"]
    del task["details"]["paired"], task[part]
    parsed(render_page(report))


@pytest.mark.parametrize(
    "part", ["seconds", "versions", "models", "density", "ce_dense", "evaluation", "tasks", "verdict"]
)
def test_a_part_of_the_report_may_be_missing(report: dict[str, Any], part: str) -> None:
    report["tasks"]["closing_quote"]["details"].pop("paired")  # whose figures take long to draw
    report["tasks"]["closing_quote"].pop("circuit")
    del report[part]
    parsed(render_page(report))


def test_a_validation_of_one_task_is_a_report_too(explained: Explained) -> None:
    page = render_page(explained.validation.report)
    found = parsed(page)
    assert "closing_quote" in " ".join(found.text)
    assert "isolated" in page


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
    report["tasks"]["closing_quote"]["details"]["paired"]["a_to_b"]["dose_response"][1]["p_target"]["low"] = value
    with pytest.raises(UserError, match=r"paired\.a_to_b\.dose_response\.1\.p_target\.low"):
        write_report(tmp_path / "out", report)
    assert list(tmp_path.iterdir()) == []


def test_a_circuit_folder_is_drawn_without_its_model_and_better_with_its_graph(
    explained: Explained, tmp_path: Path
) -> None:
    folder = tmp_path / "circuit"
    explained.circuit.save(folder)
    bare = render_artefact(folder)
    assert "its weights and activations are in the sparse model" in bare
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
