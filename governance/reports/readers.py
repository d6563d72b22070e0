"""Whether whoever gets a report may still read it: people of the console leave, and lose their roles."""

from __future__ import annotations

from django.contrib.auth.models import User

from governance import staff

FORMER = "Nobody with this address may read it any more: no account is active, or none has a role for it."


def may_read(address: str, tenant_id: int | None) -> bool:
    """Whether an address may get the report of a customer, or of the platform (None).

    One that is a console user's follows the account: it is active, and its roles read that report there. One that is
    nobody's there is an outside reader's, whom whoever subscribed it answers for.
    """
    people = list(User.objects.filter(email__iexact=address).select_related("tenant_staff__tenant"))
    return not people or any(_reads(staff.access_of(person), tenant_id) for person in people)


def _reads(access: staff.StaffAccess, tenant_id: int | None) -> bool:
    if access.is_bound:
        return access.tenant is not None and access.tenant.pk == tenant_id
    return bool(access.roles)
