"""Reports that need review, in the console."""

from __future__ import annotations

import re

import pytest
from django.test import Client
from django.urls import reverse

from governance.actions import reviews
from governance.models import AuditEntry, BudgetWindow, PendingReport
from tests import factories
from tests.factories import NOON, nanos
from tests.governance.console.clients import signed_in

pytestmark = pytest.mark.usefixtures("ledger_holds")

LIST = "/admin/governance/pendingreport/"


@pytest.fixture
def operator(db: None) -> Client:
    return signed_in("olga", is_superuser=True)


@pytest.fixture
def kept(db: None) -> list[PendingReport]:
    """One beyond acme's budget, and one of a tenant that has none."""
    factories.budget("1")
    found = []
    for caller in (factories.caller(agent="invoices", user="u1"), factories.caller(factories.tenant("globex"))):
        trust = reviews.trust_in(tenant_id=caller.tenant_id, agent_is_fixed=False)
        row = reviews.report(report=factories.reporting("50", by=caller, trust=trust), now=NOON)
        assert isinstance(row, PendingReport)
        found.append(row)
    return found


def settled() -> int:
    return sum(BudgetWindow.objects.values_list("settled_nanos", flat=True))


def test_they_are_listed_with_what_they_were_more_than(operator: Client, kept: list[PendingReport]) -> None:
    page = operator.get(LIST).content.decode()
    assert "acme / invoices" in page
    assert "tenant:acme per day" in page
    assert "no budget of its own" in page
    one = operator.get(reverse("admin:governance_pendingreport_change", args=[kept[0].pk])).content.decode()
    assert "large" in one
    assert "$50.00" in one


def test_some_are_accepted_together_with_a_reason(operator: Client, kept: list[PendingReport]) -> None:
    chosen = {"action": "accept_selected", "_selected_action": [str(row.pk) for row in kept]}
    assert b'name="reason"' in operator.post(LIST, chosen).content
    assert settled() == 0
    said = operator.post(LIST, chosen | {"reason": "bill", "_confirmed": "yes"}, follow=True)
    assert "Accept: 2 of them." in said.content.decode()
    assert settled() == nanos("50")
    assert AuditEntry.objects.filter(action="report.accept", actor="olga", reason="bill").count() == 2


def test_some_are_rejected_together(operator: Client, kept: list[PendingReport]) -> None:
    chosen = {"action": "reject_selected", "_selected_action": [str(row.pk) for row in kept]}
    operator.post(LIST, chosen | {"reason": "slip", "_confirmed": "yes"})
    assert (settled(), reviews.waiting_sums()) == (0, (0, 0))


@pytest.mark.parametrize(("act", "status"), [("accept", "accepted"), ("reject", "rejected")])
def test_one_is_decided_on_its_own_page_and_once(
    operator: Client, kept: list[PendingReport], act: str, status: str
) -> None:
    path = reverse(f"admin:governance_pendingreport_{act}_one", args=[kept[0].pk])
    operator.post(path, {"reason": "bill", "_confirmed": "yes"})
    kept[0].refresh_from_db()
    assert kept[0].status == status
    again = operator.post(path, {"reason": "bill", "_confirmed": "yes"}, follow=True)
    assert f"it is {status} already" in again.content.decode()


def test_who_only_reads_decides_nothing(kept: list[PendingReport]) -> None:
    viewer = signed_in("vic", "viewer")
    assert viewer.get(LIST).status_code == 200
    path = reverse("admin:governance_pendingreport_accept_one", args=[kept[0].pk])
    assert viewer.post(path, {"reason": "bill", "_confirmed": "yes"}).status_code == 403
    assert settled() == 0


def test_the_overview_says_what_waits(operator: Client, kept: list[PendingReport]) -> None:
    page = operator.get("/admin/").content.decode()
    assert re.search(r"2 reports of \$\S+ wait for your word", page)
    assert "at an estimate" not in page
    assert "report needs review" in page


def test_the_overview_counts_estimates_only_so_far(
    operator: Client, kept: list[PendingReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    from config.console import overview
    from governance import ledger

    for _ in range(2):
        ledger.record(factories.reporting("0.01", certainty="estimated"), now=NOON)
    assert "2 charges at an estimate may be" in operator.get("/admin/").content.decode()
    monkeypatch.setattr(overview, "MOST_COUNTED", 1)
    assert "1 or more charges at an estimate may be" in operator.get("/admin/").content.decode()
