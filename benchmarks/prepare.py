"""`python -m benchmarks.prepare`: a migrated database with a tenant, an agent's key and budgets that never run out.

Prints the key. Every scope a chat call can be governed by has a budget, so that each call locks several windows.
"""

from __future__ import annotations

import django

LIMIT_DOLLARS = 1_000_000


def main() -> None:
    django.setup()
    from django.core.management import call_command
    from django.utils import timezone

    from governance.actions import budgets, tenancy
    from governance.audit import Actor
    from governance.rules import money

    call_command("migrate", verbosity=0)
    now, by = timezone.now(), Actor("benchmark")
    tenant = tenancy.create_tenant(slug="bench", by=by, now=now)
    agent = tenancy.create_agent(tenant=tenant, slug="loader", by=by, now=now)
    text, _ = tenancy.issue_key(role="agent", tenant=tenant, agent=agent, by=by, now=now)
    for scope_type, key, owner in (("tenant", "", tenant), ("agent", "*", tenant), ("platform", "", None)):
        budgets.create(
            scope_type=scope_type,
            scope_key=key,
            tenant=owner,
            window="day",
            by=by,
            now=now,
            limit_nanos=money.nanos_from_dollars(LIMIT_DOLLARS),
        )
    print(text)


if __name__ == "__main__":
    main()
