"""Since when the ledger was proved, and what that is looked up by on PostgreSQL, made while calls are written."""

from django.db import migrations, models

# Of tables that grow at one end: a page of them for each of some pages. SQLite, which has none, reads the tables.
INDEXES = {"entry_by_writing": ("spendentry", "recorded_at"), "reservation_by_writing": ("reservation", "reserved_at")}


def make(apps, schema_editor):
    if schema_editor.connection.vendor != "postgresql":
        return
    with schema_editor.connection.cursor() as cursor:
        bound = cursor.execute("SHOW lock_timeout").fetchone()[0]
        # It waits for transactions that are under way, and nobody waits for it.
        cursor.execute("SET lock_timeout = 0")
        for name, (table, column) in INDEXES.items():
            # One that was interrupted leaves an index that nothing uses.
            cursor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            cursor.execute(
                f"CREATE INDEX CONCURRENTLY {name} ON governance_{table} USING brin ({column})"
                " WITH (pages_per_range = 32, autosummarize = on)"
            )
        cursor.execute(f"SET lock_timeout = '{bound}'")


def drop(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        for name in INDEXES:
            schema_editor.execute(f"DROP INDEX IF EXISTS {name}")


class Migration(migrations.Migration):

    atomic = False

    dependencies = [
        ('governance', '0032_raises_asked_for'),
    ]

    operations = [
        migrations.AddField(
            model_name='ledgercheck',
            name='since',
            field=models.DateTimeField(blank=True, help_text='What is older was left to the proof of each day.', null=True),
        ),
        migrations.RunPython(make, drop),
    ]
