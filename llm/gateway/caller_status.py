"""Who may not call at all, told before their request costs anything: paused, revoked, suspended, stopped."""

from __future__ import annotations

from django.db import DatabaseError
from django.utils import timezone

from governance import ledger
from governance.rules.decision import Call, Reason, fixed
from llm.gateway import errors
from llm.gateway.identities import Identity
from llm.gateway.process import Gateway

_WHOEVER_CALLS = frozenset(
    {Reason.TENANT_PAUSED, Reason.TENANT_SUSPENDED, Reason.AGENT_PAUSED, Reason.KEY_INVALID, Reason.EMERGENCY_STOP}
)


async def check(gateway: Gateway, identity: Identity) -> None:
    """Raises the refusal that any call of this key would get, as the database said a moment ago.

    However much a key sends, it takes one of the threads that read. Small calls need not ask: the ledger looks at the
    same in the transaction that they are held in.
    """
    caller, now = identity.caller(), timezone.now()
    try:
        decision = await gateway.caller_statuses.get(
            identity.key_id, lambda: ledger.dry_run(caller, Call(model="", quote=fixed(0)), now=now)
        )
    except (DatabaseError, ledger.LedgerUnavailable) as error:
        raise errors.ledger_unavailable() from error
    if decision.reason in _WHOEVER_CALLS:
        raise errors.refusal(decision, audience=identity.audience, tenant=identity.tenant, now=now)
