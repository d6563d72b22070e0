"""One open alert for each thing that is wrong, however many see it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from governance import alerts
from governance.audit import Actor
from governance.models import Alert, AuditEntry
from governance.queries import metrics
from tests import factories
from tests.concurrency.processes import in_threads
from tests.factories import NOON

OLGA = Actor("olga")
LATER = NOON + timedelta(minutes=5)


def report(subject: str = "mistral", message: str = "no key", **fields: Any) -> Alert:
    return alerts.report(**{"kind": "upstream_auth", "subject": subject, "message": message, "now": NOON, **fields})


@pytest.mark.django_db
def test_a_repeat_counts_up_and_renews_its_message() -> None:
    first = report()
    again = report(message="still no key", severity="critical", now=LATER)
    assert (again.pk, again.count, again.message, again.severity) == (first.pk, 2, "still no key", "critical")
    assert (again.first_at, again.last_at) == (NOON, LATER)
    assert report(now=NOON).last_at == LATER


@pytest.mark.django_db
def test_other_subjects_and_kinds_are_alerts_of_their_own_and_the_gravest_comes_first() -> None:
    report("a", severity="info")
    report("b", severity="critical")
    report("c")
    report("c", kind="price_missing", now=LATER)
    found = [(alert.subject, alert.kind) for alert in alerts.open_ones()]
    assert found == [("b", "upstream_auth"), ("c", "price_missing"), ("c", "upstream_auth"), ("a", "upstream_auth")]


@pytest.mark.django_db
def test_what_is_over_is_cleared_once_and_opens_anew() -> None:
    first = report()
    assert alerts.clear(kind="upstream_auth", subject="mistral", now=LATER)
    assert not alerts.clear(kind="upstream_auth", subject="mistral", now=LATER)
    assert not alerts.clear(kind="upstream_auth", subject="another", now=LATER)
    assert report().pk != first.pk
    assert not AuditEntry.objects.exists()


@pytest.mark.django_db
def test_an_acknowledgement_is_audited_once() -> None:
    made = report()
    alerts.acknowledge(alert=made, by=OLGA, now=LATER, reason="renewed the key")
    assert (made.cleared_at, made.cleared_by) == (LATER, "olga")
    with pytest.raises(alerts.AlertCleared):
        alerts.acknowledge(alert=made, by=Actor("max"), now=LATER)
    row = AuditEntry.objects.get()
    assert (row.action, row.target, row.actor) == ("alert.acknowledge", "upstream_auth mistral", "olga")
    assert (row.reason, row.old) == ("renewed the key", {"message": "no key", "severity": "warning", "count": 1})


@pytest.mark.django_db
def test_words_from_outside_fit_whatever_they_are() -> None:
    made = report("x" * 300 + "\x00", "a\x00b" * 1000)
    assert made.pk == report("x" * 300, "short").pk
    made.refresh_from_db()
    assert (len(made.subject), made.message) == (255, "short")
    alerts.clear_others(kind=made.kind, found=["x" * 300], now=NOON)
    made.refresh_from_db()
    assert made.cleared_at is None


@pytest.mark.django_db
def test_an_unknown_severity_is_refused() -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        report(severity="dreadful")


@pytest.mark.django_db(transaction=True)
def test_50_reporters_at_once_make_one_row_that_counts_them_all() -> None:
    in_threads(50, lambda index: report(message=f"seen by {index}").pk)
    assert Alert.objects.get().count == 50


@pytest.mark.django_db
def test_open_alerts_are_counted_by_kind_for_prometheus() -> None:
    report("a")
    report("b")
    report("c", kind="price_missing")
    alerts.clear(kind="upstream_auth", subject="b", now=LATER)
    family = next(found for found in metrics.collect(timezone.now()) if found.name.endswith("alerts_open"))
    assert {sample.labels["kind"]: sample.value for sample in family.samples} == {
        "upstream_auth": 1,
        "price_missing": 1,
    }


@pytest.mark.django_db
def test_the_overview_shows_what_is_open_and_an_operator_acknowledges_it() -> None:
    made = report(message="the <b>key</b> is refused")
    operator, viewer = Client(), Client()
    operator.force_login(User.objects.create_user("olga", is_staff=True, is_superuser=True))
    viewer.force_login(factories.person("vera", "viewer"))
    page = reverse("admin:governance_alert_acknowledge_one", args=[made.pk])
    html = operator.get("/admin/").content.decode()
    assert page in html
    assert "the &lt;b&gt;key&lt;/b&gt; is refused" in html
    seen = viewer.get("/admin/").content.decode()
    assert "is refused" in seen
    assert page not in seen
    confirmed = {"_confirmed": "yes", "reason": "renewed"}
    assert viewer.post(page, confirmed).status_code == 403
    assert operator.post(page, confirmed).status_code == 302
    assert "is refused" not in operator.get("/admin/").content.decode()
    listed = operator.get("/admin/governance/alert/").content.decode()
    assert "seen to by olga" in listed
    assert operator.get(f"/admin/governance/alert/{made.pk}/change/").status_code == 200
