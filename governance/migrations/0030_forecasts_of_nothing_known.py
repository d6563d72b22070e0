"""A forecast is kept of budgets of which nothing is known, too, and for which cap it was made."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('governance', '0029_who_did_what_is_told'),
    ]

    operations = [
        migrations.AddField(
            model_name='budgetforecast',
            name='cap_nanos',
            field=models.BigIntegerField(blank=True, null=True),
        ),
        migrations.AlterField(
            model_name='budgetforecast',
            name='expected_nanos',
            field=models.BigIntegerField(blank=True, null=True),
        ),
        migrations.AlterField(
            model_name='budgetforecast',
            name='high_nanos',
            field=models.BigIntegerField(blank=True, null=True),
        ),
        migrations.AlterField(
            model_name='budgetforecast',
            name='low_nanos',
            field=models.BigIntegerField(blank=True, null=True),
        ),
    ]
