from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0018_restorations")]

    operations = [
        migrations.AddField(
            model_name="topup",
            name="credited_nanos",
            field=models.BigIntegerField(
                db_default=0, default=0, help_text="What of it was paid with credit, in nanodollars."
            ),
        ),
    ]
