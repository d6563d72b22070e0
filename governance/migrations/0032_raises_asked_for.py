"""Raises that agents' owners ask for from the links of refused calls."""

import django.db.models.deletion
import django.db.models.functions.comparison
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('governance', '0031_reports_by_mail'),
    ]

    operations = [
        migrations.CreateModel(
            name='RaiseRequest',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('amount_nanos', models.BigIntegerField()),
                ('asker', models.CharField(help_text='Who asks, in their own words: nobody has checked it.', max_length=90)),
                ('reason', models.CharField(max_length=200)),
                ('asked_at', models.DateTimeField()),
                ('status', models.CharField(choices=[('open', 'Open'), ('approved', 'Approved'), ('declined', 'Declined'), ('lapsed', 'Lapsed')], default='open', max_length=8)),
                ('decided_at', models.DateTimeField(blank=True, null=True)),
                ('decided_by', models.CharField(blank=True, max_length=150)),
                ('answer', models.CharField(blank=True, help_text='Why it was declined; whoever asked reads it.', max_length=300)),
                ('window', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='raise_requests', to='governance.budgetwindow')),
            ],
            options={
                'verbose_name': 'raise asked for',
                'verbose_name_plural': 'raises asked for',
                'ordering': ['-id'],
                'indexes': [models.Index(fields=['asked_at'], name='raise_request_by_time')],
                'constraints': [models.CheckConstraint(condition=models.Q(('amount_nanos__gt', 0), ('amount_nanos__gte', 0), ('amount_nanos__lte', 1000000000000000000), ('amount_nanos', django.db.models.functions.comparison.Cast('amount_nanos', models.BigIntegerField()))), name='raise_request_within_bounds'), models.CheckConstraint(condition=models.Q(models.Q(('asker', ''), _negated=True), models.Q(('reason', ''), _negated=True)), name='raise_request_says_who_and_why'), models.CheckConstraint(condition=models.Q(models.Q(('decided_at__isnull', True), ('status', 'open')), models.Q(('decided_at__isnull', False), ('status__in', ['approved', 'declined', 'lapsed'])), _connector='OR'), name='raise_request_decided_when'), models.CheckConstraint(condition=models.Q(('answer', ''), ('status', 'declined'), _negated=True), name='raise_request_declined_why'), models.UniqueConstraint(condition=models.Q(('status', 'open')), fields=('window',), name='raise_request_one_open_of_a_window')],
            },
        ),
    ]
