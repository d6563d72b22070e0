"""Acts on budgets: what is refused and why, what takes hold at once, what is kept of it."""

from datetime import timedelta
from decimal import Decimal

import pytest

from governance import ledger
from governance.actions import budgets
from governance.audit import Actor
from governance.models import AuditEntry, Budget, BudgetWindow
from governance.rules import money
from governance.rules.errors import Conflict, FieldError
from tests import factories as make
from tests.factories import NOON, nanos

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_holds")]
ADA = Actor("ada")


def create(**fields):
    given = {"scope_type": "tenant", "window": "day", "limit_nanos": nanos("1"), "by": ADA, "now": NOON}
    if fields.get("scope_type", "tenant") != "platform":
        given["tenant"] = make.tenant()
    return budgets.create(**given | fields)


def change(budget, **changes):
    return budgets.change(budget=budget, changes=changes, by=ADA, now=NOON)


def test_a_budget_is_made_with_its_policy_and_an_audit_row():
    budget = create(soft_cap="0.5", disabled_tools=["code", "code"], alert_thresholds=[1, 0.5, "0.50"])
    budget.refresh_from_db()
    assert (budget.scope_key, budget.soft_cap, budget.hard_cap) == ("acme", Decimal("0.5"), 1)
    assert (budget.disabled_tools, budget.alert_thresholds) == (["code"], ["0.5", "1"])
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.actor, entry.target) == ("budget.create", "ada", "acme per day")
    assert entry.new["limit_nanos"] == nanos("1")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"limit_nanos": 0}, "limit"),
        ({"limit_nanos": -1}, "limit"),
        ({"limit_nanos": money.MAX_NANOS + 1}, "limit"),
        ({"window": "fortnight"}, "window"),
        ({"hard_cap": 0}, "hard_cap"),
        ({"hard_cap": "1.0001"}, "hard_cap"),
        ({"hard_cap": "much"}, "hard_cap"),
        ({"hard_cap": "NaN"}, "hard_cap"),
        ({"soft_cap": 1}, "soft_cap"),
        ({"soft_cap": "0.8", "hard_cap": "0.8"}, "soft_cap"),
        ({"soft_cap": "0.80001"}, "soft_cap"),
        ({"warn_at": "0.8"}, "warn_at"),
        ({"soft_cap": None, "warn_at": "0.1"}, "warn_at"),
        ({"alert_thresholds": "0.5"}, "alert_thresholds"),
        ({"alert_thresholds": [0]}, "alert_thresholds"),
        ({"alert_thresholds": [None]}, "alert_thresholds"),
        ({"downgrade_rules": {"from": "*", "to": "small"}}, "downgrade_rules"),
        ({"downgrade_rules": [{"from": "*"}]}, "downgrade_rules"),
        ({"downgrade_rules": [{"from": [], "to": "small"}]}, "downgrade_rules"),
        ({"downgrade_rules": [{"from": [1], "to": "small"}]}, "downgrade_rules"),
        ({"downgrade_rules": [{"from": "*", "to": ""}]}, "downgrade_rules"),
        ({"disabled_tools": "code"}, "disabled_tools"),
        ({"disabled_tools": [""]}, "disabled_tools"),
        ({"colour": "blue"}, "colour"),
        ({"scope_type": "galaxy"}, "scope_type"),
        ({"scope_type": "agent"}, "scope_key"),
        ({"scope_type": "agent", "scope_key": "invoices", "tenant": None}, "tenant"),
        ({"scope_type": "platform", "tenant": None, "scope_key": "x"}, "scope_key"),
        ({"scope_key": "other"}, "scope_key"),
        ({"tenant": None}, "tenant"),
        ({"tenant": None, "scope_key": "nobody"}, "scope_key"),
    ],
)
def test_what_no_budget_can_be_is_refused_by_the_name_of_its_field(fields, named):
    with pytest.raises(FieldError) as raised:
        create(**fields)
    assert raised.value.field == named
    assert raised.value.message
    assert not Budget.objects.exists()
    assert not AuditEntry.objects.exists()


def test_a_tenant_may_be_named_by_its_slug():
    make.tenant()
    assert create(tenant=None, scope_key="acme").tenant.slug == "acme"


def test_a_second_budget_of_the_same_scope_and_window_is_a_conflict_that_names_the_first():
    first = create()
    with pytest.raises(Conflict) as raised:
        create(limit_nanos=nanos("2"))
    assert raised.value.existing == first
    assert create(window="month").pk != first.pk


def test_a_new_limit_takes_hold_of_the_open_window_at_once():
    budget = create()
    ledger.record(make.reporting("0.90"), now=NOON)
    assert not ledger.reserve(make.reserving("0.20"), now=NOON).allowed
    changed = change(budget, limit_nanos=nanos("2"))
    assert changed.limit_nanos == nanos("2")
    assert ledger.reserve(make.reserving("0.20"), now=NOON).allowed
    entry = AuditEntry.objects.first()
    assert (entry.old["limit_nanos"], entry.new["limit_nanos"]) == (nanos("1"), nanos("2"))


