"""Each diff of docs/extending.md touches one source file, fits the code of today, and does what the test it brings says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("foundation", "sparse_model", "dense_adapters", "bridges", "sparsebridge", "cli", "tests")
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
DIFFS = dict(re.findall(r"^## (.+?)$.*?^```diff\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def _files(diff: str) -> list[str]:
    return re.findall(r"^\+\+\+ b/(.+)$", diff, re.MULTILINE)


def _apply(diff: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "apply", "-"], input=diff, cwd=folder, capture_output=True, text=True, check=False)


def test_the_page_shows_everything_that_exists_in_one_list() -> None:
    things = ("dense quirk", "task", "evidence check", "edit rule", "loss term", "corpus kind", "command")
    assert [title.split(maxsplit=1)[1] for title in DIFFS] == list(things)


@pytest.mark.parametrize("thing", DIFFS)
def test_adding_a_thing_touches_one_source_file_and_brings_its_test(thing: str) -> None:
    files = _files(DIFFS[thing])
    assert [path.startswith("tests/") for path in sorted(files)] == [False, True]


@pytest.mark.slow
def test_every_diff_fits_and_the_tests_it_brings_pass(tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for thing, diff in DIFFS.items():
        applied = _apply(diff, tmp_path)
        assert applied.returncode == 0, f"{thing}: {applied.stderr}"
        assert _apply(diff, tmp_path).returncode != 0  # a diff that does not fit is noticed
    brought = [path for diff in DIFFS.values() for path in _files(diff) if path.startswith("tests/")]
    script = "import sys, pytest; sys.path.insert(0, '.'); sys.exit(pytest.main(sys.argv[1:]))"
    ran = subprocess.run(
        [sys.executable, "-c", script, "-q", "-p", "no:cacheprovider", *brought],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
    assert f"{tmp_path}" in subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.insert(0, '.'); import foundation; print(foundation.__file__)"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
