"""`sparsebridge edit` on the bundled models: map, apply, validate, and everything they refuse."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from bridges.edits.paired import load_paired
from bridges.edits.standing_artefact import load_standing
from cli.demo import BUNDLED
from sparse_model.circuits.circuit import Circuit

BRIDGE, DENSE = BUNDLED / "bridge", BUNDLED / "dense"
SMALL = ("--blocks", "4", "--pairs", "16")
PROMPT, OTHER = "name = 'hello", 'name = "hello'


@pytest.fixture(scope="module")
def edits(bundled_circuit: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A standing and a paired edit, by the command itself."""
    from cli.main import run

    folder = tmp_path_factory.mktemp("edits")
    for form in ("standing", "paired"):
        out = str(folder / form)
        assert (
            run(["edit", "map", str(bundled_circuit), "--bridge", str(BRIDGE), "--form", form, "--out", out, *SMALL])
            == 0
        )
    return {form: folder / form for form in ("standing", "paired")}


def test_both_forms_hold_the_circuits_nodes(edits: dict[str, Path], bundled_circuit: Path) -> None:
    circuit = Circuit.load(bundled_circuit)
    reads = {str(node) for node in circuit.nodes if node.part == "act_in"}
    paired = load_paired(edits["paired"])
    assert {node for site in paired.sites for node in site.nodes} <= reads
    assert [site.dense_site for site in paired.sites] == sorted({site.dense_site for site in paired.sites})
    (site,) = load_standing(edits["standing"]).sites
    assert site.rule.name == "move"
    channels = {int(name.partition(":")[2]) for name in site.nodes}
    assert channels <= {node.channel for node in circuit.nodes if node.part in ("act_in", "resid_delta")}


def test_a_single_node_maps_under_a_rule_of_its_own(cli: Callable, bundled_circuit: Path, tmp_path: Path) -> None:
    node = next(str(n) for n in Circuit.load(bundled_circuit).nodes if n.part == "act_in")
    command = ("edit", "map", bundled_circuit, "--bridge", BRIDGE, "--node", node, "--rule", "clamp", "--blocks", "2")
    found = cli(*command, "--value", "2", "--strength", "0.5", "--out", tmp_path / "e", "--json").json
    assert (found["strength"], [site["nodes"] for site in found["sites"]]) == (0.5, [[node]])
    ran = cli(*command, "--out", tmp_path / "f")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "--value" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


@pytest.mark.parametrize("form", ["standing", "paired"])
def test_the_text_is_the_same_with_and_without_a_cache_and_unedited_at_strength_zero(
    form: str, cli: Callable, edits: dict[str, Path]
) -> None:
    command = ["edit", "apply", edits[form], "--dense", DENSE, "--prompt", PROMPT, "--tokens", "6", "--json"]
    command += ["--counterfactual", OTHER] if form == "paired" else []
    cached, uncached = (cli(*command, "--strength", "2", switch).json for switch in ("--cache", "--no-cache"))
    assert cached == uncached
    (nothing,) = cli(*command, "--strength", "0").json["continuations"]
    assert nothing["edited"] == nothing["unedited"] == cached["continuations"][0]["unedited"]


def test_several_prompts_go_on_together_as_each_does_alone(cli: Callable, edits: dict[str, Path]) -> None:
    command = ("edit", "apply", edits["standing"], "--dense", DENSE, "--strength", "2", "--tokens", "6", "--json")
    prompts = (PROMPT, "def add(a, b):\\n    return a", "x = [1, 2")
    alone = [cli(*command, "--prompt", prompt).json["continuations"][0] for prompt in prompts]
    together = cli(*command, *(word for prompt in prompts for word in ("--prompt", prompt))).json["continuations"]
    assert together == alone
    assert together[1]["prompt"] == "def add(a, b):\n    return a"


