"""Why a GGUF file does not load, told from the file: what it is instead, where it ends early, what cannot be read."""

import importlib.util
import struct
from pathlib import Path

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_HEAD = struct.Struct("<4sIQQ")
"""Magic, version, number of tensors, number of keys."""


def fault_of(path: Path) -> str | None:
    """What is wrong with the file and what to do, for the end of a line; None where the file itself is whole."""
    if not path.is_file():
        return None
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
    if not head.startswith(_MAGIC):
        begins = "is empty" if not head else f"begins with {head[:4]!r} instead of {_MAGIC!r}"
        return f"is no GGUF file, for it {begins}; give a .gguf file, or the folder of a model in another format"
    if len(head) < _HEAD.size:
        return _cut(size)
    _, version, _, _ = _HEAD.unpack(head)
    if version not in _VERSIONS:
        return (
            f"is a GGUF file of version {version}, and versions {' and '.join(map(str, _VERSIONS))} are read; it is damaged, "
            "older or newer: convert or download it again"
        )
    if importlib.util.find_spec("gguf") is None:
        return "is a GGUF file, which is read by the package gguf; install it (pip install gguf)"
    try:
        from gguf import GGUFReader

        GGUFReader(str(path))
    except Exception as failure:  # it trusts the file, so that damage ends in any kind of error
        return f"{_cut(size)} ({' '.join(str(failure).split())[:120] or type(failure).__name__})"
    return None


def _cut(size: int) -> str:
    return (
        f"is a truncated or damaged GGUF file ({size:,} bytes are there); compare its size with where it came from and "
        "download it again"
    )
