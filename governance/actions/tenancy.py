"""Tenants, their agents and keys: made, paused, revoked. Every act writes its audit row in the same transaction."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone

from governance import audit, ledger, staff
from governance.ledger import clock
from governance.models import Agent, Anomaly, ApiKey, Tenant
from governance.models.anomalies import AnomalyAct
from governance.models.tenancy import DIGEST, Role, adopted_prefix, new_key
from governance.rules import names
from governance.rules.errors import Conflict, FieldError, NotAllowed, NotOpen, Unknown

if TYPE_CHECKING:
    from django.contrib.auth.models import User

TENANT_FIELDS = ("name", "time_zone", "show_amounts", "default_max_tokens")
# A rotated key goes on working this long, so that nobody has to change it everywhere at one instant.
ROTATION_GRACE = timedelta(hours=24)

Row = TypeVar("Row", Tenant, Agent)


def tenant_named(slug: str, *, field: str = "tenant") -> Tenant:
    try:
        return Tenant.objects.get(slug=names.checked("tenant", slug, field=field))
    except Tenant.DoesNotExist:
        raise Unknown(field, f"There is no tenant {slug!r}.") from None


def agent_named(tenant: Tenant, slug: str, *, field: str = "agent") -> Agent:
    slug = names.checked("agent", slug, field=field)
    try:
        return Agent.objects.select_related("tenant").get(tenant=tenant, slug=slug)
    except Agent.DoesNotExist:
        raise Unknown(field, f"{tenant.slug} has no agent {slug!r}.") from None


@transaction.atomic
def create_tenant(*, slug: str, name: str = "", by: audit.Actor, now: datetime, **fields: Any) -> Tenant:
    """A new tenant; its slug names it everywhere and never changes."""
    slug, name = names.checked("tenant", slug, field="slug"), names.checked("label", name, field="name")
    if Tenant.objects.filter(slug=slug).exists():
        raise Conflict("slug", f"There is a tenant {slug!r} already.")
    tenant = Tenant(slug=slug, name=name or slug, **fields)
    _insert(tenant)
    new = {"slug": slug, **{field: getattr(tenant, field) for field in TENANT_FIELDS}}
    audit.record(action="tenant.create", target=f"tenant {slug}", by=by, now=now, new=new)
    return tenant


@transaction.atomic
def change_tenant(*, tenant: Tenant, changes: dict[str, Any], by: audit.Actor, now: datetime) -> Tenant:
    """Give a tenant another name, time zone or setting; nothing is written where nothing differs."""
    old = {field: getattr(tenant, field) for field in changes if getattr(tenant, field) != changes[field]}
    if not old:
        return tenant
    if "name" in old:
        changes = changes | {"name": names.checked("label", changes["name"], field="name")}
    for field in old:
        setattr(tenant, field, changes[field])
    _checked(tenant)
    tenant.save(update_fields=list(old))
    new = {field: changes[field] for field in old}
    audit.record(action="tenant.change", target=f"tenant {tenant.slug}", by=by, now=now, old=old, new=new)
    return tenant


def check_tenant(*, tenant: Tenant, changes: Mapping[str, Any]) -> None:
    """Raise what `change_tenant`, `pause_tenant` or `resume_tenant` to these values would. Nothing is written."""
    status = changes.get("status", tenant.status)
    if status != tenant.status and tenant.status == Tenant.Status.SUSPENDED:
        raise _suspended(tenant, status)
    tried = copy(tenant)
    for field, value in changes.items():
        setattr(tried, field, value)
    _checked(tried)


def pause_tenant(*, tenant: Tenant, reason: str, by: audit.Actor, now: datetime) -> Tenant:
    """Refuse every call of the tenant from the next one on. One that billing suspended stays suspended."""
    if tenant.status == Tenant.Status.SUSPENDED:
        raise _suspended(tenant, Tenant.Status.PAUSED)
    return _set_status(tenant, Tenant.Status.PAUSED, "tenant.pause", reason, by, now)


@transaction.atomic
def resume_tenant(*, tenant: Tenant, reason: str, by: audit.Actor, now: datetime) -> Tenant:
    """Undo a pause. Billing's suspension is not an operator's to lift: it goes when the subscription is good."""
    if tenant.status == Tenant.Status.SUSPENDED:
        raise _suspended(tenant, Tenant.Status.ACTIVE)
    _undo_acts(tenant, "", by, now)
    return _set_status(tenant, Tenant.Status.ACTIVE, "tenant.resume", reason, by, now)


def _suspended(tenant: Tenant, asked: str) -> Conflict:
    already = asked == Tenant.Status.PAUSED
    ending = " already." if already else "; its subscription lifts that."
    return Conflict("status", f"{tenant.slug} is suspended by billing{ending}")


@transaction.atomic
def create_agent(*, tenant: Tenant, slug: str, by: audit.Actor, now: datetime) -> Agent:
    """An agent by its name, which is folded: "Bot" and "bot" are one."""
    slug = names.of_call("agent", slug, field="slug")
    if Agent.objects.filter(tenant=tenant, slug=slug).exists():
        raise Conflict("slug", f"{tenant.slug} has an agent {slug!r} already.")
    agent = Agent(tenant=tenant, slug=slug)
    _insert(agent)
    audit.record(action="agent.create", target=f"agent {agent}", by=by, now=now, new={"slug": slug})
    return agent


def may_register(*, tenant_id: int, slug: str) -> bool:
    """Whether a call may name an agent: it is known, or one more may be registered by calls."""
    agents = Agent.objects.filter(tenant_id=tenant_id)
    return agents.filter(slug=slug).exists() or agents.count() < settings.AGENTS_PER_TENANT


def register_agent(*, tenant_id: int, slug: str) -> None:
    """Make the agent that an admitted call names known to operators, who can pause it then; no act of a person."""
    if may_register(tenant_id=tenant_id, slug=slug):
        Agent.objects.get_or_create(tenant_id=tenant_id, slug=slug)


def pause_agent(*, agent: Agent, reason: str, by: audit.Actor, now: datetime) -> Agent:
    return _set_status(agent, Agent.Status.PAUSED, "agent.pause", reason, by, now)


@transaction.atomic
def resume_agent(*, agent: Agent, reason: str, by: audit.Actor, now: datetime) -> Agent:
    _undo_acts(agent.tenant, agent.slug, by, now)
    return _set_status(agent, Agent.Status.ACTIVE, "agent.resume", reason, by, now)


@transaction.atomic
def issue_key(
    *,
    role: str,
    tenant: Tenant | None = None,
    agent: Agent | None = None,
    name: str = "",
    expires_at: datetime | None = None,
    by: audit.Actor,
    now: datetime,
) -> tuple[str, ApiKey]:
    """A new key and its text, which is shown here and never again.

    It cannot be more than its maker: raises NotAllowed for another role or tenant than `by` may give.
    """
    _check_binding(role, tenant, agent)
    _check_maker(role, tenant, by)
    if expires_at is not None and expires_at <= now:
        raise FieldError("expires_at", "expires_at must be in the future.")
    name = names.checked("label", name, field="name")
    text, key = new_key(role=role, tenant=tenant, agent=agent, name=name)
    key.expires_at = expires_at
    key.issued_by = issuer_of(by)
    _insert(key)
    audit.record(action="key.issue", target=f"key {key.prefix}", by=by, now=now, new=_to_audit(key))
    return text, key


@transaction.atomic
def adopt_key(
    *,
    digest: str,
    tenant: Tenant,
    agent: Agent,
    name: str = "",
    expires_at: datetime | None = None,
    by: audit.Actor,
    now: datetime,
) -> ApiKey:
    """An agent's key that was issued elsewhere, taken over by the SHA-256 (hex) of its text: its holder keeps it.

    Raises FieldError, and Conflict where it is here already.
    """
    _check_binding(Role.AGENT, tenant, agent)
    _check_maker(Role.AGENT, tenant, by)
    if not DIGEST.fullmatch(digest):
        raise FieldError("digest", "digest must be the SHA-256 of a key, as 64 hexadecimal digits in small letters.")
    if expires_at is not None and expires_at <= now:
        raise FieldError("expires_at", "expires_at must be in the future.")
    if (known := ApiKey.objects.filter(digest=digest).first()) is not None:
        raise Conflict("digest", f"This key is here already, as {known.prefix}.", existing=known)
    name = names.checked("label", name, field="name")
    key = ApiKey(name=name, prefix=adopted_prefix(digest), digest=digest, role=Role.AGENT, tenant=tenant, agent=agent)
    key.expires_at = expires_at
    key.issued_by = issuer_of(by)
    _insert(key)
    audit.record(action="key.adopt", target=f"key {key.prefix}", by=by, now=now, new=_to_audit(key))
    return key


def works(key: ApiKey) -> bool:
    """Whether a key works now. When one ends says the database's clock, by which calls are decided as well."""
    return key.is_usable(timezone.now() if key.expires_at is None else clock.now())


