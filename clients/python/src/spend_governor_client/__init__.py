"""A client of Spend Governor for agents that call providers themselves: reserve, settle, extend, release, report.

`Governor` is for plain code, `AsyncGovernor` for asyncio; both have the same methods.
"""

from spend_governor_client.errors import (
    Conflict,
    GovernorError,
    Invalid,
    NeedsReview,
    NotAllowed,
    Refused,
    Unavailable,
    Unsettled,
)
from spend_governor_client.plain import Governor, Hold
from spend_governor_client.tied import AsyncGovernor, AsyncHold
from spend_governor_client.values import Held, Reported, Reservation, Settled, Usage, at_most, usage_of

__all__ = [
    "AsyncGovernor",
    "AsyncHold",
    "Conflict",
    "Governor",
    "GovernorError",
    "Held",
    "Hold",
    "Invalid",
    "NeedsReview",
    "NotAllowed",
    "Refused",
    "Reported",
    "Reservation",
    "Settled",
    "Unavailable",
    "Unsettled",
    "Usage",
    "at_most",
    "usage_of",
]
