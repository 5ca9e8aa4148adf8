"""Each diff of docs/extending.md touches one source file and fits the code of today.

That the tests they bring pass is `examples/test_examples.py` (make examples).
"""

import re
import shutil
import subprocess
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


def apply_all(folder: Path) -> list[str]:
    """Apply every diff to a copy of the packages in `folder`; the tests that they bring."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for thing, diff in DIFFS.items():
        applied = _apply(diff, folder)
        assert applied.returncode == 0, f"{thing}: {applied.stderr}"
        assert _apply(diff, folder).returncode != 0  # a diff that does not fit is noticed
    return [path for diff in DIFFS.values() for path in _files(diff) if path.startswith("tests/")]


def test_every_diff_fits(tmp_path: Path) -> None:
    assert all((tmp_path / path).is_file() for path in apply_all(tmp_path))
