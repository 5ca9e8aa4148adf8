"""The experiments of the documents run from end to end on a small scale, resume, and write figures that follow from runs."""

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import GPT2LMHeadModel

from bridges.protocol import residual_sites
from bridges.training import BridgeText
from dense_adapters import DenseStack
from foundation.errors import UserError
from sparse_model.corpus.corpus import Corpus
from sparse_model.transformer.shape import SparseShape

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SMALL = SparseShape(d_model=48, n_head=3, d_head=16, position="added")


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An example with a small shape, few steps and two seeds."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    train = module.TRAIN.model_copy(
        update={"steps": 4, "batch_size": 4, "evaluate_every": 0, "diagnose_every": 0, "log_to": "none"}
    )
    monkeypatch.setattr(module, "SHAPE", SMALL)
    monkeypatch.setattr(module, "TRAIN", train)
    monkeypatch.setattr(module, "SEEDS", (1, 2))
    return module


def test_a_walk_through_the_page_of_the_real_model_ends_where_a_command_refuses_its_input(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("smollm_walk", EXAMPLES / "smollm_walk.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    lines = example.commands(example.PAGE)
    assert [line[:2] for line in lines][2:5] == [["bridge", "train"], ["task", "check"], ["circuit", "prune"]]
    found = example.run(["circuit", "prune", "nowhere", "--task", "for_while", "--out", "c"], tmp_path)
    assert found["code"] == 2
    assert "nowhere" in example.text({"circuit prune": found}, tmp_path)
    (tmp_path / "circuit_prune.json").write_text('{"code": 2, "said": "kept", "seconds": 1, "gigabytes": 1}')
    assert example.run(["circuit", "prune"], tmp_path)["said"] == "kept"  # and not run again
    gate = {"name": "carried", "passed": False, "measured": "0.1", "required": "0.6"}
    told = "\n".join(example.edit({"verdict": {"word": "steers", "reason": "not carried", "gates": [gate]}}))
    assert "steers, not carried" in told
    assert "carried, failed: 0.1 (needed: 0.6)" in told


def test_the_twins_differ_in_density_and_not_in_nonzeros(
    corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = load("sparse_vs_dense_twin", monkeypatch)
    monkeypatch.setattr(example, "DENSITY", 0.1)
    monkeypatch.setattr(example, "TRAIN", example.TRAIN.model_copy(update={"density": 0.1, "anneal": 0.5}))
    monkeypatch.setattr(example, "SWEEP_STEPS", 1)
    monkeypatch.setattr(
        example, "SWEEP", {"sparse": [{"lr": 0.01}], "dense": [{"lr": 0.01, "topk_fraction": k} for k in (0.25, None)]}
    )
    result = example.run(Corpus.load(corpus_folder), tmp_path)
    for sparse, dense in zip(result["runs"]["sparse"], result["runs"]["dense"], strict=True):
        assert sparse["density"] < 0.2
        assert dense["density"] > 0.99
        assert dense["parameters"] == pytest.approx(sparse["nonzero"], rel=0.02)
        assert dense["tokens"] == sparse["tokens"]
    text = example.table(result)
    assert f"{result['difference']['mixture']['value']:+.3f}" in text
    assert text.count("**") == 4  # one chosen setting per arm


def test_the_arms_of_the_revival_experiment_differ_in_revival_alone(
    corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = load("revival", monkeypatch)
    monkeypatch.setattr(example, "REVIVE_EVERY", {"revived": 1, "plain": 0})
    result = example.run(Corpus.load(corpus_folder), tmp_path)
    for revived, plain in zip(result["runs"]["revived"], result["runs"]["plain"], strict=True):
        settings = [found["settings"]["train"] for found in (revived, plain)]
        assert {key for key in settings[0] if settings[0][key] != settings[1][key]} == {"revive_every"}
        assert revived["density"] == pytest.approx(plain["density"], rel=0.01)
    text = example.table(result)
    assert "silent on held-out text" in text
    assert f"{result['runs']['plain'][1]['silent']['qk']:.1%}" in text


def test_the_variants_of_the_ablation_differ_in_what_they_name_alone_and_its_table_follows_from_the_runs(
    corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = load("ablate_training", monkeypatch)
    variants = {name: example.VARIANTS[name] for name in ("base", "dense-embeddings", "stream-topk")}
    monkeypatch.setattr(example, "VARIANTS", variants)
    monkeypatch.setattr(example, "SEEDS", (1,))
    monkeypatch.setattr(example, "TASKS", ("closing_quote",))
    monkeypatch.setattr(  # no prompts of a task fit into the blocks of this corpus, so nothing is pruned here
        "sparse_model.studies.sweep._circuit",
        lambda model, *_: {"full_loss": 0.1, "edges": int(model.lm_head.weight.count_nonzero())},
    )
    data = Corpus.load(corpus_folder)
    result = example.run(data, tmp_path)
    assert [point["series"] for point in result["points"]] == list(variants)
    base, denser, _ = result["points"]
    assert denser["nonzero"] > base["nonzero"]
    arms = {point.series: point.arm for point in example.points()}
    for name, (shape, train) in variants.items():
        for part, changed in (("shape", shape), ("train", train)):
            ours, theirs = getattr(arms[name], part).to_json(), getattr(arms["base"], part).to_json()
            assert {key for key in ours if ours[key] != theirs[key]} == set(changed)
    text = example.table(result)
    assert f"{denser['cross_entropy']['mixture']:.3f}" in text
    edges = [point["circuits"]["closing_quote"]["edges"] for point in result["points"]]
    assert edges[0] < edges[1]
    assert all(f"| {number} |" in line for number, line in zip(edges, text.splitlines()[2:5], strict=True))
    monkeypatch.setattr("sparse_model.studies.arms.train_sparse", None)  # done runs are read
    assert example.run(data, tmp_path) == result


def test_the_texts_of_the_real_models_page_are_compared_token_by_token() -> None:
    from bridges.edits.readout import Readout
    from bridges.edits.rules import Add
    from bridges.edits.standing import StandingEdit, StandingSite
    from cli.demo import BUNDLED
    from dense_adapters import LeftOut, load_stack

    spec = importlib.util.spec_from_file_location("smollm_generation", EXAMPLES / "smollm_generation.py")
    example = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = example  # where a dataclass looks its module up
    spec.loader.exec_module(example)
    stack, tokenizer = load_stack(str(BUNDLED / "dense"))
    rows = torch.randn(2, stack.d_model, generator=torch.Generator().manual_seed(0))
    site = StandingSite(2, ("a", "b"), Readout(rows, torch.zeros(2)), rows, Add(torch.tensor([1.0, -1.0])))
    edit = StandingEdit("t", "adds", stack.fingerprint, (site,), left_out=LeftOut.special(tokenizer))
    prompts = example.task_prompts(tokenizer, "closing_quote", 2)
    assert [text.count("'") % 2 for text, _ in prompts] == [1, 1, 0, 0]
    found = example.run(stack, tokenizer, edit, prompts, 6)
    assert len(found) == 8
    assert all(text.agree for text in found)
    told = example.page(found, tokenizer, edit, "Settings.")
    assert "the same tokens in 8 of 8 continuations" in told
    assert not example.page([replace(text, batched=[]) for text in found], tokenizer, edit, "").count("8 of 8")
    assert any(a.cached != b.cached for a, b in zip(found[:4], found[4:], strict=True))


def test_the_task_in_natural_language_goes_from_pairs_to_a_bridge_on_a_tiny_model(
    tmp_path: Path, tiny_gpt2: Callable[..., GPT2LMHeadModel]
) -> None:
    from cli.main import run
    from sparse_model.corpus.tokenizer import train_tokenizer
    from sparse_model.tasks import find_task

    spec = importlib.util.spec_from_file_location("number_agreement", EXAMPLES / "number_agreement.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.write(tmp_path)
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text("utf-8").splitlines()]
    frames = {split: {p["template"] for p in pairs if p["split"] == split} for split in example.FRAMES}
    assert not frames["held_out"] & (frames["train"] | frames["validation"])
    text = " ".join(path.read_text("utf-8") for path in (tmp_path / "text").iterdir())
    for pair in pairs:
        assert pair["prompt_a"].split()[-1] == pair["prompt_b"].split()[-1], "what stands in between says nothing"
        assert (
            (pair["prompt_a"] + " is " in text) == (pair["prompt_b"] + " are " in text) == (pair["split"] != "held_out")
        )
        assert pair["prompt_a"] + " are" not in text
    tokenizer = train_tokenizer(((tmp_path / "text" / f"{noun}.txt").read_text("utf-8") for noun in example.NOUNS), 500)
    tiny_gpt2(vocab_size=len(tokenizer), n_positions=64).save_pretrained(tmp_path / "dense")
    tokenizer.save_pretrained(tmp_path / "dense")
    assert find_task(str(tmp_path / "pairs.jsonl")).name == "pairs"
    dense, corpus, bridge = (str(tmp_path / name) for name in ("dense", "corpus", "bridge"))
    assert "| train |" in example.checked(tmp_path / "pairs.jsonl", dense)
    task = ["--task", str(tmp_path / "pairs.jsonl")]
    tiny = [
        "--steps",
        "2",
        "--batch-size",
        "2",
        "--sparse-d-model",
        "24",
        "--sparse-n-head",
        "3",
        "--sparse-d-head",
        "4",
    ]
    for line in (
        ["task", "lint", task[1], "--model", dense],
        ["task", "check", dense, *task, "--pairs", "8"],
        [
            "corpus", "build", "--source", str(tmp_path / "text"), "--tokenizer", dense, "--train-tokens", "2000",
            "--evaluation-tokens", "200", "--block-length", "32", "--out", corpus,
        ],
        ["bridge", "train", dense, "--corpus", corpus, "--out", bridge, *tiny, "--sparse-d-mlp", "32", "--density", "0.3",
         "--sparse-position", "added", "--evaluate-blocks", "2"],
        ["task", "check", bridge, *task, "--pairs", "8"],
    ):  # fmt: skip
        assert run(line) == 0, line


def test_two_models_verdicts_stand_side_by_side_and_a_task_that_left_nothing_to_measure_is_in_no_median(
    tmp_path: Path,
) -> None:
    spec = importlib.util.spec_from_file_location("models_table", EXAMPLES / "models_table.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)

    def report(task: str, word: str, slope: float, nodes: int) -> None:
        def value(number: float) -> dict[str, float]:
            return {"value": number, "low": number, "high": number}

        details = {
            "verdict": {"word": word},
            "transfer": {"slope": value(slope), "r2": value(0.9 if slope else 0.0)},
            "effect": {"circuit": value(slope / 2), "decoded": value(1.0)} if slope else None,
            "specificity": {"difference": value(slope / 4)} if slope else None,
            "beats_baselines": {"outcome": "loses to"} if slope else None,
        }
        (tmp_path / f"{task}.json").write_text(
            json.dumps({"task": task, "nodes": nodes, "edges": 1, "details": details})
        )

    report("one", "explains", 1.0, 4)
    report("three", "steers", 0.5, 9)
    report("two", "fails", 0.0, 1)
    (tmp_path / "four.json").write_text(json.dumps({"task": "four", "refused": "the model does not do it"}))
    rows = dict(line[2:-2].split(" | ", 1) for line in example.table({"tiny": tmp_path}).splitlines()[2:])
    assert rows["tasks judged, of those tried"] == "3 of 4"
    assert rows["verdicts"] == "1 explains, 1 steers, 1 fails"
    assert rows["explained"] == "one"
    assert rows["nodes / edges of a circuit, geometric means"] == "3 / 1"
    assert rows["M6: slope of dense on sparse effects"] == "0.75 (0.50 to 1.00; 2 tasks)"
    assert rows["tasks where class means or leading directions bring more"] == "2 of 2"


def test_a_copy_of_a_gpt2_gives_its_logits_at_density_1_until_abs_topk_is_on(
    tmp_path: Path, tiny_gpt2: Callable[..., GPT2LMHeadModel], tokens: torch.Tensor
) -> None:
    example = from_dense_example()
    gpt2 = tiny_gpt2()
    sparse = example.copied(DenseStack(gpt2))
    torch.testing.assert_close(sparse(tokens).logits, gpt2(tokens).logits, atol=1e-4, rtol=1e-4)
    assert all(h.mean(-1).abs().max() < 1e-5 for h in residual_sites(sparse, sparse.walk(tokens)))
    sparse.config.topk_fraction = 0.5
    assert (sparse(tokens).logits - gpt2(tokens).logits).abs().max() > 1e-2
    with pytest.raises(UserError, match="only a GPT-2"):
        example.copied(DenseStack(tiny_gpt2(activation_function="relu")))


def test_the_bridges_of_a_copy_start_as_identities_and_anneal_with_its_density(
    corpus_folder: Path, tmp_path: Path, tiny_gpt2: Callable[..., GPT2LMHeadModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    example = from_dense_example()
    data = Corpus.load(corpus_folder)
    gpt2 = tiny_gpt2(vocab_size=data.vocab_size)
    gpt2.save_pretrained(tmp_path / "dense")
    data.tokenizer.save_pretrained(tmp_path / "dense")
    dense = DenseStack(gpt2)
    train = example.TRAIN.model_copy(update={"steps": 4, "batch_size": 4, "density": 0.2})
    objective = example.objective_of("copy", example.config_of(dense), dense, BridgeText.of(data, 4), train)
    batch = torch.from_numpy(data.train[:4].astype(int))
    objective.bridge.k = objective.bridge.d_sparse
    with torch.no_grad():
        whole = objective(batch, draw=0)
    assert all(whole[kind] < 1e-5 for kind in ("kl", "dense_to_sparse", "sparse_to_dense"))
    objective(batch, draw=3)
    assert (objective.sparse.config.topk_fraction, objective.bridge.k) == (0.25, 5)
    for name, value in (
        ("DENSE", tmp_path / "dense"),
        ("TRAIN", train),
        ("SETTINGS", {"copy": ({"lr": 0.001},), "random": ({"lr": 0.01},)}),
        ("DENSITIES", (0.5, 0.2)),
    ):
        monkeypatch.setattr(example, name, value)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "corpus").symlink_to(corpus_folder)
    result = example.run(tmp_path / "out", is_wider_too=True)
    starts = [run["start"] for run in result["runs"]]
    assert starts == ["copy", "copy", "random", "random", "random"]
    copy, wider = result["runs"][0], result["runs"][-1]
    assert wider["nonzero"] == pytest.approx(copy["nonzero"], rel=0.2)
    assert f"| {copy['kl']:.3f} |" in example.table(result)
    whole, *pruned = result["untrained"]
    assert whole["kl"] < 1e-5 < whole["kl_topk"]
    assert pruned[-1]["kl"] > pruned[0]["kl"] > 1e-4
    monkeypatch.setattr(example, "train_bridge", None)  # done runs are read
    assert example.run(tmp_path / "out", is_wider_too=True) == result
    monkeypatch.setattr(example, "TRAIN", train.model_copy(update={"steps": 5}))
    with pytest.raises(UserError, match="other settings"):
        example.run(tmp_path / "out")


def from_dense_example() -> ModuleType:
    """The example that starts from the dense model's weights."""
    spec = importlib.util.spec_from_file_location("from_dense", EXAMPLES / "from_dense.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example
