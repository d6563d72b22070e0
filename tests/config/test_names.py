"""One name, one class: whoever reads it knows which is meant, and a search finds one."""

import ast
from collections import defaultdict

from tests.environment import ROOT

APPS = ("billing", "config", "governance", "llm")


def test_no_two_public_classes_have_one_name() -> None:
    """A class within another is named with it (`Tenant.Status`) and may be called as others are."""
    found = defaultdict(set)
    for app in APPS:
        for path in (ROOT / app).rglob("*.py"):
            if "migrations" in path.parts:
                continue
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                # Django finds a management command by its class's name.
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and node.name != "Command":
                    found[node.name].add(str(path.relative_to(ROOT)))

    assert {name: sorted(paths) for name, paths in found.items() if len(paths) > 1} == {}
