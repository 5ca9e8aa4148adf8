"""The description of a corpus to build."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from foundation.settings import Settings
from sparse_model.corpus.files import DEFAULT_SUFFIXES, JsonLines, TextFolder
from sparse_model.corpus.hub import HubDataset
from sparse_model.corpus.sources import Source
from sparse_model.corpus.stdlib import Stdlib
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

    def open(self) -> Source:
        """The source itself."""
        return TinyPython(self.seed)


class StdlibConfig(Settings):
    """The interpreter's own library."""

    kind: Literal["stdlib"] = Field("stdlib", description="the running interpreter's own library")
    weight: Weight = 0.15

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

    def open(self) -> Source:
        """The source itself; loading starts with the first document."""
        return HubDataset(self.id, self.field, self.subset, self.split, self.name)


SourceConfig = Annotated[
    TinyPythonConfig | StdlibConfig | FolderConfig | JsonLinesConfig | TableConfig | DatasetConfig,
    Field(discriminator="kind"),
]


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
