"""The `sparsebridge` command: a table of groups, loaded when used, and what errors become.

Exit codes: 0 done, 1 a verdict failed, 2 the user's input is wrong, 3 the environment is, 130 stopped by a signal
(nothing lost; the same command goes on).
"""

import importlib
import os
import sys
from typing import Annotated, Any

import typer

from cli.app import App, Group
from foundation.errors import StoppedEarly, UserError

COMMANDS = {
    "demo": "The main job on the bundled model, offline: circuit, edit, verdict, report.",
    "explain": "From a dense model and a task of your own to a report, sized to its data.",
    "corpus": "Tokenised blocks from tinypython, the standard library, folders or data sets.",
    "sparse": "Train, evaluate, import, export and inspect weight-sparse models.",
    "task": "List and generate tasks; check how well a model does them at all.",
    "circuit": "Prune a circuit out of a sparse model, evaluate it, draw it.",
    "dense": "Train a small Hugging Face model; prove the adapter on any other.",
    "bridge": "Train and evaluate bridges to a Hugging Face model.",
    "edit": "Map circuits to dense edits; validate, apply and bake them.",
    "plan": "Parameters, memory, FLOPs and hours of a training run before it starts.",
    "report": "A self-contained HTML page from any artefact.",
}
ClickException: type[Any] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


class LazyGroup(Group):
    """Loads `cli.<name>` only when that command runs, so that `--help` needs no torch."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, in the order of the main job."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import the module behind a command; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"cli.{cmd_name}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The table, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = App(cls=LazyGroup, add_completion=True)


def _print_version(asked: bool) -> None:
    if asked:
        from foundation.versions import version_of

        typer.echo(f"sparsebridge {version_of('sparsebridge')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Explain a Hugging Face language model through a weight-sparse one.

    Train bridges, prune a circuit, map it to edits of the dense model, and have the edits validated.
    Start with `sparsebridge demo`.
    """


def main() -> None:
    """Entry point: run a command and turn every foreseen failure into one line and an exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.stderr.isatty():  # a bar redraws itself with carriage returns, which fill a log
        os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        result = app(arguments, standalone_mode=False, prog_name="sparsebridge")
        return result if isinstance(result, int) else 0
    except ClickException as error:
        return _fail(f"{error.format_message().rstrip('.')} (see {error.ctx.command_path} --help)", 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped; nothing was half written", 130)
    except UserError as error:
        return _fail(str(error), 2)
    except StoppedEarly as error:
        return _fail(str(error), 130)
    except ModuleNotFoundError as error:
        return _fail(
            f"the package '{error.name}' is not installed; install it, or reinstall sparsebridge with its extras", 3
        )
    except OSError as error:
        return _fail(f"{error.filename or 'the file system'}: {error.strerror or error}", 3)


def _fail(message: str, code: int) -> int:
    from foundation.text import one_line

    sys.stderr.write(f"sparsebridge: {one_line(message)}\n")
    return code


if __name__ == "__main__":
    main()
