"""Links to a customer's own read-only page."""

from __future__ import annotations

from datetime import datetime

from django.db import models
from django.db.models import F, Q

from governance.models.tenancy import Tenant


class PageLink(models.Model):
    """A link that was made for a customer; the link itself is signed and kept nowhere. Written by
    `governance.actions.page_links`."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="page_links")
    note = models.CharField(max_length=200, blank=True, help_text="Whom it is for; the page does not show it.")
    made_at = models.DateTimeField()
    made_by = models.CharField(max_length=150)
    ends_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True, help_text="When somebody took it back.")
    ended_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = "read-only page"
        constraints = [
            models.CheckConstraint(condition=Q(ends_at__gt=F("made_at")), name="page_link_ends_after_it_was_made"),
            models.CheckConstraint(
                condition=Q(ended_at__isnull=True, ended_by="") | (Q(ended_at__isnull=False) & ~Q(ended_by="")),
                name="page_link_ended_by_somebody",
            ),
        ]

    def __str__(self) -> str:
        return f"read-only page of {self.tenant.slug}" + (f" for {self.note}" if self.note else "")

    def works(self, now: datetime) -> bool:
        return self.ended_at is None and now < self.ends_at
