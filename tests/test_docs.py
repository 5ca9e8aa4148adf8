"""The documents say what the program does: their command lines parse, their paths exist, their tables are complete."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import sparsebridge
from cli.main import COMMANDS
from sparse_model.studies.page import read_between

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"```(?:sh|bash)\n(.*?)```", re.DOTALL)
SPAN = re.compile(r"`((?:sparsebridge|make|python) [^`]+)`")
PLACEHOLDER = re.compile(r"\\\||\.\.\.|…|\b[A-Z][A-Z_]+\b")  # a table of alternatives, or a name to fill in
OF_THE_PROGRAM = {"--help", "--version", "--install-completion", "--show-completion"}
GROUPS = {"corpus", "sparse", "task", "circuit", "dense", "bridge", "edit"}


def _lines(text: str) -> Iterator[str]:
    for block in FENCE.findall(text):
        yield from block.replace("\\\n", " ").splitlines()
    for span in SPAN.findall(text):
        if not PLACEHOLDER.search(span):
            yield span


def _examples() -> list[Any]:
    """Every whole `sparsebridge` command line of the documents."""
    found = []
    for document in DOCUMENTS:
        for line in _lines(document.read_text("utf-8")):
            words = shlex.split(line, comments=True)
            if words[:1] == ["sparsebridge"] and len(words) > 1:
                found.append(pytest.param(words[1:], id=f"{document.name}: {' '.join(words[1:4])}"))
    return found


def _command(name: str) -> Any:
    return typer.main.get_command(importlib.import_module(f"cli.{name}").app)


def _parse(words: list[str]) -> None:
    """Parse a command line as the program would, without running anything."""
    name, *rest = words
    if not rest and name in OF_THE_PROGRAM:
        return
    assert name in COMMANDS, f"no command '{name}'"
    command = _command(name)
    if hasattr(command, "commands"):
        if not rest or rest[0] == "--help":
            return
        sub, *rest = rest
        assert sub in command.commands, f"no command '{name} {sub}'"
        command = command.commands[sub]
    if "--help" not in rest:
        command.make_context(name, rest)


@pytest.mark.parametrize("words", _examples())
def test_every_command_line_of_the_documents_parses(words: list[str]) -> None:
    _parse(words)


def test_a_command_line_with_a_misspelt_option_does_not_parse() -> None:
    with pytest.raises(Exception, match="--trian-tokens"):
        _parse(["corpus", "build", "--out", "x", "--trian-tokens", "3"])


def test_the_readme_lists_every_command_and_no_other() -> None:
    listed: set[str] = set()
    for row in re.findall(r"^\| `sparsebridge ([^`]+)` \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE):
        name, *rest = row.replace("\\|", " ").split()
        listed |= {f"{name} {sub}" for sub in rest} if name in GROUPS else {name}
    existing: set[str] = set()
    for name in COMMANDS:
        command = _command(name)
        existing |= {f"{name} {sub}" for sub in command.commands} if name in GROUPS else {name}
    assert listed == existing


def test_every_command_shows_an_example_that_parses() -> None:
    for name in COMMANDS:
        command = _command(name)
        for sub, leaf in command.commands.items() if hasattr(command, "commands") else [("", command)]:
            example = re.search(r"Example: (sparsebridge .+?)(?:\n\n|$)", leaf.help or "", re.DOTALL)
            assert example, f"'{name} {sub}' shows no example"
            words = shlex.split(" ".join(example.group(1).split()))[1:]
            assert " ".join(words).startswith(f"{name} {sub}".strip())
            _parse(words)


def test_every_path_of_the_file_map_exists() -> None:
    table = (ROOT / "docs" / "design.md").read_text("utf-8").split("## File map")[1].split("\n## ")[0]
    missing = []
    for row in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE):
        names = re.findall(r"`([^`]+)`", row)
        folder = names[0].rsplit("/", 1)[0] if "/" in names[0] else ""
        for name in names:
            if not any((base / name).exists() for base in (ROOT, ROOT / folder, ROOT / Path(folder).parent)):
                missing.append(name)
    assert not missing


def test_every_link_between_documents_leads_somewhere() -> None:
    broken = []
    for document in DOCUMENTS:
        for target, heading in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", document.read_text("utf-8")):
            if "://" not in target:
                page = document.parent / target if target else document
                if not page.exists() or (heading and heading not in _headings(page)):
                    broken.append(f"{document.name}: {target}#{heading}")
    assert not broken


def _headings(page: Path) -> set[str]:
    """What a link puts after # to lead to each heading of a page."""
    found = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_every_block_of_figures_is_closed_once_and_has_a_name_of_its_own_in_its_document() -> None:
    blocks = 0
    for document in DOCUMENTS:
        comments = re.findall(r"<!-- (end of )?(.+?) -->", document.read_text("utf-8"))
        names = [name for _, name in comments[::2]]
        assert comments == [pair for name in names for pair in (("", name), ("end of ", name))], document.name
        assert len(set(names)) == len(names), document.name
        blocks += len(names)
    assert blocks


