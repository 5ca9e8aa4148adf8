"""Every artefact, damaged: it loads or is refused in one line, quickly, whatever stands in its files.

For each kind a small whole one is made, and then one file of it is mutated, loaded and put back, again and again: a key of
its JSON dropped or changed, a tensor of another type, shape or value, bytes cut off or flipped.
"""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

import bridges.artefact
from bridges.alignment import AlignedSite, SiteAlignment
from bridges.artefact import load_bridge, save_bridge
from bridges.bridge import Bridge
from bridges.edits.paired import PairedEdit, PairedSite, load_paired, save_paired
from bridges.edits.readout import Readout, TopKGate
from bridges.edits.rules import Clamp, Move
from bridges.edits.standing import StandingEdit, StandingSite
from bridges.edits.standing_artefact import load_standing, save_standing
from foundation.artefacts import file_fingerprint, write_json
from foundation.errors import UserError
from sparse_model import SparseTransformer
from sparse_model.circuits.circuit import Circuit
from sparse_model.corpus.corpus import Corpus
from sparse_model.training import checkpoint
from sparse_model.transformer.nodes import node_locations

MUTATIONS = 300
"""Of every kind of artefact; seven kinds."""
LONGEST = 2.0
"""Seconds of processor time that a load may take."""


class Kind(NamedTuple):
    """A whole artefact on disk, and how it is read."""

    folder: Path
    load: Callable[[], object]


def circuit(folder: Path, sparse: SparseTransformer) -> Kind:
    widths = node_locations(sparse.config)
    keep = {name: torch.arange(width) % 3 == 0 for name, width in widths.items()}
    values = {name: torch.linspace(-1, 1, width) for name, width in widths.items()}
    edges = {"0.mlp.post_act": torch.rand(widths["0.mlp.post_act"], widths["0.mlp.act_in"]) > 0.5}
    Circuit("t", "f" * 64, keep, values, "mean", edges=edges, scores=values).save(folder)
    return Kind(folder, lambda: Circuit.load(folder).within(sparse))


def bridge(folder: Path, sparse: SparseTransformer) -> Kind:
    sites = (AlignedSite(0, 0), AlignedSite(len(sparse.sublayers), 4))
    made = Bridge(SiteAlignment(sites, False), sparse.config.d_model, 6, 0.5)
    quiet = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    folder.mkdir()
    save_bridge(folder, made, sparse, quiet, {"dense": {"name": "d", "fingerprint": "f" * 64}})
    for path in folder.rglob("tokenizer*.json"):
        path.unlink()
    return Kind(folder, lambda: load_bridge(folder))


def model(folder: Path, sparse: SparseTransformer) -> Kind:
    with torch.no_grad():
        for parameter in sparse.parameters():
            parameter.mul_(torch.rand_like(parameter) < 0.1)
    sparse.save_pretrained(folder)
    return Kind(folder, lambda: SparseTransformer.from_pretrained(folder))


def paired(folder: Path, _: SparseTransformer) -> Kind:
    names = ("0.attn.act_in:1", "0.attn.act_in:2")
    sites = tuple(
        PairedSite(place, "read", names, torch.ones(2, 6), torch.ones(2), torch.ones(2, 6)) for place in (2, 3)
    )
    save_paired(PairedEdit("t", "claims", "f" * 64, sites), folder)
    return Kind(folder, lambda: load_paired(folder))


def standing(folder: Path, _: SparseTransformer) -> Kind:
    gate = TopKGate(torch.ones(5, 6), torch.ones(5), 2, torch.tensor([0, 3]))
    means = (torch.ones(2), torch.zeros(2), torch.ones(2))
    move = Move(*means, whiten=torch.eye(2), shift=torch.ones(2), radius=1.0)
    sites = tuple(
        StandingSite(place, ("a", "b"), Readout(torch.ones(2, 6), torch.ones(2), gated), torch.ones(2, 6), rule)
        for place, gated, rule in ((1, gate, move), (3, None, Clamp(torch.ones(2))))
    )
    save_standing(StandingEdit("t", "claims", "f" * 64, sites), folder)
    return Kind(folder, lambda: load_standing(folder))


