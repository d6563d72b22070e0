"""Each app's README sends a reader to places that exist, and leaves no room out."""

import re

import pytest

from tests.environment import ROOT


@pytest.mark.parametrize("app", ["billing", "config", "governance", "llm"])
def test_a_readme_names_every_room_and_only_what_exists(app: str) -> None:
    folder = ROOT / app
    text = (folder / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w[\w/]*(?:/|\.py|\.csv|\.yaml|\.html))`", text))

    assert {name for name in named if not ((folder / name).exists() or (ROOT / name).exists())} == set()
    rooms = {f"{path.name}/" for path in folder.iterdir() if path.is_dir() and any(path.rglob("*.*"))}
    assert rooms - {"__pycache__/"} <= named