def _figures(text: str) -> set[str]:
    """Numbers with their intervals, outside code and the targets of links."""
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", text)
    return {" ".join(found.split()) for found in re.findall(r"[+-]?\d[\d.,]*\d(?:\s\[[^\]]*\])?|\d+", prose)}


def _generated(document: Path) -> str:
    """All that commands wrote into a document."""
    names = re.findall(r"<!-- end of (.+?) -->", document.read_text("utf-8"))
    return " ".join(" ".join(read_between(document, name).split()) for name in names)


def _unfounded(text: str, own: Path) -> list[str]:
    """Figures of a text, by paragraph and bullet, that no command wrote into the page it links to (or into its own)."""
    found = []
    for paragraph in re.split(r"\n\n|\n(?=- )", text):
        linked = re.search(r"\]\((docs/[\w/]+\.md)", paragraph)
        written = _generated(ROOT / linked.group(1) if linked else own)
        found += [
            figure
            for figure in sorted(_figures(paragraph))
            if not re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)", written)
        ]
    return found


def test_every_figure_of_the_readme_is_one_that_a_command_wrote_into_the_page_it_comes_from() -> None:
    readme = ROOT / "README.md"
    results = readme.read_text("utf-8").split("<!-- end of models -->")[1].split("\n## ")[0]
    assert _figures(results)
    assert _unfounded(results, readme) == []


def test_a_figure_that_no_command_wrote_is_noticed() -> None:
    assert _unfounded("[Training](docs/training.md#experiments): 2 %-dense, by -0.404 nats.", ROOT / "README.md") == []
    wrong = "[Training](docs/training.md): by -0.504\n[-0.4, -0.3] nats.\n- 7,777 here"
    assert _unfounded(wrong, ROOT / "README.md") == ["-0.504 [-0.4, -0.3]", "7,777"]


def test_the_readme_and_the_site_lead_to_every_document() -> None:
    documents = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")}
    readme, site = (ROOT / "README.md").read_text("utf-8"), (ROOT / "mkdocs.yml").read_text("utf-8")
    assert set(re.findall(r"\]\((docs/[\w/]+\.md)", readme)) == documents
    assert {f"docs/{name}" for name in re.findall(r": (\w+\.md)$", site, re.MULTILINE)} == documents


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) < 120


def test_the_python_of_the_readme_is_short_and_parses() -> None:
    """That it runs is `examples/test_examples.py` (make examples)."""
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert len(code) == 1
    assert len([line for line in code[0].splitlines() if line]) <= 11
    ast.parse(code[0])


def _python_of_documents() -> list[Any]:
    """Every line of Python in the guides that imports the public package or uses its short name."""
    found = []
    for document in DOCUMENTS:
        for block in re.findall(r"```python\n(.*?)```", document.read_text("utf-8"), re.DOTALL):
            for name in sorted(set(re.findall(r"\bsb\.(\w+)", block))):
                found.append(pytest.param(name, id=f"{document.name}: sb.{name}"))
    return found


@pytest.mark.parametrize("name", _python_of_documents())
def test_every_public_name_that_a_document_uses_exists(name: str) -> None:
    assert name in sparsebridge.HOMES


def test_every_name_of_the_api_page_exists_and_every_function_and_class_of_the_package_is_on_it() -> None:
    shown = set(re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "api.md").read_text("utf-8"), re.MULTILINE))
    for path in shown:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path
    public = {f"{home}.{name}" for name, home in sparsebridge.HOMES.items()}
    assert public <= shown


def test_every_label_that_docstrings_cite_stands_in_the_method() -> None:
    method = (ROOT / "docs" / "method.md").read_text("utf-8")
    cited: set[str] = set()
    for package in ("foundation", "sparse_model", "dense_adapters", "bridges", "sparsebridge", "cli"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text("utf-8")
            cited |= {f"({label})" for label in re.findall(r"\b(M\d)\b", text)}
            for numbers in re.findall(r"METHOD ((?:§\d(?:, )?)+)", text):
                cited |= {f"## {number}." for number in re.findall(r"\d", numbers)}
    assert {"(M1)", "(M5)", "## 6."} <= cited
    assert not [label for label in sorted(cited) if label not in method]


def test_every_script_a_document_names_exists() -> None:
    named = {
        path
        for document in DOCUMENTS
        for path in re.findall(r"\b((?:examples|benchmarks)/[\w/]+\.py)\b", document.read_text("utf-8"))
    }
    assert named
    assert not [path for path in sorted(named) if not (ROOT / path).is_file()]


def test_the_page_on_failed_verdicts_has_every_word_and_every_gate_in_its_order() -> None:
    from bridges.validation import verdict
    from foundation.verdicts import WORDS

    page = (ROOT / "docs" / "failed_verdict.md").read_text("utf-8")
    assert tuple(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == WORDS
    source = Path(verdict.__file__).read_text("utf-8").replace("MOVES,", '"moves",')
    gates = re.findall(r"^        Gate\(\n            \"([\w ]+)\"", source, re.MULTILINE)
    assert len(gates) == 7
    assert re.findall(r"^### (.+)$", page, re.MULTILINE) == gates