def corpus(folder: Path, _: SparseTransformer) -> Kind:
    folder.mkdir()
    blocks = (np.arange(64, dtype=np.uint16) % 40).reshape(8, 8)
    for name in ("train", "validation.s", "held_out.s"):
        np.save(folder / f"{name}.npy", blocks)
    split = {"documents": 1, "blocks": 8, "tokens": 64, "epochs": 1.0}
    description = {
        "config": {}, "tokenizer_fingerprint": "f" * 64, "vocab_size": 40, "block_length": 8,
        "train": {"blocks": 8, "tokens": 64}, "sources": {"s": {"weight": 1.0, "validation": split, "held_out": split}},
        "files": {path.name: file_fingerprint(path) for path in folder.glob("*.npy")},
    }  # fmt: skip
    write_json(folder / "corpus.json", description)
    return Kind(folder, lambda: Corpus.load(folder))


def saved_state(folder: Path, _: SparseTransformer) -> Kind:
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    for step in (1, 2):
        checkpoint.save(folder, step, network, optimizer, {"a": 1}, keep=2)
    checkpoint.save_best(folder, 2, network, {"a": 1}, 0.5)

    def load() -> None:
        assert checkpoint.restore(folder, network, optimizer, {"a": 1}) in (1, 2)
        checkpoint.load_best(folder, network)

    return Kind(folder, load)


MAKERS = {
    make.__name__: make for make in (circuit, bridge, model, paired, standing, corpus, saved_state)
}  # fmt: skip


@pytest.fixture(scope="module", params=MAKERS)
def kind(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_sparse: Callable[..., SparseTransformer],
) -> Kind:
    """One whole artefact of every kind."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("damage") / "whole"
    return MAKERS[request.param](folder, tiny_sparse(n_layer=1, position="added", bigram_table="learned"))


def outcome(kind: Kind) -> str:
    """`loaded` or the line of the refusal; anything else fails."""
    start = time.process_time()
    try:
        kind.load()
        said = "loaded"
    except UserError as error:
        said = str(error)
    assert time.process_time() - start < LONGEST
    assert "\n" not in said
    said.encode("utf-8")
    return said


@pytest.fixture(autouse=True)
def no_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenizers are read by another library, and trusted to it here."""
    monkeypatch.setattr(
        bridges.artefact.AutoTokenizer, "from_pretrained", lambda *_, **__: object.__new__(PreTrainedTokenizerFast)
    )


def test_the_whole_artefact_loads(kind: Kind) -> None:
    assert outcome(kind) == "loaded"


@settings(
    max_examples=MUTATIONS, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(random=st.randoms(use_true_random=False))
def test_a_damaged_artefact_loads_or_is_refused_in_one_line(kind: Kind, random: Random, capsys: Any) -> None:
    files = sorted(path for path in kind.folder.rglob("*") if path.is_file())
    path = random.choice(files)
    whole = path.read_bytes()
    try:
        path.write_bytes(damaged(path.suffix, whole, random))
        outcome(kind)
    finally:
        path.write_bytes(whole)
    capsys.readouterr()


def damaged(suffix: str, whole: bytes, random: Random) -> bytes:
    """Another content of the file, of the same format most of the time."""
    way = random.randrange(6)
    if way == 0:
        return whole[: random.randrange(len(whole))]
    if way == 1:
        place = random.randrange(min(len(whole), 400) if random.random() < 0.5 else len(whole))
        return whole[:place] + bytes([random.randrange(256)]) + whole[place + 1 :]
    if suffix == ".json":
        return damaged_json(json.loads(whole), random)
    return damaged_array(np.load(io.BytesIO(whole)), random) if suffix == ".npy" else damaged_tensors(whole, random)


DEEP: list[Any] = []
for _ in range(200):
    DEEP = [DEEP]
STRANGE: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 0.5, -0.0, 1e308, 10**9, 2**63, 10**30, 10**5000, float("nan"), float("inf"), "", "2", "x",
    "\ud800", "\0\x1b[2J\u202e", "../../x", "9" * 5000, [], {}, [[]], [None], [-1], {"a": 1}, DEEP, "a" * 100_000,
)  # fmt: skip


def damaged_json(values: Any, random: Random) -> bytes:
    """The table with one value somewhere in it dropped, renamed or replaced by something strange."""
    inner = values
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        if not keys:
            break
        key = random.choice(keys)
        if isinstance(inner[key], dict | list) and inner[key] and random.random() < 0.7:
            inner = inner[key]
            continue
        way = random.randrange(5)
        if way == 0:
            del inner[key]
        elif way == 1 and isinstance(inner, dict):
            inner[f"{key}_"] = inner.pop(key)
        else:
            inner[key] = random.choice(STRANGE)
        break
    whole = values if random.random() < 0.97 else random.choice(STRANGE)
    return json_text(whole).encode("utf-8", "surrogatepass")


