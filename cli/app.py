"""What every command group looks like: help in sections, a bare group that explains itself, hints after a typo."""

import difflib
import math
from collections.abc import Callable, Iterator
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

GENERAL = "General"
"""The section of options that mean the same in every command."""
UsageError: type[Any] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")
CLOSE = 0.6
"""How alike two words are, from 0 to 1, before one is taken for a misspelling of the other."""


class Command(TyperCommand):
    """Help with one section for a command's own options, one a table of settings, and one for the general options.

    Before it does anything, it looks at what it would write over.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            BadParameter: a number is NaN or infinite.
            UserError: with `--overwrite`, an input would be lost.
        """
        for name, value in ctx.params.items():
            for number in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(number, float) and not math.isfinite(number):
                    raise typer.BadParameter(
                        f"{number} is not a finite number", ctx, param_hint=f"--{name.replace('_', '-')}"
                    )
        if ctx.params.get("overwrite"):  # loaded here, for most starts need it as little as `--help` does
            from cli.replacing import check_inputs_kept

            check_inputs_kept(ctx.params)
        return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections, the general one last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(_section(parameter), []).append(record)
        for title in sorted(sections, key=GENERAL.__eq__):
            with formatter.section(title):
                formatter.write_dl(sections[title])


class Group(TyperGroup):
    """Commands by name. Bare, it prints its help; after a typo it names the commands that may be meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Without arguments, ask for help."""
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command named first.

        Raises:
            UsageError: there is none of that name; the message names the nearest ones, of other groups too.
        """
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            near = _nearest(args[0], ctx)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise UsageError(f"No such command '{args[0]}'{hint}", ctx)
        return super().resolve_command(ctx, args)


class App(typer.Typer):
    """A typer application whose commands and groups look as above."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"cls": Group, "rich_markup_mode": None, "add_completion": False} | options)

    def command(self, name: str | None = None, *, cls: type[TyperCommand] | None = Command, **options: Any) -> Callable:
        """Decorator that adds a command."""
        return super().command(name, cls=cls, **options)


def _section(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return "Arguments"
    return GENERAL if parameter.name == "help" else parameter.rich_help_panel or "Options"


def _nearest(word: str, ctx: Any) -> list[str]:
    """Up to three command lines whose name is like `word`, those of this group first."""

    def likeness(path: list[str]) -> float:
        return difflib.SequenceMatcher(a=word, b=path[-1]).ratio() + (path[:-1] == ctx.command_path.split())

    root = ctx.find_root()
    found = [
        path for path in _paths(root, root.command, [root.info_name]) if likeness(path) % 1 >= CLOSE or path[-1] == word
    ]
    best = sorted(found, key=likeness, reverse=True)
    own = [path for path in best if path[:-1] == ctx.command_path.split()]
    return [" ".join(path) for path in (own or best)[:3]]


def _paths(ctx: Any, group: Any, prefix: list[str]) -> Iterator[list[str]]:
    """Every command line below a group, as words."""
    for name in group.list_commands(ctx):
        path, command = [*prefix, name], group.get_command(ctx, name)
        yield path
        if isinstance(command, Group):
            yield from _paths(ctx, command, path)
