"""The description of a corpus to build: the kinds of sources, each in one class, and the sizes.

A new kind is one class here, with the readers it needs, and its name in `KINDS`; configs and the command line take it from there.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from foundation.settings import Settings
from sparse_model.corpus.files import DEFAULT_SUFFIXES, JsonLines, TextFolder
from sparse_model.corpus.hub import HubDataset, is_saved
from sparse_model.corpus.sources import CorpusError, Source
from sparse_model.corpus.stdlib import Stdlib
from sparse_model.corpus.tables import SUFFIXES as TABLES
from sparse_model.corpus.tables import Table
from sparse_model.corpus.tinypython import TinyPython

Weight = Annotated[
    float, Field(gt=0, allow_inf_nan=False, description="relative share of the training tokens; need not sum to 1")
]


class TinyPythonConfig(Settings):
    """Generated programs."""

    kind: Literal["tinypython"] = Field("tinypython", description="the generator of small programs")
    weight: Weight = 0.85
    seed: int = Field(0, ge=0, description="which stream of programs")

    @classmethod
    def recognise(cls, name: str) -> dict[str, str] | None:
        """What a name says, or None where it is of another kind."""
        return {} if name == "tinypython" else None

    def open(self) -> Source:
        """The source itself."""
        return TinyPython(self.seed)


class StdlibConfig(Settings):
    """The interpreter's own library."""

    kind: Literal["stdlib"] = Field("stdlib", description="the running interpreter's own library")
    weight: Weight = 0.15

    @classmethod
    def recognise(cls, name: str) -> dict[str, str] | None:
        """What a name says, or None where it is of another kind."""
        return {} if name == "stdlib" else None

    def open(self) -> Source:
        """The source itself."""
        return Stdlib()


class FolderConfig(Settings):
    """Text files on disk."""

    kind: Literal["folder"] = Field("folder", description="text files below a folder")
    path: str = Field(description="the folder")
    suffixes: tuple[str, ...] = Field(DEFAULT_SUFFIXES, description="endings of the files to read")
    name: str | None = Field(None, description="the source's name; null: the folder's name")
    weight: Weight = 1.0

    @classmethod
    def recognise(cls, name: str) -> dict[str, str] | None:
        """A folder that no other kind claims."""
        path = Path(name).expanduser()
        return {"path": str(path)} if path.is_dir() else None

    def open(self) -> Source:
        """The source itself; raises CorpusError if there is nothing to read."""
        return TextFolder(self.path, self.suffixes, self.name)


class JsonLinesConfig(Settings):
    """A JSONL file."""

    kind: Literal["jsonl"] = Field("jsonl", description="one JSON object a line")
    path: str = Field(description="the file")
    field: str = Field("text", description="the field that holds the document")
    name: str | None = Field(None, description="the source's name; null: the file's name")
    weight: Weight = 1.0

    @classmethod
    def recognise(cls, name: str) -> dict[str, str] | None:
        """A name that ends in .jsonl."""
        return {"path": str(Path(name).expanduser())} if name.endswith(".jsonl") else None

    def open(self) -> Source:
        """The source itself; raises CorpusError if there is no such file."""
        return JsonLines(self.path, self.field, self.name)


class TableConfig(Settings):
    """Parquet or CSV files."""

    kind: Literal["table"] = Field("table", description="a .parquet or .csv file, or a folder of them")
    path: str = Field(description="the file or folder")
    field: str = Field("text", description="the column that holds the document")
    name: str | None = Field(None, description="the source's name; null: the file's name")
    weight: Weight = 1.0

    @classmethod
    def recognise(cls, name: str) -> dict[str, str] | None:
        """A name that ends as a table does, or a folder that holds tables and no text files."""
        path = Path(name).expanduser()
        is_table = path.suffix.lower() in TABLES
        if path.is_dir():
            endings = {file.suffix.lower() for file in path.rglob("*") if file.is_file()}
            is_table = bool(endings & set(TABLES)) and not endings & set(DEFAULT_SUFFIXES) - {".md", ".txt"}
        return {"path": str(path)} if is_table else None

    def open(self) -> Source:
        """The source itself; raises CorpusError if there is no table."""
        return Table(self.path, self.field, self.name)


