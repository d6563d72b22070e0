# Indexes by which periods are proved and purged, and the sums of what was.

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('governance', '0004_kept_answers_and_last_words'),
    ]

    operations = [
        migrations.CreateModel(
            name='PurgedSpend',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('agent', models.CharField(blank=True, max_length=100)),
                ('provider', models.CharField(blank=True, max_length=40)),
                ('model', models.CharField(blank=True, max_length=120)),
                ('hour', models.DateTimeField()),
                ('calls', models.BigIntegerField(default=0)),
                ('input_tokens', models.BigIntegerField(default=0)),
                ('cached_tokens', models.BigIntegerField(default=0)),
                ('output_tokens', models.BigIntegerField(default=0)),
                ('cost_nanos', models.BigIntegerField(default=0)),
            ],
        ),
        migrations.AddField(
            model_name='budgetwindow',
            name='purged_unheld_nanos',
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AddIndex(
            model_name='reservation',
            index=models.Index(condition=models.Q(('status__in', ['released', 'expired'])), fields=['status', 'resolved_at'], name='reservation_unsettled'),
        ),
        migrations.AddIndex(
            model_name='spendentry',
            index=models.Index(fields=['occurred_at'], name='entry_by_time'),
        ),
        migrations.AddIndex(
            model_name='spendentry',
            index=models.Index(condition=models.Q(('reservation__isnull', False)), fields=['reservation'], name='entry_by_reservation'),
        ),
        migrations.AddIndex(
            model_name='spendentry',
            index=models.Index(condition=models.Q(('overage_nanos__gt', 0)), fields=['recorded_at'], name='entry_overages'),
        ),
        migrations.AddField(
            model_name='purgedspend',
            name='tenant',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='governance.tenant'),
        ),
        migrations.AddIndex(
            model_name='purgedspend',
            index=models.Index(fields=['hour'], name='purged_by_hour'),
        ),
        migrations.AddConstraint(
            model_name='purgedspend',
            constraint=models.UniqueConstraint(fields=('tenant', 'hour', 'agent', 'provider', 'model'), name='purged_one_per_hour_and_kind'),
        ),
        migrations.AddConstraint(
            model_name='purgedspend',
            constraint=models.CheckConstraint(condition=models.Q(('calls__gte', 0)), name='purged_calls_not_negative'),
        ),
    ]
