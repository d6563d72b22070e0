"""Every figure of the ledger gets a bound far below 2^63; a ledger that is beyond is brought back to it, audited.

Sums had none: two reports of nine billion dollars made REALs of SQLite's columns, which nothing could read any more.
"""

from datetime import timedelta

import django.db.models.functions.comparison
from django.db import migrations, models
from django.db.models import Q
from django.db.models.functions import Cast
from django.utils import timezone

AMOUNT = 10_000_000 * 10**9
LIMIT = 1_000_000_000 * 10**9
SUM = 4_000_000_000 * 10**9
UNITS = 10**12
SUMS = ("calls", "input_tokens", "cached_tokens", "output_tokens", "cost_nanos")

# By model: each figure that is not a sum of others, from and to.
FIGURES = {
    "Budget": {"limit_nanos": (1, LIMIT)},
    "Allowance": {"amount_nanos": (1, LIMIT)},
    "RateLimit": {
        "nanos_per_minute": (1, LIMIT),
        "requests_per_minute": (1, UNITS),
        "tokens_per_minute": (1, UNITS),
    },
    "RateBucket": {"level_nanos": (0, SUM), "level_requests_e6": (0, SUM), "level_tokens_e6": (0, SUM)},
    "Reservation": {"amount_nanos": (0, AMOUNT), "tokens": (0, UNITS)},
    "SpendEntry": {
        "cost_nanos": (-AMOUNT, AMOUNT),
        "overage_nanos": (0, AMOUNT),
        "input_tokens": (0, UNITS),
        "cached_tokens": (0, UNITS),
        "output_tokens": (0, UNITS),
        "units": (0, UNITS),
    },
    "PurgedSpend": {name: (-SUM, SUM) for name in SUMS},
    "SpendRollup": {name: (-SUM, SUM) for name in SUMS},
    "BudgetWindow": {
        "settled_nanos": (0, SUM),
        "reserved_nanos": (0, SUM),
        "limit_nanos": (1, SUM),
        "extra_nanos": (0, LIMIT),
        "purged_nanos": (-SUM, SUM),
        "purged_unheld_nanos": (-SUM, SUM),
    },
    "BudgetEvent": {"settled_nanos": (0, SUM), "limit_nanos": (0, SUM)},
}

POSTGRES_TRIGGER = """
CREATE TRIGGER governance_entry_append_only BEFORE UPDATE ON governance_spendentry
    FOR EACH ROW EXECUTE FUNCTION governance_refuse_entry_update();
"""
SQLITE_TRIGGER = """
CREATE TRIGGER governance_entry_append_only BEFORE UPDATE ON governance_spendentry
BEGIN
    SELECT RAISE(ABORT, 'spend entries are append-only; post an adjustment instead');
END;
"""


def bring_back(apps, schema_editor):
    """Clamp what is beyond its bound, and count anew the sums that it is part of."""
    _let_go_of_entries(schema_editor)
    found = {name: _clamp(apps, name, figures) for name, figures in FIGURES.items()}
    # Not the sums alone that were beyond: also those of an entry that was.
    entries = found["SpendEntry"]
    windows = found["BudgetWindow"].union(*(row.windows for row in entries | found["Reservation"]))
    _count_windows(apps, {getattr(row, "pk", row) for row in windows})
    kinds = {(row.tenant_id, _hour(row.occurred_at), row.agent, row.provider, row.model_served) for row in entries}
    kinds |= {(row.tenant_id, row.hour, row.agent, row.provider, row.model) for row in found["SpendRollup"]}
    for kind in kinds:
        _count_rollup(apps, *kind)
    if schema_editor.connection.vendor == "postgresql":
        # Now rather than at the end: a table with checks to come takes no constraint.
        schema_editor.execute("SET CONSTRAINTS ALL IMMEDIATE")


def guard_entries(apps, schema_editor):
    """Entries are append-only again. SQLite lost the trigger with the table that the constraint is not on."""
    _let_go_of_entries(schema_editor)
    schema_editor.execute(POSTGRES_TRIGGER if schema_editor.connection.vendor == "postgresql" else SQLITE_TRIGGER)


