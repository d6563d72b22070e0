from typing import Any

from django.db import migrations

from llm.catalogue import seed


def load(apps: Any, schema_editor: Any) -> None:
    """Adds what is missing; what an operator has changed stays."""
    seed.load(apps)


class Migration(migrations.Migration):
    dependencies = [("llm", "0004_prices_of_several_providers")]
    operations = [migrations.RunPython(load, migrations.RunPython.noop)]
