"""Channels may say things in words of their operators' own."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('governance', '0034_saved_views'),
    ]

    operations = [
        migrations.AddField(
            model_name='alertchannel',
            name='subject_template',
            field=models.CharField(blank=True, db_default='', default='', max_length=200, verbose_name='own subject'),
        ),
        migrations.AddField(
            model_name='alertchannel',
            name='text_template',
            field=models.TextField(blank=True, db_default='', default='', verbose_name='own text'),
        ),
    ]
