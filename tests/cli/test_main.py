"""The command itself: help of everything, exit codes, one-line errors."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

import cli.main
from cli.main import COMMANDS, LazyGroup, run
from cli.output import print_json, print_table, say
from foundation.errors import UserError
from foundation.versions import version_of


def commands() -> Iterator[list[str]]:
    """Every command line prefix that a person can ask for help on."""
    group = typer.main.get_command(cli.main.app)
    assert isinstance(group, LazyGroup)
    for name in COMMANDS:
        yield [name]
        command = group.get_command(typer.Context(group), name)
        yield from ([name, inner] for inner in getattr(command, "commands", {}))


HEAVY = ("torch", "transformers", "scipy", "matplotlib", "datasets", "numpy")
MOST_SECONDS = 1.5
"""Of processor time. A start takes about 0.3 s; torch alone takes longer than this."""
LIGHT = """
import contextlib, io, sys, time
from cli.main import run
texts = []
for line in {lines}:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        run(line)
    texts.append(printed.getvalue())
heavy = set({heavy}) & set(sys.modules)
sys.stdout.write("\\0".join(texts))
sys.exit(f"loaded {{heavy}}" if heavy else f"{{time.process_time()}} s" if time.process_time() > {limit} else 0)
"""


def light_start(lines: list[list[str]], heavy: tuple[str, ...] = HEAVY) -> subprocess.CompletedProcess[str]:
    """Run command lines in a new process; its exit code is not 0 where it loaded a heavy package or took long."""
    code = LIGHT.format(lines=lines, heavy=heavy, limit=MOST_SECONDS)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_mistakes_of_every_group_start_no_heavy_package(name: str) -> None:
    lines = [line for line in commands() if line[0] == name]
    done = light_start(
        [*([*line, "--help"] for line in lines), *([*line, "--nosuch"] for line in lines), [name, "nosuch"]]
    )
    assert done.returncode == 0, done.stderr
    texts = done.stdout.split("\0")
    assert all("Usage: sparsebridge" in text for text in texts[: len(lines)])
    assert all("sparsebridge:" in text for text in texts[len(lines) :])


def test_lists_start_no_heavy_package() -> None:
    done = light_start([["task", "list"], [], ["--version"], ["trian"]])
    assert done.returncode == 0, done.stderr
    assert "closing_quote" in done.stdout


def test_a_heavy_package_would_be_noticed() -> None:
    assert "loaded" in light_start([["--help"]], heavy=("typer",)).stderr


def test_top_level_help_lists_every_command(cli: Callable) -> None:
    listed = cli("--help").out.split("Commands:")[1]
    assert re.findall(r"^  (\w+) ", listed, re.MULTILINE) == list(COMMANDS)


def test_a_bare_group_prints_its_help_as_help(cli: Callable) -> None:
    for line in ([], ["circuit"], ["edit"]):
        ran = cli(*line)
        assert ran.code == 0
        assert ran.out == cli(*line, "--help").out
        assert "Commands:\n" in ran.out
        assert not ran.err


def test_the_version_is_printed(cli: Callable) -> None:
    assert cli("--version").out == f"sparsebridge {version_of('sparsebridge')}\n"


def test_a_shell_can_complete_commands() -> None:
    environment = {
        **os.environ,
        "_SPARSEBRIDGE_COMPLETE": "complete_bash",
        "COMP_WORDS": "sparsebridge cir",
        "COMP_CWORD": "1",
    }
    command = [sys.executable, "-c", "from cli.main import main; main()"]
    assert (
        subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.strip()
        == "circuit"
    )


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
        (["spars"], "No such command 'spars'; did you mean 'sparsebridge sparse'? (see sparsebridge --help)"),
        (["sparse", "trian"], "did you mean 'sparsebridge sparse train'? (see sparsebridge sparse --help)"),
        (["prune"], "did you mean 'sparsebridge circuit prune'"),
        (["qqq"], "No such command 'qqq' (see sparsebridge --help)"),
        (["task", "prune"], "did you mean 'sparsebridge circuit prune'"),
        (["sparse", "inspect"], "Missing argument 'model'"),
        (
            ["sparse", "inspect", "x", "--jsn"],
            "No such option: --jsn (Possible options: --json) (see sparsebridge sparse inspect --help)",
        ),
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


def test_a_proven_dense_model_is_followed_by_the_command_that_builds_its_corpus(
    cli: Callable, gpt2_folder: Path
) -> None:
    following = f"next: sparsebridge corpus build --source FOLDER --tokenizer {gpt2_folder} --out corpus\n"
    assert cli("dense", "check", gpt2_folder).err.endswith(following)
    assert "next:" not in cli("dense", "check", gpt2_folder, "--json").err
