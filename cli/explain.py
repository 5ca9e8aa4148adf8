"""`sparsebridge explain`: from a dense model and a task to a report, sized to its data."""

from typing import Annotated

import typer

from cli.app import App
from cli.options import Device, Json, Out, Seed, TrustRemoteCode, check_device
from cli.output import print_json, say, suggest
from cli.verdict import Accept, Draws, is_accepted, show_verdict

app = App(help=__doc__)
DEFAULT_SOURCES = ("tinypython", "stdlib")


@app.command()
def explain(
    dense: Annotated[
        str, typer.Argument(help="Hugging Face id, folder, or folder holding one .gguf file", show_default=False)
    ],
    task: Annotated[
        str,
        typer.Option(
            "--task", help="a task's name or a .jsonl file of pairs (sparsebridge task new)", show_default=False
        ),
    ],
    out: Out,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            help="where text comes from, as in corpus build; repeatable [default: tinypython and stdlib]",
            show_default=False,
        ),
    ] = None,
    text_field: Annotated[
        str | None, typer.Option("--text-field", help="field or column of the sources that holds the document")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="of training; unset: chosen from the text there is")
    ] = None,
    draws: Draws = 100,
    accept: Accept = "explains",
    seed: Seed = 0,
    device: Device = "cpu",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Build a corpus, train bridges, prune the circuit of a task, judge it and write the report; the same command goes on.

    Sizes are chosen from model, task and text, and said. Exit code 1 if the verdict is less than --accept.

    Example: sparsebridge explain runs/dense --task pairs.jsonl --source texts --out runs/explained
    """
    from cli.corpus import parse_source
    from sparse_model.corpus.corpus_config import CorpusConfig

    described = [parse_source(text, text_field) for text in source or DEFAULT_SOURCES]
    sources = CorpusConfig.from_mapping({"sources": described}, origin="--source").sources
    from bridges.jobs.whole_job import explain_model

    report = explain_model(dense, task, out, sources, steps, draws, seed, check_device(device), say, trust_remote_code)
    (name,) = report["tasks"]
    say(f"{name}: {report['tasks'][name]['nodes']} nodes, verdict {report['verdict']}")
    say(f"report written to {out / 'report' / 'report.html'}")
    suggest("circuit", "show", out / "circuit", "--model", out / "bridge", "--out", f"{name}.html")
    suggest("edit", "map", out / "circuit", "--bridge", out / "bridge", "--out", out / "edit")
    if as_json:
        print_json(report)
    else:
        show_verdict(name, report["tasks"][name]["details"])
    if not is_accepted(report["verdict"], accept):
        raise typer.Exit(1)
