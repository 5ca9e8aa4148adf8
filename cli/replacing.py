"""What a command may write over: never what it was given to read."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from foundation.errors import UserError
from foundation.kinds import PAGE, PICTURE, check_replaceable

TARGETS = ("out",)
KINDS = {".html": PAGE, ".svg": PICTURE}
"""Files that commands draw, by their endings."""


def check_inputs_kept(parameters: Mapping[str, Any]) -> None:
    """Refuse a command line with `--overwrite` whose `--out` is, or holds, something else that it names.

    Args:
        parameters: of the command, by name, as they were parsed.

    Raises:
        UserError: which input would be lost.
    """
    if parameters.get("overwrite") is not True:
        return
    given = [path for name, value in parameters.items() if name not in TARGETS for path in _paths(value)]
    for name in TARGETS:
        if isinstance(parameters.get(name), Path):
            check_replaceable(parameters[name], inputs=given)


def check_drawing(out: Path, overwrite: bool, kinds: Iterable[str]) -> str:
    """The kind of file that is drawn into `out`.

    Raises:
        UserError: it ends in none of `kinds`, is there and is not to be overwritten, or is there and was not drawn here.
    """
    if out.suffix not in kinds:
        raise UserError(f"{out}: a drawing is a page or a picture; end --out in {' or '.join(kinds)}")
    if out.exists() and not overwrite:
        raise UserError(f"{out}: already exists; choose another --out or pass --overwrite")
    check_replaceable(out, KINDS[out.suffix])
    return KINDS[out.suffix]


def _paths(value: Any) -> Iterator[Path]:
    """Existing paths that a parsed value names; of `kind:path` too, as sources are given."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from _paths(part)
    elif isinstance(value, str | Path) and str(value):
        for text in (str(value), str(value).partition(":")[2]):
            try:
                if text and Path(text).exists():
                    yield Path(text)
            except (OSError, ValueError):  # a value that is no path at all
                continue
