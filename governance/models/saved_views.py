"""What console users keep of the console for themselves."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q


class SavedView(models.Model):
    """The list of budgets as one console user wants it again. Written by `governance.actions.saved_views`."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="saved_views")
    name = models.CharField(max_length=60)
    query = models.CharField(max_length=1000, help_text="What stands behind the ? of the list's address.")

    class Meta:
        ordering = ["name", "id"]
        # It is its user's, whatever their role.
        default_permissions = ()
        constraints = [
            models.CheckConstraint(condition=~Q(name="") & ~Q(query=""), name="saved_view_says_something"),
            models.UniqueConstraint(fields=["user", "name"], name="saved_view_name_once_a_user"),
        ]

    def __str__(self) -> str:
        return self.name
