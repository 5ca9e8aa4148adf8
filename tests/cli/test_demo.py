"""`sparsebridge demo`, with a recipe small enough to run whole: every documented key is there, and the page is written."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.demo import BUNDLED

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "report.md"
SMALL = """
[prune]
steps = 12
pairs = 16
batch_pairs = 4
elimination_rounds = 0
edge_steps = 4
target_loss = 0.4

[demo]
tasks = ["for_while"]
text_blocks = 4
evaluate_pairs = 8
draws = 99
"""


@pytest.fixture(scope="module")
def small_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few steps, few pairs, few draws."""
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(SMALL, "utf-8")
    return path


def _documented(heading: str) -> set[str]:
    """Keys of the table that follows a heading or sentence of docs/report.md."""
    table = DOCUMENT.read_text("utf-8").split(heading)[1].split("\n|---")[1].split("\n\n")[0]
    first_cells = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    return {key.split(".")[0] for cell in first_cells for key in re.findall(r"`([^`]+)`", cell)}


def test_the_demo_reports_every_documented_key_and_writes_its_page(
    cli: Callable[..., Any], small_recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "demo"
    ran = cli("demo", "--recipe", small_recipe, "--out", out, "--json")
    assert ran.code in (0, 1), ran.err  # so few steps may well fail a gate; that is a verdict, not an error
    report = json.loads(ran.out)
    assert (report["verdict"] == "explains") == (ran.code == 0)
    assert set(report) == _documented("# The report")
    task = report["tasks"]["for_while"]
    assert _documented("Under `tasks.<name>`") <= set(task)
    stored = json.loads((out / "report.json").read_text("utf-8"))
    assert stored.pop("schema_version")
    assert stored.pop("made_by")
    assert stored == report
    assert "attention_mask" not in ran.err, "advice about padding, where nothing is padded"
    page = (out / "report.html").read_text("utf-8")
    assert "for_while" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script src" not in page


def test_a_demo_does_not_overwrite_a_folder_that_holds_no_report(
    cli: Callable[..., Any], small_recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("keep", "utf-8")
    ran = cli("demo", "--recipe", small_recipe, "--out", tmp_path)
    assert ran.code == 2
    assert "holds no earlier report" in ran.err
    assert (tmp_path / "mine.txt").read_text("utf-8") == "keep"


def test_an_unknown_key_of_a_recipe_is_refused_by_name(cli: Callable[..., Any], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[prune]\nstps = 3\n", "utf-8")
    ran = cli("demo", "--recipe", recipe, "--out", tmp_path / "out")
    assert ran.code == 2
    assert "[prune]: unknown key 'stps'; did you mean 'steps'?" in ran.err


def test_the_bundled_recipe_reads_and_names_tasks_of_the_bundled_models() -> None:
    from bridges.jobs.recipe import read_recipe
    from sparse_model.tasks import find_task

    recipe = read_recipe(BUNDLED / "recipe.toml")
    assert recipe.demo.tasks
    for name in recipe.demo.tasks:
        find_task(name)
    assert (BUNDLED / "dense" / "model.safetensors").is_file()
