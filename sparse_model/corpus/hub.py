"""Documents of any dataset that the `datasets` library can load: by id or path, or a folder its `save_to_disk` wrote."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparse_model.corpus.fragment import Split
from sparse_model.corpus.sources import CorpusError, split_documents

SAVED = ("dataset_info.json", "dataset_dict.json")
"""The file by which a folder that `save_to_disk` wrote is known: of one split, or of several."""


def is_saved(path: str | Path) -> bool:
    """Whether `path` is a folder that `save_to_disk` wrote."""
    return any((Path(path) / name).is_file() for name in SAVED)


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
        """The documents of one split, in the dataset's order.

        Raises:
            CorpusError: it cannot be loaded or read to its end.
        """
        yield from split_documents(self._keyed, split)

    def _keyed(self) -> Iterator[tuple[str, str]]:
        for number, row in enumerate(self._rows(), start=1):
            text = row.get(self.field)
            if not isinstance(text, str):
                raise CorpusError(
                    f"dataset {self.dataset!r} has no text in field {self.field!r} of row {number} (it has "
                    f"{', '.join(sorted(row))}): name the field that does (--text-field)."
                )
            if text.strip():
                yield text, text

    def _rows(self) -> Iterator[dict[str, Any]]:
        import datasets

        read = 0
        saved = is_saved(self.dataset)
        try:
            for row in (
                self._saved(datasets.load_from_disk(self.dataset))
                if saved
                else datasets.load_dataset(self.dataset, self.subset, split=self.dataset_split, streaming=True)
            ):
                read += 1
                yield row
        except CorpusError:
            raise
        except Exception as error:  # whatever a file's format, its compression or the connection raise
            cause = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            if read:
                raise CorpusError(
                    f"dataset {self.dataset!r} broke off after {read} rows ({cause}): check its files and the connection and "
                    "run the command again, or ask for fewer tokens."
                ) from error
            raise CorpusError(
                f"dataset {self.dataset!r} cannot be loaded ({cause}): check its id, subset, split and the connection "
                "(HF_HUB_OFFLINE=1 allows only what was loaded before), or use tinypython or stdlib, which need no network."
            ) from error

    def _saved(self, found: Any) -> Any:
        """The rows of a dataset from disk: its only split, or the one named."""
        if not isinstance(found, dict):
            return found
        if self.dataset_split not in found:
            raise CorpusError(
                f"dataset {self.dataset!r} has no split {self.dataset_split!r} (it has {', '.join(found)}): give its folder, "
                f"such as {self.dataset}/{next(iter(found))}."
            )
        return found[self.dataset_split]
