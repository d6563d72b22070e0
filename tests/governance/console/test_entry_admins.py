"""An operator's last word on estimates, in the console."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from governance import ledger
from governance.models import AuditEntry, BudgetWindow, SpendEntry
from governance.upkeep import reconcile
from tests import factories
from tests.factories import NOON, nanos
from tests.governance.console.clients import signed_in

pytestmark = pytest.mark.django_db

LIST = "/admin/governance/spendentry/"


@pytest.fixture
def operator() -> Client:
    return signed_in("olga", is_superuser=True)


@pytest.fixture
def estimates() -> list[SpendEntry]:
    """Two calls of ten cents whose process died, and one that is certain."""
    factories.budget("1")
    for _ in range(2):
        ledger.reserve(factories.reserving("0.10"), now=NOON)
    ledger.expire_due(now=NOON + timedelta(days=1))
    found = list(SpendEntry.objects.order_by("id"))
    ledger.record(factories.reporting("0.01"), now=NOON)
    return found


def chosen(rows: list[SpendEntry], action: str, **more: str) -> dict[str, Any]:
    return {"action": action, "_selected_action": [str(row.pk) for row in rows], **more}


def settled() -> int:
    return BudgetWindow.objects.get().settled_nanos


def listed(client: Client) -> set[Any]:
    return {row.pk for row in client.get(LIST, {"estimates": "open"}).context["cl"].result_list}


def test_open_estimates_are_listed_and_confirmed_together_at_a_cost(
    operator: Client, estimates: list[SpendEntry]
) -> None:
    assert listed(operator) == {row.pk for row in estimates}
    page = operator.post(LIST, chosen(estimates, "confirm_selected"))
    assert b'name="cost"' in page.content
    assert b'name="reason"' in page.content
    assert settled() == nanos("0.21")
    said = operator.post(
        LIST, chosen(estimates, "confirm_selected", cost="0.04", reason="bill", _confirmed="yes"), follow=True
    )
    assert "Confirm: 2 of them." in said.content.decode()
    assert (settled(), listed(operator)) == (nanos("0.09"), set())
    row = AuditEntry.objects.filter(action="entry.confirm").first()
    assert row is not None
    assert (row.actor, row.reason) == ("olga", "bill")
    assert reconcile.check() == []


def test_an_estimate_is_confirmed_as_it_is_or_voided_on_its_own_page(
    operator: Client, estimates: list[SpendEntry]
) -> None:
    for row, act in zip(estimates, ("confirm", "void"), strict=True):
        assert act.encode() in operator.get(reverse("admin:governance_spendentry_change", args=[row.pk])).content
        path = reverse(f"admin:governance_spendentry_{act}_one", args=[row.pk])
        operator.post(path, {"reason": "bill", "_confirmed": "yes"})
    assert settled() == nanos("0.11")
    assert reconcile.check() == []


def test_a_reason_is_asked_for_and_a_second_word_refused(operator: Client, estimates: list[SpendEntry]) -> None:
    row = estimates[0]
    operator.post(LIST, chosen([row], "void_selected", reason=" ", _confirmed="yes"))
    assert settled() == nanos("0.21")
    for _ in range(2):
        said = operator.post(LIST, chosen([row], "void_selected", reason="bill", _confirmed="yes"), follow=True)
    assert "voided already" in said.content.decode()
    assert settled() == nanos("0.11")


@pytest.mark.parametrize("cost", ["-1", "x", "1e30", "0.00000000001"])
def test_a_cost_that_is_none_is_refused(operator: Client, estimates: list[SpendEntry], cost: str) -> None:
    page = operator.post(LIST, chosen(estimates, "confirm_selected", cost=cost, reason="bill", _confirmed="yes"))
    assert page.status_code == 200
    assert settled() == nanos("0.21")


def test_a_viewer_cannot(estimates: list[SpendEntry]) -> None:
    viewer = signed_in("vera", "viewer")
    viewer.post(LIST, chosen(estimates, "void_selected", reason="bill", _confirmed="yes"))
    for act in ("confirm", "void"):
        path = reverse(f"admin:governance_spendentry_{act}_one", args=[estimates[0].pk])
        viewer.post(path, {"reason": "bill", "_confirmed": "yes"})
    assert settled() == nanos("0.21")


def test_a_certain_line_is_corrected_and_voided(operator: Client, estimates: list[SpendEntry]) -> None:
    certain = SpendEntry.objects.get(certainty="confirmed")
    path = reverse("admin:governance_spendentry_correct_one", args=[certain.pk])
    missing = operator.post(path, {"reason": "bill", "_confirmed": "yes"})
    assert b"This field is required" in missing.content
    operator.post(path, {"cost": "0.02", "reason": "bill", "_confirmed": "yes"})
    assert settled() == nanos("0.22")
    said = operator.post(LIST, chosen([certain], "correct_selected", cost="0.03", reason="x", _confirmed="yes"))
    assert (said.status_code, settled()) == (302, nanos("0.23"))
    operator.post(
        reverse("admin:governance_spendentry_void_one", args=[certain.pk]), {"reason": "x", "_confirmed": "yes"}
    )
    assert settled() == nanos("0.20")
    assert reconcile.check() == []
