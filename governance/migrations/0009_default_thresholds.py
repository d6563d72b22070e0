"""The default is written as every other value is; no row changes."""

from functools import partial

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("governance", "0008_rate_buckets")]

    operations = [
        migrations.AlterField(
            model_name="budget",
            name="alert_thresholds",
            field=models.JSONField(blank=True, default=partial(list, ("0.5", "0.75", "0.9", "1"))),
        ),
    ]
