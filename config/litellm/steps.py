"""What is wanted of a LiteLLM proxy's rows, done by the acts that people have: shown first, then in one transaction.

To show it, it is done and undone: so whatever would refuse a step has had its say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from config.litellm.mapping import (
    AliasWanted,
    BudgetWanted,
    CustomerWanted,
    KeyWanted,
    KnownHere,
    KnownKey,
    KnownModel,
    LitellmMapping,
    NotTakenOver,
    RateLimitWanted,
)
from governance import audit, ledger
from governance.actions import tenancy
from governance.audit import Actor
from governance.management.policy_tables import CHANGED, CREATED, TABLES, UNCHANGED, FieldDifference, PolicyChange
from governance.models import Agent, ApiKey, AuditEntry, Tenant
from governance.models.tenancy import adopted_prefix
from governance.rules.errors import Conflict, FieldError
from llm.catalogue import prices, snapshot
from llm.models import Model, ModelAlias

# The audit row that says from whom a customer came: so a second import knows it, whatever its name is by then.
CAME_OVER = "tenant.import"
# Bound to one statement each, of which SQLite takes so many.
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class ImportStep:
    """One thing that was done, or is there already. Of money `differences` hold dollars."""

    table: str
    name: str
    action: str
    differences: tuple[FieldDifference, ...] = ()


@dataclass(slots=True)
class ImportDone:
    """All steps, and what was refused. Two are equal that did the same."""

    steps: list[ImportStep] = field(default_factory=list)
    refused: list[NotTakenOver] = field(default_factory=list)


def known_here(digests: Iterable[str], *, now: datetime) -> KnownHere:
    """What is here already of those keys, and of whoever came over before."""
    rows = AuditEntry.objects.filter(action=CAME_OVER).order_by("id").values_list("target", "new")
    tenants = frozenset(Tenant.objects.values_list("slug", flat=True))
    came = {new["litellm"]: target.removeprefix("tenant ") for target, new in rows if new}
    catalogue = snapshot.read(now=now)

    def model_of(name: str) -> KnownModel | None:
        entry = catalogue.resolve(name)
        return KnownModel(entry.provider, entry.upstream, entry.is_mistrals) if entry is not None else None

    return KnownHere(
        customers={source: slug for source, slug in came.items() if slug in tenants},
        tenants=tenants,
        keys=dict(_known_keys(sorted(digests))),
        prefix_of=adopted_prefix,
        model_of=model_of,
    )


def _known_keys(digests: list[str]) -> Iterator[tuple[str, KnownKey]]:
    for start in range(0, len(digests), _AT_ONCE):
        some = digests[start : start + _AT_ONCE]
        for key in ApiKey.objects.filter(digest__in=some).select_related("tenant", "agent"):
            yield (
                key.digest,
                KnownKey(
                    tenant=key.tenant.slug if key.tenant else "",
                    agent=key.agent.slug if key.agent else "",
                    prefix=key.scope_key,
                    works=tenancy.works(key),
                    expires_at=key.expires_at,
                ),
            )


def plan(wanted: LitellmMapping, *, by: Actor, now: datetime, reason: str) -> ImportDone:
    """What `apply` would do. Nothing is kept."""
    with transaction.atomic():
        done = _do(wanted, by=by, now=now, reason=reason)
        transaction.set_rollback(True)
    return done


@ledger.run_again
@transaction.atomic
def apply(wanted: LitellmMapping, *, shown: ImportDone, by: Actor, now: datetime, reason: str) -> None:
    """Do what was shown, all of it or nothing. Raises Conflict where it would be something else."""
    if _do(wanted, by=by, now=now, reason=reason) != shown:
        raise Conflict("", "something has changed since the difference was shown; nothing was applied")


def _do(wanted: LitellmMapping, *, by: Actor, now: datetime, reason: str) -> ImportDone:
    """All steps that are not refused; what is refused leaves nothing behind."""
    done = ImportDone()
    acts: list[tuple[Callable[..., ImportStep], Any, str]] = [
        *((_customer, each, f"customer {each.slug}") for each in wanted.customers),
        *((_key, each, f"key {each.prefix} of {each.tenant}/{each.agent}") for each in wanted.keys),
        *((_budget, each, f"budget {_scope(each)} per {each.window}") for each in wanted.budgets),
        *((_rate_limit, each, f"rate limit {_scope(each)}") for each in wanted.rate_limits),
        *((_alias, each, f"model name {each.name}") for each in wanted.aliases),
    ]
    for act, each, name in acts:
        try:
            with transaction.atomic():
                done.steps.append(act(each, by=by, now=now, reason=reason))
        except FieldError as error:
            done.refused.append(NotTakenOver(" ".join(filter(None, ("refused:", error.field, error.message))), name))
    return done


def _scope(rule: BudgetWanted | RateLimitWanted) -> str:
    return rule.tenant if rule.scope_type == "tenant" else f"{rule.tenant} {rule.scope_type}:{rule.scope_key}"


def _new(**values: Any) -> tuple[FieldDifference, ...]:
    return tuple(FieldDifference(name, None, value) for name, value in values.items() if value not in (None, ""))


def _customer(wanted: CustomerWanted, *, by: Actor, now: datetime, reason: str) -> ImportStep:
    target = f"tenant {wanted.slug}"
    is_here = Tenant.objects.filter(slug=wanted.slug).exists()
    if not is_here:
        tenancy.create_tenant(slug=wanted.slug, name=wanted.name, by=by, now=now)
    came = {"litellm": wanted.source}
    came_before = AuditEntry.objects.filter(action=CAME_OVER, target=target)
    if is_here and any(row.new == came for row in came_before):
        return ImportStep("tenants", target, UNCHANGED)
    audit.record(action=CAME_OVER, target=target, by=by, now=now, reason=reason, new=came)
    if is_here:
        return ImportStep("tenants", target, CHANGED, (FieldDifference("litellm", None, wanted.source),))
    return ImportStep("tenants", target, CREATED, _new(name=wanted.name, litellm=wanted.source))


def _key(wanted: KeyWanted, *, by: Actor, now: datetime, reason: str) -> ImportStep:
    name = f"key {wanted.prefix} of {wanted.tenant}/{wanted.agent}"
    if ApiKey.objects.filter(digest=wanted.digest).exists():
        return ImportStep("keys", name, UNCHANGED)
    tenant = tenancy.tenant_named(wanted.tenant)
    agent = Agent.objects.filter(tenant=tenant, slug=wanted.agent).first()
    if agent is None:
        agent = tenancy.create_agent(tenant=tenant, slug=wanted.agent, by=by, now=now)
    tenancy.adopt_key(
        digest=wanted.digest,
        tenant=tenant,
        agent=agent,
        name=wanted.name,
        expires_at=wanted.expires_at,
        by=by,
        now=now,
    )
    ends = wanted.expires_at.isoformat() if wanted.expires_at else None
    return ImportStep("keys", name, CREATED, _new(name=wanted.name, expires_at=ends))


def _budget(wanted: BudgetWanted, *, by: Actor, now: datetime, reason: str) -> ImportStep:
    asked: dict[str, Any] = {
        "tenant": wanted.tenant,
        "scope_type": wanted.scope_type,
        "scope_key": wanted.scope_key,
        "window": wanted.window,
        "limit_nanos": wanted.limit_nanos,
    }
    if wanted.alert_thresholds:
        asked["alert_thresholds"] = list(wanted.alert_thresholds)
    return _done(TABLES["budgets"].plan(asked), by=by, now=now, reason=reason)


def _rate_limit(wanted: RateLimitWanted, *, by: Actor, now: datetime, reason: str) -> ImportStep:
    asked = {
        "tenant": {"slug": wanted.tenant},
        "scope_type": wanted.scope_type,
        "scope_key": wanted.scope_key,
        "requests_per_minute": wanted.requests_per_minute,
        "tokens_per_minute": wanted.tokens_per_minute,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    return _done(TABLES["rate_limits"].plan(given), by=by, now=now, reason=reason)


def _done(change: PolicyChange, *, by: Actor, now: datetime, reason: str) -> ImportStep:
    if change.action != UNCHANGED:
        change.act(by, now, reason)
    return ImportStep(change.table, change.name, change.action, change.differences)


def _alias(wanted: AliasWanted, *, by: Actor, now: datetime, reason: str) -> ImportStep:
    name = f"model name {wanted.name}"
    if wanted.name in (wanted.model, f"{wanted.provider}/{wanted.model}"):
        return ImportStep("models", name, UNCHANGED)
    model = Model.objects.filter(provider=wanted.provider, name=wanted.model).first()
    if model is None:
        raise FieldError("", f"{wanted.provider} has no models of its own in the catalogue; give it a name there.")
    if ModelAlias.objects.filter(model=model, name=wanted.name.removeprefix(f"{wanted.provider}/")).exists():
        return ImportStep("models", name, UNCHANGED)
    alias = ModelAlias(name=wanted.name, model=model)
    try:
        alias.full_clean(validate_constraints=False)
    except ValidationError as error:
        raise FieldError("name", " ".join(error.messages)) from error
    prices.save(row=alias, old=None, by=by, now=now)
    return ImportStep("models", name, CREATED, _new(model=f"{wanted.provider}/{wanted.model}"))
