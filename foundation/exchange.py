"""Renames that cannot be seen half done, and files that are on the disk before they are called written.

Linux exchanges two names in one step (`renameat2`). Elsewhere the old folder steps aside first, and a start after a kill
between the two renames puts it back (`recover`).
"""

import ctypes
import os
import re
import shutil
import sys
import uuid
from pathlib import Path

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2
_UNSUPPORTED = 38, 22, 95
"""ENOSYS, EINVAL and EOPNOTSUPP: this kernel or file system has no such rename."""


def exchange(new: Path, old: Path) -> bool:
    """Swap two existing names in one step; False where the system cannot."""
    return _renameat2(new, old, _EXCHANGE)


def rename_new(source: Path, target: Path) -> None:
    """Rename `source` to `target`, which must not exist.

    Raises:
        FileExistsError: it does.
    """
    if _renameat2(source, target, _NOREPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists")
    os.rename(source, target)


def replace(new: Path, old: Path) -> None:
    """Put `new` where `old` is, and remove `old`; a reader sees either."""
    retired = new
    if not exchange(new, old):
        retired = old.with_name(f".{old.name}.{uuid.uuid4().hex[:8]}.old")
        os.rename(old, retired)
        try:
            os.rename(new, old)
        except OSError:
            os.rename(retired, old)
            raise
    sync_folder(old.parent)
    remove(retired)


def recover(path: Path) -> None:
    """Clean up after a process that died while it wrote `path`, and put back what it had moved aside.

    Only for the owner of the lock of `path`: to it, whatever lies there unfinished belongs to nobody.
    """
    if not path.parent.is_dir():
        return
    debris = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.(partial|old)")
    found = [entry for entry in path.parent.iterdir() if debris.fullmatch(entry.name)]
    retired = sorted((entry for entry in found if entry.name.endswith(".old")), key=lambda entry: entry.stat().st_mtime)
    if retired and not os.path.lexists(path):
        os.rename(retired[-1], path)
    for entry in found:
        if os.path.lexists(entry):
            remove(entry)


def remove(path: Path) -> None:
    """Delete a folder or a file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def sync_tree(folder: Path) -> None:
    """Have all files below `folder`, and their names, written to the disk."""
    for place, _, names in os.walk(folder):
        for name in names:
            _sync(Path(place) / name)
        sync_folder(Path(place))


def sync_folder(folder: Path) -> None:
    """Have a folder's names written to the disk, where the system can."""
    if os.name == "posix":
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):  # an old C library
        return False
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))
