"""Every change of what processes remember of callers adds a row, whoever makes it: see `governance.ledger.caller_rules`.

On SQLite a table that is made anew, as for another column or constraint, loses its triggers: such a migration of one of
these tables makes them again.
"""

from django.db import migrations, models

# By table: the columns that are remembered, and which of its rows are.
REMEMBERED = {
    "governance_budget": (
        "tenant_id scope_type scope_key window limit_nanos enabled revision soft_cap hard_cap warn_at alert_thresholds"
        " downgrade_rules disabled_tools clamp clamp_min_tokens",
        "{row}.enabled",
    ),
    "governance_ratelimit": (
        "tenant_id scope_type scope_key enabled nanos_per_minute requests_per_minute tokens_per_minute",
        "{row}.enabled",
    ),
    "governance_tenant": ("status time_zone", ""),
    # A stop is for an agent by its name. One that is registered is not remembered, one that is paused is.
    "governance_agent": ("tenant_id slug status", "{row}.status = 'paused'"),
    "governance_apikey": ("revoked_at expires_at", "({row}.revoked_at IS NOT NULL OR {row}.expires_at IS NOT NULL)"),
    "governance_emergencystop": ("tenant_id agent_id lifted_at", "{row}.lifted_at IS NULL"),
    "governance_overrun": ("place side asked tokens cleared_at", "{row}.cleared_at IS NULL"),
}
# A sum of such numbers is never the same twice, and stays small.
POSTGRES_NOTE = "INSERT INTO governance_rulechange (n) VALUES (CAST((random() - 0.5) * 4398046511104 AS bigint));"
SQLITE_NOTE = "INSERT INTO governance_rulechange (n) VALUES (random() / 4194304);"
POSTGRES_FUNCTION = f"""
CREATE FUNCTION governance_note_rule_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    {POSTGRES_NOTE}
    RETURN NULL;
END $$
"""
EVENTS = ("insert", "update", "delete")


def note_changes(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(POSTGRES_FUNCTION)
    for table, (columns, remembered) in REMEMBERED.items():
        for event, condition in zip(EVENTS, conditions(schema_editor, columns, remembered), strict=True):
            when = f"WHEN ({condition})" if condition else ""
            named = f"CREATE TRIGGER {trigger(table, event)} AFTER {event.upper()} ON {table}"
            if schema_editor.connection.vendor == "postgresql":
                schema_editor.execute(f"{named} FOR EACH ROW {when} EXECUTE FUNCTION governance_note_rule_change()")
            else:
                schema_editor.execute(f"{named} {when} BEGIN {SQLITE_NOTE} END")
        if schema_editor.connection.vendor == "postgresql":
            schema_editor.execute(
                f"CREATE TRIGGER {trigger(table, 'truncate')} AFTER TRUNCATE ON {table}"
                " FOR EACH STATEMENT EXECUTE FUNCTION governance_note_rule_change()"
            )


def conditions(schema_editor, columns, remembered):
    """When a row's insertion, change and deletion are noted; empty: always."""
    old, new = (", ".join(f'{row}."{column}"' for column in columns.split()) for row in ("OLD", "NEW"))
    if schema_editor.connection.vendor == "postgresql":
        differ = f"ROW({old}) IS DISTINCT FROM ROW({new})"
    else:
        differ = f"({old}) IS NOT ({new})"
    return remembered.format(row="NEW"), differ, remembered.format(row="OLD")


def trigger(table, event):
    return f"{table}_notes_{event}"


def note_no_changes(apps, schema_editor):
    on_postgres = schema_editor.connection.vendor == "postgresql"
    for table in REMEMBERED:
        for event in (*EVENTS, "truncate") if on_postgres else EVENTS:
            schema_editor.execute(
                f"DROP TRIGGER IF EXISTS {trigger(table, event)}" + (f" ON {table}" if on_postgres else "")
            )
    if on_postgres:
        schema_editor.execute("DROP FUNCTION governance_note_rule_change()")


class Migration(migrations.Migration):
    dependencies = [("governance", "0020_keys_that_took_a_place")]
    operations = [
        migrations.CreateModel(
            name="RuleChange",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("n", models.BigIntegerField()),
            ],
            options={"ordering": ["id"], "default_permissions": ()},
        ),
        migrations.RunPython(note_changes, note_no_changes, elidable=False),
    ]
