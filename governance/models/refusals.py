"""Calls that were refused, with the figures of that moment."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from governance.models.tenancy import ApiKey, Tenant


class RefusedCall(models.Model):
    """A call that was refused. Written in batches by `governance.actions.refusal_log`, purged after some weeks.

    `budgets` are those that had no room, the one that the refusal names first (`rules.remedies.Blocker`). `more` are
    refusals of the same agent for the same reason in the same minute that have no row; one that stands for these alone
    has no `request_id`.
    """

    refused_at = models.DateTimeField()
    request_id = models.CharField(max_length=100, blank=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_index=False)
    agent = models.CharField(max_length=100, blank=True)
    key = models.ForeignKey(ApiKey, on_delete=models.SET_NULL, null=True, blank=True, related_name="+", db_index=False)
    user = models.CharField(max_length=200, blank=True)
    session = models.CharField(max_length=200, blank=True)
    task = models.CharField(max_length=200, blank=True)
    model = models.CharField(max_length=120, blank=True)
    tools = models.JSONField(default=list)
    reason = models.CharField(max_length=60)
    status = models.PositiveSmallIntegerField()
    sentence = models.CharField(max_length=500, help_text="Without the figures of a budget, which not all may see.")
    scope = models.CharField(max_length=330, blank=True, help_text="Of the budget or rate limit that refused.")
    window = models.CharField(max_length=16, blank=True)
    wanted_nanos = models.BigIntegerField(null=True, blank=True, help_text="What the call needed at the least.")
    max_tokens = models.BigIntegerField(null=True, blank=True, help_text="The output tokens in that.")
    budgets = models.JSONField(default=list)
    fits_max_tokens = models.BigIntegerField(null=True, blank=True, help_text="The most that would have fitted.")
    free_at = models.DateTimeField(null=True, blank=True, help_text="When it may go as it is.")
    act = models.CharField(max_length=120, blank=True, help_text="What somebody would have had to do.")
    more = models.PositiveIntegerField(default=0, help_text="Others like it in that minute, which are only counted.")

    class Meta:
        ordering = ["-id"]
        verbose_name = "refused call"
        constraints = [
            models.CheckConstraint(condition=~Q(reason=""), name="refusal_has_a_reason"),
            models.CheckConstraint(
                condition=~Q(request_id="") | Q(more__gt=0), name="refusal_is_of_a_call_or_counts_some"
            ),
        ]
        indexes = [
            models.Index(fields=["request_id"], name="refusal_by_request"),
            # What a tenant, and what a minute of an agent, is looked up by.
            models.Index(fields=["tenant", "-id"], name="refusal_by_tenant"),
            models.Index(fields=["tenant", "-refused_at"], name="refusal_by_tenant_and_time"),
            models.Index(fields=["tenant", "agent", "reason", "refused_at"], name="refusal_by_minute"),
            models.Index(fields=["refused_at"], name="refusal_by_age"),
        ]

    def __str__(self) -> str:
        return self.request_id or f"{self.more} more"