def _let_go_of_entries(schema_editor):
    on = " ON governance_spendentry" if schema_editor.connection.vendor == "postgresql" else ""
    schema_editor.execute(f"DROP TRIGGER IF EXISTS governance_entry_append_only{on}")


def _clamp(apps, name, figures):
    """The rows of a model that had a figure beyond its bound, as they were found."""
    model = apps.get_model("governance", name)
    within = Q()
    for figure, (least, most) in figures.items():
        whole = Q(**{f"{figure}__gte": least, f"{figure}__lte": most, figure: Cast(figure, models.BigIntegerField())})
        within &= whole | Q(**{f"{figure}__isnull": True})
    rows = set(model.objects.exclude(within).order_by("pk").iterator())
    for row in rows:
        given = {figure: getattr(row, figure) for figure in figures}
        kept = {
            figure: max(figures[figure][0], min(figures[figure][1], int(value)))
            for figure, value in given.items()
            if value is not None
        }
        _set(apps, row, {figure: value for figure, value in kept.items() if value != given[figure]})
    return rows


def _count_windows(apps, ids):
    if not ids:
        return
    settled, reserved = dict.fromkeys(ids, 0), dict.fromkeys(ids, 0)
    entries = apps.get_model("governance", "SpendEntry").objects.values_list("windows", "cost_nanos")
    pending = apps.get_model("governance", "Reservation").objects.filter(status="pending")
    for sums, rows in ((settled, entries), (reserved, pending.values_list("windows", "amount_nanos"))):
        for windows, nanos in rows.iterator():
            for id in ids.intersection(windows):
                sums[id] += nanos
    for row in apps.get_model("governance", "BudgetWindow").objects.filter(pk__in=ids).order_by("pk"):
        _set(
            apps,
            row,
            {
                "settled_nanos": max(0, min(SUM, settled[row.pk] + row.purged_nanos)),
                "reserved_nanos": max(0, min(SUM, reserved[row.pk])),
            },
        )


def _count_rollup(apps, tenant_id, hour, agent, provider, model):
    kind = {"tenant_id": tenant_id, "agent": agent, "provider": provider}
    sums = dict.fromkeys(SUMS, 0)
    entries = apps.get_model("governance", "SpendEntry").objects.filter(
        **kind, model_served=model, occurred_at__gte=hour, occurred_at__lt=hour + timedelta(hours=1)
    )
    for row in entries.iterator():
        sums["calls"] += row.kind == "charge"
        for name in SUMS[1:]:
            sums[name] += getattr(row, name)
    for row in apps.get_model("governance", "PurgedSpend").objects.filter(**kind, model=model, hour=hour):
        for name in SUMS:
            sums[name] += getattr(row, name)
    for row in apps.get_model("governance", "SpendRollup").objects.filter(**kind, model=model, hour=hour):
        _set(apps, row, {name: max(-SUM, min(SUM, value)) for name, value in sums.items()})


def _set(apps, row, figures):
    """Set figures of a row, and keep what they were."""
    old = {name: getattr(row, name) for name in figures}
    changed = {name: value for name, value in figures.items() if value != old[name]}
    if not changed:
        return
    type(row).objects.filter(pk=row.pk).update(**changed)
    apps.get_model("governance", "AuditEntry").objects.create(
        occurred_at=timezone.now(),
        actor="migration",
        action="ledger.repair",
        target=f"{row._meta.verbose_name} {row.pk}",
        reason="a figure was beyond what a ledger keeps",
        old={name: int(old[name]) for name in changed},
        new=changed,
    )


def _hour(at):
    return at.replace(minute=0, second=0, microsecond=0)


