"""Models converted from GGUF files, kept as safetensors: reading those takes seconds, converting up to a minute.

CACHE/gguf/KEY/config.json, model*.safetensors   the converted model, in one dtype
CACHE/gguf/KEY/conversion.json                   what it was made from, and the hash of every file

CACHE is `$SPARSEBRIDGE_CACHE`, else `$XDG_CACHE_HOME/sparsebridge`, else `~/.cache/sparsebridge`; an empty
`SPARSEBRIDGE_CACHE` keeps nothing. KEY is the hash of the GGUF file's bytes with the versions of this layout and of
transformers, and the dtype. A folder appears whole or not at all; a damaged one is made again.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import transformers
from transformers import PreTrainedModel

from dense_adapters.errors import AttachError
from dense_adapters.source import Source

_LAYOUT = 1
_NOTE = "conversion.json"
_log = logging.getLogger("sparsebridge.gguf")


def cached_conversion(source: Source, dtype: str, load: Callable[[Source], PreTrainedModel]) -> PreTrainedModel:
    """What `load` makes of `source`, by way of the cache where that is a GGUF file on this machine."""
    root = cache_folder()
    if source.gguf_file is None or root is None or not Path(source.shown).is_file():
        return load(source)
    origin = _hash(Path(source.shown))
    key = hashlib.sha256(f"{_LAYOUT} {origin} {transformers.__version__} {dtype}".encode()).hexdigest()[:32]
    place = root / "gguf" / key
    if _is_whole(place):
        try:
            return load(Source(str(place)))
        except AttachError:
            pass  # converted again below
    model = load(source)
    _keep(model, place, source.shown, origin)
    return model


def cache_folder() -> Path | None:
    """Where conversions are kept; None where nothing is to be kept."""
    chosen = os.environ.get("SPARSEBRIDGE_CACHE")
    if chosen is not None:
        return Path(chosen).expanduser() if chosen else None
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sparsebridge"


def _keep(model: PreTrainedModel, place: Path, shown: str, origin: str) -> None:
    """Write the model to `place`; where that fails, say so and go on without."""
    temporary = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        _save(model, temporary)
        hashes = {path.name: _hash(path) for path in sorted(temporary.iterdir())}
        size = sum(path.stat().st_size for path in temporary.iterdir())
        note = {"from": shown, "sha256": origin, "transformers": transformers.__version__, "files": hashes}
        (temporary / _NOTE).write_text(json.dumps(note, indent=1) + "\n", "utf-8")
        if place.exists() and not _is_whole(place):
            shutil.rmtree(place)
        if not place.exists():
            temporary.chmod(0o755)
            temporary.rename(place)
        _log.warning("%s: converted once and kept in %s (%.0f MB); later loads read that", shown, place, size / 1e6)
    except (
        Exception
    ) as failure:  # a full disk, a read-only home, a model that does not save: the cache is a convenience
        reason = " ".join(str(failure).split())[:160] or type(failure).__name__
        _log.warning("%s: the converted model could not be kept in %s (%s)", shown, place.parent, reason)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _save(model: PreTrainedModel, folder: Path) -> None:
    """Write the model as an ordinary unquantised one: a dequantised GGUF file leaves its quantiser on it."""
    left = {"config": model.config.__dict__, "model": model.__dict__}
    kept = {
        (owner, name): left[owner].pop(name)
        for owner, name in (("config", "quantization_config"), ("model", "hf_quantizer"))
        if name in left[owner]
    }
    try:
        model.save_pretrained(folder)
    finally:
        for (owner, name), value in kept.items():
            left[owner][name] = value


def _is_whole(place: Path) -> bool:
    """Whether a kept conversion is there and every file of it has the hash it was written with."""
    try:
        files = json.loads((place / _NOTE).read_text("utf-8"))["files"]
        return bool(files) and all(_hash(place / name) == wanted for name, wanted in files.items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
