"""The columns of a policy, which budgets and plans share; `governance.rules.policy` says what they mean."""

from __future__ import annotations

from functools import partial

from django.db import models
from django.db.models import F, Q

from governance.rules import policy


class PolicyFields(models.Model):
    """What a budget does near its limit. Caps, `warn_at` and `alert_thresholds` are shares of the limit."""

    soft_cap = models.DecimalField(
        max_digits=5, decimal_places=4, null=True, blank=True, default=policy.default("soft_cap")
    )
    hard_cap = models.DecimalField(max_digits=5, decimal_places=4, default=policy.default("hard_cap"))
    warn_at = models.DecimalField(max_digits=5, decimal_places=4, null=True, blank=True)
    # No function of ours: a migration would have to import it for good.
    alert_thresholds = models.JSONField(default=partial(list, tuple(policy.default("alert_thresholds"))), blank=True)
    downgrade_rules = models.JSONField(
        default=list,
        blank=True,
        help_text='[{"from": ["mistral-medium-latest"], "to": "mistral-small-latest"}]',
    )
    disabled_tools = models.JSONField(default=list, blank=True, help_text="Tool names taken away from the soft cap on.")
    clamp = models.BooleanField(
        default=policy.default("clamp"), help_text="Lower max_tokens to what the money covers, instead of refusing."
    )
    clamp_min_tokens = models.PositiveIntegerField(default=policy.default("clamp_min_tokens"))

    class Meta:
        abstract = True
        constraints = [
            models.CheckConstraint(
                condition=Q(hard_cap__gt=0) & Q(hard_cap__lte=1), name="%(class)s_hard_cap_in_range"
            ),
            models.CheckConstraint(
                condition=Q(soft_cap__isnull=True) | (Q(soft_cap__gt=0) & Q(soft_cap__lt=F("hard_cap"))),
                name="%(class)s_soft_cap_below_hard_cap",
            ),
            models.CheckConstraint(
                condition=Q(warn_at__isnull=True)
                | (Q(warn_at__gt=0) & Q(soft_cap__isnull=False) & Q(warn_at__lt=F("soft_cap"))),
                name="%(class)s_warn_at_below_soft_cap",
            ),
        ]
