"""Rate limits fill buckets; meters are Stripe's. The database keeps its names: nothing is rewritten."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("governance", "0007_repriced_once")]

    operations = [
        migrations.AlterModelTable(name="ratemeter", table="governance_ratemeter"),
        migrations.RenameModel(old_name="RateMeter", new_name="RateBucket"),
        migrations.AlterField(
            model_name="ratebucket",
            name="rate_limit",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="buckets", to="governance.ratelimit"
            ),
        ),
        migrations.AlterField(
            model_name="reservation",
            name="meters",
            field=models.JSONField(db_column="meters", default=list),
        ),
        migrations.RenameField(model_name="reservation", old_name="meters", new_name="buckets"),
    ]
