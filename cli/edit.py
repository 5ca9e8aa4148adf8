"""`sparsebridge edit`: circuit → edit; validate it, generate under it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.app import App
from cli.options import (
    BridgeOption,
    CorpusText,
    DenseOption,
    Device,
    Json,
    Out,
    Overwrite,
    Seed,
    TrustRemoteCode,
    check_device,
)
from cli.output import Pieces, print_json, print_side_by_side, print_table, say, suggest
from cli.placebo import placebo
from cli.verdict import Accept, Draws, is_accepted, show_difference, show_verdict

app = App(help=__doc__)

CircuitArgument = Annotated[Path, typer.Argument(help="a circuit folder", show_default=False)]
EditArgument = Annotated[Path, typer.Argument(help="an edit folder", show_default=False)]
Strength = Annotated[
    float | None, typer.Option("--strength", help="steering strength: 0 no edit, 1 a full one; unset: the edit's own")
]
TaskOfOwn = Annotated[
    str | None, typer.Option("--task", help="another task's name or .jsonl file; unset: the circuit's own")
]
SkipSpecial = Annotated[
    bool,
    typer.Option(
        "--skip-special",
        help="standing edits: leave special tokens and the first position, a sink in many models, alone (and out of means)",
    ),
]
TextBlocks = Annotated[int, typer.Option("--blocks", min=2, help="held-out text blocks for isolation and corpus means")]


@app.callback()
def group() -> None:
    """Map circuits to dense edits, validate them, generate under them."""


app.command()(placebo)


@app.command("map")
def map_(
    circuit: CircuitArgument,
    bridge: BridgeOption,
    out: Out,
    dense: DenseOption = None,
    form: Annotated[
        Literal["paired", "standing"],
        typer.Option("--form", help="paired: towards a second prompt; standing: a rule of its own"),
    ] = "standing",
    direction: Annotated[
        Literal["a_to_b", "b_to_a"], typer.Option("--direction", help="which answer a standing edit moves to which")
    ] = "a_to_b",
    loop: Annotated[
        Literal["open", "closed"], typer.Option("--loop", help="paired: whether later sites see what earlier ones did")
    ] = "closed",
    node: Annotated[
        list[str] | None, typer.Option("--node", help="map only this node, such as 1.mlp.act_in:17; repeatable")
    ] = None,
    rule: Annotated[
        str, typer.Option("--rule", help="standing: what happens to the nodes; 'list' says which rules there are")
    ] = "move",
    value: Annotated[
        float | None,
        typer.Option("--value", help="for rules that need one (clamp, add), in stream units of the sparse model"),
    ] = None,
    task: TaskOfOwn = None,
    corpus: CorpusText = None,
    blocks: TextBlocks = 48,
    pairs: Annotated[int, typer.Option("--pairs", min=2, help="pairs a standing edit is fitted on")] = 128,
    strength: Strength = None,
    skip_special: SkipSpecial = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    device: Device = "cpu",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Map a circuit (or single nodes of it) through the bridges to an edit of the dense model.

    Example: sparsebridge edit map runs/closing_quote --bridge runs/bridge --out runs/edit
    """
    from bridges.jobs.circuit_edit import EditWish, describe, make_edit, save_edit
    from bridges.jobs.material import Amounts, Material
    from bridges.pairing import load_pairing
    from foundation.errors import UserError
    from sparse_model.circuits.circuit import Circuit
    from sparse_model.tasks.registry import kept_task

    if out.exists() and not overwrite:
        raise UserError(f"{out}: already exists; choose another --out or pass --overwrite")
    wish = EditWish(form, direction, loop, tuple(node or ()), rule, value, strength, skip_special)
    wish.check()
    loaded = Circuit.load(circuit)
    pairing = load_pairing(bridge, dense, check_device(device), trust_remote_code)
    loaded.check_model(pairing.artefact.sparse, str(bridge))
    amounts = Amounts(pairs, max(2, pairs // 2), blocks, seed)
    material = Material(pairing, task or kept_task(circuit, loaded.task), amounts, corpus)
    edit = make_edit(loaded, pairing, material.grounds, wish)
    save_edit(edit, out, overwrite)
    description = describe(edit)
    say(f"edit written to {out}")
    model = dense or pairing.artefact.description["dense"]["name"]
    more = ("--counterfactual", "TEXT") if form == "paired" else ()
    suggest("edit", "apply", out, "--dense", model, "--prompt", "TEXT", *more)
    if as_json:
        print_json(description)
    else:
        print_table(
            description["claim"],
            ("site", "nodes"),
            [[str(site["dense_site"]), ", ".join(site["nodes"])] for site in description["sites"]],
            f"{form} edit, strength {description['strength']}",
        )


@app.command()
def apply(
    edit: EditArgument,
    dense: Annotated[str, typer.Option("--dense", help="the dense model the edit was made for", show_default=False)],
    prompt: Annotated[
        list[str],
        typer.Option(
            "--prompt",
            help="text to continue, \\n is a newline; repeatable for standing edits: all are run as one batch",
            show_default=False,
        ),
    ],
    counterfactual: Annotated[
        str | None, typer.Option("--counterfactual", help="paired edits: the prompt to act like, of equal token length")
    ] = None,
    strength: Strength = None,
    where: Annotated[
        Literal["prompt", "generated", "both"],
        typer.Option("--where", help="standing edits: which positions it may touch"),
    ] = "both",
    skip_special: SkipSpecial = False,
    chat: Annotated[bool, typer.Option("--chat", help="put prompts into the model's chat template")] = False,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="tokens to generate")] = 24,
    sample: Annotated[bool, typer.Option("--sample/--greedy", help="sample, or take the most likely token")] = False,
    temperature: Annotated[float, typer.Option("--temperature", min=0.01, help="of sampling")] = 1.0,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="use the key–value cache (same tokens either way)")
    ] = True,
    stream: Annotated[
        bool, typer.Option("--stream", help="show text on stderr while it is generated; one --prompt")
    ] = False,
    seed: Seed = 0,
    device: Device = "cpu",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Generate text under an edit, beside the unedited model's.

    Example: sparsebridge edit apply runs/edit --dense runs/dense --prompt "name = 'hello"
    """
    from bridges.edits.continuation import Continuing, continuations

    how = Continuing(tokens, temperature if sample else None, cache, seed, chat, strength, where, skip_special)
    prompts = [text.replace("\\n", "\n") for text in prompt]
    other = None if counterfactual is None else counterfactual.replace("\\n", "\n")
    pieces = Pieces() if stream else None
    found = continuations(edit, dense, prompts, other, how, check_device(device), trust_remote_code, pieces)
    if pieces is not None:
        pieces.end()
    for name, settings in (("taken over", found["taken_over"]), ("left out", found["left_out"])):
        if settings:
            listed = ", ".join(f"{setting} {value}" for setting, value in settings.items())
            say(f"{name} of the model's own generation settings: {listed}")
    if as_json:
        print_json(found)
        return
    for text in found["continuations"]:
        columns = {"unedited": text["unedited"], f"edited, strength {found['strength']:g}": text["edited"]}
        print_side_by_side(text["prompt"], columns, found["claim"])
    suggest("edit", "validate", "CIRCUIT", "--bridge", "BRIDGE")


@app.command()
def bake(
    edit: EditArgument,
    dense: Annotated[str, typer.Option("--dense", help="the dense model the edit was made for", show_default=False)],
    out: Out,
    how: Annotated[
        Literal["remove", "add"],
        typer.Option("--how", help="remove the nodes' directions from what reads them, or add along them"),
    ] = "remove",
    amount: Annotated[
        float,
        typer.Option("--amount", help="remove: share of the component (1 all); add: length along the unit direction"),
    ] = 1.0,
    node: Annotated[
        list[str] | None, typer.Option("--node", help="only this node of the edit; repeatable; unset: all")
    ] = None,
    overwrite: Overwrite = False,
    device: Device = "cpu",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Write an ordinary Hugging Face checkpoint with the nodes' directions in its weights (paired edits of reads).

    Example: sparsebridge edit bake runs/paired-edit --dense runs/dense --out runs/baked
    """
    from dataclasses import asdict

    from bridges.jobs.bake_edit import Baking, bake_edit

    baked = bake_edit(
        edit, dense, out, Baking(how, amount, tuple(node or ())), overwrite, check_device(device), trust_remote_code
    )
    say(f"checkpoint written to {out}")
    suggest("dense", "check", out)
    if as_json:
        print_json({"out": str(out), "how": how, **asdict(baked)})
    else:
        rows = [["fingerprint", baked.before[:12], baked.after[:12]]]
        if baked.accuracy is not None:
            rows.append([f"accuracy on {baked.task}", *(f"{found.value:.2f}" for found in baked.accuracy)])
        print_table(
            f"{how} {amount:g}",
            ("model", "before", "after"),
            rows,
            f"{len(baked.nodes)} directions baked; KL(before ‖ after) {baked.kl_on_text} nats per token on other text",
        )