@transaction.atomic
def revoke_key(*, key: ApiKey, reason: str = "", by: audit.Actor, now: datetime) -> ApiKey:
    """Make a key useless from the next call on, for good."""
    # The condition settles a race: only one of two revokers finds a row, so one audit row is written.
    if not ApiKey.objects.filter(pk=key.pk, revoked_at__isnull=True).update(revoked_at=now):
        raise NotOpen("revoked_at", f"The key {key.prefix} is revoked already.")
    key.revoked_at = now
    audit.record(action="key.revoke", target=f"key {key.prefix}", by=by, now=now, reason=reason)
    return key


def record_try(*, key: ApiKey, request_id: str, by: audit.Actor, now: datetime) -> None:
    """Say who sent a call with somebody's key to try it. What came of it is found by the request id."""
    audit.record(action="key.try", target=f"key {key.prefix}", by=by, now=now, new={"request_id": request_id})


@transaction.atomic
def rotate_key(
    *, key: ApiKey, grace: timedelta = ROTATION_GRACE, reason: str = "", by: audit.Actor, now: datetime
) -> tuple[str, ApiKey]:
    """A new key for the same holder, which ends when the old one would have; that one ends after `grace` if sooner.

    Budgets and rate limits of a key take the two for one, or a rotation would be a second budget beside the first.
    """
    # The old one ends by the clock by which calls are decided.
    now = ledger.by_database(now)
    # As it is now, under its lock: whoever rotates it at the same moment takes turns.
    key = ApiKey.objects.select_for_update().get(pk=key.pk)
    if not key.is_usable(now):
        raise NotOpen("key", f"The key {key.prefix} is expired or revoked; issue a new one instead.")
    text, fresh = issue_key(
        role=key.role,
        tenant=key.tenant,
        agent=key.agent,
        name=key.name,
        expires_at=key.expires_at,
        by=by,
        now=now,
    )
    fresh.rotated_from = key.scope_key
    fresh.save(update_fields=["rotated_from"])
    ends_at = min(now + grace, key.expires_at) if key.expires_at else now + grace
    old, new = (
        {"expires_at": _text(key.expires_at)},
        {"expires_at": _text(ends_at), "replaced_by": fresh.prefix},
    )
    key.expires_at = ends_at
    key.save(update_fields=["expires_at"])
    target = f"key {key.prefix}"
    audit.record(action="key.rotate", target=target, by=by, now=now, reason=reason, old=old, new=new)
    return text, fresh


