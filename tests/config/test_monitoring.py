"""What is shipped for Prometheus and Grafana: rules and panels of figures that there are, each rule with its page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.test import Client

from governance import ledger
from governance.upkeep import jobs, judgement, reconcile
from tests import factories as make
from tests.environment import ROOT

RULES = ROOT / "deploy/prometheus/rules/alerts.yml"
BOARD = json.loads((ROOT / "deploy/grafana/dashboards/spend-governor.json").read_text())
MANUAL = (ROOT / "docs/operations.md").read_text()
SOURCES = [
    (ROOT / path).read_text()
    for path in (
        *("governance/measures.py", "governance/queries/metrics.py", "governance/ledger/writer.py"),
        *("llm/state/metrics.py", "llm/gateway/process.py", "billing/queries/metrics.py", "config/metrics.py"),
    )
]
OF_FAMILIES = re.compile(r"_(total|bucket|count|sum)$")


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def expressions() -> list[str]:
    """Of all rules and panels; what Grafana fills in is filled in."""
    panels = [target["expr"] for panel in BOARD["panels"] for target in panel.get("targets", ())]
    return [rule["expr"] for rule in rules()] + [each.replace("$__rate_interval", "5m") for each in panels]


@pytest.fixture(scope="module")
def promtool() -> str:
    """Debian's package `prometheus` has it. Without it they are skipped, or fail with REQUIRE_PROMTOOL."""
    found = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if found:
        return found
    missing = "promtool is not installed: apt install prometheus, or name its path in PROMTOOL"
    if os.environ.get("REQUIRE_PROMTOOL") == "1":
        pytest.fail(f"{missing}, and REQUIRE_PROMTOOL=1.")
    pytest.skip(missing)


def check(promtool: str, *arguments: str, text: str | None = None) -> None:
    done = subprocess.run([promtool, *arguments], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_each_rule_has_its_page(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert page == "docs/operations.md"
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", MANUAL, re.MULTILINE)}
    assert anchor in headings
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert rule["annotations"]["summary"].endswith(".")


def test_each_page_has_its_rule() -> None:
    pages = re.findall(r"^#### (\w+)$", MANUAL.partition("### Rules")[2].partition("\n## ")[0], re.MULTILINE)
    assert pages == [rule["alert"] for rule in rules()]


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_what_is_asked_for_is_there(expression: str) -> None:
    names = re.findall(r"\b(?:spend_governor|gen_ai)_\w+(?=[\[{),\s]|$)", expression)
    assert names or expression.startswith("up{")
    for name in {OF_FAMILIES.sub("", name) for name in names if not name.startswith("gen_ai_") or "client" in name}:
        told = name.removeprefix("spend_governor_").removeprefix("stripe_")
        # Some names are put together of two parts.
        parts = [told, *(told.removeprefix(part) for part in ("backfill", "reconcile", "delivery", "handling"))]
        assert any(part in source for part in parts for source in SOURCES), name


def test_the_dashboard_can_be_imported() -> None:
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 30
    assert all(panel["title"] for panel in panels)
    sources = {target["datasource"]["uid"] for panel in panels for target in panel.get("targets", ())}
    assert sources == {"${datasource}"}
    taken = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(taken)) == len(taken)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def test_prometheus_takes_rules_and_settings(promtool: str, tmp_path: Path) -> None:
    check(promtool, "check", "rules", str(RULES))
    check(promtool, "check", "config", "--syntax-only", str(ROOT / "deploy/prometheus/prometheus.yml"))
    # And what the panels ask for, as if they were rules.
    recorded = [{"record": f"panel:{number}", "expr": each} for number, each in enumerate(expressions())]
    panels = tmp_path / "panels.yml"
    panels.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    check(promtool, "check", "rules", str(panels))


def test_the_rules_tell_when_they_should_and_not_before(promtool: str, tmp_path: Path) -> None:
    tests = yaml.safe_load((ROOT / "tests/config/alert_rules.yml").read_text())
    tests["rule_files"] = [str(RULES)]
    known = {rule["alert"]: rule for rule in rules()}
    for test in tests["tests"]:
        for case in test["alert_rule_test"]:
            for alert in case["exp_alerts"]:
                alert["exp_labels"] = {"severity": known[case["alertname"]]["labels"]["severity"]} | alert["exp_labels"]
                alert["exp_annotations"]["runbook"] = known[case["alertname"]]["annotations"]["runbook"]
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump(tests))
    check(promtool, "test", "rules", str(file))


@pytest.mark.django_db
def test_prometheus_takes_what_is_told(promtool: str, settings: Any, client: Client) -> None:
    settings.METRICS_TOKEN = "a-scrape-token"
    make.budget("1.00")
    ledger.record(make.reporting("0.25"), now=make.NOON)
    reconcile.run(now=make.NOON)
    judgement.run(now=make.NOON)
    jobs.run("governance.tasks.reconcile_ledger", lambda: None)
    answer = client.get("/metrics", headers={"Authorization": "Bearer a-scrape-token"})
    check(promtool, "check", "metrics", text=answer.content.decode())
