"""A ledger entry, once written, is never changed: the database itself refuses."""

from django.db import migrations

POSTGRES = """
CREATE FUNCTION governance_refuse_entry_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'spend entries are append-only; post an adjustment instead';
END $$;
CREATE TRIGGER governance_entry_append_only BEFORE UPDATE ON governance_spendentry
    FOR EACH ROW EXECUTE FUNCTION governance_refuse_entry_update();
"""
SQLITE = """
CREATE TRIGGER governance_entry_append_only BEFORE UPDATE ON governance_spendentry
BEGIN
    SELECT RAISE(ABORT, 'spend entries are append-only; post an adjustment instead');
END;
"""


def forwards(apps, schema_editor):
    schema_editor.execute(POSTGRES if schema_editor.connection.vendor == "postgresql" else SQLITE)


def backwards(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP TRIGGER governance_entry_append_only ON governance_spendentry")
        schema_editor.execute("DROP FUNCTION governance_refuse_entry_update()")
    else:
        schema_editor.execute("DROP TRIGGER governance_entry_append_only")


class Migration(migrations.Migration):
    dependencies = [("governance", "0001_initial")]
    operations = [migrations.RunPython(forwards, backwards, elidable=False)]