def test_a_streamed_text_comes_on_stderr_and_the_texts_side_by_side_on_stdout(
    cli: Callable, edits: dict[str, Path]
) -> None:
    command = ("edit", "apply", edits["standing"], "--dense", DENSE, "--prompt", PROMPT, "--tokens", "6")
    (found,) = cli(*command, "--json").json["continuations"]
    ran = cli(*command, "--stream")
    assert ran.code == 0
    assert f"unedited: {found['unedited']}\nedited: {found['edited']}\n" in ran.err
    assert all(word in ran.out for word in ("unedited", "edited, strength", PROMPT))
    assert ran.err.endswith("next: sparsebridge edit validate CIRCUIT --bridge BRIDGE\n")


def test_a_mapped_edit_remembers_what_it_leaves_out_and_apply_can_ask_for_it(
    cli: Callable, bundled_circuit: Path, edits: dict[str, Path], tmp_path: Path
) -> None:
    node = next(str(n) for n in Circuit.load(bundled_circuit).nodes if n.part == "act_in")
    command = ("edit", "map", bundled_circuit, "--bridge", BRIDGE, "--node", node, "--rule", "ablate", "--blocks", "2")
    cli(*command, "--skip-special", "--out", tmp_path / "e", "--json")
    left_out = load_standing(tmp_path / "e").left_out
    assert left_out.first
    assert left_out.tokens
    assert not load_standing(edits["standing"]).left_out
    for words, message in (
        (("map", bundled_circuit, "--bridge", BRIDGE, "--form", "paired", "--out", tmp_path / "f"), "every position"),
        (("apply", edits["paired"], "--dense", DENSE, "--prompt", PROMPT, "--counterfactual", OTHER), "every position"),
    ):
        ran = cli("edit", *words, "--skip-special")
        assert (ran.code, ran.err.count("\n")) == (2, 1)
        assert message in ran.err


def test_a_paired_edit_needs_its_counterfactual_and_a_standing_one_takes_none(
    cli: Callable, edits: dict[str, Path]
) -> None:
    for form, more, message in (
        ("paired", (), "needs --counterfactual"),
        ("standing", ("--counterfactual", OTHER), "takes no --counterfactual"),
        ("paired", ("--counterfactual", OTHER, "--where", "generated"), "--where"),
        ("paired", ("--counterfactual", OTHER + " world again"), "equal length"),
        ("paired", ("--counterfactual", OTHER, "--prompt", PROMPT), "one --prompt"),
        ("standing", ("--tokens", "4000"), "--tokens"),
        ("standing", ("--chat",), "no chat template"),
        ("standing", ("--prompt", PROMPT, "--stream"), "one --prompt"),
    ):
        ran = cli("edit", "apply", edits[form], "--dense", DENSE, "--prompt", PROMPT, *more)
        assert (ran.code, ran.err.count("\n"), ran.out) == (2, 1, ""), ran.err
        assert message in ran.err


def test_an_edit_for_another_base_model_is_refused(cli: Callable, edits: dict[str, Path], gpt2_folder: Path) -> None:
    ran = cli("edit", "apply", edits["standing"], "--dense", gpt2_folder, "--prompt", "x")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "another base model" in ran.err