def json_text(values: Any) -> str:
    """JSON of numbers of any length too."""
    if type(values) is int and abs(values) > 10**4000:
        return "1" + "0" * 5000
    if isinstance(values, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{json_text(value)}" for key, value in values.items()) + "}"
    if isinstance(values, list):
        return "[" + ",".join(map(json_text, values)) + "]"
    return json.dumps(values)


DTYPES = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool, torch.uint8)


def damaged_tensors(whole: bytes, random: Random) -> bytes:
    """A safetensors file with one tensor of another type, shape, name or value."""
    from safetensors.torch import load, save

    tensors = dict(load(whole))
    name = random.choice(sorted(tensors))
    value = tensors.pop(name)
    way = random.randrange(9)
    if way == 0:
        return save(tensors)
    if way == 1:
        tensors[name + "_"] = value
    elif way == 2:
        tensors |= {
            name: value,
            random.choice(("extra", "keep/0.mlp.x", "cut/9.q", "7/encoder", "a.values")): value.clone(),
        }
    elif way == 3:
        tensors[name] = value.to(random.choice(DTYPES))
    elif way == 4:
        shapes = (
            value[None],
            value.reshape(-1),
            value.reshape(-1)[:0],
            value.reshape(-1)[:1].reshape(()) if value.numel() else value,
        )
        tensors[name] = random.choice(shapes).clone()
    elif way == 5:
        tensors[name] = torch.cat([value.reshape(-1), value.reshape(-1)]).clone()
    else:
        flat = value.reshape(-1).clone()
        if len(flat):
            floats = flat.is_floating_point()
            strange = (float("nan"), float("inf"), -1.0, 1e30) if floats else (-1, 127, 2, 100)
            flat[random.randrange(len(flat))] = random.choice(strange)
        tensors[name] = flat.reshape(value.shape)
    return save(tensors)


def damaged_array(values: np.ndarray, random: Random) -> bytes:
    """A .npy file of another type, shape or value."""
    changed = values.copy()
    changed[0, 0] = random.choice((39, 40, 65535))
    choices: tuple[np.ndarray, ...] = (
        values.astype(np.float32), values.astype(">u2"), values.astype(np.int64), values[:0], values[:, :4], values[None],
        values.T, np.asfortranarray(values), values.astype(object), changed, np.array(5, dtype=np.uint16),
    )  # fmt: skip
    file = io.BytesIO()
    np.save(file, random.choice(choices), allow_pickle=True)
    return file.getvalue()


# --- numbers that would be computed with ------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["value", "sign of zero", "swapped"])
def test_no_other_numbers_are_accepted_than_those_described(kind: Kind, damage: str) -> None:
    """A single finite number in a tensor, which only a fingerprint shows."""
    for path in sorted(kind.folder.rglob("*.safetensors")):
        if path.name == "model.safetensors" and not (kind.folder / "bridge.json").is_file():
            continue  # a model by itself is what the others are held against
        whole, tensors = path.read_bytes(), load_file(path)
        name = max(
            (n for n, t in tensors.items() if t.is_floating_point() and t.dim()), key=lambda n: tensors[n].numel()
        )
        flat = tensors[name].reshape(-1)
        if damage == "swapped":
            flat[[0, -1]] = flat[[-1, 0]] + torch.tensor([0.0, 0.25])
        else:
            flat[0] = flat[0] + 0.5 if damage == "value" else torch.where(flat[0] == 0, -flat[0], -1 - flat[0])
        save_file(tensors, path)
        try:
            if "step-00000002" not in str(path):
                assert outcome(kind) != "loaded" or "step-" in str(path)
        finally:
            path.write_bytes(whole)
    assert outcome(kind) == "loaded"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_an_artefact_of_another_precision_without_a_fingerprint_loads_in_single_precision(
    dtype: torch.dtype, tiny_sparse: Callable[..., SparseTransformer], tmp_path: Path
) -> None:
    made = bridge(tmp_path / "old", tiny_sparse(n_layer=1))
    path, description = tmp_path / "old" / "bridge.safetensors", tmp_path / "old" / "bridge.json"
    save_file({name: value.to(dtype) for name, value in load_file(path).items()}, path)
    assert "other numbers than those described" in outcome(made)
    values = json.loads(description.read_text("utf-8"))
    del values["tensors_fingerprint"]
    description.write_text(json.dumps(values), "utf-8")
    loaded = load_bridge(tmp_path / "old")
    assert {value.dtype for value in loaded.bridge.state_dict().values()} == {torch.float32}
