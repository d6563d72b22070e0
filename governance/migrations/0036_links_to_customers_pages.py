"""Links to customers' own read-only pages."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('governance', '0035_own_words_of_channels'),
    ]

    operations = [
        migrations.CreateModel(
            name='PageLink',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('note', models.CharField(blank=True, help_text='Whom it is for; the page does not show it.', max_length=200)),
                ('made_at', models.DateTimeField()),
                ('made_by', models.CharField(max_length=150)),
                ('ends_at', models.DateTimeField()),
                ('ended_at', models.DateTimeField(blank=True, help_text='When somebody took it back.', null=True)),
                ('ended_by', models.CharField(blank=True, max_length=150)),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='page_links', to='governance.tenant')),
            ],
            options={
                'verbose_name': 'read-only page',
                'ordering': ['-id'],
                'constraints': [models.CheckConstraint(condition=models.Q(('ends_at__gt', models.F('made_at'))), name='page_link_ends_after_it_was_made'), models.CheckConstraint(condition=models.Q(models.Q(('ended_at__isnull', True), ('ended_by', '')), models.Q(('ended_at__isnull', False), models.Q(('ended_by', ''), _negated=True)), _connector='OR'), name='page_link_ended_by_somebody')],
            },
        ),
    ]