@pytest.mark.parametrize("form", ["standing", "paired"])
@pytest.mark.parametrize("damage", ["cut", "no tensors", "no json", "not json", "empty json"])
def test_a_damaged_edit_is_one_line(
    damage: str, form: str, cli: Callable, edits: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "e"
    shutil.copytree(edits[form], folder)
    tensors, description = folder / "edit.safetensors", folder / "edit.json"
    if damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:200])
    elif damage == "no tensors":
        tensors.unlink()
    elif damage == "no json":
        description.unlink()
    else:
        description.write_text("{" if damage == "not json" else json.dumps({"form": form}))
    ran = cli("edit", "apply", folder, "--dense", DENSE, "--prompt", PROMPT)
    assert (ran.code, ran.err.count("\n"), ran.out) == (2, 1, "")
    assert str(folder) in ran.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--node", "0.attn.act_in:100000", "--form", "paired"), "not in the circuit"),
        (("--node", "0.attn.act_inn:1", "--form", "paired"), "act_in"),
        (("--node", "seven", "--form", "paired"), "not a node"),
        (("--rule", "add", "--form", "paired"), "--rule"),
        (("--node", "0.attn.act_in:1",), "move takes the whole circuit"),
        (("--rule", "shove"), "--rule"),
        (("--dense", "nowhere"), "nowhere"),
        (("--blocks", "0"), "--blocks"),
        (("--loops", "open"), "--loop"),
        (("--strength", "nan"), "--strength: nan is not a finite number"),
        (("--rule", "clamp", "--value", "inf"), "--value: inf is not a finite number"),
    ],
)  # fmt: skip
def test_wrong_input_to_map_is_one_line_and_leaves_nothing(
    more: tuple[str, ...], message: str, cli: Callable, bundled_circuit: Path, tmp_path: Path
) -> None:
    ran = cli("edit", "map", bundled_circuit, "--bridge", BRIDGE, *SMALL, "--out", tmp_path / "made", *more)
    assert (ran.code, ran.err.count("\n"), ran.out) == (2, 1, ""), ran.err
    assert message in ran.err
    assert list(tmp_path.iterdir()) == []


def test_paths_that_hold_something_else_are_refused_by_name(
    cli: Callable, bundled_circuit: Path, edits: dict[str, Path], tmp_path: Path
) -> None:
    for arguments, message in (
        (("edit", "map", tmp_path / "no", "--bridge", BRIDGE, "--out", tmp_path / "e"), "no such folder"),
        (("edit", "map", bundled_circuit, "--bridge", tmp_path / "no", "--out", tmp_path / "e"), "no such folder"),
        (("edit", "map", bundled_circuit, "--bridge", DENSE, "--out", tmp_path / "e"), "bridge.json"),
        (("edit", "map", edits["paired"], "--bridge", BRIDGE, "--out", tmp_path / "e"), "circuit.json"),
        (("edit", "map", bundled_circuit, "--bridge", BRIDGE, "--out", edits["paired"]), "--overwrite"),
        (("edit", "apply", bundled_circuit, "--dense", DENSE, "--prompt", "x"), "edit.json"),
        (("edit", "validate", bundled_circuit, "--bridge", BRIDGE, "--out", edits["paired"]), "--overwrite"),
    ):
        ran = cli(*arguments)
        assert (ran.code, ran.err.count("\n"), ran.out) == (2, 1, ""), ran.err
        assert message in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_validation_exits_by_its_verdict_and_writes_its_report(
    cli: Callable, bundled_circuit: Path, tmp_path: Path
) -> None:
    ran = cli(
        "edit", "validate", bundled_circuit, "--bridge", BRIDGE, "--blocks", "6", "--pairs", "8", "--draws", "99",
        "--out", tmp_path / "r", "--json",
    )  # fmt: skip
    report = json.loads(ran.out)
    assert set(report) >= {"task", "verdict", "causal_map", "transfer", "specificity", "baselines", "dose", "standing"}
    assert set(report["standing"]["a_to_b"]) == {"circuit", "coordinates", "class_mean"}
    passed = {gate["name"] for gate in report["verdict"]["gates"] if gate["passed"]}
    everything = {gate["name"] for gate in report["verdict"]["gates"]} - {"moves"}
    assert (report["verdict"]["word"] == "explains") == (everything <= passed)
    assert ran.code == (0 if report["verdict"]["word"] == "explains" else 1)
    written = json.loads((tmp_path / "r" / "report.json").read_text())
    assert written["verdict"] == report["verdict"]["word"]
    assert written["tasks"]["closing_quote"]["details"] == report
    assert (tmp_path / "r" / "report.html").is_file()


