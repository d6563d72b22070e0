"""Weekly and monthly reports by e-mail: who reads them, and which have left."""

import django.db.models.deletion
import uuid_utils.compat
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('governance', '0030_forecasts_of_nothing_known'),
    ]

    operations = [
        migrations.CreateModel(
            name='ReportSubscription',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('address', models.EmailField(max_length=254)),
                ('cadence', models.CharField(choices=[('weekly', 'weekly'), ('monthly', 'monthly')], max_length=8)),
                ('time_zone', models.CharField(default='UTC', help_text='Of its days and weeks: an IANA name.', max_length=64)),
                ('since', models.DateTimeField(editable=False)),
                ('ended_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('ended_by', models.CharField(blank=True, editable=False, max_length=150)),
                ('tenant', models.ForeignKey(blank=True, help_text='The customer that it is about, and nothing wider. Empty: the whole platform.', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='report_subscriptions', to='governance.tenant')),
            ],
            options={
                'ordering': ['tenant__slug', 'address', 'cadence'],
            },
        ),
        migrations.CreateModel(
            name='ReportMail',
            fields=[
                ('id', models.UUIDField(default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False)),
                ('first_day', models.DateField(help_text='Of the period that it is about.')),
                ('state', models.CharField(choices=[('pending', 'Pending'), ('sending', 'Sending'), ('sent', 'Sent'), ('dead', 'given up'), ('dropped', 'not wanted any more')], default='pending', max_length=8)),
                ('tries', models.PositiveIntegerField(default=0)),
                ('next_at', models.DateTimeField(blank=True, null=True)),
                ('created_at', models.DateTimeField()),
                ('sent_at', models.DateTimeField(blank=True, null=True)),
                ('error', models.CharField(blank=True, max_length=500)),
                ('subscription', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='mails', to='governance.reportsubscription')),
            ],
            options={
                'verbose_name': 'report by e-mail',
                'verbose_name_plural': 'reports by e-mail',
                'ordering': ['-id'],
            },
        ),
        migrations.AddConstraint(
            model_name='reportsubscription',
            constraint=models.CheckConstraint(condition=models.Q(('address', ''), _negated=True), name='report_has_an_address'),
        ),
        migrations.AddConstraint(
            model_name='reportsubscription',
            constraint=models.CheckConstraint(condition=models.Q(('cadence__in', ['weekly', 'monthly'])), name='report_cadence_known'),
        ),
        migrations.AddConstraint(
            model_name='reportsubscription',
            constraint=models.CheckConstraint(condition=models.Q(('ended_at__isnull', False), ('ended_by', ''), _connector='OR'), name='report_ended_by_somebody_is_ended'),
        ),
        migrations.AddConstraint(
            model_name='reportsubscription',
            constraint=models.UniqueConstraint(condition=models.Q(('tenant__isnull', False)), fields=('tenant', 'address', 'cadence'), name='report_of_a_tenant_once_an_address'),
        ),
        migrations.AddConstraint(
            model_name='reportsubscription',
            constraint=models.UniqueConstraint(condition=models.Q(('tenant__isnull', True)), fields=('address', 'cadence'), name='report_of_the_platform_once_an_address'),
        ),
        migrations.AddIndex(
            model_name='reportmail',
            index=models.Index(condition=models.Q(('state__in', ['pending', 'sending'])), fields=['next_at'], name='report_mail_due'),
        ),
        migrations.AddConstraint(
            model_name='reportmail',
            constraint=models.UniqueConstraint(fields=('subscription', 'first_day'), name='report_mail_once_a_period'),
        ),
        migrations.AddConstraint(
            model_name='reportmail',
            constraint=models.CheckConstraint(condition=models.Q(('state__in', ['pending', 'sending', 'sent', 'dead', 'dropped'])), name='report_mail_state_known'),
        ),
        migrations.AddConstraint(
            model_name='reportmail',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('sent_at__isnull', False), ('state', 'sent')), models.Q(models.Q(('state', 'sent'), _negated=True), ('sent_at', None)), _connector='OR'), name='report_mail_sent_when'),
        ),
        migrations.AddConstraint(
            model_name='reportmail',
            constraint=models.CheckConstraint(condition=models.Q(('next_at__isnull', False), models.Q(('state__in', ['pending', 'sending']), _negated=True), _connector='OR'), name='report_mail_due_when'),
        ),
    ]
