"""Options made from configs: one per field, the file below the options, unknown keys refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from cli.app import App
from cli.options import Device, check_device, with_settings
from foundation.errors import UserError
from foundation.settings import Settings


class Inner(Settings):
    """A table."""

    x: int = 1


class First(Settings):
    """The first section."""

    rate: float = Field(0.5, gt=0, description="speed")
    on: bool = Field(False, description="a switch")
    mode: Literal["a", "b"] = Field("a", description="a choice")
    limit: int | None = Field(None, description="a limit")
    pair: tuple[float, float] = Field((1.0, 2.0), description="two numbers")
    tables: tuple[Inner, ...] = Field((Inner(),), description="only in files")


class Second(Settings):
    """The second section."""

    rate: float = Field(3.0, description="other speed")


@pytest.fixture
def call() -> Callable[..., tuple[First, Second, str]]:
    """Runs a command of both sections with the given options."""
    found: list[tuple[First, Second, str]] = []
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    @with_settings(first=First, second=Second)
    def command(name: Annotated[str, typer.Argument()], first: First, second: Second) -> None:
        """A command."""
        found.append((first, second, name))

    def run(*options: str) -> tuple[First, Second, str]:
        result = CliRunner().invoke(app, ["who", *options])
        if result.exception is not None:
            raise result.exception
        return found.pop()

    return run


def test_without_options_the_defaults_hold(call: Callable) -> None:
    assert call() == (First(), Second(), "who")


def test_each_field_is_an_option_and_later_sections_carry_their_name(call: Callable) -> None:
    first, second, _ = call(
        "--rate", "2", "--on", "--mode", "b", "--limit", "7", "--pair", "3", "4", "--second-rate", "9"
    )
    assert first == First(rate=2, on=True, mode="b", limit=7, pair=(3, 4))
    assert second == Second(rate=9)


def test_options_override_the_file_and_a_flag_can_be_turned_off(call: Callable, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[first]\nrate = 7\non = true\ntables = [{x = 5}]\n[second]\nrate = 8\n")
    assert call("--config", str(path)) == (First(rate=7, on=True, tables=(Inner(x=5),)), Second(rate=8), "who")
    assert call("--config", str(path), "--no-on", "--rate", "1")[0] == First(rate=1, tables=(Inner(x=5),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[first]\nrat = 1", r"c\.toml \[first\]: unknown key 'rat'; did you mean 'rate'"),
        ("[frist]\nrate = 1", r"unknown section \[frist\]; did you mean \[first\]"),
        ("first = 3", "'first' is a section"),
        ("[first]\nrate = -1", "rate = -1"),
    ],
)
def test_a_mistake_in_the_file_is_refused_by_name(text: str, message: str, call: Callable, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        call("--config", str(tmp_path / "c.toml"))


def test_values_out_of_range_are_refused_by_their_options_all_at_once(call: Callable, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--rate -1.0: input should be greater than 0$"):
        call("--rate", "-1")
    (tmp_path / "c.toml").write_text("[second]\nrate = 'fast'\n")
    with pytest.raises(UserError, match=r"c\.toml \[second\]: rate = 'fast'"):
        call("--config", str(tmp_path / "c.toml"))


def test_help_lists_the_options_of_each_table_of_settings_together() -> None:
    app = App()

    @app.command()
    @with_settings(first=First, second=Second)
    def command(first: First, second: Second, device: Device = "cpu", own: int = 1) -> None:
        """A command."""

    sections = re.split(r"^(\S.*):$", CliRunner().invoke(app, ["--help"]).stdout, flags=re.MULTILINE)
    by_title = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert list(by_title) == ["Options", "Settings [first]", "Settings [second]", "General"]
    assert "--own" in by_title["Options"]
    assert "--limit" in by_title["Settings [first]"]
    assert "--second-rate" in by_title["Settings [second]"]
    assert all(name in by_title["General"] for name in ("--device", "--config", "--help"))


def test_a_device_that_is_not_there_is_refused() -> None:
    assert check_device("cpu") == "cpu"
    for device in ("tpuu", "cuda:99"):
        with pytest.raises(UserError, match="pass --device cpu"):
            check_device(device)
