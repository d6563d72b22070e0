"""What is shipped can be told, and under which licences."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

import config
from tests.config.conftest import LOCK
from tests.environment import ROOT

# Permissive ones; and those that ask for their own changes alone to be shown, of libraries that are used as they are.
ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "PSF-2.0", "Unlicense", "Zlib"),
    *("MIT-CMU", "MPL-2.0", "LGPL-3.0-only", "LGPL-3.0-or-later"),
}


@pytest.fixture(scope="module")
def bill(shipped: Path) -> dict[str, Any]:
    return dict(json.loads(told(shipped)))


def told(shipped: Path, *arguments: str) -> str:
    command = [shipped / "python", ROOT / "deploy/sbom.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_bill_lists_what_the_lock_ships(bill: dict[str, Any], shipped: Path) -> None:
    locked = set(re.findall(r"^([\w.-]+)==(\S+)", LOCK.read_text(), re.MULTILINE))
    found = {(part["name"], part["version"]) for part in bill["components"]}

    # Some of the lock is for other platforms and versions of Python.
    assert found - locked == set()
    assert len(found) > 50
    assert {"django", "celery", "redis", "psycopg", "stripe"} <= {name for name, _ in found}
    assert bill["metadata"]["component"]["version"] == config.__version__
    # The same for the same packages.
    assert json.loads(told(shipped)) == bill


def test_what_depends_on_what_is_in_it(bill: dict[str, Any]) -> None:
    refs = {part["bom-ref"] for part in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
    depends = {part["ref"]: set(part["dependsOn"]) for part in bill["dependencies"]}

    assert set(depends) == refs
    assert set().union(*depends.values()) <= refs
    (celery,) = (ref for ref in refs if ref.startswith("pkg:pypi/celery@"))
    assert any(ref.startswith("pkg:pypi/kombu@") for ref in depends[celery])


def test_every_licence_is_one_that_a_business_may_ship(shipped: Path) -> None:
    told_of = dict(line.split(": ", 1) for line in told(shipped, "--licences").splitlines())
    # Of what is offered under either, one suffices.
    refused = {
        package: expression
        for package, expression in told_of.items()
        if not any(set(re.findall(r"[\w.-]+", part)) - {"AND"} <= ALLOWED for part in re.split(r" OR ", expression))
    }
    assert refused == {}


def test_bandits_rules_are_among_the_linters() -> None:
    told_ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]

    assert "S" in told_ruff["select"]
    # Not for the product as a whole: only that commands are started, which are its own.
    assert {rule for rule in told_ruff["ignore"] if rule.startswith("S") and rule[1:].isdigit()} == {"S603", "S607"}
    # Nowhere else but in statements that are put together from constants.
    excused = {rule for rules in told_ruff["per-file-ignores"].values() for rule in rules if re.match(r"S\d", rule)}
    assert excused == {"S608"}
