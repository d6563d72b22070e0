from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0006_period_peaks"),
    ]

    operations = [
        # The table keeps its name, which processes of the version before know.
        migrations.AlterModelTable(name="stripecheck", table="billing_stripecheck"),
        migrations.RenameModel(old_name="StripeCheck", new_name="StripeRun"),
        migrations.AlterModelOptions(
            name="striperun",
            options={"ordering": ["-id"], "verbose_name": "Stripe run", "verbose_name_plural": "Stripe runs"},
        ),
    ]
