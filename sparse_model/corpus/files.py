"""Text from the user's disk: a folder of files, or a JSONL file with one document a line."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sparse_model.corpus.fragment import Split
from sparse_model.corpus.sources import CorpusError, split_documents

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character, which JSON can spell and no encoding can hold."""
DEFAULT_SUFFIXES = (".py", ".txt", ".md")


class TextFolder:
    """Every file below `folder` with one of `suffixes`, in the order of their paths.

    Raises:
        CorpusError: there is none.
    """

    def __init__(self, folder: str | Path, suffixes: Sequence[str] = DEFAULT_SUFFIXES, name: str | None = None) -> None:
        self.folder = Path(folder)
        self.name = name or self.folder.resolve().name
        self.suffixes = tuple(suffix if suffix.startswith(".") else f".{suffix}" for suffix in suffixes)
        if not self.folder.is_dir():
            raise CorpusError(f"no folder at {self.folder}: a text source is read from one; give its path.")
        self._paths = sorted(
            path for path in self.folder.rglob("*") if path.is_file() and path.suffix.lower() in self.suffixes
        )
        if not self._paths:
            listed = ", ".join(self.suffixes)
            raise CorpusError(
                f"folder {self.folder} holds no files ending in {listed}: give the suffixes of your files."
            )

    def documents(self, split: Split) -> Iterator[str]:
        """The files of one split, decided by each file's relative path; empty files are passed over."""
        for path in split_documents(self._keyed, split):
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise CorpusError(
                    f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): convert or exclude it."
                ) from error
            except OSError as error:
                raise CorpusError(
                    f"{path} cannot be read ({error.strerror}): fix its permissions or remove it."
                ) from error
            if text.strip():
                yield text

    def _keyed(self) -> Iterator[tuple[str, Path]]:
        return ((path.relative_to(self.folder).as_posix(), path) for path in self._paths if path.stat().st_size)


class JsonLines:
    """One JSON object a line; the document stands in `field`."""

    def __init__(self, path: str | Path, field: str = "text", name: str | None = None) -> None:
        self.path = Path(path)
        self.field = field
        self.name = name or self.path.stem
        if not self.path.is_file():
            raise CorpusError(f"no file at {self.path}: a JSONL source is one; give its path.")

    def documents(self, split: Split) -> Iterator[str]:
        """The documents of one split, decided by the text; blank lines and empty documents are passed over."""
        yield from split_documents(self._keyed, split)

    def _keyed(self) -> Iterator[tuple[str, str]]:
        with self.path.open(encoding="utf-8") as lines:
            try:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        text = self._text(line, number)
                        if text.strip():
                            yield text, text
            except UnicodeDecodeError as error:
                raise CorpusError(f"{self.path} is not UTF-8 text ({error.reason}): convert it to UTF-8.") from error

    def _text(self, line: str, number: int) -> str:
        try:
            record = json.loads(line)
        except (
            ValueError,
            RecursionError,
        ) as error:  # a number of thousands of digits, or a thousand lists within lists
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise CorpusError(
                f"{self.path} line {number} is not JSON ({reason}): write one JSON object a line."
            ) from None
        if not isinstance(record, dict) or not isinstance(record.get(self.field), str):
            has = ", ".join(sorted(record))[:200] if isinstance(record, dict) else type(record).__name__
            raise CorpusError(
                f"{self.path} line {number} has no text in field {self.field!r} (it has {has}): name one that does "
                "(--text-field)."
            )
        return LONE_SURROGATE.sub("\ufffd", record[self.field])
