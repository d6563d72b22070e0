from typing import Any

from django.db import migrations

from llm import seed


def load(apps: Any, schema_editor: Any) -> None:
    seed.load(apps)


class Migration(migrations.Migration):
    dependencies = [("llm", "0001_initial")]
    operations = [migrations.RunPython(load, migrations.RunPython.noop)]
