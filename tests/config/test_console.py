"""The console's pages are found from one list of each app."""

import ast
from pathlib import Path

from tests.environment import ROOT

APPS = ("billing", "config", "governance", "llm")


def registers(path: Path) -> bool:
    """Whether a file registers admin classes, by a call or a decorator."""
    return any(
        isinstance(node, ast.Attribute) and node.attr == "register" and ast.unparse(node.value).startswith("admin")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )


def test_only_an_apps_console_admins_registers_pages() -> None:
    found = {path.relative_to(ROOT) for app in APPS for path in (ROOT / app).rglob("*.py") if registers(path)}

    assert found == {Path(app, "console", "admins.py") for app in APPS}
