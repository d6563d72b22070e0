from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0006_period_peaks"),
    ]

    operations = [
        # The table gets its new name at once, whatever its size.
        migrations.RenameModel(old_name="StripeCheck", new_name="StripeRun"),
        migrations.AlterModelOptions(
            name="striperun",
            options={"ordering": ["-id"], "verbose_name": "Stripe run", "verbose_name_plural": "Stripe runs"},
        ),
    ]
