"""tinypython: valid, varied, the same everywhere, and rich in every idiom."""

import hashlib
import importlib.util
import subprocess
import sys
from collections import Counter
from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_model.corpus.fragment import SPLITS
from sparse_model.corpus.idioms import IDIOMS
from sparse_model.corpus.sources import split_of
from sparse_model.corpus.surrounds import SURROUNDS
from sparse_model.corpus.tinypython import PROGRAM_IDIOMS, TinyPython, program


@pytest.fixture(scope="module")
def programs() -> list[str]:
    return [program(0, index) for index in range(20_000)]


def test_every_program_compiles(programs: list[str]) -> None:
    for text in programs[:3000]:
        compile(text, "program", "exec")


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_a_program_of_any_seed_and_index_compiles_and_is_short(seed: int, index: int) -> None:
    text = program(seed, index)
    compile(text, "program", "exec")
    assert 4 <= text.count("\n") <= 60
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_fewer_than_one_program_in_a_thousand_is_a_duplicate(programs: list[str]) -> None:
    assert 1 - len(set(programs)) / len(programs) < 0.001


def test_typical_programs_have_four_to_thirty_lines(programs: list[str]) -> None:
    lines = sorted(text.count("\n") for text in programs)
    assert lines[len(lines) // 100] >= 4
    assert lines[len(lines) * 99 // 100] <= 30


def test_programs_are_the_same_in_another_process() -> None:
    code = "from sparse_model.corpus.tinypython import program; print(ascii(program(3, 7)), end='')"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "77", "PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert run.stdout == ascii(program(3, 7))


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="seed >= 0"):
        program(-1, 0)


def test_every_idiom_occurs_often_and_in_both_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    placed: Counter[tuple[str, str]] = Counter()
    idiom_of = {core: idiom.name for idiom in IDIOMS.values() for core in idiom.cores + idiom.corpus_cores}
    place = type(SURROUNDS[0]).place

    def counted(self, core, r, variant):  # type: ignore[no-untyped-def]
        placed[idiom_of[core], variant] += 1
        return place(self, core, r, variant)

    monkeypatch.setattr(type(SURROUNDS[0]), "place", counted)
    for index in range(2000):
        program(1, index)
    for name in IDIOMS:
        a, b = placed[name, "a"], placed[name, "b"]
        assert a + b > 200, name
        assert 0.4 < a / (a + b) < 0.6, name


@pytest.mark.parametrize("name", IDIOMS)
def test_both_variants_of_every_template_compile(name: str) -> None:
    idiom = IDIOMS[name]
    for core in idiom.cores + idiom.corpus_cores:
        for surround in SURROUNDS:
            for seed in range(20):
                for variant in ("a", "b"):
                    fragment = surround.place(core, Random(seed), variant)  # type: ignore[arg-type]
                    compile(fragment.text + "\n", "fragment", "exec")
                    assert fragment.answer


class _Recorded(Random):
    """A generator that remembers how many numbers it gave."""

    drawn = 0

    def random(self) -> float:
        self.drawn += 1
        return super().random()


@pytest.mark.parametrize("name", IDIOMS)
def test_the_variants_draw_the_same_numbers_but_for_one_that_only_one_needs_at_its_end(name: str) -> None:
    idiom = IDIOMS[name]
    for core in idiom.cores + idiom.corpus_cores:
        for seed in range(20):
            one, two = _Recorded(seed), _Recorded(seed)
            core(one, "a", "")
            core(two, "b", "")
            assert abs(one.drawn - two.drawn) <= 1, core.__name__


def test_every_idiom_has_at_least_four_templates_and_some_in_every_split() -> None:
    for idiom in IDIOMS.values():
        assert len(idiom.cores) * len(SURROUNDS) >= 4
    assert {surround.split for surround in SURROUNDS} == set(SPLITS)


def test_splits_of_the_source_are_disjoint_and_repeatable() -> None:
    taken = {split: list(islice(TinyPython(0).documents(split), 50)) for split in SPLITS}
    assert not set(taken["train"]) & set(taken["validation"])
    assert not set(taken["train"]) & set(taken["held_out"])
    assert not set(taken["validation"]) & set(taken["held_out"])
    assert taken["validation"] == list(islice(TinyPython(0).documents("validation"), 50))


def test_split_shares_are_ninety_five_and_five_percent() -> None:
    counts = Counter(split_of(f"document {i}") for i in range(20_000))
    assert abs(counts["train"] / 20_000 - 0.9) < 0.01
    assert abs(counts["validation"] / 20_000 - 0.05) < 0.01


def test_the_stream_of_seed_0_is_the_one_the_bundled_models_were_trained_on() -> None:
    text = "\0".join(program(0, index) for index in range(500))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "64d12e6698af2de63711ebf5da933673c2a36ccedbb8a4cde43e92f1c1d9fba5"
    )


def test_an_idiom_that_only_a_task_uses_moves_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [program(0, index) for index in range(20)]
    monkeypatch.setitem(IDIOMS, "new", IDIOMS["swap"])
    spec = importlib.util.find_spec("sparse_model.corpus.tinypython")
    assert spec is not None
    assert spec.loader is not None
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert "new" in fresh.IDIOMS
    assert [fresh.program(0, index) for index in range(20)] == before


def test_programs_use_idioms_that_exist_each_once() -> None:
    assert len(set(PROGRAM_IDIOMS)) == len(PROGRAM_IDIOMS)
    assert set(PROGRAM_IDIOMS) <= set(IDIOMS)