@app.command()
def validate(
    circuit: CircuitArgument,
    bridge: BridgeOption,
    dense: DenseOption = None,
    task: TaskOfOwn = None,
    corpus: CorpusText = None,
    blocks: TextBlocks = 48,
    pairs: Annotated[
        int, typer.Option("--pairs", min=4, help="held-out pairs to report on, and as many to choose on")
    ] = 64,
    draws: Draws = 100,
    accept: Accept = "explains",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="also write report.json and report.html to this folder")
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(
            "--adapter",
            help="a LoRA folder that peft saved: judge the circuit on the model with it merged in too, and show both; the "
            "exit code is that of the model without it",
        ),
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    device: Device = "cpu",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Test whether a circuit explains what the dense model does; exit code 1 unless it does.

    Example: sparsebridge edit validate runs/closing_quote --bridge runs/bridge --out runs/report
    """
    from bridges.jobs.judge import judge, write_verdict
    from bridges.jobs.material import Amounts, Material
    from bridges.pairing import load_pairing
    from foundation.errors import UserError
    from sparse_model.circuits.circuit import Circuit
    from sparse_model.tasks.registry import kept_task

    if out is not None and out.exists() and not overwrite:
        raise UserError(f"{out}: already exists; choose another --out or pass --overwrite")
    loaded = Circuit.load(circuit)
    pairing = load_pairing(bridge, dense, check_device(device), trust_remote_code)
    loaded.check_model(pairing.artefact.sparse, str(bridge))
    chosen = task or kept_task(circuit, loaded.task)
    material = Material(pairing, chosen, Amounts(2 * pairs, pairs, blocks, seed), corpus)
    if adapter is not None:
        from bridges.jobs.difference import judge_difference

        both = judge_difference(loaded, material, pairing.place, adapter, draws, trust_remote_code)
        found, after = both.base, both.adapted
    else:
        found, after = judge(loaded, material, draws), None
    if out is not None:
        write_verdict(out, loaded, pairing.artefact, material.splits.held_out, found, overwrite)
    if as_json:
        print_json(found.report if after is None else both.to_json())
    else:
        show_verdict(loaded.task, found.report)
        if after is not None:
            show_verdict(f"{loaded.task} with the adapter", after.report)
            show_difference(both.to_json()["figures"], found.word, after.word)
        if found.word == "fails":
            suggest("circuit", "evaluate", circuit, "--model", bridge)
        else:
            suggest("edit", "map", circuit, "--bridge", bridge, "--out", circuit.with_name(f"{circuit.name}-edit"))
    if not is_accepted(found.word, accept):
        raise typer.Exit(1)
