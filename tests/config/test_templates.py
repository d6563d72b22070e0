"""Every template of ours compiles."""

from pathlib import Path

import pytest
from django.template import engines

from tests.environment import ROOT

FOLDERS = [ROOT / "templates", *(ROOT / app / "templates" for app in ("governance", "llm", "billing"))]
TEMPLATES = sorted(path for folder in FOLDERS for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT)))
def test_compiles(path: Path) -> None:
    assert engines["django"].from_string(path.read_text(encoding="utf-8"))
