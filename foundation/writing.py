"""The one writer: a folder or file appears whole under its name, or what was there stays.

1. Take the lock of OUT; clean up after a dead writer of it.
2. Write into a temporary sibling, and have it on the disk.
3. Rename it into place, or exchange it with the old artefact, in one step.
"""

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from foundation.errors import UserError
from foundation.exchange import recover, rename_new, replace, sync_folder, sync_tree
from foundation.kinds import check_replaceable, kind_of
from foundation.locks import owned

SPARE_BYTES = 1 << 20
"""Left free beside what a write is known to need."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
_FULL_TEXT = re.compile(r"os error (\d+)")
"""How libraries in Rust name the error within their own exceptions."""


class UnwrittenError(UserError):
    """The disk is full, or the like; what was under the name before is untouched.

    Attributes:
        reason: what the disk said, without the rest of the line.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@contextlib.contextmanager
def atomic_folder(path: Path, overwrite: bool = False, kind: str | None = None, needs: int = 0) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; it gets the name on success, and is removed on failure.

    Args:
        kind: of the artefact, so that with `overwrite` anything else is refused at once; None: known from what was written.
        needs: bytes it will take, so that a full disk is found before the work.

    Raises:
        UserError: `path` exists and `overwrite` is false, or is no artefact of this kind; or another process writes it.
        UnwrittenError: its parent cannot be written, or the disk is full.
    """
    path = Path(path)
    with _claimed(path, overwrite, kind) as before:
        check_space(path.parent, needs)
        temporary = _temporary(path)
        try:
            with written(path):
                temporary.mkdir()
                yield temporary
                sync_tree(temporary)
                _appear(temporary, path, before, kind_of(temporary) if kind is None else kind)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_file(path: Path, text: str, overwrite: bool = False, kind: str | None = None) -> None:
    """Write a text file whole or not at all, under the same rules as a folder; lone surrogates are replaced.

    Raises:
        UserError: as for `atomic_folder`.
    """
    path = Path(path)
    with _claimed(path, overwrite, kind) as before:
        temporary = _temporary(path)
        try:
            with written(path):
                with temporary.open("w", encoding="utf-8", errors="replace") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                _appear(temporary, path, before, kind)
        finally:
            temporary.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a file of the program's own state, whatever it held before; a reader sees the old text or the new.

    Raises:
        OSError: it cannot be written; the old one is untouched.
    """
    replace_files({path: text.encode("utf-8")})


def replace_files(files: Mapping[Path, bytes]) -> None:
    """Write files that belong together, whatever they held before: all are on the disk before one takes its name.

    Raises:
        OSError: one cannot be written; the old ones are untouched.
    """
    temporaries = {path: _temporary(path) for path in files}
    try:
        for path, temporary in temporaries.items():
            temporary.write_bytes(files[path])
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def written(path: Path) -> Iterator[None]:
    """Turn a full disk, as whatever exception a library raises for it, into one line.

    Raises:
        UnwrittenError: the disk is full, over quota, read-only or broken.
    """
    try:
        yield
    except Exception as error:
        reason = _disk_error(error)
        if reason is None:
            raise
        raise UnwrittenError(
            f"{path}: could not be written ({reason}); free some space or choose another --out; nothing else was changed",
            reason,
        ) from None


def check_space(folder: Path, needs: int) -> None:
    """Refuse a write of `needs` bytes that the disk of `folder` cannot hold.

    Raises:
        UnwrittenError: how much is free and how much is needed.
    """
    free = shutil.disk_usage(folder).free
    if needs and free < needs + SPARE_BYTES:
        reason = f"No space left on device: {free / 1e6:.0f} MB free, about {needs / 1e6:.0f} MB needed"
        raise UnwrittenError(
            f"{folder}: could not be written ({reason}); free some space or choose another --out", reason
        )


@contextlib.contextmanager
def _claimed(path: Path, overwrite: bool, kind: str | None) -> Iterator[os.stat_result | None]:
    """Hold the name: yields what is there now, or None."""
    if path.name in ("", ".."):
        path = Path(os.path.abspath(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            if stack.enter_context(owned(path)):
                recover(path)
            if os.path.lexists(path):
                if not overwrite:
                    raise UserError(f"{path}: already exists; choose another --out or pass --overwrite")
                check_replaceable(path, kind)
            held = stack.pop_all()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UnwrittenError(f"{path}: cannot be written ({reason}); choose another --out", reason) from None
    with held:
        yield path.lstat() if os.path.lexists(path) else None


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")


def _appear(temporary: Path, path: Path, before: os.stat_result | None, kind: str | None) -> None:
    """Give the finished work its name; beside it, where something else has taken the name meanwhile."""
    try:
        if before is None:
            rename_new(temporary, path)
            sync_folder(path.parent)
            return
        if not os.path.lexists(path):
            raise FileExistsError(path)
        if not os.path.samestat(before, path.lstat()):
            raise FileExistsError(path)
        check_replaceable(path, kind)
        replace(temporary, path)
    except FileExistsError:
        beside = _free_name(path)
        rename_new(temporary, beside)
        raise UserError(
            f"{path}: was made by something else meanwhile and is left alone; this result stands in {beside}"
        ) from None


def _free_name(path: Path) -> Path:
    number = 2
    while os.path.lexists(path.with_name(f"{path.stem}-{number}{path.suffix}")):
        number += 1
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def _disk_error(error: Exception) -> str | None:
    """What the disk said, if it was the disk."""
    if isinstance(error, UserError):
        return None
    if isinstance(error, OSError) and error.errno in _FULL:
        return os.strerror(error.errno)
    found = _FULL_TEXT.search(str(error))
    return os.strerror(int(found[1])) if found and int(found[1]) in _FULL else None