def test_a_lowered_limit_stops_at_once_and_is_remembered():
    budget = create()
    ledger.record(make.reporting("0.60"), now=NOON)
    change(budget, limit_nanos=nanos("0.50"))
    window = BudgetWindow.objects.get()
    assert (window.state, window.limit_lowered) == ("stopped", True)


def test_a_lowered_cap_changes_the_state_of_the_open_window():
    budget = create(soft_cap=None)
    ledger.record(make.reporting("0.60"), now=NOON)
    change(budget, hard_cap="0.5")
    assert BudgetWindow.objects.get().state == "stopped"
    assert not ledger.reserve(make.reserving("0.01"), now=NOON).allowed


def test_changing_nothing_leaves_no_audit_row():
    budget = create()
    change(budget, limit_nanos=nanos("1"), soft_cap="0.8000")
    assert AuditEntry.objects.count() == 1


def test_scope_and_window_stay():
    budget = create()
    for name, value in {"window": "month", "scope_type": "agent", "scope_key": "x"}.items():
        with pytest.raises(FieldError) as raised:
            change(budget, **{name: value})
        assert raised.value.field == name
    assert change(budget, window="day") == budget


def test_a_refused_change_changes_nothing():
    budget = create()
    with pytest.raises(FieldError):
        change(budget, limit_nanos=nanos("5"), soft_cap="2")
    budget.refresh_from_db()
    assert budget.limit_nanos == nanos("1")


def test_a_budget_with_history_is_disabled_not_deleted():
    unused, used = create(window="month"), create()
    assert budgets.delete(budget=unused, by=ADA, now=NOON)
    ledger.record(make.reporting("1.00"), now=NOON)
    assert not budgets.delete(budget=used, by=ADA, now=NOON)
    assert ledger.reserve(make.reserving("0.20"), now=NOON).allowed
    assert [entry.action for entry in AuditEntry.objects.all()[:2]] == ["budget.disable", "budget.delete"]


def test_a_reset_needs_a_reason_and_leaves_it_in_the_audit():
    budget = create()
    ledger.record(make.reporting("1.00"), now=NOON)
    with pytest.raises(FieldError) as raised:
        budgets.reset(budget=budget, reason="  ", by=ADA, now=NOON)
    assert raised.value.field == "reason"
    budgets.reset(budget=budget, reason="a demo", by=ADA, now=NOON + timedelta(minutes=1))
    assert ledger.reserve(make.reserving("0.20"), now=NOON + timedelta(minutes=1)).allowed
    assert AuditEntry.objects.first().reason == "a demo"


def test_a_reset_of_one_subject_leaves_the_others():
    budget = create(scope_type="user", scope_key="*", tenant=make.tenant())
    for user in ("ann", "bob"):
        ledger.record(make.reporting("1.00", by=make.caller(user=user)), now=NOON)
    budgets.reset(budget=budget, reason="for ann", by=ADA, now=NOON + timedelta(minutes=1), subject="ann")
    later = NOON + timedelta(minutes=2)
    assert ledger.reserve(make.reserving("0.20", by=make.caller(user="ann")), now=later).allowed
    assert not ledger.reserve(make.reserving("0.20", by=make.caller(user="bob")), now=later).allowed


def test_the_default_budget_follows_the_setting(settings):
    settings.DEFAULT_DAILY_BUDGET = Decimal("3")
    made = budgets.sync_default(now=NOON)
    assert (made.limit_nanos, made.source, made.scope_key) == (nanos("3"), "default", "*")
    assert budgets.sync_default(now=NOON) == made
    assert AuditEntry.objects.count() == 1
    settings.DEFAULT_DAILY_BUDGET = Decimal("4")
    assert budgets.sync_default(now=NOON).limit_nanos == nanos("4")
    settings.DEFAULT_DAILY_BUDGET = None
    assert not budgets.sync_default(now=NOON).enabled
    settings.DEFAULT_DAILY_BUDGET = Decimal("4")
    assert budgets.sync_default(now=NOON).enabled


def test_no_default_budget_is_made_where_none_is_set(settings):
    settings.DEFAULT_DAILY_BUDGET = None
    assert budgets.sync_default(now=NOON) is None
    assert not Budget.objects.exists()


def test_an_operators_own_budget_for_each_tenant_stays(settings):
    settings.DEFAULT_DAILY_BUDGET = Decimal("3")
    own = create(tenant=None, scope_key="*", limit_nanos=nanos("7"))
    assert budgets.sync_default(now=NOON) == own
    own.refresh_from_db()
    assert own.limit_nanos == nanos("7")


def test_the_default_governs_only_tenants_without_a_budget_of_their_own(settings):
    settings.DEFAULT_DAILY_BUDGET = Decimal("0.10")
    budgets.sync_default(now=NOON)
    create(limit_nanos=nanos("1"))
    assert ledger.reserve(make.reserving("0.50"), now=NOON).allowed
    assert not ledger.reserve(make.reserving("0.50", by=make.caller(make.tenant("zeta"))), now=NOON).allowed
