"""Options shared by the commands, and options made from configs.

`with_settings(train=TrainConfig, bridge=BridgeConfig)` gives a command one option per field (fields of the first
section under their own name, of the others with the section in front) and `--config FILE`, whose sections the
options override. Defaults and descriptions live in the configs alone.
"""

import functools
import inspect
import os
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from cli.app import GENERAL
from foundation.errors import UserError
from foundation.settings import Settings, read_mapping

Out = Annotated[
    Path, typer.Option("--out", "-o", help="folder or file to write", show_default=False, rich_help_panel=GENERAL)
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="replace what --out already holds", rich_help_panel=GENERAL)
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps", rich_help_panel=GENERAL)]
Json = Annotated[
    bool,
    typer.Option("--json", help="print one JSON object on stdout; all else goes to stderr", rich_help_panel=GENERAL),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="run Python code that the model brings along; read it first")
]
DenseOption = Annotated[
    str | None, typer.Option("--dense", help="the dense model; unset: where it was when the bridge was trained")
]
BridgeOption = Annotated[Path, typer.Option("--bridge", help="a bridge folder", show_default=False)]
CorpusText = Annotated[
    Path | None,
    typer.Option("--corpus", help="a corpus folder for reference text; unset: tinypython, made on the spot"),
]
TaskOption = Annotated[
    str,
    typer.Option(
        "--task", help="a task's name (see sparsebridge task list) or a .jsonl file of pairs", show_default=False
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="of every random choice", rich_help_panel=GENERAL)]


def check_device(device: str) -> str:
    """Return the device if torch can use it.

    Raises:
        UserError: torch does not know it, or it is not there.
    """
    import torch

    try:
        if torch.device(device).type == "cuda" and torch.cuda.is_available():
            # from here on a bare "cuda" is this one; under a launcher, the one of this process
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) if device == "cuda" else torch.device(device))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(".")[0]
        raise UserError(f"device '{device}' cannot be used ({reason}); pass --device cpu") from None
    return device


def with_settings(**sections: type[Settings]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the command receives each section as a keyword, resolved from defaults, --config and options."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name not in sections]
        added = [_config_parameter()]
        places: dict[str, tuple[str, str]] = {}
        for number, (section, settings) in enumerate(sections.items()):
            for field, info in settings.model_fields.items():
                if _holds_settings(info.annotation):  # tables can only come from a file
                    continue
                name = field if number == 0 else f"{section}_{field}"
                places[name] = (section, field)
                text = f"{info.description} [default: {_shown(info.default)}]"
                added.append(_parameter(name, info.annotation, text, f"Settings [{section}]"))

        @functools.wraps(command)
        def wrapper(**given: Any) -> Any:
            path = given.pop("config", None)
            values = _sections_of(path, sections) if path is not None else {section: {} for section in sections}
            flags: dict[str, dict[str, str]] = {section: {} for section in sections}
            for name, (section, field) in places.items():
                value = given.pop(name)
                if value is not None:
                    values[section][field] = value
                    flags[section][field] = _flag(name)
            resolved = {
                section: settings.from_mapping(values[section], f"{path or 'options'} [{section}]", flags[section])
                for section, settings in sections.items()
            }
            return command(**given, **resolved)

        wrapper.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
        del wrapper.__wrapped__
        return wrapper

    return decorate


def _config_parameter() -> inspect.Parameter:
    option = typer.Option(
        "--config", help="TOML or JSON file with a table per section; options override it", rich_help_panel=GENERAL
    )
    return _keyword("config", Annotated[Path | None, option])


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _parameter(name: str, annotation: Any, text: str, section: str) -> inspect.Parameter:
    flag = _flag(name)
    declaration = f"{flag}/--no-{flag[2:]}" if bool in (annotation, *get_args(annotation)) else flag
    option = typer.Option(declaration, help=text, show_default=False, rich_help_panel=section)
    return _keyword(name, Annotated[_optional(annotation), option])


def _holds_settings(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return True
    return any(_holds_settings(part) for part in get_args(annotation))


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _optional(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation):
        return annotation
    if get_origin(annotation) is Literal and not all(isinstance(v, str) for v in get_args(annotation)):
        raise TypeError("only Literals of strings can be options")
    return annotation | None


def _shown(default: Any) -> str:
    return "unset" if default is None else " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _sections_of(path: Path, sections: dict[str, type[Settings]]) -> dict[str, dict[str, Any]]:
    import difflib

    found = read_mapping(path)
    for name, value in found.items():
        if name not in sections:
            near = difflib.get_close_matches(name, sections, n=1)
            hint = f"did you mean [{near[0]}]?" if near else f"valid sections: {', '.join(f'[{s}]' for s in sections)}"
            raise UserError(f"{path}: unknown section [{name}]; {hint}")
        if not isinstance(value, dict):
            raise UserError(f"{path}: '{name}' is a section and must hold keys, not {value!r}")
    return {section: dict(found.get(section, {})) for section in sections}
