"""`sparsebridge report`: a page beside an artefact, never in it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cli.demo import BUNDLED

ARTEFACT = BUNDLED / "bridge" / "sparse"


def test_the_page_lands_in_this_folder_and_the_artefact_stays_as_it_was(
    cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(ARTEFACT.iterdir())
    ran = cli("report", ARTEFACT)
    assert ran.code == 0
    assert f"next: sparsebridge task check {ARTEFACT}" in ran.err
    assert sorted(ARTEFACT.iterdir()) == before
    assert "<html" in (tmp_path / "sparse.html").read_text("utf-8")
    assert "pass --overwrite" in cli("report", ARTEFACT).err
    assert cli("report", ARTEFACT, "--overwrite").code == 0


def test_a_page_within_the_artefact_is_refused(cli: Callable) -> None:
    ran = cli("report", ARTEFACT, "--out", ARTEFACT / "report.html")
    assert ran.code == 2
    assert "lies within the artefact" in ran.err


def test_what_is_no_folder_is_refused(cli: Callable) -> None:
    assert "no such folder" in cli("report", "nosuch").err
