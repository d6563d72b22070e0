"""The audit trail in the console: what was done in words, what differs, and who, what and when it was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils.html import strip_tags

from governance import audit
from governance.audit import Actor
from governance.console import audit_words
from governance.models import AuditEntry
from tests import factories
from tests.governance.console.clients import signed_in

pytestmark = pytest.mark.django_db
LIST = reverse("admin:governance_auditentry_changelist")
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


@pytest.fixture
def viewer() -> Client:
    return signed_in("vera", "viewer")


def row(action: str, target: str, *, by: str = "olga", at: datetime = NOW, **more: Any) -> AuditEntry:
    return audit.record(action=action, target=target, by=Actor(by), now=at, **more)


def told(answer: Any) -> str:
    return " ".join(strip_tags(answer.content.decode()).split())


@pytest.mark.parametrize(
    ("action", "target", "old", "new", "words"),
    [
        (
            "budget.change",
            "acme per month",
            {"soft_cap": "0.8", "limit_nanos": 5_000_000_000},
            {"soft_cap": "0.6", "limit_nanos": 7_500_000_000},
            "changed budget acme per month: limit $5.00 → $7.50, soft cap 80% → 60%",
        ),
        ("budget.create", "acme per day", None, {"limit_nanos": 10**9}, "made budget acme per day: limit $1.00"),
        (
            "budget.top_up",
            "acme per day",
            None,
            {"amount_nanos": 10**9, "ends_at": None},
            "topped up budget acme per day by $1.00",
        ),
        ("agent.pause", "agent acme/support", {"status": "active"}, {"status": "paused"}, "paused agent acme/support"),
        ("key.issue", "key sg_abc", None, {"role": "agent"}, "issued key sg_abc of the role agent"),
        ("stop.start", "everything", None, {}, "stopped everything"),
        ("plan.apply_now", "current windows", None, {}, "applied plans to current windows"),
        (
            "model.status",
            "large",
            {"status": "served"},
            {"status": "retired"},
            "changed model large: status served → retired",
        ),
        (
            "user.grant",
            "user ada",
            {"roles": []},
            {"roles": ["viewer"]},
            "changed what may be done by user ada: roles none → viewer",
        ),
        ("thing.knock_over", "a vase", None, None, "knock over a vase"),
    ],
)
def test_an_act_is_a_sentence(action: str, target: str, old: Any, new: Any, words: str) -> None:
    assert strip_tags(audit_words.sentence(row(action, target, old=old, new=new))) == words


def test_a_raise_says_until_when() -> None:
    raised = row("budget.raise", "acme per day", new={"amount_nanos": 10**9, "ends_at": "2026-03-13T18:00:00+00:00"})
    assert strip_tags(audit_words.sentence(raised)) == "raised budget acme per day by $1.00 until Mar 13, 18:00 UTC"


def test_the_list_says_who_did_what_and_why_and_nothing_that_was_typed_is_markup(viewer: Client) -> None:
    row("budget.reset", "<b>acme</b> per day", reason="a <i>new</i> month")
    page = viewer.get(LIST).content.decode()
    assert "<b>acme" not in page
    assert "<i>new" not in page
    assert "olga reset budget &lt;b&gt;acme&lt;/b&gt; per day · a &lt;i&gt;new&lt;/i&gt; month" in told(
        viewer.get(LIST)
    )
    assert f'datetime="{NOW.isoformat()}"' in page


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("actor=ada", ["ada"]),
        ("about=key", ["bob"]),
        ("occurred_at_from=2026-03-10", ["bob", "olga"]),
        ("occurred_at_to=2026-03-09", ["ada"]),
        ("occurred_at_from=2026-03-09&occurred_at_to=2026-03-10", ["ada", "bob", "olga"]),
        ("occurred_at_from=soon&occurred_at_to=9999-12-31", ["ada", "bob", "olga"]),
        ("q=agent+acme", ["ada"]),
        ("q=a+loop", ["olga"]),
    ],
)
def test_it_is_filtered_by_person_object_and_day(viewer: Client, query: str, expected: list[str]) -> None:
    row("agent.pause", "agent acme/support", by="ada", at=datetime(2026, 3, 9, 23, 59, 59, tzinfo=UTC))
    row("key.revoke", "key sg_abc", by="bob", at=datetime(2026, 3, 10, tzinfo=UTC))
    row("stop.start", "everything", reason="a loop", at=NOW + timedelta(hours=3))
    found = viewer.get(f"{LIST}?{query}").context["cl"].result_list
    assert sorted(one.actor for one in found) == expected


def test_a_rows_page_has_what_differs_and_leads_to_what_it_is_about(viewer: Client) -> None:
    agent = factories.agent("support", of=factories.tenant("acme"))
    paused = row(
        "agent.pause",
        "agent acme/support",
        old={"status": "active", "kept": {"a": 1}},
        new={"status": "paused", "kept": {"a": 1}},
    )
    page = viewer.get(reverse("admin:governance_auditentry_change", args=[paused.pk]))
    assert "Before After status active paused".replace(" ", "") in told(page).replace(" ", "")
    assert "kept a 1" not in told(page)
    assert reverse("admin:governance_agent_change", args=[agent.pk]) in page.content.decode()
    gone = row("key.revoke", "key sg_gone")
    page = viewer.get(reverse("admin:governance_auditentry_change", args=[gone.pk]))
    assert "nothing that is kept" in told(page)
    assert "its page" not in told(page)


def test_a_tenants_staff_reads_no_trail() -> None:
    client = signed_in("tina", "tenant staff", of=factories.tenant("acme"))
    assert client.get(LIST).status_code == 403
