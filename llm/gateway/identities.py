"""Who calls: from a bearer key to a tenant, an agent and what they may be told. Cached for seconds.

The cache only saves the look-up. Whether the tenant is paused, the agent stopped or the key revoked is read again
in the ledger's own transaction, so those take hold on the next call; what is answered without the ledger looks the key
up afresh.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db.utils import DatabaseError

from governance.actions import tenancy
from governance.ledger import clock
from governance.models import ApiKey
from governance.models.tenancy import digest_of
from governance.rules.calls import Caller
from governance.rules.visibility import Audience
from llm.gateway import errors

TTL_S = 30.0
# Bounds the cache against a flood of made-up keys.
MAX_CACHED = 10_000


@dataclass(frozen=True, slots=True)
class Identity:
    key_id: int
    key_prefix: str
    tenant_id: int
    tenant: str
    agent: str
    default_max_tokens: int
    show_amounts: bool
    expires_at: datetime | None
    # Revoked or expired: whose it was is known, so that what it is refused can be noted.
    has_ended: bool = False

    @property
    def audience(self) -> Audience:
        """What it is told of budgets."""
        return Audience(is_tenants=True, show_amounts=self.show_amounts)

    def caller(self, *, agent: str = "", user: str = "", session: str = "", task: str = "") -> Caller:
        """The caller of one call, by names in the form that is kept (`callers.named`).

        What the request says never changes the tenant, nor a bound key's agent.
        """
        return Caller(
            tenant_id=self.tenant_id,
            tenant=self.tenant,
            agent=self.agent or agent,
            key_id=self.key_id,
            key_prefix=self.key_prefix,
            user=user,
            session=session,
            task=task,
        )


class Identities:
    """Looks keys up, through a cache. `find` blocks on the database: call it off the event loop."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._cached: dict[str, tuple[float, Identity | None]] = {}
        self._agents: set[tuple[int, str]] = set()

    def cached(self, key: str) -> Identity | None:
        """The identity of a key seen in the last seconds, ended or not; raises for one known to be none."""
        found = self._cached.get(key)
        if found is None or found[0] <= self._clock():
            return None
        identity = found[1]
        if identity is not None and not identity.has_ended and _is_over(identity.expires_at):
            return None
        return _known(identity)

    def find(self, key: str) -> Identity:
        """The identity behind a key, an ended one's too. Raises the 401 and 403 that say what is wrong with others."""
        try:
            row = ApiKey.objects.select_related("tenant", "agent").filter(digest=digest_of(key)).first()
        except DatabaseError as error:
            raise errors.ledger_unavailable() from error
        usable = row is not None and tenancy.works(row)
        if row is not None and usable and row.tenant is None:
            raise errors.forbidden(f"A key of role {row.role} belongs to no tenant and cannot call models.")
        identity = None
        if row is not None and row.tenant is not None:
            identity = Identity(
                key_id=row.pk,
                key_prefix=row.scope_key,
                tenant_id=row.tenant.pk,
                tenant=row.tenant.slug,
                agent=row.agent.slug if row.agent else "",
                default_max_tokens=row.tenant.default_max_tokens,
                show_amounts=row.tenant.show_amounts,
                expires_at=row.expires_at,
                has_ended=not usable,
            )
        if len(self._cached) >= MAX_CACHED:
            self._cached.clear()
        self._cached[key] = self._clock() + TTL_S, identity
        return _known(identity)

    def is_registered(self, caller: Caller) -> bool:
        return not caller.agent or (caller.tenant_id, caller.agent) in self._agents

    def refuse_one_more(self, caller: Caller) -> None:
        """Refuse a call whose agent is one more than calls may register. Nothing is written before it is admitted."""
        try:
            may_register = tenancy.may_register(tenant_id=caller.tenant_id, slug=caller.agent)
        except DatabaseError as error:
            raise errors.ledger_unavailable() from error
        if not may_register:
            raise errors.too_many_agents(settings.AGENTS_PER_TENANT)

    def register(self, caller: Caller) -> None:
        """Make the agent of an admitted call known. Raises DatabaseError."""
        tenancy.register_agent(tenant_id=caller.tenant_id, slug=caller.agent)
        if len(self._agents) >= MAX_CACHED:
            self._agents.clear()
        self._agents.add((caller.tenant_id, caller.agent))


def _is_over(expires_at: datetime | None) -> bool:
    return expires_at is not None and expires_at <= clock.known_now()


def _known(identity: Identity | None) -> Identity:
    if identity is None:
        raise errors.unauthorized("This API key is unknown, revoked or expired.")
    return identity