class Migration(migrations.Migration):
    dependencies = [("governance", "0009_default_thresholds")]

    operations = [
        migrations.RunPython(bring_back, guard_entries, elidable=False),
        migrations.AddConstraint(
            model_name='allowance',
            constraint=models.CheckConstraint(condition=models.Q(('amount_nanos__gte', 0), ('amount_nanos__lte', 1000000000000000000), ('amount_nanos', django.db.models.functions.comparison.Cast('amount_nanos', models.BigIntegerField()))), name='allowance_within_bounds'),
        ),
        migrations.AddConstraint(
            model_name='budget',
            constraint=models.CheckConstraint(condition=models.Q(('limit_nanos__gte', 0), ('limit_nanos__lte', 1000000000000000000), ('limit_nanos', django.db.models.functions.comparison.Cast('limit_nanos', models.BigIntegerField()))), name='budget_within_bounds'),
        ),
        migrations.AddConstraint(
            model_name='budgetevent',
            constraint=models.CheckConstraint(condition=models.Q(('settled_nanos__gte', 0), ('settled_nanos__lte', 4000000000000000000), ('settled_nanos', django.db.models.functions.comparison.Cast('settled_nanos', models.BigIntegerField())), ('limit_nanos__gte', 0), ('limit_nanos__lte', 4000000000000000000), ('limit_nanos', django.db.models.functions.comparison.Cast('limit_nanos', models.BigIntegerField()))), name='event_within_bounds'),
        ),
        migrations.AddConstraint(
            model_name='budgetwindow',
            constraint=models.CheckConstraint(condition=models.Q(('settled_nanos__gte', 0), ('settled_nanos__lte', 4000000000000000000), ('settled_nanos', django.db.models.functions.comparison.Cast('settled_nanos', models.BigIntegerField())), ('reserved_nanos__gte', 0), ('reserved_nanos__lte', 4000000000000000000), ('reserved_nanos', django.db.models.functions.comparison.Cast('reserved_nanos', models.BigIntegerField())), ('limit_nanos__gte', 0), ('limit_nanos__lte', 4000000000000000000), ('limit_nanos', django.db.models.functions.comparison.Cast('limit_nanos', models.BigIntegerField())), ('extra_nanos__gte', 0), ('extra_nanos__lte', 4000000000000000000), ('extra_nanos', django.db.models.functions.comparison.Cast('extra_nanos', models.BigIntegerField())), ('purged_nanos__gte', -4000000000000000000), ('purged_nanos__lte', 4000000000000000000), ('purged_nanos', django.db.models.functions.comparison.Cast('purged_nanos', models.BigIntegerField())), ('purged_unheld_nanos__gte', -4000000000000000000), ('purged_unheld_nanos__lte', 4000000000000000000), ('purged_unheld_nanos', django.db.models.functions.comparison.Cast('purged_unheld_nanos', models.BigIntegerField()))), name='window_within_bounds'),
        ),
        migrations.AddConstraint(
            model_name='purgedspend',
            constraint=models.CheckConstraint(condition=models.Q(('calls__gte', -4000000000000000000), ('calls__lte', 4000000000000000000), ('calls', django.db.models.functions.comparison.Cast('calls', models.BigIntegerField())), ('input_tokens__gte', -4000000000000000000), ('input_tokens__lte', 4000000000000000000), ('input_tokens', django.db.models.functions.comparison.Cast('input_tokens', models.BigIntegerField())), ('cached_tokens__gte', -4000000000000000000), ('cached_tokens__lte', 4000000000000000000), ('cached_tokens', django.db.models.functions.comparison.Cast('cached_tokens', models.BigIntegerField())), ('output_tokens__gte', -4000000000000000000), ('output_tokens__lte', 4000000000000000000), ('output_tokens', django.db.models.functions.comparison.Cast('output_tokens', models.BigIntegerField())), ('cost_nanos__gte', -4000000000000000000), ('cost_nanos__lte', 4000000000000000000), ('cost_nanos', django.db.models.functions.comparison.Cast('cost_nanos', models.BigIntegerField()))), name='purged_within_bounds'),
        ),
        migrations.AddConstraint(
            model_name='ratebucket',
            constraint=models.CheckConstraint(condition=models.Q(('level_nanos__gte', 0), ('level_nanos__lte', 4000000000000000000), ('level_nanos', django.db.models.functions.comparison.Cast('level_nanos', models.BigIntegerField())), ('level_requests_e6__gte', 0), ('level_requests_e6__lte', 4000000000000000000), ('level_requests_e6', django.db.models.functions.comparison.Cast('level_requests_e6', models.BigIntegerField())), ('level_tokens_e6__gte', 0), ('level_tokens_e6__lte', 4000000000000000000), ('level_tokens_e6', django.db.models.functions.comparison.Cast('level_tokens_e6', models.BigIntegerField()))), name='rate_meter_within_bounds'),
        ),
        migrations.AddConstraint(
            model_name='ratelimit',
            constraint=models.CheckConstraint(condition=models.Q(('nanos_per_minute__gte', 0), ('nanos_per_minute__lte', 1000000000000000000), ('nanos_per_minute', django.db.models.functions.comparison.Cast('nanos_per_minute', models.BigIntegerField())), ('requests_per_minute__gte', 0), ('requests_per_minute__lte', 1000000000000), ('requests_per_minute', django.db.models.functions.comparison.Cast('requests_per_minute', models.BigIntegerField())), ('tokens_per_minute__gte', 0), ('tokens_per_minute__lte', 1000000000000), ('tokens_per_minute', django.db.models.functions.comparison.Cast('tokens_per_minute', models.BigIntegerField()))), name='rate_limit_within_bounds'),
        ),
        migrations.AddConstraint(
            model_name='reservation',
            constraint=models.CheckConstraint(condition=models.Q(('amount_nanos__gte', 0), ('amount_nanos__lte', 10000000000000000), ('amount_nanos', django.db.models.functions.comparison.Cast('amount_nanos', models.BigIntegerField())), ('tokens__gte', 0), ('tokens__lte', 1000000000000), ('tokens', django.db.models.functions.comparison.Cast('tokens', models.BigIntegerField()))), name='reservation_within_bounds'),
        ),
        migrations.AddConstraint(
            model_name='spendentry',
            constraint=models.CheckConstraint(condition=models.Q(('cost_nanos__gte', -10000000000000000), ('cost_nanos__lte', 10000000000000000), ('cost_nanos', django.db.models.functions.comparison.Cast('cost_nanos', models.BigIntegerField())), ('overage_nanos__gte', 0), ('overage_nanos__lte', 10000000000000000), ('overage_nanos', django.db.models.functions.comparison.Cast('overage_nanos', models.BigIntegerField())), ('input_tokens__gte', 0), ('input_tokens__lte', 1000000000000), ('input_tokens', django.db.models.functions.comparison.Cast('input_tokens', models.BigIntegerField())), ('cached_tokens__gte', 0), ('cached_tokens__lte', 1000000000000), ('cached_tokens', django.db.models.functions.comparison.Cast('cached_tokens', models.BigIntegerField())), ('output_tokens__gte', 0), ('output_tokens__lte', 1000000000000), ('output_tokens', django.db.models.functions.comparison.Cast('output_tokens', models.BigIntegerField())), ('units__gte', 0), ('units__lte', 1000000000000), ('units', django.db.models.functions.comparison.Cast('units', models.BigIntegerField()))), name='entry_within_bounds'),
        ),
        migrations.AddConstraint(
            model_name='spendrollup',
            constraint=models.CheckConstraint(condition=models.Q(('calls__gte', -4000000000000000000), ('calls__lte', 4000000000000000000), ('calls', django.db.models.functions.comparison.Cast('calls', models.BigIntegerField())), ('input_tokens__gte', -4000000000000000000), ('input_tokens__lte', 4000000000000000000), ('input_tokens', django.db.models.functions.comparison.Cast('input_tokens', models.BigIntegerField())), ('cached_tokens__gte', -4000000000000000000), ('cached_tokens__lte', 4000000000000000000), ('cached_tokens', django.db.models.functions.comparison.Cast('cached_tokens', models.BigIntegerField())), ('output_tokens__gte', -4000000000000000000), ('output_tokens__lte', 4000000000000000000), ('output_tokens', django.db.models.functions.comparison.Cast('output_tokens', models.BigIntegerField())), ('cost_nanos__gte', -4000000000000000000), ('cost_nanos__lte', 4000000000000000000), ('cost_nanos', django.db.models.functions.comparison.Cast('cost_nanos', models.BigIntegerField()))), name='rollup_within_bounds'),
        ),
        migrations.RunPython(guard_entries, guard_entries, elidable=False),
    ]
