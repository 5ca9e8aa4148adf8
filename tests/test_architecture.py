"""Who may import whom: the rooms of the design, and no circle among modules, imports for type checkers included."""

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED: Mapping[str, set[str]] = {
    "foundation": set(),
    "sparse_model": {"foundation"},
    "dense_adapters": {"foundation"},
    "bridges": {"foundation", "sparse_model", "dense_adapters"},
    "sparsebridge": {"foundation", "sparse_model", "dense_adapters", "bridges"},
    "cli": {"foundation", "sparse_model", "dense_adapters", "bridges", "sparsebridge"},
}
"""Room → the rooms it may import, beside itself (docs/design.md)."""
DOORS = {"sparsebridge.__main__": {"cli"}}
"""`python -m sparsebridge` is the command line."""
SPARSE_ONLY = ("cli.sparse", "cli.task", "cli.corpus", "cli.circuit", "cli.sweep", "cli.loading", "cli.tuning")
"""Commands on sparse models alone; of `bridges` they may draw with `bridges.reports`, which reads JSON and draws circuits."""
MOST_ARGUMENTS = 10
"""Of a function that is no command; more of them are a record."""


def _files(room: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / room).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@cache
def _modules() -> dict[str, Path]:
    return {name: path for room in ALLOWED for name, path in _files(room)}


def _imports(source: str, known: Mapping[str, object]) -> set[str]:
    """Modules of the project that a module imports anywhere in its text.

    `from package import name` means the module `package.name` where there is one, else the package itself.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
        elif isinstance(node, ast.ImportFrom):
            found.add(".relative")  # the project imports by full name; this one is in no room
    return {name for name in found if name in known or name == ".relative"}


@cache
def _graph() -> dict[str, set[str]]:
    return {name: _imports(path.read_text("utf-8"), _modules()) for name, path in _modules().items()}


def _circle(graph: Mapping[str, set[str]]) -> list[str]:
    """One circle of imports, or nothing."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            found = visit(other, [*way, name])
            if found:
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_the_design_allows(room: str) -> None:
    wrong = [
        f"{name} imports {other}"
        for name, imported in _graph().items()
        if name.partition(".")[0] == room
        for other in sorted(imported)
        if other.partition(".")[0] not in ALLOWED[room] | {room} | DOORS.get(name, set())
    ]
    assert wrong == []


def test_no_module_imports_itself_by_way_of_others_even_for_type_checkers() -> None:
    assert " → ".join(_circle(_graph())) == ""


def test_a_circle_and_a_forbidden_import_would_be_noticed() -> None:
    known = {"cli.a": 0, "cli.b": 0, "bridges": 0, "bridges.x": 0}
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from bridges import x, y\n\ndef f():\n    import cli.b\n"
    assert _imports(source, known) == {"bridges.x", "bridges", "cli.b"}
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert _circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("module", SPARSE_ONLY)
def test_commands_on_sparse_models_alone_import_no_bridges(module: str) -> None:
    reached, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += sorted(_graph()[name])
    assert (
        sorted(name for name in reached if name.startswith("bridges.") and not name.startswith("bridges.reports")) == []
    )


def _long_signatures(source: str) -> list[str]:
    """Functions with too many arguments, commands left out: theirs are options."""
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
        and len(node.args.args) + len(node.args.kwonlyargs) > MOST_ARGUMENTS
        and not (node.decorator_list or "typer." in ast.unparse(node.args))
    ]


@pytest.mark.parametrize("room", ALLOWED)
def test_no_function_takes_more_arguments_than_a_reader_can_hold(room: str) -> None:
    found = {name: _long_signatures(path.read_text("utf-8")) for name, path in _files(room)}
    assert {name: long for name, long in found.items() if long} == {}
    many = ", ".join(f"a{n}" for n in range(MOST_ARGUMENTS + 1))
    assert _long_signatures(f"def f({many}): ...") == ["f"]


def test_every_room_stands_in_the_table_of_the_design() -> None:
    design = (ROOT / "docs" / "design.md").read_text("utf-8")
    rows = {row.split("`")[1] for row in design.splitlines() if row.startswith("| `") and row.count("|") == 4}
    assert set(ALLOWED) <= rows


def test_annotations_are_read_as_they_stand_everywhere() -> None:
    assert [name for name, path in _modules().items() if "from __future__" in path.read_text("utf-8")] == []


def _sentences_about_errors(source: str) -> list[str]:
    """Docstrings that name an error in a sentence and not under `Raises:`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            found += re.findall(r"\bRaises [A-Z]\w*Error\b", ast.get_docstring(node) or "")
    return found


@pytest.mark.parametrize("room", ALLOWED)
def test_docstrings_say_what_is_raised_in_a_section_of_its_own(room: str) -> None:
    wrong = {name: _sentences_about_errors(path.read_text("utf-8")) for name, path in _files(room)}
    assert {name: found for name, found in wrong.items() if found} == {}
    assert _sentences_about_errors('def f():\n    """Do. Raises ValueError if not."""\n') == ["Raises ValueError"]
