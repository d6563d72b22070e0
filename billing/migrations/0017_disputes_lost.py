from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0016_heard_use")]

    operations = [
        migrations.AlterField(
            model_name="topup",
            name="disputed_nanos",
            field=models.BigIntegerField(
                db_default=0, default=0, help_text="What of the refunded was lost in a dispute, in nanodollars."
            ),
        ),
    ]