@pytest.mark.parametrize(
    ("word", "accept", "code"),
    [("explains", "explains", 0), ("steers", "explains", 1), ("steers", "steers", 0), ("fails", "steers", 1)],
)
def test_the_exit_code_says_whether_the_verdict_is_good_enough(
    word: str, accept: str, code: int, cli: Callable, bundled_circuit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bridges.jobs.judge as judging

    found = SimpleNamespace(word=word, report={"task": "t", "verdict": {"word": word}})
    monkeypatch.setattr(judging, "judge", lambda *_: found)
    command = ("edit", "validate", bundled_circuit, "--bridge", BRIDGE, "--accept", accept)
    ran = cli(*command, "--json")
    assert (ran.code, ran.err.count("next:")) == (code, 0)
    monkeypatch.setattr("cli.edit.show_verdict", lambda *_: None)
    following = "circuit evaluate" if word == "fails" else "edit map"
    assert f"next: sparsebridge {following} {bundled_circuit} --" in cli(*command).err


def test_baking_a_standing_edit_is_refused_with_the_option_it_needs(cli: Callable, edits: dict[str, Path]) -> None:
    ran = cli("edit", "bake", edits["standing"], "--dense", DENSE, "--out", edits["standing"].with_name("baked"))
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "map the circuit again with --form paired" in ran.err
    assert not edits["standing"].with_name("baked").exists()


def test_baking_says_what_it_does_to_the_task_and_to_other_text(
    cli: Callable, edits: dict[str, Path], tmp_path: Path
) -> None:
    command = ("edit", "bake", edits["paired"], "--dense", DENSE, "--out")
    found = cli(*command, tmp_path / "removed", "--json").json
    before, after = (figure["value"] for figure in found["accuracy"])
    assert before > after
    assert found["kl_on_text"]["value"] > 1e-3
    ran = cli(*command, tmp_path / "as-it-was", "--amount", "0")
    assert "accuracy on closing_quote" in ran.out
    assert "KL(before ‖ after) 0 [0, 0]" in ran.out


def test_fewer_draws_than_a_p_value_needs_are_refused_before_the_work(cli: Callable, bundled_circuit: Path) -> None:
    ran = cli("edit", "validate", bundled_circuit, "--bridge", BRIDGE, "--draws", "20")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "pass 99 or more" in ran.err


def test_a_judged_judge_refuses_kinds_it_does_not_know_and_files_that_are_not_its_own(
    cli: Callable, bundled_circuit: Path, tmp_path: Path
) -> None:
    out = tmp_path / "trials.jsonl"
    ran = cli("edit", "placebo", bundled_circuit, "--bridge", BRIDGE, "--out", out, "--kind", "sugar")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "choose circuit, complement" in ran.err
    out.write_text("mine\nnot yours\n", "utf-8")
    ran = cli("edit", "placebo", bundled_circuit, "--bridge", BRIDGE, "--out", out, "--kind", "random")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert out.read_text("utf-8") == "mine\nnot yours\n"


@pytest.mark.slow
def test_on_the_bundled_models_placebos_do_not_explain_and_the_command_does_not_judge_twice(
    cli: Callable, bundled_circuit: Path, tmp_path: Path
) -> None:
    out = tmp_path / "trials.jsonl"
    command = ("edit", "placebo", bundled_circuit, "--bridge", BRIDGE, "--out", out, "--pairs", "8", "--json")
    found = cli(*command, "--kind", "complement", "--kind", "permuted_decoders").json
    assert {trial["kind"] for trial in found["trials"]} == {"complement", "permuted_decoders"}
    assert found["summary"]["placebos_explaining"] == 0
    assert 0 < found["summary"]["placebo_rate_bound"] < 1
    written = out.read_text("utf-8")
    again = cli(*command, "--kind", "complement").json
    assert again["trials"] == found["trials"]
    assert "next: sparsebridge edit validate" in cli(*command[:-1], "--kind", "complement").err
    assert out.read_text("utf-8") == written
