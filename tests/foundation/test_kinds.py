"""`--overwrite` replaces an artefact by one of its kind, and nothing else."""

import json
from pathlib import Path

import pytest

from foundation.errors import UserError
from foundation.kinds import DESCRIPTIONS, PAGE_MARK, check_replaceable, kind_of


def artefact(folder: Path, description: str = "circuit.json", text: str = "{}") -> Path:
    folder.mkdir(parents=True)
    (folder / description).write_text(text)
    return folder


@pytest.mark.parametrize(("description", "kind"), sorted(DESCRIPTIONS.items()))
def test_a_folder_is_known_by_its_description_even_a_damaged_one(description: str, kind: str, tmp_path: Path) -> None:
    assert kind_of(artefact(tmp_path / "a", description, "{")) == kind
    check_replaceable(tmp_path / "a", kind)
    with pytest.raises(UserError, match=f"is a {kind}, and --overwrite replaces it by a {kind} only, not by a cake"):
        check_replaceable(tmp_path / "a", "cake")


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "sparsebridge"}, "sparse model"),
        ({"model_type": "gpt2"}, "dense model"),
        ({"name": "someone's settings"}, None),
        ([1], None),
    ],
)
def test_a_model_is_known_by_the_type_in_its_config(config: object, kind: str | None, tmp_path: Path) -> None:
    assert kind_of(artefact(tmp_path / "a", "config.json", json.dumps(config))) == kind


def test_pages_and_pictures_are_known_by_what_they_hold(tmp_path: Path) -> None:
    for name, text, kind in (
        ("a.html", f"<html><head>{PAGE_MARK}", "page"),
        ("b.html", "<html>by hand", None),
        ("c.svg", "<svg>", "picture"),
        ("d.txt", "<svg>", None),
        ("e.safetensors", "", None),
    ):
        (tmp_path / name).write_text(text)
        assert kind_of(tmp_path / name) == kind
    assert kind_of(tmp_path / "missing") is None


def test_what_is_no_artefact_is_not_replaced(tmp_path: Path) -> None:
    artefact(tmp_path / "runs" / "circuit")
    with pytest.raises(UserError, match="no artefact of this program"):
        check_replaceable(tmp_path / "runs")
    (tmp_path / "weights.safetensors").write_bytes(b"1")
    with pytest.raises(UserError, match="no artefact of this program"):
        check_replaceable(tmp_path / "weights.safetensors", "page")
    (tmp_path / "empty").mkdir()
    check_replaceable(tmp_path / "empty", "circuit")
    check_replaceable(tmp_path / "missing", "circuit")
    (tmp_path / "link").symlink_to(tmp_path / "runs" / "circuit")
    with pytest.raises(UserError, match="symbolic link"):
        check_replaceable(tmp_path / "link", "circuit")


def test_neither_an_input_nor_what_holds_it_is_replaced(tmp_path: Path) -> None:
    bridge = artefact(tmp_path / "bridge", "bridge.json")
    inside = artefact(bridge / "sparse", "circuit.json")
    with pytest.raises(UserError, match="is the input"):
        check_replaceable(bridge, "bridge", [tmp_path / "other" / ".." / "bridge"])
    with pytest.raises(UserError, match="holds the input"):
        check_replaceable(bridge, "bridge", [inside])
    check_replaceable(inside, "circuit", [bridge])


def test_the_working_directory_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = artefact(tmp_path / "circuit")
    (folder / "below").mkdir()
    for place in (folder, folder / "below"):
        monkeypatch.chdir(place)
        with pytest.raises(UserError, match="is the working directory or holds it"):
            check_replaceable(folder, "circuit")
