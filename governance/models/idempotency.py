"""Answers kept for callers that name their requests, so that a repeat is answered alike and charged once."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from governance.models.tenancy import ApiKey, Tenant


class KeptAnswer(models.Model):
    """One request under its Idempotency-Key. RUNNING until its answer is kept; both go after 24 hours.

    Written by `governance.idempotency`. `digest` is the SHA-256 of method, path, the key's agent and the body: the
    same key with another request is refused.
    """

    class Status(models.TextChoices):
        RUNNING = "running"
        DONE = "done"

    # None of what operators do to all.
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, null=True, related_name="+")
    key = models.CharField(max_length=255)
    # Whose request it is: so many are kept for each. None of one from before this was noted.
    api_key = models.ForeignKey(ApiKey, on_delete=models.SET_NULL, null=True, related_name="+")
    digest = models.CharField(max_length=64)
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.RUNNING)
    started_at = models.DateTimeField()
    # How many times it was begun: a run that was taken over has no say any more.
    runs = models.PositiveIntegerField(default=1)
    # Whoever runs it says so again and again; one whose process died may be taken over after this.
    alive_until = models.DateTimeField()
    response_status = models.PositiveSmallIntegerField(null=True, blank=True)
    response_headers = models.JSONField(default=list)
    response_body = models.BinaryField(default=b"")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "key"], name="kept_answer_one_per_key"),
            models.UniqueConstraint(
                fields=["key"], condition=Q(tenant__isnull=True), name="kept_answer_one_per_key_of_all"
            ),
            models.CheckConstraint(
                condition=Q(status="running", response_status__isnull=True)
                | Q(status="done", response_status__isnull=False),
                name="kept_answer_done_has_a_status",
            ),
        ]
        indexes = [models.Index(fields=["started_at"], name="kept_answer_by_age")]

    def __str__(self) -> str:
        return f"{self.tenant} {self.key}"
