"""What pages filter by, each by the one word that people have for it, and whose days they show."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from governance.models import Tenant

# By their names in an address.
WORDS = {
    "tenant": "Customer",
    "agent": "Agent",
    "model": "Model",
    "provider": "Provider",
    "user": "User",
    "task": "Task",
    "session": "Session",
    "key": "Key",
}


def zone_of(tenant: Tenant | None) -> ZoneInfo:
    """Days are one customer's own where a page is of one, else UTC's."""
    return tenant.zone if tenant else ZoneInfo("UTC")
