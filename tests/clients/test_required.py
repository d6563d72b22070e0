"""Where Node must be there, its absence is a failure and no skip."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from _pytest.outcomes import Failed, Skipped

from tests.clients import conftest as clients

INSTALL = Path(__file__).parent / "node" / "install"


@pytest.mark.parametrize(("required", "outcome"), [("", Skipped), ("1", Failed)])
def test_a_missing_node_is_skipped_unless_it_is_required(
    required: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUIRE_NODE", required)
    monkeypatch.setenv("PATH", os.devnull)

    with pytest.raises(outcome, match="there is no node on the PATH"):
        clients.command("node")


@pytest.mark.parametrize(("required", "wanted"), [("", "will be skipped"), ("1", "cannot run, and REQUIRE_NODE=1")])
def test_the_installation_says_what_a_missing_node_means(required: str, wanted: str, tmp_path: Path) -> None:
    # In a folder of its own, as it removes what it cannot install anew.
    script = shutil.copy(INSTALL, tmp_path)
    (tools := tmp_path / "tools").mkdir()
    for name in ("dirname", "rm"):
        (tools / name).symlink_to(shutil.which(name) or name)

    done = subprocess.run(
        ["/bin/sh", script],
        env={"PATH": str(tools), "REQUIRE_NODE": required},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert f"The Node clients' tests {wanted}: there is no node on the PATH." in done.stderr
