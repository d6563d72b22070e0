"""Where a tenant can buy more, lent by the billing side.

Governance and the model side know no Stripe. `settings.UPGRADE_LINK` names a function with this signature, which may
be called for every refusal and so does no more than sign a URL of ours:

    link(*, tenant: str, now: datetime) -> str | None     (None: nothing can be bought)
"""

from collections.abc import Callable
from datetime import datetime
from typing import cast

from django.conf import settings
from django.utils.module_loading import import_string

from governance.rules.windows import WindowKind


def url(*, tenant: str, window: str, now: datetime) -> str | None:
    """What `upgrade_url` shows beside a budget of this kind of window; None where buying would change nothing."""
    if window != WindowKind.BILLING_CYCLE or not tenant:
        # An operator's own limit a day stays what it is, whatever is paid.
        return None
    link = cast(Callable[..., str | None], import_string(settings.UPGRADE_LINK))
    return link(tenant=tenant, now=now)
