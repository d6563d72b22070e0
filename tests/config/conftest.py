from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.environment import ROOT

LOCK = ROOT / "requirements" / "runtime.txt"
SHIPPED = ROOT / ".venv" / "shipped"
# A copy of the lock that SHIPPED was installed from.
STAMP = ROOT / ".venv" / "shipped.installed"


@pytest.fixture(scope="session")
def shipped() -> Path:
    """Where the programs of an environment are that has `requirements/runtime.txt` and nothing else."""
    if STAMP.is_file() and STAMP.read_bytes() == LOCK.read_bytes():
        return SHIPPED / "bin"
    reason = "what is shipped is not installed, or from another lock: make .venv/shipped.installed"
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(reason)
    pytest.skip(reason)
