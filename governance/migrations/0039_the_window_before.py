"""What the window before another is looked up by, and the bound of what it left, made while calls are written."""

import django.db.models.functions.comparison
from django.contrib.postgres.operations import AddConstraintNotValid, AddIndexConcurrently, ValidateConstraint
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


class AddConstraintBesideWrites(AddConstraintNotValid):
    """For what is written from now on; `ValidateBesideWrites` then reads the rows there are. SQLite does it at once."""

    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        if schema_editor.connection.vendor != "postgresql":
            migrations.AddConstraint.database_forwards(self, app_label, schema_editor, from_state, to_state)
            return
        super().database_forwards(app_label, schema_editor, from_state, to_state)


class ValidateBesideWrites(ValidateConstraint):
    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        if schema_editor.connection.vendor == "postgresql":
            super().database_forwards(app_label, schema_editor, from_state, to_state)


class Migration(migrations.Migration):

    atomic = False

    dependencies = [
        ('governance', '0038_what_windows_carry_over'),
    ]

    operations = [
        AddConstraintBesideWrites(
            model_name='budgetwindow',
            constraint=models.CheckConstraint(condition=models.Q(('carried_nanos__gte', 0), ('carried_nanos__lte', 1000000000000000000), ('carried_nanos', django.db.models.functions.comparison.Cast('carried_nanos', models.BigIntegerField()))), name='window_carried_within_bounds'),
        ),
        AddIndexBesideWrites(
            model_name='budgetwindow',
            index=models.Index(fields=['budget', 'subject', '-starts_at'], name='window_by_subject'),
        ),
        ValidateBesideWrites('budgetwindow', 'window_carried_within_bounds'),
    ]