def _undo_acts(tenant: Tenant, agent: str, by: audit.Actor, now: datetime) -> None:
    """Where an anomaly paused whom somebody resumes, that act is over: a pause that comes later is not the anomaly's.

    Before the status: an anomaly that is undone locks its own row first as well.
    """
    held = Anomaly.objects.filter(tenant=tenant, agent=agent, act=AnomalyAct.PAUSE, acted_at__isnull=False)
    held.filter(undone_at=None).order_by().update(undone_at=now, undone_by=by.name[:150])


@transaction.atomic
def _set_status(row: Row, status: str, action: str, reason: str, by: audit.Actor, now: datetime) -> Row:
    """Asking again for the status it has is no error, and no audit row."""
    changed = type(row).objects.filter(pk=row.pk).exclude(status=status).exclude(status="suspended")
    old = row.status
    if changed.update(status=status):
        row.status = status
        kind = type(row).__name__.lower()
        before, after = {"status": old}, {"status": status}
        audit.record(action=action, target=f"{kind} {row}", by=by, now=now, reason=reason, old=before, new=after)
    return row


def _check_binding(role: str, tenant: Tenant | None, agent: Agent | None) -> None:
    if role not in Role.values:
        raise FieldError("role", f"role must be one of {', '.join(Role.values)}, not {role!r}.")
    if role in (Role.OPERATOR, Role.VIEWER):
        if tenant or agent:
            raise FieldError("tenant", f"A key for the role {role} belongs to no tenant and no agent.")
        return
    if tenant is None:
        raise FieldError("tenant", f"A key for the role {role} needs a tenant.")
    if role == Role.AGENT and agent is None:
        raise FieldError("agent", "A key for the role agent needs an agent.")
    if role == Role.TENANT and agent is not None:
        raise FieldError("agent", "A key for the role tenant is bound to no agent; take the role agent.")
    if agent is not None and agent.tenant_id != tenant.pk:
        raise FieldError("agent", f"The agent {agent} is not one of {tenant.slug}.")


def issuer_of(by: audit.Actor) -> User | None:
    """The person behind a key: who makes it, or who made the key that makes it; nobody on the command line."""
    return by.user or (by.key.issued_by if by.key else None)


def _check_maker(role: str, tenant: Tenant | None, by: audit.Actor) -> None:
    if by.key is not None and by.key.role != Role.OPERATOR:
        raise NotAllowed("role", f"A key of the role {by.key.role} makes no keys.")
    issuer = issuer_of(by)
    if issuer is None:
        return
    access = staff.access_of(issuer)
    if role not in access.key_roles:
        raise NotAllowed("role", f"{issuer.get_username()} may not make a key for the role {role}.")
    if access.is_bound and tenant != access.tenant:
        raise NotAllowed("tenant", f"{issuer.get_username()} may make keys for {access.tenant} alone.")


def _insert(row: Tenant | Agent | ApiKey) -> None:
    _checked(row)
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError as error:
        # Somebody else made it between the look and the insert.
        raise Conflict("slug", "It exists already.") from error


def _checked(row: Tenant | Agent | ApiKey) -> None:
    try:
        row.full_clean(validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise FieldError(field, messages[0]) from error


def _to_audit(key: ApiKey) -> dict[str, Any]:
    return {
        "prefix": key.prefix,
        "role": key.role,
        "tenant": key.tenant.slug if key.tenant else None,
        "agent": key.agent.slug if key.agent else None,
        "name": key.name,
        "expires_at": _text(key.expires_at),
    }


def _text(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
