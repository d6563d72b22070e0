"""docs/security.md names real code and real tests, and each of its controls names both."""

import re

import pytest

from tests.environment import ROOT

TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
# A file, and what is in it: `config/gate.py`, `config/gate.py::gate`.
PLACES = re.compile(r"`([\w./-]+\.(?:py|txt|yaml|toml))(?:::([\w:]+))?`")
NAMED = sorted(set(PLACES.findall(TEXT)))


def is_test(file: str) -> bool:
    return file.rpartition("/")[2].startswith("test_")


def rows(heading: str) -> list[str]:
    """The lines of the tables below a heading of the second order, without their heads."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    heads = ("| control |", "|---")
    return [line for line in section.splitlines() if line.startswith("|") and not line.startswith(heads)]


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[f"{file}::{name}" for file, name in NAMED])
def test_what_it_names_is_there(file: str, name: str) -> None:
    text = (ROOT / "tests" / file if is_test(file) else ROOT / file).read_text(encoding="utf-8")
    for part in name.split("::") if name else ():
        assert re.search(rf"^\s*(?:(?:async )?(?:def|class) {part}\b|{part}\b[^=\n]*=)", text, re.MULTILINE), part


@pytest.mark.parametrize("row", rows("Controls"), ids=lambda row: row.split("|")[1].strip())
def test_a_control_has_code_and_a_test(row: str) -> None:
    named = PLACES.findall(row)
    assert any(not is_test(file) for file, _ in named)
    assert any(is_test(file) and name for file, name in named)


def test_there_are_controls() -> None:
    assert len(rows("Controls")) > 50
    assert len(rows("OWASP ASVS 5.0, levels 1 and 2")) > 50
