"""A dry run decides as the real thing does, in a thousand random cases over everything that decides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import uuid_utils.compat as uuids
from django.db import connection, transaction
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from governance import ledger
from governance.ledger.operations import Reserve
from governance.models import (
    Agent,
    Allowance,
    ApiKey,
    Budget,
    BudgetWindow,
    EmergencyStop,
    RateBucket,
    RateLimit,
    Tenant,
)
from governance.rules.calls import Caller
from governance.rules.decision import Call, Decision, Quote
from tests import factories as make
from tests.factories import NOON

pytestmark = pytest.mark.django_db

DAY, HOUR, SECOND = timedelta(days=1), timedelta(hours=1), timedelta(seconds=1)
CALLS_EACH = 5
# (tenant's own?, scope type, key, window): those of one call overlap, and some are one window for everybody.
SCOPES = [
    (True, "agent", "invoices", "hour"),
    (True, "agent", "*", "day"),
    (True, "tenant", "acme", "month"),
    (True, "tenant", "acme", "lifetime"),
    (True, "user", "*", "lifetime"),
    (False, "tenant", "*", "week"),
    (False, "platform", "", "month"),
]
SUBJECTS = {
    (True, "agent", "invoices"): "invoices",
    (True, "agent", "*"): "invoices",
    (True, "tenant", "acme"): "acme",
    (True, "user", "*"): "ann",
    (False, "tenant", "*"): "acme",
    (False, "platform", ""): "",
}
MODELS = ("large", "small", "tiny")
TOOLS = ("code", "search", "mail")

shares = st.sampled_from([0, 0, 10, 40, 60, 79, 85, 99, 100, 120])
rules = st.fixed_dictionaries(
    {
        "from": st.lists(st.sampled_from(("*", *MODELS)), min_size=1, max_size=2),
        "to": st.sampled_from(MODELS),
        "at": st.none() | st.sampled_from(["0.0001", "0.5", "0.85", "1"]),
    }
)
policies = st.fixed_dictionaries(
    {
        "hard_cap": st.sampled_from([Decimal("1"), Decimal("0.9")]),
        "soft_cap": st.none() | st.sampled_from([Decimal("0.8"), Decimal("0.5"), Decimal("0.0001")]),
        "downgrade_rules": st.just([]) | st.lists(rules, min_size=1, max_size=3),
        "disabled_tools": st.just([]) | st.lists(st.sampled_from(TOOLS), min_size=1, max_size=2, unique=True),
        "clamp": st.sampled_from([True, True, True, False]),
        "clamp_min_tokens": st.sampled_from([1, 1, 20]),
        "enabled": st.sampled_from([True] * 9 + [False]),
    }
)
budgets = st.fixed_dictionaries(
    {
        "scope": st.sampled_from(SCOPES),
        "limit": st.sampled_from([300, 1000, 1000, 4000]),
        "policy": policies,
        # What is settled and held, in hundredths of the limit; None: no call has opened a window yet.
        "window": st.none() | st.tuples(shares, shares, st.sampled_from(["now", "now", "now", "over"])),
        # (amount, from, to) in seconds from the first call; None instead of an end: a top-up of the window.
        "allowances": st.lists(
            st.tuples(st.sampled_from([50, 500]), st.sampled_from([-60, 0, 5]), st.none() | st.sampled_from([6, 900])),
            max_size=2,
        ),
    }
)
limits = st.fixed_dictionaries(
    {
        "scope": st.sampled_from(SCOPES),
        "nanos": st.none() | st.sampled_from([200, 3000]),
        "requests": st.sampled_from([2, 60]),
        "tokens": st.none() | st.sampled_from([100, 3000]),
        # How full, in hundredths, and how long ago that was; None: no call has come yet.
        "bucket": st.none() | st.tuples(shares, st.integers(0, 60)),
        "enabled": st.sampled_from([True] * 5 + [False]),
    }
)
nobody = [None] * 12
troubles = st.sampled_from(
    [
        *nobody,
        "tenant paused",
        "tenant suspended",
        "agent paused",
        "key revoked",
        "key expired",
        "stop agent",
        "stop tenant",
        "stop all",
        "stop lifted",
    ]
)
quotes = st.fixed_dictionaries(
    {
        "fixed": st.integers(0, 200_000),
        "each": st.sampled_from([0, 500, 5000]),
        "most": st.integers(1, 300),
        "input": st.integers(0, 100),
        "capable": st.sampled_from([True, True, True, False]),
    }
)
calls = st.fixed_dictionaries(
    {
        "agent": st.sampled_from(["invoices", "invoices", "mailer"]),
        "user": st.sampled_from(["ann", ""]),
        "quotes": st.fixed_dictionaries(dict.fromkeys(MODELS, quotes)),
        "unpriced": st.sampled_from([(), (), (), (), (), ("small",), ("tiny",), ("large",)]),
        "tools": st.sampled_from([(), TOOLS, TOOLS, ("code",)]),
        "forced": st.sampled_from(["", "", "code"]),
        "downgrade": st.sampled_from([True, True, True, False]),
        "after": st.sampled_from([0, 0, 1, 7]),
    }
)


@contextmanager
def undone() -> Iterator[None]:
    """Each example is undone as a whole; the ledger's durable transactions may nest in it as in a test's."""
    block = transaction.atomic()
    block._from_testcase = True  # type: ignore[attr-defined]
    with block:
        yield
        transaction.set_rollback(True)


@contextmanager
def nothing_is_written_or_locked() -> Iterator[None]:
    def check(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        assert sql.lstrip().startswith(("SELECT", "WITH", "SAVEPOINT", "RELEASE SAVEPOINT")), sql
        assert "FOR UPDATE" not in sql, sql
        return execute(sql, params, many, context)

    with connection.execute_wrapper(check):
        yield


def make_budgets(owner: Tenant, drawn: list[dict[str, Any]]) -> None:
    for spec in drawn:
        own, scope_type, scope_key, kind = spec["scope"]
        budget = Budget.objects.create(
            tenant=owner if own else None,
            scope_type=scope_type,
            scope_key=scope_key,
            window=kind,
            limit_nanos=spec["limit"],
            **spec["policy"],
        )
        window = make_window(owner, budget, spec) if spec["window"] else None
        Allowance.objects.bulk_create(
            [
                Allowance(
                    budget=budget,
                    window=None if end else window,
                    amount_nanos=amount,
                    reason="more",
                    actor="ada",
                    created_at=NOON,
                    starts_at=NOON + start * SECOND,
                    ends_at=NOON + end * SECOND if end else None,
                )
                for amount, start, end in spec["allowances"]
                if end or window
            ]
        )


def make_window(owner: Tenant, budget: Budget, spec: dict[str, Any]) -> BudgetWindow:
    settled, reserved, when = spec["window"]
    starts_at = NOON - timedelta(minutes=10) - (40 * DAY if when == "over" else timedelta(0))
    lasting = budget.window == "lifetime"
    [window] = BudgetWindow.objects.bulk_create(
        [
            BudgetWindow(
                budget=budget,
                tenant=owner if budget.scope_type != "platform" else None,
                starts_at=starts_at,
                subject=SUBJECTS[budget.tenant_id is not None, budget.scope_type, budget.scope_key],
                ends_at=None if lasting else starts_at + timedelta(minutes=30),
                limit_nanos=spec["limit"],
                settled_nanos=spec["limit"] * settled // 100,
                reserved_nanos=spec["limit"] * reserved // 100,
                opened_at=starts_at,
                extra_until=NOON - SECOND,
            )
        ]
    )
    return window


def make_limits(owner: Tenant, drawn: list[dict[str, Any]]) -> None:
    for spec in drawn:
        own, scope_type, scope_key, _ = spec["scope"]
        limit = RateLimit.objects.create(
            tenant=owner if own else None,
            scope_type=scope_type,
            scope_key=scope_key,
            enabled=spec["enabled"],
            nanos_per_minute=spec["nanos"],
            requests_per_minute=spec["requests"],
            tokens_per_minute=spec["tokens"],
        )
        if spec["bucket"]:
            share, ago = spec["bucket"]
            RateBucket.objects.create(
                rate_limit=limit,
                subject=SUBJECTS[own, scope_type, scope_key],
                measured_at=NOON - ago * SECOND,
                level_nanos=(spec["nanos"] or 0) * share // 100,
                level_requests_e6=spec["requests"] * share * 10_000,
                level_tokens_e6=(spec["tokens"] or 0) * share * 10_000,
            )


def make_trouble(owner: Tenant, agent: Agent, key: ApiKey, trouble: str | None) -> None:
    kind, _, what = (trouble or "").partition(" ")
    if kind == "tenant":
        Tenant.objects.filter(pk=owner.pk).update(status=what)
    elif kind == "agent":
        Agent.objects.filter(pk=agent.pk).update(status=what)
    elif kind == "key":
        ApiKey.objects.filter(pk=key.pk).update(**{KEY_ENDS[what]: NOON})
    elif kind == "stop":
        lifted = {"lifted_at": NOON, "lifted_by": "ada"} if what == "lifted" else {}
        EmergencyStop.objects.create(
            tenant=owner if what != "all" else None,
            agent=agent if what == "agent" else None,
            reason="it runs wild",
            actor="ada",
            started_at=NOON,
            **lifted,
        )


KEY_ENDS = {"revoked": "revoked_at", "expired": "expires_at"}


def asked(drawn: dict[str, Any]) -> Call:
    def quote(model: str) -> Quote | None:
        if model in drawn["unpriced"] or model not in MODELS:
            return None
        spec = drawn["quotes"][model]
        cost_nanos = -(-(spec["fixed"] + spec["each"] * spec["most"]) // 1000)
        return Quote(
            model,
            cost_nanos,
            capable=spec["capable"],
            fixed_picos=spec["fixed"],
            max_tokens=spec["most"],
            picos_per_output_token=spec["each"],
            input_tokens=spec["input"],
        )

    return Call("large", quote, drawn["tools"], drawn["forced"] if drawn["tools"] else "", drawn["downgrade"])


def comparable(decision: Decision) -> Decision:
    """Without the ids of windows: one that is not there yet has none in a dry run."""

    def unnamed(view: Any) -> Any:
        return view and replace(view, window_id=0)

    return replace(
        decision,
        because=unnamed(decision.because),
        views=tuple(unnamed(view) for view in decision.views),
        downgrades=tuple(replace(step, view=unnamed(step.view)) for step in decision.downgrades),
    )


def scope(drawn: dict[str, Any]) -> Any:
    return drawn["scope"]


def limit_scope(drawn: dict[str, Any]) -> Any:
    return drawn["scope"][:3]


def dry_equals_real(seen: set[str], *, case: dict[str, Any], now: datetime) -> None:
    owner = make.tenant()
    agent, _ = make.agent("invoices"), make.agent("mailer")
    _, key = make.key(role="tenant")
    make_budgets(owner, case["budgets"])
    make_limits(owner, case["limits"])
    make_trouble(owner, agent, key, case["trouble"])
    for drawn in case["calls"]:
        now += drawn["after"] * SECOND
        caller = Caller(
            owner.pk, owner.slug, agent=drawn["agent"], key_id=key.pk, key_prefix=key.prefix, user=drawn["user"]
        )
        call = asked(drawn)
        with nothing_is_written_or_locked():
            dry = ledger.dry_run(caller, call, now=now)
        real = ledger.reserve(Reserve(uuids.uuid7(), caller, call), now=now)
        assert comparable(dry) == comparable(real)
        seen.add(f"{real.action} {real.reason} {'clamped' if real.clamped else ''}".strip())


cases = st.fixed_dictionaries(
    {
        "budgets": st.lists(budgets, max_size=4, unique_by=scope),
        "limits": st.lists(limits, max_size=2, unique_by=limit_scope),
        "trouble": troubles,
        "calls": st.lists(calls, min_size=CALLS_EACH, max_size=CALLS_EACH),
    }
)


def test_a_dry_run_decides_as_the_real_thing_does() -> None:
    seen: set[str] = set()

    @settings(
        max_examples=300 if connection.vendor == "sqlite" else 40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(cases)
    def run(case: dict[str, Any]) -> None:
        with undone():
            dry_equals_real(seen, case=case, now=NOON)

    run()
    # The cases are no idle ones: they reach every kind of decision.
    if connection.vendor == "sqlite":
        assert {answer.split(" ")[0] for answer in seen} == {
            "allow",
            "warn",
            "degrade",
            "disable-tools",
            "hard-stop",
            "in-flight",
        }
        assert any("clamped" in answer for answer in seen)
        assert len(seen) >= 12, seen
