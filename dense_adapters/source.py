"""What a given name stands for, before anything of it is loaded: hub id, folder, GGUF file, adapter beside its base.

A wrong name is told by what lies there (two GGUF files, Parquet shards, nothing at all), not by what a loader makes
of it.
"""

import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dense_adapters.errors import AttachError

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
ADAPTER_FILE = "adapter_config.json"


@dataclass(frozen=True)
class Source:
    """Where a model is.

    name: hub id or folder. gguf_file: the GGUF file inside it, if that is what to load. adapter: the folder of an
    adapter (LoRA and its kind) to merge into the model.
    """

    name: str
    gguf_file: str | None = None
    adapter: Path | None = None

    @property
    def options(self) -> dict[str, str]:
        """What `from_pretrained` is told besides the name."""
        return {} if self.gguf_file is None else {"gguf_file": self.gguf_file}

    @property
    def shown(self) -> str:
        """The name as a person would give it."""
        return self.name if self.gguf_file is None else str(Path(self.name) / self.gguf_file)


def find_source(id_or_path: str | Path, gguf_file: str | None = None) -> Source:
    """Tell what `id_or_path` is: a hub id, a folder, or a `.gguf` file.

    gguf_file: name of the GGUF file inside the folder; a folder without other weights and with exactly one needs none.

    Raises:
        AttachError: nothing there can be a model; the message says what lies there instead.
    """
    path = Path(id_or_path)
    if path.is_file():
        return _of_file(path)
    if not path.is_dir():
        if not _HUB_ID.fullmatch(str(id_or_path)):
            raise AttachError(f"{path}: there is no such folder; give a model's folder, .gguf file or Hugging Face id")
        return Source(str(id_or_path), gguf_file)
    if gguf_file is not None and not (path / gguf_file).is_file():
        raise AttachError(
            f"{path}: holds no file {gguf_file!r}; it has {_listed(path.glob('*.gguf')) or 'no .gguf file'}"
        )
    return Source(str(path), gguf_file or _only_gguf(path), _adapter(path))


def _of_file(path: Path) -> Source:
    if path.suffix == ".gguf":
        return Source(str(path.parent), path.name)
    raise AttachError(
        f"{path}: is a single file; give the folder it lies in, with configuration, weights and tokenizer"
    )


def _only_gguf(folder: Path) -> str | None:
    """The one GGUF file of a folder without other weights, None where there is none."""
    if (folder / "config.json").is_file() and any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        return None
    found = sorted(folder.glob("*.gguf"))
    if len(found) > 1:
        raise AttachError(f"{folder}: holds {len(found)} GGUF files ({_listed(found)}); give the path of one of them")
    if found or (folder / "config.json").is_file() or (folder / ADAPTER_FILE).is_file():
        return found[0].name if found else None
    inside = sorted(folder.rglob("*.parquet"))
    if inside:
        raise AttachError(
            f"{folder}: holds Parquet files ({_listed(inside)}), which are text, not a model; "
            "give a model's folder, .gguf file or Hugging Face id"
        )
    raise AttachError(
        f"{folder}: holds no config.json and no .gguf file, so no model; give a folder with configuration, weights "
        "and tokenizer"
    )


def find_adapter(folder: str | Path) -> Path:
    """The folder of an adapter that is to be merged into a model given apart.

    Raises:
        AttachError: the folder holds none, or the library that reads adapters is absent.
    """
    found = _adapter(Path(folder))
    if found is None:
        raise AttachError(f"{folder}: holds no adapter ({ADAPTER_FILE}); give a folder that peft saved")
    return found


def _adapter(folder: Path) -> Path | None:
    """The folder of an adapter: this one, where it holds an adapter alone or beside its base.

    Raises:
        AttachError: the library that reads adapters is absent.
    """
    if not (folder / ADAPTER_FILE).is_file():
        return None
    if importlib.util.find_spec("peft") is None:
        beside = "beside its base model" if (folder / "config.json").is_file() else "without its base model"
        raise AttachError(
            f"{folder}: holds an adapter (LoRA or its kind) {beside}, which is read by the library peft; "
            "install it (pip install peft), or merge the adapter and give the merged folder"
        )
    return folder


def _listed(paths: Iterable[Path]) -> str:
    names = sorted(path.name for path in paths)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
