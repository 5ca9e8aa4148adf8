"""Documents streamed from any dataset that the `datasets` library can load, by id or path."""

from __future__ import annotations

from collections.abc import Iterator

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
        """The documents of one split, in the dataset's order. Raises CorpusError if it cannot be loaded."""
        import datasets

        try:
            rows = datasets.load_dataset(self.dataset, self.subset, split=self.dataset_split, streaming=True)
        except (OSError, ValueError, RuntimeError) as error:
            cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CorpusError(
                f"dataset {self.dataset!r} cannot be loaded ({cause}): check its id, subset, split and the connection, "
                "or use tinypython or stdlib, which need no network."
            ) from error
        for row in rows:
            text = row.get(self.field)
            if not isinstance(text, str):
                raise CorpusError(
                    f"dataset {self.dataset!r} has no text in field {self.field!r} (it has {', '.join(sorted(row))}): "
                    "name the field that does."
                )
            if text.strip() and split_of(text) == split:
                yield text
