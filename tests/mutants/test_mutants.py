"""The mutants themselves: what is changed, what is left alone, and that a change reaches a product that is loaded."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("mutmut", reason="make install brings it")

from tests.mutants.__main__ import Draw
from tests.mutants.apply import apply
from tests.mutants.changes import ROOT, Mutant, mutants

SOURCE = '''"""A module."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

LIMIT = 10
TWICE = 2 * LIMIT


@dataclass(frozen=True, slots=True)
class Sample:
    size: int = 3

    @property
    def fits(self) -> bool:
        """Whether it fits."""
        return self.size < LIMIT


def double(size: int) -> Sample:
    return Sample(size * 2)


DOUBLED = double(3)


class Kept:
    @cached_property
    def more(self) -> int:
        return LIMIT + 1


@lru_cache
def checked(size: int, *, least: int = 1) -> int:
    if size < least:
        raise ValueError("a size is at least one", "size")
    return size
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "mutated_sample.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mutated_sample", raising=False)
    return importlib.import_module("mutated_sample")


def changed(*, was: str, now: str) -> Mutant:
    (found,) = [mutant for mutant in mutants("mutated_sample.py", SOURCE) if (mutant.was, mutant.now) == (was, now)]
    return found


def test_what_is_changed_and_what_is_left_alone() -> None:
    made = {(mutant.name, mutant.now) for mutant in mutants("mutated_sample.py", SOURCE)}

    assert {
        ("", "LIMIT = 11"),
        ("Sample", "size: int = 4"),
        ("Sample.fits", "return self.size <= LIMIT"),
        ("Kept.more", "return LIMIT - 1"),
        ("checked", "if not (size < least):"),
        ("checked", "def checked(size: int, *, least: int = 2) -> int:"),
        ("checked", 'raise ValueError("a size is at least one", "XXsizeXX")'),
        ("checked", "return None"),
    } <= made
    text = " ".join(now for _, now in made)
    assert "XXa size" not in text
    assert "ValueError(None" not in text
    assert "frozen=False" not in text
    assert "Whether" not in text


def test_a_property_that_is_loaded_says_what_the_mutant_says(module: ModuleType) -> None:
    apply(changed(was="return self.size < LIMIT", now="return self.size <= LIMIT"))

    assert module.Sample(size=10).fits


def test_a_cached_property_too(module: ModuleType) -> None:
    apply(changed(was="return LIMIT + 1", now="return LIMIT - 1"))

    assert module.Kept().more == 9


def test_what_a_function_had_kept_is_forgotten(module: ModuleType) -> None:
    assert module.checked(1) == 1

    apply(changed(was="return size", now="return None"))

    assert module.checked(1) is None


def test_a_default_of_a_dataclass(module: ModuleType) -> None:
    sample = module.Sample
    apply(changed(was="size: int = 3", now="size: int = 4"))

    assert sample().size == 4


def test_a_default_of_a_function(module: ModuleType) -> None:
    checked = module.checked
    header = "def checked(size: int, *, least: int = {}) -> int:"
    apply(changed(was=header.format(1), now=header.format(2)))

    with pytest.raises(ValueError, match="at least one"):
        checked(1)


def test_what_a_module_made_when_it_was_loaded_is_made_anew(module: ModuleType) -> None:
    apply(changed(was="return Sample(size * 2)", now="return Sample(size / 2)"))

    assert module.DOUBLED.size == 3 / 2
    assert type(module.DOUBLED) is module.Sample


def test_a_constant_and_what_is_made_from_it_wherever_they_were_imported(module: ModuleType) -> None:
    other = ModuleType("mutated_importer")
    other.LIMIT = module.LIMIT  # type: ignore[attr-defined]
    other.TWICE = module.TWICE  # type: ignore[attr-defined]
    sys.modules["mutated_importer"] = other
    try:
        apply(changed(was="LIMIT = 10", now="LIMIT = 11"))
    finally:
        del sys.modules["mutated_importer"]

    assert (other.LIMIT, other.TWICE) == (11, 22)
    assert not module.Sample(size=11).fits


def test_a_seed_draws_the_same_mutants_each_time_and_another_seed_others() -> None:
    made = mutants("mutated_sample.py", SOURCE)
    drawn = [Draw(4, seed).of("mutated_sample.py", made) for seed in (1, 1, 2)]

    assert drawn[0] == drawn[1] != drawn[2]
    assert [mutant for mutant in made if mutant in drawn[0]] == drawn[0]
    assert len(drawn[0]) == 4
    assert Draw(None, 1).of("mutated_sample.py", made) == Draw(10_000, 1).of("mutated_sample.py", made) == made


@pytest.mark.parametrize(
    ("tests", "code", "said"),
    [
        ("tests/governance/rules/test_errors.py", 0, "100.0%"),
        # Tests that never come by its code kill none of it.
        ("tests/governance/rules/test_windows.py", 1, "untested"),
    ],
)
def test_the_command_runs_a_module_and_fails_below_the_mark(tests: str, code: int, said: str) -> None:
    command = [sys.executable, "-m", "tests.mutants", "governance/rules/errors.py", "--tests", tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout
