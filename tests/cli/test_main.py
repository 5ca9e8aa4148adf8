"""The command itself: help of everything, exit codes, one-line errors."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import typer

import cli.main
from cli.main import COMMANDS, LazyGroup, run
from cli.output import print_json, print_table, say
from foundation.errors import UserError


def commands() -> Iterator[list[str]]:
    """Every command line prefix that a person can ask for help on."""
    group = typer.main.get_command(cli.main.app)
    assert isinstance(group, LazyGroup)
    for name in COMMANDS:
        yield [name]
        command = group.get_command(typer.Context(group), name)
        yield from ([name, inner] for inner in getattr(command, "commands", {}))


def test_top_level_help_lists_every_command_and_loads_no_heavy_package() -> None:
    code = (
        "import sys; from cli.main import run; run(['--help']);"
        "heavy = {'torch', 'transformers', 'numpy', 'scipy', 'datasets', 'matplotlib'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [
        line.split()[0] for line in done.stdout.split("Commands:")[1].strip().splitlines() if line.startswith("  ")
    ] == list(COMMANDS) or all(name in done.stdout for name in COMMANDS)


def test_every_command_explains_itself_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for line in commands():
        assert run([*line, "--help"]) == 0, line
        text = capsys.readouterr().out
        assert "Usage: sparsebridge" in text, line
        if "COMMAND" not in text.split("\n\n")[0]:
            words = " ".join(text.split())
            assert f"Example: sparsebridge {' '.join(line)}" in words, line


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["spars"], "No such command 'spars'"),
        (["sparse", "trian"], "No such command 'trian'"),
        (["sparse", "inspect"], "Missing argument 'model'"),
        (["sparse", "inspect", "x", "--jsn"], "No such option: --jsn"),
        (["corpus", "show", "x", "--split", "test"], "'test' is not one of"),
    ],
)
def test_a_mistyped_command_line_is_one_line_and_code_2(line: list[str], message: str, cli: Callable) -> None:
    ran = cli(*line)
    assert ran.code == 2
    assert message in ran.err
    assert ran.err.startswith("sparsebridge: ")
    assert ran.err.count("\n") == 1
    assert not ran.out


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("a\nb"), 2, "a b"),
        (ModuleNotFoundError("x", name="gguf"), 3, "the package 'gguf' is not installed"),
        (PermissionError(13, "Permission denied", "/x"), 3, "/x: Permission denied"),
        (KeyboardInterrupt(), 130, "nothing was half written"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_failure_has_its_exit_code(
    error: BaseException, code: int, message: str, cli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli_main := sys.modules["cli.main"], "app", fail)
    assert cli_main.app is fail
    ran = cli("anything")
    assert ran.code == code
    assert message in ran.err
    assert ran.err.count("\n") == 1


def test_a_mistake_of_ours_is_not_dressed_up_as_the_users(monkeypatch: pytest.MonkeyPatch, cli: Callable) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("not from our packages")

    monkeypatch.setattr(sys.modules["cli.main"], "app", fail)
    with pytest.raises(ValueError, match="not from our packages"):
        cli("anything")


def test_a_verdict_can_set_the_exit_code(monkeypatch: pytest.MonkeyPatch, cli: Callable) -> None:
    monkeypatch.setattr(sys.modules["cli.main"], "app", lambda *_, **__: 1)
    assert cli("anything").code == 1


def test_of_several_processes_only_the_first_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = {}
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        say("line")
        print_json({"a": 1})
        print_table("title", ("name", "value"), [["b", "2"]])
        printed[rank] = "".join(capsys.readouterr())
    assert all(part in printed["0"] for part in ("line", '{"a": 1}', "title"))
    assert printed["1"] == ""
