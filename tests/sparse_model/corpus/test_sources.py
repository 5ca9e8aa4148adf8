"""Sources from disk and from the datasets library, and how bad ones are refused."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparse_model.corpus.files import JsonLines, TextFolder
from sparse_model.corpus.fragment import SPLITS
from sparse_model.corpus.hub import HubDataset, is_saved
from sparse_model.corpus.sources import FEW, FEWEST, CorpusError, Source, split_documents, split_of
from sparse_model.corpus.stdlib import Stdlib
from sparse_model.corpus.tinypython import TinyPython


def _all(source: Source) -> list[str]:
    return [text for split in SPLITS for text in source.documents(split)]


def test_every_source_satisfies_the_protocol(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    for source in (
        TinyPython(),
        Stdlib(),
        TextFolder(tmp_path),
        JsonLines(tmp_path / "a.jsonl"),
        HubDataset("some/id"),
    ):
        assert isinstance(source, Source)


def test_the_standard_library_holds_real_code_and_no_tests_in_disjoint_splits() -> None:
    source = Stdlib()
    texts = {split: list(source.documents(split)) for split in SPLITS}
    assert all(texts.values())
    assert len(texts["train"]) > 10 * len(texts["held_out"])
    assert not set(texts["train"]) & set(texts["held_out"]) - {""}
    relative = [path.relative_to(source.folder).parts for path in source._paths()]
    assert ("json", "decoder.py") in relative
    assert not any("test" in parts or "site-packages" in parts for parts in relative)


def test_a_folder_yields_its_files_once_each_whatever_the_order_of_the_disk(tmp_path: Path) -> None:
    for number in range(60):
        path = tmp_path / f"sub{number % 3}" / f"{number}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"x = {number}\n")
    (tmp_path / "notes.rst").write_text("left out")
    (tmp_path / "empty.py").write_text("  \n")
    texts = _all(TextFolder(tmp_path))
    assert sorted(texts) == sorted(f"x = {number}\n" for number in range(60))
    assert texts == _all(TextFolder(tmp_path))
    assert _all(TextFolder(tmp_path, suffixes=["rst"])) == ["left out"]


def test_jsonl_yields_the_chosen_field_once_per_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({"code": f"x = {n}", "text": 1}) for n in range(40)) + "\n\n")
    assert sorted(_all(JsonLines(path, field="code"))) == sorted(f"x = {n}" for n in range(40))


def test_a_dataset_is_streamed_through_the_datasets_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(json.dumps({"text": f"line {n}"}) for n in range(30)))
    source = HubDataset(str(folder))
    assert source.name == "small"
    assert sorted(_all(source)) == sorted(f"line {n}" for n in range(30))
    with pytest.raises(CorpusError, match="no text in field 'code'"):
        _all(HubDataset(str(folder), field="code"))


def test_a_dataset_that_cannot_be_loaded_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="cannot be loaded") as refused:
        _all(HubDataset(str(tmp_path / "missing")))
    assert "\n" not in str(refused.value)


def test_a_dataset_that_breaks_off_while_it_is_read_is_refused_in_one_line_that_says_how_far_it_got(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(*_: object, **__: object) -> Iterator[dict[str, str]]:
        yield from ({"text": f"line {n}"} for n in range(30))
        raise ConnectionError("the server\nhung up")

    monkeypatch.setattr("datasets.load_dataset", stream)
    with pytest.raises(CorpusError, match=r"'some/id' broke off after 30 rows \(the server\)") as refused:
        _all(HubDataset("some/id"))
    assert "\n" not in str(refused.value)
    monkeypatch.undo()
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "x"}\n{"text": \n')
    with pytest.raises(CorpusError, match=r"cannot be loaded|broke off") as refused:
        _all(HubDataset(str(folder)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json\n", "line 1 is not JSON"),
        ('{"other": "x"}\n', "it has other"),
        ('["x"]\n', "no text in field 'text'"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(CorpusError, match=message):
        _all(JsonLines(path))


def test_missing_empty_or_binary_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no folder"):
        TextFolder(tmp_path / "missing")
    with pytest.raises(CorpusError, match="no files ending in"):
        TextFolder(tmp_path)
    with pytest.raises(CorpusError, match="no file"):
        JsonLines(tmp_path / "missing.jsonl")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorpusError, match="not UTF-8"):
        _all(TextFolder(tmp_path))


def test_thirty_five_files_fill_every_split_and_no_file_is_in_two(tmp_path: Path) -> None:
    for number in range(35):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    source = TextFolder(tmp_path)
    found = {split: list(source.documents(split)) for split in SPLITS}
    assert {split: len(texts) for split, texts in found.items()} == {"train": 27, "validation": 4, "held_out": 4}
    assert len({text for texts in found.values() for text in texts}) == 35


def test_where_the_hash_serves_all_splits_or_documents_are_many_it_alone_decides() -> None:
    few = [f"x{n}" for n in range(200)]
    assert min(sum(split_of(key) == split for key in few) for split in SPLITS) >= FEWEST
    many = [f"{n}" for n in range(100_000) if split_of(f"{n}") == "train"][: FEW + 1]
    for keys in (few, many):
        for split in SPLITS:
            dealt = list(split_documents(lambda keys=keys: ((key, key) for key in keys), split))
            assert dealt == [key for key in keys if split_of(key) == split]


def test_a_data_set_from_save_to_disk_is_read_whole_or_by_split(tmp_path: Path) -> None:
    import datasets

    data = datasets.Dataset.from_dict({"body": [f"line {n}" for n in range(30)]})
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / "several"))
    for folder in ("one", "several"):
        assert is_saved(tmp_path / folder)
        assert sorted(_all(HubDataset(str(tmp_path / folder), field="body"))) == sorted(f"line {n}" for n in range(30))
    with pytest.raises(CorpusError, match=r"no text in field 'text' of row 1 \(it has body\).*--text-field"):
        _all(HubDataset(str(tmp_path / "one")))
    with pytest.raises(CorpusError, match=r"no split 'test' \(it has train\): give its folder"):
        _all(HubDataset(str(tmp_path / "several"), dataset_split="test"))
    assert not is_saved(tmp_path)
