"""Documents streamed from any dataset that the `datasets` library can load, by id or path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sparse_model.corpus.fragment import Split
from sparse_model.corpus.sources import CorpusError, split_of


class HubDataset:
    """One split of a dataset, streamed; its documents are divided anew by a hash of their text."""

    def __init__(
        self,
        dataset: str,
        field: str = "text",
        subset: str | None = None,
        dataset_split: str = "train",
        name: str | None = None,
    ) -> None:
        self.dataset = dataset
        self.field = field
        self.subset = subset
        self.dataset_split = dataset_split
        self.name = name or dataset.rstrip("/").split("/")[-1]

    def documents(self, split: Split) -> Iterator[str]:
        """The documents of one split, in the dataset's order. Raises CorpusError if it cannot be loaded or read to its end."""
        for number, row in enumerate(self._rows(), start=1):
            text = row.get(self.field)
            if not isinstance(text, str):
                raise CorpusError(
                    f"dataset {self.dataset!r} has no text in field {self.field!r} of row {number} (it has "
                    f"{', '.join(sorted(row))}): name the field that does."
                )
            if text.strip() and split_of(text) == split:
                yield text

    def _rows(self) -> Iterator[dict[str, Any]]:
        import datasets

        read = 0
        try:
            for row in datasets.load_dataset(self.dataset, self.subset, split=self.dataset_split, streaming=True):
                read += 1
                yield row
        except Exception as error:  # whatever a file's format, its compression or the connection raise
            cause = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            if read:
                raise CorpusError(
                    f"dataset {self.dataset!r} broke off after {read} rows ({cause}): check its files and the connection and "
                    "run the command again, or ask for fewer tokens."
                ) from error
            raise CorpusError(
                f"dataset {self.dataset!r} cannot be loaded ({cause}): check its id, subset, split and the connection, "
                "or use tinypython or stdlib, which need no network."
            ) from error
