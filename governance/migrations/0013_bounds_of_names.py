"""What bounds the names that calls bring: whose a kept answer is, and how many windows were opened lately."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("governance", "0012_ledger_judgements"),
    ]

    operations = [
        migrations.AddField(
            model_name="keptanswer",
            name="api_key",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to="governance.apikey"
            ),
        ),
        migrations.AddIndex(
            model_name="budgetwindow",
            index=models.Index(fields=["budget", "tenant", "opened_at"], name="window_by_opening"),
        ),
    ]
