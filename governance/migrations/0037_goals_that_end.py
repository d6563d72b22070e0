"""Budgets of goals can be closed. That one is closed is remembered: triggers are made anew.

SQLite loses them with the table that is made anew for the constraint.
"""

from django.db import migrations, models

TABLE = "governance_budget"
# Of 0021.
REMEMBERED = (
    "tenant_id scope_type scope_key window limit_nanos enabled revision soft_cap hard_cap warn_at alert_thresholds"
    " downgrade_rules disabled_tools clamp clamp_min_tokens"
)
SQLITE_NOTE = "BEGIN INSERT INTO governance_rulechange (n) VALUES (random() / 4194304); END"
POSTGRES_NOTE = "FOR EACH ROW {when} EXECUTE FUNCTION governance_note_rule_change()"


def trigger(event):
    return f"{TABLE}_notes_{event}"


def drop(apps, schema_editor):
    on = f" ON {TABLE}" if schema_editor.connection.vendor == "postgresql" else ""
    for event in ("insert", "update", "delete"):
        schema_editor.execute(f"DROP TRIGGER IF EXISTS {trigger(event)}{on}")


def make(schema_editor, columns):
    on_postgres = schema_editor.connection.vendor == "postgresql"
    old, new = (", ".join(f'{row}."{column}"' for column in columns.split()) for row in ("OLD", "NEW"))
    differ = f"ROW({old}) IS DISTINCT FROM ROW({new})" if on_postgres else f"({old}) IS NOT ({new})"
    for event, condition in (("insert", "NEW.enabled"), ("update", differ), ("delete", "OLD.enabled")):
        begun = f"CREATE TRIGGER {trigger(event)} AFTER {event.upper()} ON {TABLE}"
        when = f"WHEN ({condition})"
        schema_editor.execute(
            f"{begun} {POSTGRES_NOTE.format(when=when)}" if on_postgres else f"{begun} {when} {SQLITE_NOTE}"
        )


def note_closings(apps, schema_editor):
    make(schema_editor, f"{REMEMBERED} closed_at")


def note_as_before(apps, schema_editor):
    make(schema_editor, REMEMBERED)


class Migration(migrations.Migration):

    dependencies = [
        ('governance', '0036_links_to_customers_pages'),
    ]

    operations = [
        migrations.RunPython(drop, note_as_before),
        migrations.AddField(
            model_name='budget',
            name='closed_at',
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AddConstraint(
            model_name='budget',
            constraint=models.CheckConstraint(condition=models.Q(('closed_at__isnull', True), models.Q(('scope_type__in', ['task', 'session']), ('tenant__isnull', False), ('window', 'lifetime'), models.Q(('scope_key', '*'), _negated=True)), _connector='OR'), name='budget_closed_is_a_goals'),
        ),
        migrations.RunPython(note_closings, drop),
    ]
