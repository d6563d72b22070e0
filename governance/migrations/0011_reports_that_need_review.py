"""Reports of spend that wait for an operator, and what may be reported beside every budget."""

import django.db.models.deletion
import uuid_utils.compat
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("governance", "0010_bounded_sums"),
    ]

    operations = [
        migrations.CreateModel(
            name="PendingReport",
            fields=[
                ("agent", models.CharField(blank=True, max_length=100)),
                ("user", models.CharField(blank=True, max_length=200)),
                ("session", models.CharField(blank=True, max_length=200)),
                ("task", models.CharField(blank=True, max_length=200)),
                ("provider", models.CharField(blank=True, max_length=40)),
                ("model_requested", models.CharField(blank=True, max_length=120)),
                ("model_served", models.CharField(blank=True, max_length=120)),
                ("windows", models.JSONField(default=list)),
                (
                    "id",
                    models.UUIDField(
                        default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("request_id", models.CharField(blank=True, max_length=100)),
                ("reservation", models.UUIDField(blank=True, null=True)),
                ("corrects", models.UUIDField(blank=True, help_text="The charge that it would add to.", null=True)),
                ("entry", models.UUIDField(blank=True, help_text="The line that it became.", null=True)),
                ("input_tokens", models.BigIntegerField(default=0, help_text="Including cached ones.")),
                ("cached_tokens", models.BigIntegerField(default=0)),
                ("output_tokens", models.BigIntegerField(default=0)),
                ("price_rule", models.CharField(blank=True, max_length=120)),
                ("cost_nanos", models.BigIntegerField(help_text="What was claimed in all.")),
                ("charged_nanos", models.BigIntegerField(default=0, help_text="What of it was charged at once.")),
                (
                    "bound_scope",
                    models.CharField(
                        blank=True, help_text="Empty: what may be reported without a budget.", max_length=330
                    ),
                ),
                ("bound_window", models.CharField(blank=True, max_length=16)),
                ("bound_nanos", models.BigIntegerField(help_text="What that left.")),
                ("occurred_at", models.DateTimeField()),
                ("reported_at", models.DateTimeField()),
                (
                    "status",
                    models.CharField(
                        choices=[("waiting", "Waiting"), ("accepted", "Accepted"), ("rejected", "Rejected")],
                        default="waiting",
                        max_length=12,
                    ),
                ),
                ("reason", models.CharField(blank=True, max_length=300)),
                ("decided_at", models.DateTimeField(blank=True, null=True)),
                ("decided_by", models.CharField(blank=True, max_length=150)),
            ],
            options={
                "ordering": ["-id"],
                "verbose_name": "report to review",
                "verbose_name_plural": "reports to review",
            },
        ),
        migrations.AddIndex(
            model_name="spendentry",
            index=models.Index(
                condition=models.Q(("reason", "unbudgeted")), fields=["tenant", "recorded_at"], name="entry_unbudgeted"
            ),
        ),
        migrations.AddField(
            model_name="pendingreport",
            name="key",
            field=models.ForeignKey(
                blank=True,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="governance.apikey",
            ),
        ),
        migrations.AddField(
            model_name="pendingreport",
            name="tenant",
            field=models.ForeignKey(
                db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name="+", to="governance.tenant"
            ),
        ),
        migrations.AddIndex(
            model_name="pendingreport",
            index=models.Index(fields=["tenant", "-id"], name="report_by_tenant"),
        ),
        migrations.AddIndex(
            model_name="pendingreport",
            index=models.Index(condition=models.Q(("status", "waiting")), fields=["tenant"], name="report_waiting"),
        ),
        migrations.AddIndex(
            model_name="pendingreport",
            index=models.Index(
                condition=models.Q(("status", "waiting")), fields=["corrects"], name="report_waiting_for_charge"
            ),
        ),
        migrations.AddConstraint(
            model_name="pendingreport",
            constraint=models.CheckConstraint(
                condition=models.Q(("charged_nanos__gte", 0), ("cost_nanos__gt", models.F("charged_nanos"))),
                name="report_has_an_excess",
            ),
        ),
        migrations.AddConstraint(
            model_name="pendingreport",
            constraint=models.CheckConstraint(
                condition=models.Q(("cached_tokens__gte", 0), ("input_tokens__gte", 0), ("output_tokens__gte", 0)),
                name="report_usage_not_negative",
            ),
        ),
        migrations.AddConstraint(
            model_name="pendingreport",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("corrects__isnull", True), ("reservation__isnull", True)),
                    models.Q(("corrects__isnull", False), ("reservation__isnull", False)),
                    _connector="OR",
                ),
                name="report_of_a_hold_names_its_charge",
            ),
        ),
        migrations.AddConstraint(
            model_name="pendingreport",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(
                        ("decided_at__isnull", True), ("decided_by", ""), ("entry__isnull", True), ("status", "waiting")
                    ),
                    models.Q(
                        ("decided_at__isnull", False),
                        ("entry__isnull", False),
                        ("status", "accepted"),
                        models.Q(("decided_by", ""), _negated=True),
                    ),
                    models.Q(
                        ("decided_at__isnull", False),
                        ("entry__isnull", True),
                        ("status", "rejected"),
                        models.Q(("decided_by", ""), _negated=True),
                    ),
                    _connector="OR",
                ),
                name="report_waits_or_is_decided",
            ),
        ),
        migrations.AddConstraint(
            model_name="pendingreport",
            constraint=models.UniqueConstraint(
                condition=models.Q(("reservation__isnull", True)),
                fields=("tenant", "request_id"),
                name="report_kept_once_per_request",
            ),
        ),
        migrations.AddConstraint(
            model_name="pendingreport",
            constraint=models.UniqueConstraint(
                condition=models.Q(("reservation__isnull", False)),
                fields=("reservation",),
                name="report_kept_once_per_hold",
            ),
        ),
    ]
