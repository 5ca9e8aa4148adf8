"""What people are shown runs as it stands: the notebooks, the Python of the README, and the diffs of docs/extending.md.

Minutes of work, so `make examples` runs it beside `make test`; CI runs both.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_extending import apply_all

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
MOST_SECONDS = 240
"""Of processor time, for the README's Python."""
RUN = """
import sys, warnings
warnings.simplefilter("ignore")
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": sys.argv[2]}}).execute()
"""


def _python(code: str, *arguments: str, folder: Path) -> str:
    """What a fresh interpreter prints, started in `folder`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, timeout=3600, cwd=folder, env=environment, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    return ran.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("nbclient", reason="the notebooks need the extra [dev]")
    _python(RUN, str(path), str(tmp_path), folder=ROOT)


def test_the_python_of_the_readme_runs_as_it_stands_and_in_less_than_four_minutes_of_one_core(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    printed = _python(f"{code}\nimport time; print(time.process_time())", folder=tmp_path)
    circuit, tokens, verdict, seconds = printed.strip().splitlines()
    assert circuit.startswith("TaskCircuit('closing_quote'")
    assert len(ast.literal_eval(tokens)) == 5
    assert verdict.startswith("Verdict('closing_quote'")
    assert float(seconds) < MOST_SECONDS
    assert "</html>" in (tmp_path / "report.html").read_text("utf-8")


def test_the_tests_that_the_diffs_of_the_page_on_extending_bring_pass(tmp_path: Path) -> None:
    brought = apply_all(tmp_path)
    script = "import sys, pytest; sys.path.insert(0, '.'); sys.exit(pytest.main(sys.argv[1:]))"
    ran = subprocess.run(
        [sys.executable, "-c", script, "-q", "-p", "no:cacheprovider", *brought],
        cwd=tmp_path, capture_output=True, text=True, timeout=3600, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
    assert f"{tmp_path}" in subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.insert(0, '.'); import foundation; print(foundation.__file__)"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
