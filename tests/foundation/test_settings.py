"""Configs: frozen, unknown keys refused with the nearest, files that do not parse refused in one line."""

from pathlib import Path

import pytest
from pydantic import Field

from foundation.errors import UserError
from foundation.settings import Settings
from sparse_model.training.train_config import TrainConfig


class Shape(Settings):
    """A small config."""

    width: int = Field(4, ge=1, description="channels")
    rate: float = Field(0.5, gt=0, description="per step")


def test_a_misspelt_key_is_refused_with_the_nearest_valid_one() -> None:
    with pytest.raises(UserError, match="unknown key 'widht'; did you mean 'width'"):
        Shape.from_mapping({"widht": 3})
    with pytest.raises(UserError, match="valid keys: width, rate"):
        Shape.from_mapping({"zzz": 3})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"width": 0}, "width = 0"),
        ({"rate": "fast"}, "rate = 'fast'"),
        ({"width": 1.5}, "width"),
        ({"rate": float("inf")}, "rate = inf"),
        ({"rate": float("nan")}, "rate = nan"),
    ],
)
def test_a_value_out_of_range_or_of_another_type_is_refused_by_name(values: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named) as caught:
        Shape.from_mapping(values, origin="run.toml")
    assert str(caught.value).startswith("run.toml: ")
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(UserError, match=r"width = 0.*; .*rate = -1"):
        Shape.from_mapping({"width": 0, "rate": -1})


def test_a_value_is_called_what_the_person_calls_it() -> None:
    with pytest.raises(UserError, match=r"^--the-width 0: input should be"):
        Shape.from_mapping({"width": 0}, called={"width": "--the-width"})


def test_a_config_cannot_be_changed_after_it_was_made() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Shape().width = 5


@pytest.mark.parametrize(("name", "text"), [("a.toml", "width = 7\n"), ("a.json", '{"width": 7}')])
def test_options_override_the_file_and_the_file_the_defaults(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert Shape.from_file(tmp_path / name) == Shape(width=7)
    assert Shape.from_file(tmp_path / name, {"width": 9, "rate": 0.1}) == Shape(width=9, rate=0.1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "width = ", "does not parse"),
        ("a.json", "{", "does not parse"),
        ("a.json", "[1]", "holds a list, not a table"),
        ("a.yaml", "width: 1", r"ends in \.toml or \.json"),
        ("missing.toml", None, "no such config file"),
    ],
)
def test_a_file_that_is_no_config_is_refused(name: str, text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        Shape.from_file(tmp_path / name)


def test_what_is_saved_reads_back_as_the_same_config() -> None:
    config = TrainConfig(steps=7, betas=(0.8, 0.9), anneal_shape="cosine")
    assert TrainConfig.from_mapping(config.to_json()) == config


def test_every_training_field_says_what_it_is() -> None:
    assert all(field.description for field in TrainConfig.model_fields.values())
