"""Sign-in tries keep nothing of what was typed: of forms with more than one password all but one stood there."""

from django.db import migrations


def forget(apps, schema_editor):
    tries = apps.get_model("axes", "AccessAttempt").objects.using(schema_editor.connection.alias)
    tries.update(get_data="", post_data="")


class Migration(migrations.Migration):
    dependencies = [("governance", "0017_overruns"), ("axes", "0010_accessattemptexpiration")]
    operations = [migrations.RunPython(forget, migrations.RunPython.noop)]
