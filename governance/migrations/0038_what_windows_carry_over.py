"""What a budget carries over and a window took over; that is remembered of budgets: their trigger is made anew.

SQLite adds the budget's column, which may be empty, to the table as it is, so that the other triggers stay.
"""

from django.db import migrations, models

TABLE = "governance_budget"
TRIGGER = f"{TABLE}_notes_update"
# Of 0037.
REMEMBERED = (
    "tenant_id scope_type scope_key window limit_nanos enabled revision soft_cap hard_cap warn_at alert_thresholds"
    " downgrade_rules disabled_tools clamp clamp_min_tokens closed_at"
)


def make(schema_editor, columns):
    on_postgres = schema_editor.connection.vendor == "postgresql"
    old, new = (", ".join(f'{row}."{column}"' for column in columns.split()) for row in ("OLD", "NEW"))
    schema_editor.execute(f"DROP TRIGGER IF EXISTS {TRIGGER}" + (f" ON {TABLE}" if on_postgres else ""))
    if on_postgres:
        when = f"FOR EACH ROW WHEN (ROW({old}) IS DISTINCT FROM ROW({new}))"
        act = "EXECUTE FUNCTION governance_note_rule_change()"
    else:
        when = f"WHEN (({old}) IS NOT ({new}))"
        act = "BEGIN INSERT INTO governance_rulechange (n) VALUES (random() / 4194304); END"
    schema_editor.execute(f"CREATE TRIGGER {TRIGGER} AFTER UPDATE ON {TABLE} {when} {act}")


def note_what_is_carried_over(apps, schema_editor):
    make(schema_editor, f"{REMEMBERED} carry_over")


def note_as_before(apps, schema_editor):
    make(schema_editor, REMEMBERED)


class Migration(migrations.Migration):

    dependencies = [
        ('governance', '0037_goals_that_end'),
    ]

    operations = [
        migrations.AddField(
            model_name='budget',
            name='carry_over',
            field=models.CharField(blank=True, help_text='Of what is left when a window ends, at most so much is added to the next: "25%" of the limit, or "10.00" dollars.', max_length=32, null=True),
        ),
        migrations.AddField(
            model_name='budgetwindow',
            name='carried_nanos',
            field=models.BigIntegerField(db_default=0, default=0, editable=False),
        ),
        migrations.RunPython(note_what_is_carried_over, note_as_before),
    ]
