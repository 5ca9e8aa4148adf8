"""One writer at a time: a lock file beside what is written, which names its owner.

`.OUT.lock` holds process id, host and time. The lock itself is the operating system's (`flock`), so that of a dead
process it is free at once, whatever number a later process has; the file's text is for people, and for hosts that share
a file system without sharing locks: there a lock of another host holds until that host lets go of it.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foundation.errors import UserError

try:
    import fcntl
except ImportError:  # a system without it has only the text to go by
    fcntl = None  # type: ignore[assignment]

MOST_BYTES = 4096
"""Of a lock file; more was not written by `owned`."""

_held: set[Path] = set()


class LockedError(UserError):
    """Another process writes there."""


def lock_file(path: Path) -> Path:
    """The lock of `path`, beside it."""
    return path.with_name(f".{path.name}.lock")


@contextlib.contextmanager
def owned(path: Path) -> Iterator[bool]:
    """Hold the lock of `path` while within; a process that holds it already may enter again.

    Yields whether it was free: what a writer has left unfinished there is then a dead one's.

    Raises:
        LockedError: another living process, or one on another host, holds it.
        OSError: the lock file cannot be written.
    """
    name = lock_file(Path(os.path.abspath(path)))
    if name in _held:
        yield False
        return
    descriptor = _acquire(name, path)
    _held.add(name)
    try:
        yield True
    finally:
        _held.discard(name)
        with contextlib.suppress(OSError):
            name.unlink()  # before it is let go, so that nobody waits on a file without a name
        os.close(descriptor)


def _acquire(name: Path, path: Path) -> int:
    """Open and lock the file, taking over what a dead owner left."""
    while True:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0), 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(descriptor)
            os.close(descriptor)
            raise LockedError(_refusal(path, owner)) from None
        if not _is_still(name, descriptor):  # its owner removed it between our opening and our locking it
            os.close(descriptor)
            continue
        owner = _owner(descriptor)
        if _may_live(owner):
            os.close(descriptor)
            raise LockedError(_refusal(path, owner, name))
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(mine).encode(), 0)
        except OSError:  # a full disk: neither the file nor the lock may stay
            name.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        return descriptor


def _is_still(name: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(name), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _owner(descriptor: int) -> dict[str, Any]:
    """What the file says; nothing where it is empty or says something else."""
    try:
        found = json.loads(os.pread(descriptor, MOST_BYTES, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _may_live(owner: dict[str, Any]) -> bool:
    """Whether the owner of a file that we could lock may be alive all the same."""
    if owner.get("host", socket.gethostname()) != socket.gethostname():
        return True
    if fcntl is not None or not isinstance(owner.get("pid"), int):
        return False
    return owner["pid"] != os.getpid() and _is_alive(owner["pid"])


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _refusal(path: Path, owner: dict[str, Any], name: Path | None = None) -> str:
    who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}, since {owner.get('since', '?')}"
    remedy = "" if name is None else f", or remove {name} if that process has ended"
    return f"{path}: is being written by another process ({who}); wait for it or choose another --out{remedy}"
