"""Text from tables on the user's disk: Parquet and CSV, one document a row, in a column the user names."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from sparse_model.corpus.fragment import Split
from sparse_model.corpus.sources import CorpusError, split_documents

SUFFIXES = (".parquet", ".csv")
ROWS_AT_ONCE = 256


class Table:
    """A .parquet or .csv file, or a folder of such shards in the order of their paths; read row by row.

    Raises:
        CorpusError: there is none.
    """

    def __init__(self, path: str | Path, field: str = "text", name: str | None = None) -> None:
        self.path, self.field = Path(path), field
        self.name = name or self.path.resolve().stem
        if self.path.is_dir():
            self._files = sorted(file for file in self.path.rglob("*") if file.suffix.lower() in SUFFIXES)
        else:
            self._files = [self.path] if self.path.is_file() else []
        if not self._files or any(file.suffix.lower() not in SUFFIXES for file in self._files):
            raise CorpusError(f"{self.path}: no table here; give a {' or '.join(SUFFIXES)} file, or a folder of them")

    def documents(self, split: Split) -> Iterator[str]:
        """The documents of one split, decided by the text; empty ones are passed over."""
        yield from split_documents(self._keyed, split)

    def _keyed(self) -> Iterator[tuple[str, str]]:
        for file in self._files:
            for text in self._parquet(file) if file.suffix.lower() == ".parquet" else self._csv(file):
                if text is not None and text.strip():
                    yield text, text

    def _parquet(self, file: Path) -> Iterator[str | None]:
        import pyarrow
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(file) as table:
                self._check(file, table.schema_arrow.names)
                kind = table.schema_arrow.field(self.field).type
                if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                    raise CorpusError(f"{file}: column {self.field!r} holds {kind}, not text; name one that does")
                for batch in table.iter_batches(ROWS_AT_ONCE, columns=[self.field]):
                    yield from batch.column(0).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise CorpusError(f"{file} cannot be read ({str(error).splitlines()[0]}): copy it again.") from None

    def _csv(self, file: Path) -> Iterator[str | None]:
        limit = csv.field_size_limit(sys.maxsize)
        try:
            with file.open(encoding="utf-8", newline="") as lines:
                rows = csv.DictReader(lines, strict=True)
                self._check(file, rows.fieldnames or [])
                for row in rows:
                    yield row[self.field]
        except UnicodeDecodeError as error:
            raise CorpusError(f"{file} is not UTF-8 text ({error.reason}): convert it to UTF-8.") from None
        except (csv.Error, OSError) as error:
            raise CorpusError(f"{file} cannot be read ({error}): mend or remove it.") from None
        finally:
            csv.field_size_limit(limit)

    def _check(self, file: Path, columns: object) -> None:
        names = list(columns) if isinstance(columns, list | tuple) else []
        if self.field not in names:
            raise CorpusError(
                f"{file} has no column {self.field!r} (it has {', '.join(names)}): name one it has (--text-field)."
            )
