"""Migrations are history: they carry their own data and go on working whatever becomes of the code."""

import ast
from pathlib import Path

import pytest

from tests.environment import ROOT

OURS = {"billing", "config", "governance", "llm"}
MIGRATIONS = sorted(path for app in OURS for path in (ROOT / app).glob("migrations/*.py"))


def imported(path: Path) -> set[str]:
    """The top packages that a file imports, wherever in it; "." for its own."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add("." if node.level else str(node.module).split(".")[0])
    return names


@pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_migration_imports_nothing_of_ours(path: Path) -> None:
    assert imported(path) & {*OURS, "."} == set()
