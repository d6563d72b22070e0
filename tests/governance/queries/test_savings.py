"""What budgets saved and prevented, against sums made by hand at the shipped prices.

Dollars a million tokens, in, cached and out: mistral-large 0.50, 0.05, 1.50; mistral-small 0.15, 0.015, 0.60.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import uuid_utils.compat as uuids

from governance import ledger
from governance.models import RefusedCall, Tenant
from governance.queries import savings
from governance.queries.savings import Saved
from governance.queries.spend import EVERYTHING, Reader, TimeRange
from governance.rules.calls import Usage
from tests import factories

pytestmark = pytest.mark.django_db
BEGIN = datetime(2026, 4, 1, tzinfo=UTC)
NOW = BEGIN + timedelta(days=9, hours=12)
APRIL = TimeRange(BEGIN, NOW)
SMALL = Usage("mistral", "mistral-small-2603", 1_000, 200, 100)
# 800 x 150 + 200 x 15 + 100 x 600 nanodollars; at mistral-large 800 x 500 + 200 x 50 + 100 x 1,500.
SMALL_COSTS, LARGE_WOULD = 183_000, 560_000
MOVED = {"action": "degrade", "asked": "mistral-large-latest", "model": "mistral-small-latest", "scope": "tenant:acme"}


def charged(
    decision: dict[str, Any] | None, *, usage: Usage = SMALL, at: datetime = NOW, of: Tenant | None = None
) -> None:
    metadata = {} if decision is None else {"decision": decision}
    report = factories.reporting(by=factories.caller(of), occurred_at=at, metadata=metadata)
    ledger.record(replace(report, usage=usage, cost_nanos=SMALL_COSTS), now=at)


def refused(reason: str = "budget_exhausted", *, of: Tenant | None = None, **fields: Any) -> None:
    given = {"request_id": str(uuids.uuid7()), "status": 402, "sentence": "No.", "refused_at": NOW - timedelta(hours=1)}
    RefusedCall.objects.create(tenant=of or factories.tenant(), reason=reason, **(given | fields))


def april(reader: Reader = EVERYTHING) -> savings.Savings:
    return savings.of_period(reader=reader, period=APRIL, now=NOW)


def at(days: int) -> datetime:
    return NOW - timedelta(days=days)


def test_a_downgrade_saved_what_its_tokens_would_have_cost_at_the_model_that_was_asked_for() -> None:
    for days in (1, 1, 2):
        charged(MOVED, at=at(days))
    charged({"action": "allow", "asked": "mistral-large-latest", "model": "mistral-small-latest"}, at=at(1))
    charged(None, at=at(1))
    charged(MOVED, at=BEGIN - timedelta(seconds=1))
    assert april().downgrades == Saved(3 * (LARGE_WOULD - SMALL_COSTS), 3)


def test_what_has_no_price_to_compare_with_is_counted_alone() -> None:
    charged({**MOVED, "asked": "gone-with-the-wind"}, at=at(1))
    charged(MOVED, usage=replace(SMALL, input_tokens=0, cached_tokens=0, output_tokens=0), at=at(1))
    charged(MOVED, usage=Usage("mistral", "mistral-ocr", unit="page", units=3), at=at(1))
    assert april().downgrades == Saved(0, 0, 3)


def test_caches_saved_the_difference_of_two_prices_and_clamps_have_none() -> None:
    charged(None, at=at(1))
    charged({"action": "allow", "asked": "a", "model": "a", "max_tokens": 300}, at=at(2))
    charged({**MOVED, "max_tokens": 300}, at=at(2))
    found = april()
    assert (found.cached_nanos, found.cached_tokens) == (3 * 200 * (150 - 15), 600)
    assert found.clamped == 2


def test_caps_prevented_at_most_what_the_calls_would_have_reserved() -> None:
    refused(wanted_nanos=factories.nanos("0.50"), more=3)
    refused("downgrade_refused", wanted_nanos=factories.nanos("0.25"))
    refused()
    refused("budget_in_flight", wanted_nanos=factories.nanos("9"))
    refused("emergency_stop")
    refused(wanted_nanos=factories.nanos("9"), refused_at=BEGIN - timedelta(seconds=1))
    found = april()
    assert (found.prevented_nanos, found.prevented, found.uncounted) == (factories.nanos("0.75"), 6, 4)


def test_only_the_latest_charges_are_looked_through_and_it_is_said_since_when() -> None:
    for days in (1, 2, 3):
        charged(MOVED, at=at(days))
    assert april().since is None
    charges, since = savings.noted(reader=EVERYTHING, period=APRIL, looked=2)
    assert ([charge.at for charge in charges], since) == ([at(1), at(2)], at(2))


def test_a_tenant_s_savings_are_its_own() -> None:
    globex = factories.tenant("globex")
    charged(MOVED, at=at(1), of=globex)
    refused(of=globex, wanted_nanos=5)
    found = april(Reader(tenant=factories.tenant()))
    assert (found.downgrades, found.cached_tokens, found.prevented) == (Saved(), 0, 0)
    assert april(Reader(tenant=globex)).downgrades.calls == 1