class DatasetConfig(Settings):
    """A dataset of the `datasets` library."""

    kind: Literal["dataset"] = Field("dataset", description="any dataset that datasets.load_dataset can stream")
    id: str = Field(description="dataset id or path")
    field: str = Field("text", description="the field that holds the document")
    subset: str | None = Field(None, description="the dataset's configuration; null: its default")
    split: str = Field("train", description="the dataset's own split to read")
    name: str | None = Field(None, description="the source's name; null: the last part of the id")
    weight: Weight = 1.0

    @classmethod
    def recognise(cls, name: str) -> dict[str, str] | None:
        """A folder that `save_to_disk` wrote."""
        path = Path(name).expanduser()
        return {"id": str(path)} if is_saved(path) else None

    def open(self) -> Source:
        """The source itself; loading starts with the first document."""
        return HubDataset(self.id, self.field, self.subset, self.split, self.name)


AnySource = TinyPythonConfig | StdlibConfig | DatasetConfig | JsonLinesConfig | TableConfig | FolderConfig
KINDS: tuple[type[AnySource], ...] = get_args(AnySource)
"""Every kind of source, in the order in which they are asked whether a name is theirs."""
SourceConfig = Annotated[AnySource, Field(discriminator="kind")]


def source_config(name: str, given: Mapping[str, Any] | None = None) -> AnySource:
    """The config of a source from one word: a built-in name, a file, a folder, or the id of a dataset.

    Args:
        given: further fields, such as `weight` or `field`.

    Raises:
        CorpusError: a path does not exist or is of no known kind, a built-in name is misspelt, or the kind has no such field.
    """
    for kind in KINDS:
        found = kind.recognise(name)
        if found is not None:
            return kind.from_mapping({"kind": _word(kind), **found, **(given or {})}, f"source {name}")
    path = Path(name).expanduser()
    if path.exists():
        raise CorpusError(
            f"source {name}: is a file that does not end in .jsonl, {' or '.join(TABLES)}; give its folder, or convert it to "
            "JSON lines"
        )
    if name.startswith((".", "/", "~")):
        raise CorpusError(f"source {name}: no such folder or file; check the path")
    built_in = [_word(kind) for kind in KINDS if not any(field.is_required() for field in kind.model_fields.values())]
    near = difflib.get_close_matches(name, built_in, n=1, cutoff=0.7)
    if near:
        raise CorpusError(f"source {name}: no such source; did you mean '{near[0]}'?")
    return DatasetConfig.from_mapping({"kind": "dataset", "id": name, **(given or {})}, f"source {name}")


def _word(kind: type[AnySource]) -> str:
    """The word that names a kind in configs."""
    return str(get_args(kind.model_fields["kind"].annotation)[0])


class CorpusConfig(Settings):
    """What to build: sources, sizes, tokenizer and order."""

    sources: tuple[SourceConfig, ...] = Field(
        (TinyPythonConfig(kind="tinypython", seed=0), StdlibConfig(kind="stdlib")),
        min_length=1,
        description="where documents come from, with their weights",
    )
    train_tokens: int = Field(12_000_000, gt=0, description="training tokens over all sources, rounded down to blocks")
    evaluation_tokens: int = Field(
        100_000, gt=0, description="tokens per source for validation, and as many held out; fewer where a source ends"
    )
    tokenizer: str | None = Field(
        None,
        description="id or folder of an existing tokenizer (a folder may hold one .gguf file); unset: learn one from the text",
    )
    vocab_size: int = Field(1024, gt=256, description="tokens of a learned vocabulary, the special one included")
    tokenizer_characters: int = Field(
        8_000_000, gt=0, description="characters of training text the tokenizer learns from, divided by weight"
    )
    block_length: int = Field(128, gt=1, description="tokens per block (T)")
    seed: int = Field(0, ge=0, description="order of the training blocks")
