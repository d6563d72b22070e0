"""A notice keeps who did what it tells of apart from its words, which customers read as well."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('governance', '0028_events_to_be_told'),
    ]

    operations = [
        migrations.AddField(
            model_name='alertnotice',
            name='actor',
            field=models.CharField(blank=True, db_default='', default='', help_text='Who did it, as operators are told.', max_length=150),
        ),
    ]
