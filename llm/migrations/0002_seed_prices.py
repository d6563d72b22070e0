from django.db import migrations


class Migration(migrations.Migration):
    """The shipped catalogue was loaded here; now by a later migration, once its tables have all their columns."""

    dependencies = [("llm", "0001_initial")]
    operations = []
