"""Sums over any number of rows: SQLite's own gives up at one that 64 bits do not hold."""

import re
from datetime import timedelta

import pytest
import uuid_utils.compat as uuids
from django.utils import timezone

from governance import ledger
from governance.ledger import sql
from governance.models import SpendEntry
from governance.rules import money
from tests import factories
from tests.environment import ROOT

PLAIN = re.compile(r"(?<![A-Za-z_.])Sum\(")
# What defines it, what adds up in parts by itself, and the bytes of kept answers, of which no disk holds 2^63.
OF_THEIR_OWN = {"governance/queries/sums.py", "governance/queries/judgement.py", "governance/idempotency.py"}


def test_nobody_adds_up_rows_by_a_sum_that_may_overflow() -> None:
    found = {
        str(path.relative_to(ROOT))
        for app in ("billing", "config", "governance", "llm")
        for path in (ROOT / app).rglob("*.py")
        if PLAIN.search(path.read_text(encoding="utf-8"))
    }
    assert found <= OF_THEIR_OWN


@pytest.mark.django_db
def test_what_is_reported_beside_every_budget_may_leave_64_bits() -> None:
    tenant_id = factories.tenant().pk
    now = timezone.now()
    ledger.record(factories.reporting("0.000000001"), now=now)
    [row] = SpendEntry.objects.all()
    fields = {field.attname: getattr(row, field.attname) for field in SpendEntry._meta.concrete_fields}
    beside = {"reason": sql.UNBUDGETED, "cost_nanos": money.MAX_AMOUNT_NANOS}
    SpendEntry.objects.bulk_create(
        SpendEntry(**fields | beside | {"id": uuids.uuid7(), "request_id": f"r-{number}"}) for number in range(930)
    )
    assert sql.unbudgeted(tenant_id, since=now - timedelta(hours=1)) == 930 * money.MAX_AMOUNT_NANOS
