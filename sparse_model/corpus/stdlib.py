"""`stdlib`: the running interpreter's own library, real code on every machine."""

import os
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path

from sparse_model.corpus.fragment import Split
from sparse_model.corpus.sources import CorpusError, split_of

SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "idlelib", "site-packages", "dist-packages", "__pycache__"})


class Stdlib:
    """The library's source files in a fixed order that mixes its packages; unreadable or empty ones are left out."""

    name = "stdlib"

    def __init__(self) -> None:
        self.folder = Path(sysconfig.get_path("stdlib"))

    def documents(self, split: Split) -> Iterator[str]:
        """The files of one split, decided by each file's relative path."""
        found = False
        for path in self._paths():
            found = True
            if split_of(path.relative_to(self.folder).as_posix()) != split:
                continue
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            if text.strip():
                yield text
        if not found:
            raise CorpusError(
                f"source stdlib is empty: {self.folder} holds no .py files (the interpreter's library may be zipped); "
                "use the other sources."
            )

    def _paths(self) -> list[Path]:
        paths: list[Path] = []
        for folder, folders, files in os.walk(self.folder):
            folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
            paths.extend(Path(folder, name) for name in files if name.endswith(".py"))
        return sorted(paths, key=self._rank)

    def _rank(self, path: Path) -> tuple[int, str]:
        relative = path.relative_to(self.folder).as_posix()
        return zlib.crc32(f"order {relative}".encode("utf-8", "surrogatepass")), relative
