"""Parquet and CSV: every text once, and bad tables refused by name."""

import csv
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from sparse_model.corpus.fragment import SPLITS
from sparse_model.corpus.sources import CorpusError, Source
from sparse_model.corpus.tables import Table

TEXTS = [f"x = {number}\nprint('a, \"b\"')" for number in range(300)]


def everything(source: Source) -> list[str]:
    return [text for split in SPLITS for text in source.documents(split)]


def write(path: Path, texts: list[str | None]) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.table({"code": texts, "stars": range(len(texts))}), path, row_group_size=50)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["code", "stars"], *([text or "", 1] for text in texts)])
    return path


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_table_yields_its_column_once_per_row_the_same_every_time(suffix: str, tmp_path: Path) -> None:
    source = Table(write(tmp_path / f"data.{suffix}", [*TEXTS, None, "  "]), "code")
    assert source.name == "data"
    assert sorted(everything(source)) == sorted(TEXTS)
    assert everything(source) == everything(source)


def test_a_folder_of_shards_is_one_source(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"part-{number}.parquet", TEXTS[number::3])
    assert sorted(everything(Table(tmp_path, "code"))) == sorted(TEXTS)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_column_that_is_not_there_is_refused_with_those_that_are(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no column 'text' \(it has code, stars\)"):
        everything(Table(write(tmp_path / f"data.{suffix}", TEXTS)))


def test_a_column_without_text_a_damaged_file_and_no_file_are_refused(tmp_path: Path) -> None:
    good = write(tmp_path / "data.parquet", TEXTS)
    with pytest.raises(CorpusError, match="column 'stars' holds int64, not text"):
        everything(Table(good, "stars"))
    (tmp_path / "cut.parquet").write_bytes(good.read_bytes()[:200])
    with pytest.raises(CorpusError, match=r"cut\.parquet cannot be read"):
        everything(Table(tmp_path / "cut.parquet", "code"))
    (tmp_path / "latin.csv").write_bytes(b"code\n\xff\xfe\n")
    with pytest.raises(CorpusError, match="not UTF-8"):
        everything(Table(tmp_path / "latin.csv", "code"))
    for path in ("none.parquet", "folder"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        with pytest.raises(CorpusError, match="no table here"):
            Table(tmp_path / path)
