"""What the repository tells those who come to it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import config
from tests.environment import ROOT

GITHUB = ROOT / ".github"
OWN_ACTIONS = re.compile(r"actions/(checkout|setup-python|setup-node)@v\d+")
# Named in CONTRIBUTING.md as the places where such things go.
NOT_YET = {"governance/queries/forecasts.py", "tests/governance/queries/test_forecasts.py"}
# Kinds of a form's parts that somebody fills in, by GitHub's schema of issue forms.
FILLED_IN = {"textarea", "input", "dropdown"}


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_the_workflow_runs_what_ci_runs_with_no_third_partys_action() -> None:
    workflow = read_yaml(GITHUB / "workflows" / "ci.yml")

    # YAML 1.1 reads the key `on` as a truth.
    assert set(workflow[True]) == {"push", "pull_request"}
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    oldest = re.search(r'^requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert oldest
    assert oldest[1] in job["strategy"]["matrix"]["python"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    assert all(OWN_ACTIONS.fullmatch(step["uses"]) for step in job["steps"] if "uses" in step)


@pytest.mark.parametrize("name", ["bug_report", "feature_request"])
def test_an_issue_form_is_one_that_github_shows(name: str) -> None:
    form = read_yaml(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")

    assert {"name", "description", "body"} <= set(form)
    asked = [part for part in form["body"] if part["type"] in FILLED_IN]
    assert len(asked) + sum(part["type"] == "markdown" for part in form["body"]) == len(form["body"])
    assert len({part["id"] for part in asked}) == len(asked)
    assert all(part["attributes"]["label"] for part in asked)
    assert any(part.get("validations", {}).get("required") for part in asked)


def test_hooks_call_the_locked_tools() -> None:
    found = read_yaml(ROOT / ".pre-commit-config.yaml")

    assert [repo["repo"] for repo in found["repos"]] == ["local"]
    hooks = found["repos"][0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system", "pygrep"}
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks if hook["language"] == "system")


def test_the_changelog_has_what_is_unreleased_on_top_and_then_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()

    versions = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert versions[1].split(" ")[0] == config.__version__
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= {
        *("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
    }


def test_contributing_names_files_that_are_there() -> None:
    named = set(re.findall(r"`([\w./-]+/[\w./-]*)`", (ROOT / "CONTRIBUTING.md").read_text())) - NOT_YET

    assert len(named) > 30
    # A room that is named by itself, such as rules/, is in every app.
    assert sorted(path for path in named if not (ROOT / path.removesuffix("/")).exists()) == []


def test_the_licence_is_the_one_that_the_package_states() -> None:
    text = (ROOT / "LICENSE").read_text()

    assert re.search(r"Apache License\s+Version 2\.0, January 2004", text)
    assert re.search(r"^ +Copyright \d{4} Spend Governor contributors$", text, re.MULTILINE)
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text()
