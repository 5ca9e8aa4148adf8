"""`sparsebridge corpus`: build token blocks and their tokenizer, and look at them."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cli.app import App
from cli.options import Json, Out, Overwrite, TrustRemoteCode, with_settings
from cli.output import print_json, print_table, say, suggest, tell
from sparse_model.corpus.corpus_config import CorpusConfig

app = App(help=__doc__)

SourceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--source",
        help="NAME or NAME=WEIGHT, repeatable: tinypython, stdlib, a folder of text, tables or save_to_disk, a .jsonl, "
        ".parquet or .csv file, or the id of a dataset "
        "[default: tinypython=0.85 and stdlib=0.15]",
        show_default=False,
    ),
]
SPLITS = ("train", "validation", "held_out")


@app.callback()
def group() -> None:
    """Build token blocks and their tokenizer, and look at them."""


@app.command()
@with_settings(corpus=CorpusConfig)
def build(
    out: Out,
    corpus: CorpusConfig,
    source: SourceOption = None,
    text_field: Annotated[
        str | None,
        typer.Option("--text-field", help="field or column of the sources that holds the document [default: text]"),
    ] = None,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Tokenise sources into blocks, with a tokenizer learned from them.

    Example: sparsebridge corpus build --source tinypython=0.85 --source stdlib=0.15 --out runs/corpus
    """
    from foundation.errors import UserError
    from sparse_model.corpus.build import build_corpus

    if source:
        described = [parse_source(text, text_field) for text in source]
        if text_field is not None and not any("field" in one for one in described):
            raise UserError("--text-field: none of these sources has fields; leave it out")
        corpus = CorpusConfig.from_mapping({**corpus.to_json(), "sources": described}, origin="--source")
    elif text_field is not None:
        raise UserError("--text-field: belongs to a --source with fields; name one")
    built = build_corpus(corpus, out, overwrite, trust_remote_code)
    say(f"corpus written to {out}")
    if corpus.tokenizer is None:
        suggest("sparse", "train", "--corpus", out, "--out", out.with_name("sparse"))
    else:
        suggest("bridge", "train", corpus.tokenizer, "--corpus", out, "--out", out.with_name("bridge"))
    if as_json:
        print_json({"out": str(out), **built.description})
    else:
        show_description(str(out), built.description)


@app.command()
def show(
    corpus: Annotated[Path, typer.Argument(help="a corpus folder", show_default=False)],
    text: Annotated[int, typer.Option("--text", min=0, help="blocks to print as text")] = 0,
    split: Annotated[
        Literal["train", "validation", "held_out"], typer.Option("--split", help="where those blocks come from")
    ] = "train",
    as_json: Json = False,
) -> None:
    """Say what a corpus holds; print some of it.

    Example: sparsebridge corpus show runs/corpus --text 2
    """
    from sparse_model.corpus.corpus import Corpus

    data = Corpus.load(corpus)
    by_source = {"all sources": data.train} if split == "train" else getattr(data, split)
    texts = (
        {name: [data.tokenizer.decode(block) for block in blocks[:text]] for name, blocks in by_source.items()}
        if text
        else {}
    )
    if as_json:
        print_json({**data.description, **({"text": texts} if text else {})})
        return
    show_description(str(corpus), data.description)
    for name, blocks in texts.items():
        for number, block in enumerate(blocks):
            tell(f"\n--- {split} block {number} of {name}\n{block}")


def parse_source(text: str, text_field: str | None = None) -> dict[str, Any]:
    """The config of one --source, NAME or NAME=WEIGHT.

    Raises:
        UserError: the weight is no number, or `source_config` refuses the name.
    """
    from foundation.errors import UserError
    from sparse_model.corpus.corpus_config import source_config

    name, equals, weight = text.rpartition("=")
    if not equals:
        name = text
    given: dict[str, Any] = {}
    if equals:
        try:
            given["weight"] = float(weight)
        except ValueError:
            raise UserError(f"--source {text}: '{weight}' is no weight; write {name or 'NAME'}=0.5") from None
    found = source_config(name, given)
    if text_field is not None and "field" in type(found).model_fields:
        found = found.model_copy(update={"field": text_field})
    return found.model_dump(mode="json", exclude_unset=True)


def show_description(name: str, description: dict[str, Any]) -> None:
    """Print a corpus's sources and sizes."""
    rows = [
        [
            f"{source} {split}",
            f"{found['documents']:,}",
            f"{found['blocks']:,}",
            f"{found['tokens']:,}",
            f"{found['epochs']:g}",
        ]
        for source, splits in description["sources"].items()
        for split, found in ((split, splits[split]) for split in SPLITS)
    ]
    note = f"{description['vocab_size']} tokens of vocabulary, blocks of {description['block_length']} tokens"
    print_table(name, ("source and split", "documents", "blocks", "tokens", "passes"), rows, note)
