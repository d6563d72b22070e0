"""What budgets' events are told from, made while calls are written."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class AddIndexBesideWrites(AddIndexConcurrently):
    """Nobody waits for it on PostgreSQL. SQLite, with its one writer, makes it as any other.

    One that was interrupted leaves an index that nothing uses; the next try takes it away first.
    """

    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        if schema_editor.connection.vendor != "postgresql":
            migrations.AddIndex.database_forwards(self, app_label, schema_editor, from_state, to_state)
            return
        # It waits for transactions that are under way, and nobody waits for it.
        with schema_editor.connection.cursor() as cursor:
            bound = cursor.execute("SHOW lock_timeout").fetchone()[0]
            cursor.execute("SET lock_timeout = 0")
        schema_editor.remove_index(to_state.apps.get_model(app_label, self.model_name), self.index, concurrently=True)
        super().database_forwards(app_label, schema_editor, from_state, to_state)
        with schema_editor.connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = '{bound}'")

    def database_backwards(self, app_label, schema_editor, from_state, to_state):
        if schema_editor.connection.vendor != "postgresql":
            migrations.AddIndex.database_backwards(self, app_label, schema_editor, from_state, to_state)
            return
        super().database_backwards(app_label, schema_editor, from_state, to_state)


class Migration(migrations.Migration):

    atomic = False

    dependencies = [
        ('governance', '0027_alert_channels'),
    ]

    operations = [
        AddIndexBesideWrites(
            model_name='budgetevent',
            index=models.Index(condition=models.Q(('untold', True)), fields=['id'], name='event_untold'),
        ),
    ]
